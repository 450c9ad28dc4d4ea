"""Calibrated ranges -> the scale and zero point of every scale group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.thresholds import interval, threshold
from edgecnn.quantization import HARMLESS, Placement, QuantParams, uint8_params
from edgecnn.results.engine import Scheme


def join_scale_groups(placement: Placement, tensors: Mapping[str, TensorStatistics]) -> dict[str, TensorStatistics]:
    """The statistics of every group of tensors that share a scale."""
    groups: dict[str, TensorStatistics] = {}
    for quantized in placement.activations:
        one = tensors[quantized.tensor].with_step_one()
        extremes = np.array([one.low], np.float32), np.array([one.high], np.float32)
        one = replace(one, channel_low=extremes[0], channel_high=extremes[1])
        if quantized.scale_group in groups:
            groups[quantized.scale_group].merge(one)
        else:
            groups[quantized.scale_group] = replace(one, name=quantized.scale_group, positive=one.positive.copy())
    return groups


def choose_params(statistics: TensorStatistics, method: str, scheme: Scheme) -> QuantParams:
    """QuantParams and zero point of one group by a range method. A tensor that is always zero gets a harmless scale."""
    if statistics.largest == 0.0:
        return QuantParams(HARMLESS, 0, "uint8" if scheme == "ort-cpu" else "int8")
    method = "minmax" if statistics.low == statistics.high else method
    if scheme == "tensorrt":
        return QuantParams(threshold(statistics, method) / 127)
    low, high = interval(statistics, method)
    return uint8_params(low, high)
