"""ONNX Runtime's TensorRT provider: TensorRT 10 below ONNX Runtime."""

from __future__ import annotations

from edgecnn.backends.ort.backend import OrtBackend
from edgecnn.backends.ort.provider import TENSORRT

NATIVE = True
SUFFIXES = (".onnx",)
NAME, PROVIDER, DEFAULT_TARGET = TENSORRT.backend, TENSORRT.name, TENSORRT.default_target
_backend = OrtBackend(TENSORRT)
recognizes, engine_from_onnx, open_engine = _backend.recognizes, _backend.engine_from_onnx, _backend.open_engine
device, tools, precision_of = _backend.device, _backend.tools, _backend.precision_of
describe, machine_facts, check_graph = _backend.describe, _backend.machine_facts, _backend.check_graph
why_not = _backend.why_not
reproducing_script = _backend.reproducing_script
build_knobs = _backend.build_knobs
free_memory_bytes = _backend.free_memory_bytes
build_watched = _backend.build_watched
