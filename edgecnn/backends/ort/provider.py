"""ONNX Runtime's execution providers: what computes a graph."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.results.engine import CPU_PROVIDER, CUDA_PROVIDER

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"  # the module that brings the provider of TensorRT-RTX
PLUGIN_PACKAGES = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12")
RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


@dataclass(frozen=True)
class Provider:
    """One provider: the `backend` that bears it, its `name` in ONNX Runtime, the target that it builds for when none is
    named, the `extra` that brings it, and the `packages` whose versions its engines depend on.

    One that `compiles` makes engines of its own of the graph, for a range of batches that must be known before.
    """

    backend: str
    name: str
    default_target: str
    extra: str
    packages: tuple[str, ...] = RUNTIME_PACKAGES
    compiles: bool = False


CPU = Provider("ort", CPU_PROVIDER, "cpu", "cpu")
CUDA = Provider("ort-cuda", CUDA_PROVIDER, "ort-cuda", "gpu")
TENSORRT = Provider(
    "ort-tensorrt",
    "TensorrtExecutionProvider",
    "ort-tensorrt",
    "gpu",
    (*RUNTIME_PACKAGES, *TENSORRT_PACKAGES),
    compiles=True,
)
RTX = Provider(
    "ort-rtx",
    "NvTensorRTRTXExecutionProvider",
    "ort-rtx",
    "ort-rtx",
    (*RUNTIME_PACKAGES, *PLUGIN_PACKAGES),
    compiles=True,
)
