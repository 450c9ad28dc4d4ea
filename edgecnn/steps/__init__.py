"""What makes an artifact: one file and one function per step, in the order of the flow.

    1 train      2 export     3 calibrate   4 quantize   5 reference      host
    6 build      7 validate   8 bench                                     device
    9 gate      10 report                                                 anywhere

`import` takes the place of the first two for a graph from elsewhere. Each function is given its settings and files,
and is called alike by the command line, by a recipe's run and from Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CALIBRATION_IMAGES = 512  # unless a set or a number is named
StepName = Literal[
    "train", "export", "calibrate", "quantize", "reference", "build", "validate", "bench", "gate", "report"
]
_RUNTIMES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")
_ONNX = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class StepFacts:
    """A step: the packages that it `needs`, those whose versions its sidecar records, and whether it runs on the host
    (False: on the device, or anywhere)."""

    name: StepName
    needs: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    on_host: bool = False


FACTS = (
    StepFacts("train", ("torch", "torchvision", "safetensors"), ("torch", "torchvision", "safetensors"), True),
    StepFacts("export", ("torch", "onnx", "onnxruntime"), ("torch", "onnx", "onnxruntime", "onnxruntime-gpu"), True),
    StepFacts("calibrate", ("onnx", "onnxruntime"), _ONNX, True),
    StepFacts("quantize", ("onnx", "onnxruntime"), _ONNX, True),
    StepFacts("reference", (), ("numpy", "torch", "onnxruntime"), True),
    StepFacts("build", (), _RUNTIMES),
    StepFacts("validate", (), _RUNTIMES),
    StepFacts("bench", (), _RUNTIMES),
    StepFacts("gate"),
    StepFacts("report"),
)
STEPS: tuple[StepName, ...] = tuple(step.name for step in FACTS)
HOST_STEPS: tuple[StepName, ...] = tuple(step.name for step in FACTS if step.on_host)
TOOLS: dict[str, tuple[str, ...]] = {step.name: step.tools for step in FACTS}
