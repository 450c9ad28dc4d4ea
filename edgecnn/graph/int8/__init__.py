"""INT8 graphs: scales from ranges, weights as integers, Q/DQ pairs where a placement says."""

from edgecnn.graph.int8.quantize import Report, quantize_int8, write_int8

__all__ = ["Report", "quantize_int8", "write_int8"]
