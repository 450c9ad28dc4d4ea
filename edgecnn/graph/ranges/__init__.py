"""Calibration ranges: one streaming pass over images, every range method from what it kept."""

from edgecnn.graph.ranges.collect import collect_ranges
from edgecnn.graph.ranges.files import read_ranges, write_ranges, write_tensorrt_cache
from edgecnn.graph.ranges.statistics import Ranges, TensorStatistics

__all__ = [
    "Ranges",
    "TensorStatistics",
    "collect_ranges",
    "read_ranges",
    "write_ranges",
    "write_tensorrt_cache",
]
