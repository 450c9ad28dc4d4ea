"""TensorRT 10.3 to 11.x: build, load, run, time and inspect engines. All its version branches live in this folder."""

from __future__ import annotations

from edgecnn.backends.trt.backend import TrtBackend
from edgecnn.backends.trt.flavor import TENSORRT

NAME, PROVIDER, SUFFIXES, DEFAULT_TARGET = (
    TENSORRT.backend,
    TENSORRT.product,
    TENSORRT.suffixes,
    TENSORRT.default_target,
)
NATIVE = True
_backend = TrtBackend(TENSORRT)
recognizes, engine_from_onnx, open_engine = _backend.recognizes, _backend.engine_from_onnx, _backend.open_engine
device, tools, precision_of = _backend.device, _backend.tools, _backend.precision_of
describe, machine_facts, check_graph = _backend.describe, _backend.machine_facts, _backend.check_graph
why_not = _backend.why_not
free_memory_bytes = _backend.free_memory_bytes
reproducing_script = _backend.reproducing_script
build_knobs = _backend.build_knobs
build_watched = _backend.build_watched
