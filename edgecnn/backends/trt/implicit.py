"""Implicit INT8: a weakly typed network of TensorRT 10, which chooses the precision of every layer by speed.

The scales come from calibration, through the one door that is left: a calibrator that has no images and hands out a
cache. TensorRT takes a cache of its own version alone, so that its text is written anew for each build.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.calibration_cache import calibration_cache_text, require_tensors
from edgecnn.backends import ImplicitInt8
from edgecnn.errors import BackendError, GraphError
from edgecnn.targets import implicit_mismatch, version_tuple

GENERATED = "(Unnamed Layer"  # tensors that the parser makes and ONNX does not name


def require_implicit(trt: Any, implicit: ImplicitInt8 | None) -> None:
    """Raise `BackendError` where it is asked for and this TensorRT has none."""
    if implicit and (reason := implicit_mismatch(trt.__version__)):
        raise BackendError(reason, "leave --weakly-typed out: build the graph that `edgecnn quantize` makes")


def make_weakly_typed_network(trt: Any, builder: Any) -> Any:
    """An empty network whose layers have no types of their own."""
    network = builder.create_network(0)
    if network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED):
        raise BackendError(f"TensorRT {trt.__version__} made a strongly typed network", "report it with the version")
    return network


def precision_to_ask_for(graph: Path, found: str, implicit: ImplicitInt8 | None) -> str:
    """That which was `found` in the graph, or INT8 of a weakly typed build; raises `GraphError` where the graph of one
    has a precision already."""
    if implicit is None:
        return found
    if found != "fp32":
        raise GraphError(
            f"{graph}: a weakly typed build takes the float32 graph, this one is {found}",
            "name model.fp32.onnx, or leave --weakly-typed out: then the precision is the graph's",
        )
    return "int8"


def allow_int8(trt: Any, config: Any, network: Any, profile: Any, graph: Path, implicit: ImplicitInt8) -> Any:
    """Let TensorRT take INT8 and FP16, with the scales of `implicit`; returns the calibrator, which must outlive the
    build. Raises `ArtifactError` where an input of a Conv or Gemm has no scale: it would not be INT8, without a word.
    """
    read, given = _activations(trt, network)
    require_tensors(implicit.source, implicit.scales, read, str(graph))
    scales = {name: implicit.scales[after] for name, after in given.items() if implicit.scales.get(after)}
    scales |= {name: scale for name, scale in implicit.scales.items() if scale}
    content = calibration_cache_text(cache_version(trt.__version__), scales).encode()
    calibrator = cache_calibrator(trt, content)
    config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.FP16)
    config.int8_calibrator = calibrator
    if network.get_input(0).shape[0] < 0 and not config.set_calibration_profile(profile):
        raise BackendError(f"{graph}: TensorRT refuses the calibration profile", "check batch.min, opt and max")
    return calibrator


def cache_calibrator(trt: Any, content: bytes) -> Any:
    """A calibrator without images, which hands out a cache and is never asked for more."""

    class CacheCalibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return content

        def write_calibration_cache(self, cache: Any) -> None:
            return None

    return CacheCalibrator()


def cache_version(version: str) -> int:
    """100300 of "10.3.0.26": how a cache of TensorRT 10 names its version."""
    major, minor, patch = (*version_tuple(version), 0, 0)[:3]
    return major * 10_000 + minor * 100 + patch


def _activations(trt: Any, network: Any) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What a Conv or Gemm reads, with who does; and what an activation function alone reads, with what it makes of it:
    they are fused, and calibration sees the second alone."""
    weighing = {trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY}
    read: dict[str, str] = {}
    given: dict[str, str] = {}
    readers: dict[str, int] = {}
    constants: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for k in range(layer.num_inputs):
            if (tensor := layer.get_input(k)) is not None:
                readers[tensor.name] = readers.get(tensor.name, 0) + 1
        if layer.type == trt.LayerType.CONSTANT:
            constants.add(layer.get_output(0).name)
        first = layer.get_input(0) if layer.num_inputs else None
        if first is None:
            continue
        if layer.type in weighing and not first.name.startswith(GENERATED):
            read[first.name] = f"read by {layer.name}"
        if layer.type == trt.LayerType.ACTIVATION:
            given[first.name] = layer.get_output(0).name
    read = {name: by for name, by in read.items() if name not in constants}
    return read, {name: after for name, after in given.items() if readers[name] == 1}
