"""TensorRT-RTX 1.x: plans for desktop RTX GPUs, built with or without one, by the same code as TensorRT's."""

from __future__ import annotations

from edgecnn.backends.trt.backend import TrtBackend
from edgecnn.backends.trt.flavor import RTX

NAME, PROVIDER, SUFFIXES, DEFAULT_TARGET = RTX.backend, RTX.product, RTX.suffixes, RTX.default_target
NATIVE = True
_backend = TrtBackend(RTX)
recognizes, engine_from_onnx, open_engine = _backend.recognizes, _backend.engine_from_onnx, _backend.open_engine
device, tools, precision_of = _backend.device, _backend.tools, _backend.precision_of
describe, machine_facts, check_graph = _backend.describe, _backend.machine_facts, _backend.check_graph
why_not = _backend.why_not
free_memory_bytes = _backend.free_memory_bytes
reproducing_script = _backend.reproducing_script
build_knobs = _backend.build_knobs
build_watched = _backend.build_watched
