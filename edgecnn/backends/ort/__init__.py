"""ONNX Runtime: an engine is the graph itself, with a sidecar. This is the backend of its CPU provider."""

from __future__ import annotations

from edgecnn.backends.ort.backend import OrtBackend
from edgecnn.backends.ort.provider import CPU

NATIVE = False  # ONNX is data, and this runtime everybody's
SUFFIXES = (".onnx",)
NAME, PROVIDER, DEFAULT_TARGET = CPU.backend, CPU.name, CPU.default_target
_backend = OrtBackend(CPU)
recognizes, engine_from_onnx, open_engine = _backend.recognizes, _backend.engine_from_onnx, _backend.open_engine
device, tools, precision_of = _backend.device, _backend.tools, _backend.precision_of
describe, machine_facts, check_graph = _backend.describe, _backend.machine_facts, _backend.check_graph
why_not = _backend.why_not
reproducing_script = _backend.reproducing_script
build_knobs = _backend.build_knobs
free_memory_bytes = _backend.free_memory_bytes
build_watched = _backend.build_watched
