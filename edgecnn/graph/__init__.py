"""ONNX in, ONNX out: checks, ranges, placement of Q/DQ, INT8 and FP16 graphs."""
