"""The tensor contract that every graph of this project keeps, exported here or imported from elsewhere."""

from __future__ import annotations

INPUT, OUTPUT = "input", "logits"  # float32 NCHW; float32 [N, classes]
BATCH = "batch"  # the name of the dynamic axis
OPSET = 19  # the first with FP16 scales in Q/DQ; TensorRT 10.3 reads up to 20
IR_VERSION = 9  # the oldest that opset 19 has
MAX_DIFFERENCE = 1e-4  # of max |logit|: what a graph may differ from what it was made from
