"""The tensor contract that every graph of this project keeps, exported here or imported from elsewhere, and the serving
contract: what a graph or engine takes and gives where a choice at export made it another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INPUT, OUTPUT = "input", "logits"  # float32 NCHW; float32 [N, classes]
BATCH = "batch"  # the name of the dynamic axis
OPSET = 19  # the first with FP16 scales in Q/DQ; TensorRT 10.3 reads up to 20
OLD_OPSET = 17  # TensorRT 8.5 and 8.6 read up to it
IR_VERSION = 9  # the oldest that opset 19 has
PROVED_BATCH = 3  # beside 1, where nobody says what an engine must serve
MAX_DIFFERENCE = 1e-4  # of max |logit|: what a graph may differ from what it was made from

InputForm = Literal["normalised", "raw-nchw", "uint8-nhwc"]
OutputForm = Literal["logits", "probabilities", "top-k"]
Geometry = Literal["nvinfer-squash", "letterbox", "cv2-bilinear", "no-antialias"]
TOP_K = 5  # classes that a top-k output names, fewer where there are no more
PROBABILITIES = "probabilities"  # float32 [N, classes]
EMBEDDING = "embedding"  # float32 [N, D] of unit length: what an embedding network gives in place of logits
TOP_PROBABILITIES, TOP_CLASSES = "top_probabilities", "top_classes"  # float32 and int32 [N, k], best first


@dataclass(frozen=True)
class ServingContract:
    """What a graph or engine takes and gives.

    `input`: float32 [N, C, H, W], normalised or with the pixels' values (0 to 255), or uint8 [N, H, W, C] as decoders
    write it. `output`: logits or probabilities [N, classes], or the probabilities [N, k] of the k best classes and
    their int32 numbers. `classes` counts the outputs of the network; 0 where it is not known.
    """

    input: InputForm = "normalised"
    output: OutputForm = "logits"
    classes: int = 0

    @property
    def calibrated_input(self) -> InputForm:
        """What the graph takes behind the type and the layout of its input: what is calibrated and quantized."""
        return "normalised" if self.input == "normalised" else "raw-nchw"

    @property
    def is_plain(self) -> bool:
        """Whether it is what a graph takes and gives where nothing else was asked for."""
        return self.input == "normalised" and self.output == "logits"

    @property
    def facts(self) -> dict[str, str]:
        """As they stand among a sidecar's facts; nothing where the contract is the plain one."""
        return {} if self.is_plain else {"serving_input": self.input, "serving_output": self.output}
