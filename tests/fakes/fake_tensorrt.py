"""A TensorRT that is strict: it impersonates one version by the names-only snapshot of that version's real bindings.

An attribute that the version does not have is an AttributeError, an argument name or count that no overload has is a
TypeError, a read-only property cannot be set. Calls answer None or False where TensorRT does, with a line in the log.
Objects that are used after what they depend on has gone say so. Graphs are executed with ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import json
import math
import struct
import threading
import time
import types
import weakref
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

from edgecnn.backends._half import rounded_to_fp16
from tests.fakes.fake_cuda import FakeDevice, FakeError, Work

API = Path(__file__).parents[1] / "backends" / "api"
FORMATS_10 = {"Float": "Row major linear FP32", "Half": "Row major linear FP16 format", "Int8": "Row major Int8 format"}


ACTIVATION_BYTES = 4096  # for one image
COMPILE_S = 0.01
KNOBS = {  # of build routes: the values as TensorRT writes them, and the default
    "-conv_lowering": ("-conv_lowering=[on|off]", "on"),
    "-kgen:tiling": ("-kgen:tiling=[0|1|2]", "1"),
    "-cask_fusion:num_tactics": ("-cask_fusion:num_tactics=int", "10"),
    "-peep:max": ("-peep:max=[1|2|...]", "1"),
}
KERNELS = {"Float": "f32f32_f32f32_f32", "Half": "f16f16_f16f32_f32", "Int8": "i8i8_i8i32_f32"}


class Enum:
    """A pybind11 enum member: no int, but it converts to one, silently wherever an int is wanted."""

    def __init__(self, kind: str, name: str, value: int) -> None:
        self._kind, self.name, self.value = kind, name, value

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Enum) and (other._kind, other.value) == (self._kind, self.value)

    def __hash__(self) -> int:
        return hash((self._kind, self.value))

    def __repr__(self) -> str:
        return f"<{self._kind}.{self.name}: {self.value}>"


class Strict:
    """An object with exactly the methods and properties that the snapshot lists for its class."""

    _api: ClassVar[dict[str, Any]] = {}
    _module: Any = None
    _class = ""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name in _all(type(self), "properties"):
            return object.__getattribute__(self, name)
        if name not in _all(type(self), "methods"):
            raise AttributeError(f"'tensorrt.{type(self)._class}' object has no attribute {name!r}")
        method = object.__getattribute__(self, name)
        overloads = _all(type(self), "methods")[name]

        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            if not any(_accepts(parameters, arguments, named) for parameters in overloads):
                raise TypeError(f"{name}(): incompatible function arguments: {arguments} {named}; {overloads}")
            return method(*arguments, **named)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        access = _all(type(self), "properties").get(name)
        if not name.startswith("_") and access != "rw":
            why = "is read-only" if access else "does not exist"
            raise AttributeError(f"'tensorrt.{type(self)._class}': property {name!r} {why}")
        object.__setattr__(self, name, value)


def _all(kind: Any, what: str) -> dict[str, Any]:
    """Methods or properties of a class and of its bases in the version."""
    found = dict(kind._api.get(what, {}))
    for base in kind._api.get("bases", []):
        if hasattr(kind._module, base):
            found = _all(getattr(kind._module, base), what) | found
    return found


def _accepts(parameters: list[str], arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    names = [p.rstrip("=") for p in parameters if p != "self"]
    required = {p for p in parameters if p != "self" and not p.endswith("=")}
    given = set(names[: len(arguments)]) | set(named)
    return len(arguments) <= len(names) and set(named) <= set(names[len(arguments) :]) and required <= given


def alive(reference: Any, what: str) -> Any:
    """What a weak reference points to; using a dead one is what crashes the real library."""
    found = reference()
    if found is None:
        raise RuntimeError(f"use after free: {what} is gone")
    return found


class ILogger:
    """To be subclassed; its __init__ must be called."""

    def __init__(self) -> None:
        self._initialised = True


class IProgressMonitor:
    """To be subclassed; its __init__ must be called."""

    def __init__(self) -> None:
        self._initialised = True


class IDebugListener:
    """To be subclassed; its __init__ must be called."""

    def __init__(self) -> None:
        self._initialised = True


class IInt8EntropyCalibrator2:
    """To be subclassed; its __init__ must be called."""

    def __init__(self) -> None:
        self._initialised = True


class IProfiler:
    """To be subclassed; its __init__ must be called."""

    def __init__(self) -> None:
        self._initialised = True


def initialised(value: Any) -> Any:
    """What pybind11 demands of a Python subclass."""
    if not getattr(value, "_initialised", False):
        raise TypeError(f"{type(value).__name__}.__init__() must be called when overriding __init__")
    return value


class HostMemory(bytes):
    """A buffer that is not to be used as bytes."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nbytes":
            return bytes.__len__(self)
        if name.startswith("__"):
            return bytes.__getattribute__(self, name)
        raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute {name!r}")


class TimingCache(Strict):
    """Kernel names with their times, of one version."""

    def __init__(self, version: str, entries: set[str]) -> None:
        self._version, self._entries = version, entries

    def combine(self, input_cache: TimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._version != self._version and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def serialize(self) -> HostMemory:
        return HostMemory(json.dumps({"trt": self._version, "entries": sorted(self._entries)}).encode())


class Profile(Strict):
    """Shapes of one optimisation profile."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = tuple(tuple(s) for s in (min, opt, max))
        if not all(a <= b <= c for a, b, c in zip(*shapes, strict=True)) or any(n < 1 for s in shapes for n in s):
            raise ValueError(f"Shape provided for {input} is inconsistent: {shapes}")
        self._shapes[input] = shapes

    def get_shape(self, input: str) -> list[tuple[int, ...]]:
        return list(self._shapes[input])


class BuilderConfig(Strict):
    """Settings; the version decides which there are."""

    def __init__(self) -> None:
        module = self._module
        module._count("IBuilderConfig", self)
        self._flags = {"TF32"}
        self._limits: dict[Any, int] = {}
        self._profiles: list[Profile] = []
        self._cache: Any = None
        self._cache_given = False
        self.builder_optimization_level = 3
        self._route = ""
        self.profiling_verbosity = module.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.hardware_compatibility_level = module.HardwareCompatibilityLevel.NONE
        self.progress_monitor = None
        self._calibration_profile: Any = None
        if "int8_calibrator" in _all(type(self), "properties"):
            self.int8_calibrator = None

    @property
    def all_build_routes(self) -> str:
        """JSON text; TensorRT-RTX has none."""
        if self._module._compiles:
            return ""
        options = [
            {"option": name, "allowed_values": values, "default_value": default, "help": name.strip("-")}
            for name, (values, default) in KNOBS.items()
        ]
        return json.dumps({"tuner_version": "2.19.45", "tuner_options": options})

    @property
    def build_route(self) -> str:
        return self._route

    @build_route.setter
    def build_route(self, route: str) -> None:
        """Kept as it is, and looked at by the build; TensorRT-RTX drops it, and says nothing."""
        if not isinstance(route, str):
            raise TypeError(f"(): incompatible function arguments: {route!r}; (arg1: str)")
        self._route = "" if self._module._compiles or "route dropped" in self._module._inject else route

    def set_calibration_profile(self, profile: Profile) -> bool:
        self._calibration_profile = profile
        return True

    def set_flag(self, flag: Enum) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: Enum) -> None:
        self._flags.discard(flag.name)

    def get_flag(self, flag: Enum) -> bool:
        return flag.name in self._flags

    def set_memory_pool_limit(self, pool: Enum, pool_size: int) -> None:
        self._limits[pool] = pool_size

    def get_memory_pool_limit(self, pool: Enum) -> int:
        return self._limits.get(pool, self._module._device.total)

    def add_optimization_profile(self, profile: Profile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        module = self._module
        content = bytes(serialized_timing_cache)
        if not content:
            return module.ITimingCache(module.__version__, set())
        try:
            found = json.loads(content)
        except ValueError:
            module._log("ERROR", "createTimingCache: corrupted timing cache")
            return None
        return module.ITimingCache(found["trt"], set(found["entries"]))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache._version != self._module.__version__ and not ignore_mismatch:
            self._module._log("WARNING", "Timing cache header mismatch")
            return False
        self._cache, self._cache_given = weakref.ref(cache), True
        return True

    def get_timing_cache(self) -> TimingCache:
        return alive(self._cache, "the timing cache")


class Tensor(Strict):
    """A tensor of a network."""

    def __init__(self, name: str, dtype: Enum, shape: tuple[int, ...]) -> None:
        self._name, self._dtype, self._shape = name, dtype, shape

    name = property(lambda self: self._name)
    dtype = property(lambda self: self._dtype)
    shape = property(lambda self: self._shape)


class Layer(Strict):
    """A layer of a network."""

    def __init__(self, node: Any, kind: Enum, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self._name, self._kind, self._inputs, self._outputs = node.name, kind, inputs, outputs
        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    name = property(lambda self: self._name)
    metadata = property(lambda self: f"[ONNX Layer: {self._name}]")
    type = property(lambda self: self._kind)
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]


class Convolution(Layer):
    """What a layer is once its class was set."""

    num_groups = property(lambda self: self._attributes.get("group", 1))
    kernel_size_nd = property(lambda self: tuple(self._attributes["kernel_shape"]))


class Network(Strict):
    """What the parser has put in."""

    def __init__(self, builder: Any, flags: int) -> None:
        self._builder, self._flags = weakref.ref(builder), flags
        self._module._count("INetworkDefinition", self)
        self._parser: Any = None
        self._model: Any = None
        self._layers: list[Layer] = []
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._debugged = False

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_flag(self, flag: Enum) -> bool:
        return self._module._major >= 11 or bool(self._flags >> int(flag) & 1)

    def get_layer(self, index: int) -> Layer:
        return self._layers[index]

    def get_input(self, index: int) -> Tensor:
        return self._inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self._outputs[index]

    def mark_output(self, tensor: Tensor) -> None:
        if tensor._name in {t._name for t in self._outputs}:
            self._module._log("ERROR", f"markOutput: {tensor._name} is already marked as an output")
            return
        self._outputs.append(tensor)

    def mark_unfused_tensors_as_debug_tensors(self) -> bool:
        self._debugged = True
        return True

    def unmark_unfused_tensors_as_debug_tensors(self) -> bool:
        self._debugged = False
        return True


class ParserError(Strict):
    """One problem of a graph."""

    def __init__(self, text: str, name: str, operator: str) -> None:
        self._text, self._name, self._operator = text, name, operator

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._name

    def node_operator(self) -> str:
        return self._operator

    def code(self) -> Any:
        return self._module.ErrorCode.INVALID_NODE

    def file(self) -> str:
        return "/_src/parsers/onnx/ModelImporter.cpp"

    def line(self) -> int:
        return 140


LAYER_TYPES = {
    "Conv": "CONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Relu": "ACTIVATION",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Cast": "CAST",
    "Add": "ELEMENTWISE",
    "Concat": "CONCATENATION",
    "Softmax": "SOFTMAX",
    "Constant": "CONSTANT",
}
NUMPY_TYPES = {"FLOAT": "float32", "UINT8": "uint8", "INT32": "int32", "HALF": "float16", "INT8": "int8"}
DTYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 2: "UINT8", 7: "INT64", 6: "INT32", 9: "BOOL"}
OTHERS = """MaxPool AveragePool GlobalAveragePool Flatten Reshape Clip Sigmoid Mul HardSigmoid HardSwish LRN Identity
Tanh LeakyRelu BatchNormalization Transpose Slice Split Squeeze Unsqueeze ReduceMean Pad Constant Shape Gather Sub
Div TopK"""
PARSED = {*LAYER_TYPES, *OTHERS.split()}


class OnnxParser(Strict):
    """Reads a graph with onnx; refuses operators and opsets that are beyond it."""

    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._errors = network, []
        self._module._count("OnnxParser", self)
        initialised(logger)
        network._parser = weakref.ref(self)

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def _refuse(self, text: str, name: str = "", operator: str = "") -> bool:
        self._errors.append(self._module.ParserError(text, name, operator))
        self._module._log("ERROR", f"ModelImporter.cpp: {text}")
        return False

    def parse_from_file(self, model: str) -> bool:
        module = self._module
        try:
            graph = onnx.shape_inference.infer_shapes(onnx.load(model))
        except Exception as exc:  # noqa: BLE001
            return self._refuse(f"Failed to parse the ONNX model: {exc}")
        if "parse" in module._inject:
            return self._refuse("Assertion failed: unsupported", "/conv/Conv", "Conv")
        newest = 20 if module.__version__.startswith("10.3") else 24  # 24 from 10.13 on
        opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
        if opset > newest:
            return self._refuse(f"opset {opset} is newer than {newest}")
        for node in graph.graph.node:
            if node.op_type not in PARSED:
                return self._refuse("No importer registered for op", node.name, node.op_type)
        self._fill(graph)
        return True

    def _fill(self, graph: Any) -> None:
        module, network = self._module, self._network
        values = {
            v.name: v.type.tensor_type for v in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
        }

        def tensor(name: str) -> Tensor:
            kind = values.get(name)
            dims = tuple(d.dim_value or -1 for d in kind.shape.dim) if kind is not None else ()
            code = kind.elem_type if kind is not None else 1
            return module.ITensor(name, getattr(module.DataType, DTYPES[code]), dims)

        network._model = graph
        network._inputs = [tensor(v.name) for v in graph.graph.input]
        network._outputs = [tensor(v.name) for v in graph.graph.output]
        for node in graph.graph.node:
            kind = getattr(module.LayerType, LAYER_TYPES.get(node.op_type, "IDENTITY"))
            taken, given = ([tensor(name) for name in names if name] for names in (node.input, node.output))
            network._layers.append(module.ILayer(node, kind, taken, given))


class Builder(Strict):
    """Makes networks, settings and plans."""

    def __init__(self, logger: Any) -> None:
        initialised(logger)
        module = self._module
        module._count("Builder", self)
        if module._logger is not None and module._logger() not in (None, logger):
            module._log("WARNING", "The logger passed into createInferBuilder differs from one already provided")
        module._logger = module._logger or weakref.ref(logger)
        if "builder" in module._inject:
            module._log("ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> Network:
        return self._module.INetworkDefinition(self, int(flags))

    def create_builder_config(self) -> BuilderConfig:
        return self._module.IBuilderConfig()

    def create_optimization_profile(self) -> Profile:
        return self._module.IOptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        module = self._module
        alive(network._parser, "the parser, which owns the weights")
        if config._cache_given:
            alive(config._cache, "the timing cache")
        if problem := self._problem(network, config):
            module._log("ERROR", f"IBuilder::buildSerializedNetwork: {problem}")
            return None
        names = [node.name for node in network._model.graph.node]
        kernels = self._kernels(names, config)
        if "ERROR_ON_TIMING_CACHE_MISS" in config._flags and (missing := kernels - config._cache()._entries):
            module._log("ERROR", f"Error Code 10: Internal Error (timing cache miss: {sorted(missing)[0]})")
            return None
        if not self._progress(config.progress_monitor, names):
            module._log("ERROR", "IBuilder::buildSerializedNetwork: Error Code 10: build cancelled")
            return None
        if config._cache_given:
            config._cache()._entries |= kernels
        built = {"flags": set(config._flags), "level": config.builder_optimization_level, "route": config._route}
        module._builds.append(built)
        return HostMemory(module._plan_bytes(network, config, kernels))

    def _kernels(self, names: list[str], config: BuilderConfig) -> set[str]:
        """What the cache has of these layers; a layer that is not in it is timed, which may come to another kernel."""
        known = {e.rpartition("#")[0]: e for e in config._cache()._entries} if config._cache_given else {}
        wanted = [f"{self._module._device.name}:{name}" for name in names]
        fastest = self._module._fastest + sum(self._module._by_route.get(word, 0) for word in config._route.split())
        return {known.get(name, f"{name}#{fastest}") for name in wanted}

    def _problem(self, network: Network, config: BuilderConfig) -> str:
        inject = self._module._inject
        typed = network.get_flag(self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if "build_oom" in inject:
            return "Error Code 2: OutOfMemory (Requested size was 9000000000 bytes.)"
        for word in config._route.split():
            if (name := word.partition("=")[0]) not in KNOBS:
                return f"Error Code 3: API Usage Error (Build route knob '{name}' is not a valid knob.)"
            if f"no build by {word}" in inject:
                return "Error Code 10: Internal Error (Could not find any implementation for node /conv/Conv.)"
        if "build" in inject:
            return "Error Code 10: Internal Error (Could not find any implementation for node /conv/Conv.)"
        if without := next((i for i in inject if i.startswith("no kernel:")), ""):
            named = without.removeprefix("no kernel:")
            return f"Error Code 10: Internal Error (Could not find any implementation for node {named}.)"
        if typed and config._flags & {"FP16", "INT8", "BF16", "FP8"}:
            return "Error Code 3: API Usage Error (precision flags on a strongly typed network)"
        if not typed and "INT8" in config._flags and (problem := _calibrate(self._module, config)):
            return problem
        if typed and (problem := _quantization_problem(network._model)):
            return f"Error Code 4: Internal Error ({problem})"
        if any(n < 0 for t in network._inputs for n in t._shape) and not config._profiles:
            return "Error Code 4: API Usage Error (Network has dynamic inputs, but no optimization profile)"
        return ""

    def _progress(self, monitor: Any, names: list[str]) -> bool:
        """Calls the monitor from another thread, as TensorRT does, while this one waits in C."""
        if monitor is None:
            return True
        initialised(monitor)
        done: list[bool] = []

        def work() -> None:
            monitor.phase_start("Building Engine", None, 2)
            monitor.phase_start("Timing kernels", "Building Engine", len(names))
            going = True
            for step, _ in enumerate(names):
                if self._module._on_step:
                    self._module._on_step(step)
                going = going and monitor.step_complete("Timing kernels", step)
            monitor.phase_finish("Timing kernels")
            going = going and monitor.step_complete("Building Engine", 0)
            monitor.phase_finish("Building Engine")
            done.append(going)

        thread = threading.Thread(target=work)
        thread.start()
        self._module._wait(thread)
        thread.join()
        return done == [True]


class Runtime(Strict):
    """Loads plans."""

    def __init__(self, logger: Any) -> None:
        initialised(logger)
        self._module._logger = self._module._logger or weakref.ref(logger)
        if "runtime" in self._module._inject:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.engine_host_code_allowed = False
        self._module._count("Runtime", self)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Engine | None:
        module = self._module
        content = bytes(serialized_engine)
        problem = self._refusal(content)
        if "deserialize" in module._inject:
            problem = (
                "Error Code 1: Serialization (Serialization assertion failed. Size specified in header mismatches)"
            )
        if problem:
            module._log("ERROR", f"IRuntime::deserializeCudaEngine: {problem}")
            return None
        (length,) = struct.unpack_from("<I", content, 28)
        facts = json.loads(content[32 : 32 + length])
        return module.ICudaEngine(self, facts, content[32 + length :])

    def _refusal(self, content: bytes) -> str:
        module = self._module
        if not content.startswith(module._magic):
            return "Error Code 1: Serialization (Magic tag does not match)"
        built = tuple(content[24:28])
        (length,) = struct.unpack_from("<I", content, 28)
        facts = json.loads(content[32 : 32 + length])
        if facts["version_compatible"] and not self.engine_host_code_allowed:
            return "Error Code 3: API Usage Error (host code is not allowed)"
        if built != module._numbers and not (facts["version_compatible"] and built <= module._numbers):
            return (
                "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {module.__version__} got ..)"
            )
        if module._compiles:
            return ""
        if facts["capability"] != list(module._device.capability) and facts["hardware"] == "NONE":
            return "Error Code 6: API Usage Error (Engine plan file is generated on an incompatible device)"
        return ""


class Engine(Strict):
    """A deserialised plan."""

    def __init__(self, runtime: Runtime, facts: dict[str, Any], model: bytes) -> None:
        self._runtime, self._facts, self._graph = weakref.ref(runtime), facts, model
        self._module._count("ICudaEngine", self)

    num_io_tensors = property(lambda self: len(self._facts["io"]))
    num_optimization_profiles = property(lambda self: len(self._facts["profiles"]))

    def _tensor(self, name: str) -> dict[str, Any]:
        alive(self._runtime, "the runtime")
        return next(t for t in self._facts["io"] if t["name"] == name)

    def get_tensor_name(self, index: int) -> str:
        return self._facts["io"][index]["name"]

    def get_tensor_mode(self, name: str) -> Enum:
        return getattr(self._module.TensorIOMode, self._tensor(name)["mode"])

    def get_tensor_dtype(self, name: str) -> Enum:
        return getattr(self._module.DataType, self._tensor(name)["dtype"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name)["shape"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if self._tensor(name)["mode"] != "INPUT":
            raise RuntimeError("profile shapes are of inputs only")
        return [tuple(s) for s in self._facts["profiles"][profile_index]]

    @property
    def device_memory_size_v2(self) -> int:
        return ACTIVATION_BYTES * max(shapes[2][0] for shapes in self._facts["profiles"])

    def create_execution_context(self, strategy: Any = None) -> Context | None:
        module = self._module
        if "context" in module._inject:
            module._log("ERROR", "IExecutionContext: Error Code 2: OutOfMemory (no further information)")
            return None
        config = strategy if isinstance(strategy, RuntimeConfig) else None
        chosen = config._strategy if config else strategy
        own = chosen is None or chosen == module.ExecutionContextAllocationStrategy.STATIC
        context = module.IExecutionContext(self, own)
        if module._compiles:
            context._config = weakref.ref(config) if config else None
            module._compile(context, "fallback")
        return context

    def create_engine_inspector(self) -> Inspector:
        return self._module.EngineInspector(self)


class RtxEngine(Engine):
    """One of TensorRT-RTX, whose contexts are made with settings."""

    def create_runtime_config(self) -> RuntimeConfig:
        return self._module.IRuntimeConfig(self)


class RuntimeCache(Strict):
    """Kernels that were compiled, for one TensorRT-RTX on one GPU."""

    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def _environment(self) -> list[Any]:
        return [self._module.__version__, self._module._device.name]

    def serialize(self) -> HostMemory:
        return HostMemory(json.dumps([self._environment(), sorted(self._kernels)]).encode())

    def deserialize(self, blob: Any) -> bool:
        try:
            environment, kernels = json.loads(bytes(blob))
        except ValueError:
            return False
        if environment != self._environment():
            return False
        self._kernels = set(kernels)
        return True

    def reset(self) -> bool:
        self._kernels = set()
        return True


class RuntimeConfig(Strict):
    """What a context of TensorRT-RTX is made with."""

    def __init__(self, engine: Engine) -> None:
        module = self._module
        self._engine, self._strategy = weakref.ref(engine), None
        self._cache: Any = None
        self.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return self._module.IRuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = weakref.ref(cache)
        return True

    def get_runtime_cache(self) -> RuntimeCache:
        return alive(self._cache, "the runtime cache")


class Context(Strict):
    """Shapes and addresses of one stream of work."""

    _config: Any = None
    _listener: Any = None
    _debugging = False

    def __init__(self, engine: Engine, own_memory: bool) -> None:
        self._engine = weakref.ref(engine)
        self._own_memory, self._block = own_memory, 0
        self._shape: tuple[int, ...] | None = None
        self._profile = 0
        self._addresses: dict[str, int] = {}
        self.profiler = None
        self.enqueue_emits_profile = True
        self._unreported, self._runs = False, 0
        self._module._count("IExecutionContext", self)

    def _names(self) -> tuple[str, ...]:
        """The input, then the outputs."""
        return tuple(tensor["name"] for tensor in alive(self._engine, "the engine")._facts["io"])

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._module._device.stream(stream_handle)
        if not 0 <= profile_index < len(alive(self._engine, "the engine")._facts["profiles"]):
            self._module._log("ERROR", f"setOptimizationProfileAsync: no profile {profile_index}")
            return False
        self._profile, self._shape = profile_index, None
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        engine, shape = alive(self._engine, "the engine"), tuple(shape)
        low, _, high = (tuple(s) for s in engine._facts["profiles"][self._profile])
        inside = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if name != self._names()[0] or not inside:
            self._module._log(
                "ERROR",
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Static dimension mismatch while "
                f"setting input shape for {name}. Set dimensions are {list(shape)}. Expected {low} to {high}.)",
            )
            return False
        self._shape = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else [self._names()[0]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self._shape[0] if self._shape else -1
        shape = alive(self._engine, "the engine")._tensor(name)["shape"]
        return tuple(batch if n < 0 else n for n in shape)

    def set_device_memory(self, memory: int, size: int) -> None:
        engine = alive(self._engine, "the engine")
        if self._own_memory or memory % 256 or size < engine.device_memory_size_v2:
            self._module._log("ERROR", f"IExecutionContext::setDeviceMemoryV2: {size} bytes at {memory:#x} are refused")
            return
        self._module._device.check_range(memory, size, "memory")
        self._block = memory

    def _memory_problem(self, stream_handle: int) -> str:
        """Why a context without memory of its own cannot run: no block, or one in which another stream computes."""
        device, block = self._module._device, self._block
        if self._own_memory:
            return ""
        if not block:
            return "no device memory was set"
        before = device.streams.get(self._module._computing.get(block))
        if before is not None and before.handle != stream_handle and before.queue:
            return "another stream computes in this device memory"
        self._module._computing[block] = stream_handle
        return ""

    def set_debug_listener(self, listener: Any) -> bool:
        self._listener = initialised(listener)
        return True

    def get_debug_listener(self) -> Any:
        return self._listener

    @property
    def unfused_tensors_debug_state(self) -> bool:
        return self._debugging

    @unfused_tensors_debug_state.setter
    def unfused_tensors_debug_state(self, flag: bool) -> None:
        self._debugging = flag

    def _tell(self, stream_handle: int) -> None:
        """Call the listener while the work is queued: whoever wants to read has to wait for the stream. The memory is
        the engine's again when it returns."""
        module, engine = self._module, alive(self._engine, "the engine")
        if self._listener is None or not self._debugging:
            return
        device, start = module._device, self._addresses[self._names()[0]]
        for number, name in enumerate(engine._facts["debugged"]):
            kind, shape = _debug_tensor(module, engine, name, self._shape)
            nbytes = math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
            address = device.allocate("memory", nbytes)
            compute = functools.partial(_compute_inner, module, engine, name, (start, self._shape or ()), address)
            device.enqueue(stream_handle, Work(compute, "compute", 0.0, ((address, nbytes, True),)))
            told = f"__myln_k_arg__bb1_{number}_myl0" if "internal names" in module._inject else name
            location, dtype = module.TensorLocation.DEVICE, getattr(module.DataType, DTYPES[kind])
            self._listener.process_debug_tensor(address, location, dtype, shape, told, stream_handle)
            device.release("memory", address)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if not isinstance(memory, int):
            raise TypeError("set_tensor_address(): incompatible function arguments")
        if name not in self._names():
            self._module._log("ERROR", f"setTensorAddress: {name} is no tensor of the engine")
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        module, engine = self._module, alive(self._engine, "the engine")
        alive(engine._runtime, "the runtime")
        if not isinstance(stream_handle, int):
            raise TypeError("execute_async_v3(): incompatible function arguments")
        recording = module._device.stream(stream_handle).recorded is not None
        if recording and not self._runs:  # lazy set-up is not to be recorded: one ordinary enqueue comes first
            module._device.stream(stream_handle).broken = True
            module._log("ERROR", "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not permitted)")
            return False
        if "execute" in module._inject or (recording and "capture" in module._inject):
            module._device.stream(stream_handle).broken = recording
            module._log("ERROR", "IExecutionContext::executeV3: Error Code 1: Cuda Runtime (an illegal memory access)")
            return False
        if self._shape is None or set(self._addresses) != set(self._names()):
            module._log("ERROR", "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (address is not set)")
            return False
        if module._device.last_error:  # asked for after a launch, whoever left it
            module._log("ERROR", f"enqueueV3: Error Code 1: Cuda Runtime (error {module._device.last_error})")
            return False
        if problem := self._memory_problem(stream_handle):
            module._log("ERROR", f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({problem})")
            return False
        if module._compiles:
            module._compile(self, str(self._shape))
        addresses = [self._addresses[name] for name in self._names()]
        shapes = [self._shape, *(self.get_tensor_shape(name) for name in self._names()[1:])]
        sizes = [np.dtype(NUMPY_TYPES[tensor["dtype"]]).itemsize for tensor in engine._facts["io"]]
        try:
            for address, shape, size in zip(addresses, shapes, sizes, strict=True):
                module._device.check_range(address, size * math.prod(shape), "memory")
        except FakeError:
            module._log("ERROR", "enqueueV3: an address is no device memory of that size")
            return False
        touches = tuple(
            (address, size * math.prod(shape), k > 0)
            for k, (address, shape, size) in enumerate(zip(addresses, shapes, sizes, strict=True))
        )
        scratch = (id(self), 1, True)  # a context's own memory: it runs one thing at a time
        work = Work(
            lambda: module._compute(engine, addresses, shapes),
            "compute",
            module._device.ms["compute"] * (1 + max(engine._facts["kernels"].values(), default=0) / 10),
            (*touches, scratch),
        )
        module._device.now_ms += 0.0 if recording else module._device.enqueue_ms
        module._device.enqueue(stream_handle, work)
        self._tell(stream_handle)
        self._unreported = True
        self._runs += 1
        return True

    def _replays(self) -> bool:
        config = alive(self._config, "the runtime configuration") if self._config else None
        return config is not None and config.cuda_graph_strategy == self._module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def report_to_profiler(self) -> bool:
        if self._module._compiles and self._replays():
            return False
        if self.profiler is None or self.enqueue_emits_profile or not self._unreported:
            return False
        initialised(self.profiler)
        for layer in self._module._records(alive(self._engine, "the engine"), self._shape):
            self.profiler.report_layer_time(layer["Name"], 0.0 if layer["LayerType"] == "NoOp" else 0.25)
        self._unreported = False
        return True


class RtxContext(Context):
    """One of TensorRT-RTX."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream in self._module._device.streams
        return self._replays() and "capture" not in self._module._inject


class Inspector(Strict):
    """Tells of layers in the schema of its version."""

    def __init__(self, engine: Engine) -> None:
        self._engine = weakref.ref(engine)
        self.execution_context = None

    def get_engine_information(self, format: Enum) -> str:
        module, engine = self._module, alive(self._engine, "the engine")
        assert format == module.LayerInformationFormat.JSON
        context = self.execution_context
        records = module._records(engine, context._shape if context is not None else None)
        for index in range(1, len(engine._facts["profiles"])):  # every profile has kernels of its own
            records += [r | {"Name": f"{r['Name']} [profile {index}]"} for r in records if "[profile" not in r["Name"]]
        names = [t["name"] for t in engine._facts["io"]]
        layers = records if engine._facts["detailed"] else [r["Name"] for r in records]
        if module._major < 11:
            return json.dumps({"Layers": layers, "Bindings": names})
        tensors = [
            {"Name": t["name"], "IOMode": t["mode"].title(), "DataType": "Float", "Dimensions": t["shape"]}
            for t in engine._facts["io"]
        ]
        return json.dumps({"Layers": layers, "I/O Tensors": tensors})


CLASSES: dict[str, type] = {
    "ITimingCache": TimingCache,
    "IOptimizationProfile": Profile,
    "IBuilderConfig": BuilderConfig,
    "ITensor": Tensor,
    "ILayer": Layer,
    "IConvolutionLayer": Convolution,
    "IDeconvolutionLayer": Convolution,
    "INetworkDefinition": Network,
    "ParserError": ParserError,
    "OnnxParser": OnnxParser,
    "Builder": Builder,
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "EngineInspector": Inspector,
}
RTX_CLASSES = {
    **CLASSES,
    "ICudaEngine": RtxEngine,
    "IRuntimeConfig": RuntimeConfig,
    "IRuntimeCache": RuntimeCache,
    "IExecutionContext": RtxContext,
}
SUBCLASSED = {
    "ILogger": ILogger,
    "IProgressMonitor": IProgressMonitor,
    "IProfiler": IProfiler,
    "IDebugListener": IDebugListener,
    "IInt8EntropyCalibrator2": IInt8EntropyCalibrator2,
}


def fake_tensorrt(version: str, device: FakeDevice) -> types.ModuleType:
    """The module `tensorrt` of a version, or with "rtx/" before it `tensorrt_rtx`, as its snapshot has it; what the
    latter compiles for the GPU stands in `_compiled`. `_inject` names failures to come:
    builder, parse, build, no build by -knob=value, route dropped, build_oom, runtime, deserialize, context, execute,
    capture; fp32 (layers told as FP32), mixed (INT8 of the first alone, FP16 of the rest), lost (FP16 kernels behind
    INT8 tensors)."""
    api = json.loads((API / f"{version}.json").read_text())
    rtx = version.startswith("rtx/")
    name_of_module = "tensorrt_rtx" if rtx else "tensorrt"
    module: Any = types.ModuleType(name_of_module)
    module.__spec__ = importlib.machinery.ModuleSpec(name_of_module, None)  # others ask whether it is installed
    module._magic, module._compiles, module._compiled = b"vtrt" if rtx else b"ftrt", rtx, []
    module._compile = functools.partial(_compile, module)
    module.__version__ = api["version"]
    module._api = api
    numbers = [int(n) for n in api["version"].split(".")]
    module._major = 11 if rtx else numbers[0]  # of that class
    module._numbers = (*numbers, 26)[:4]
    module._device, module._inject, module._logger = device, set(), None
    module._builds, module._on_step, module._live = [], None, {}
    module._sessions, module._computing = {}, {}
    module._fastest = 0  # which of a layer's kernels the next build finds fastest
    module._by_route = {}  # which other one it is by a word of a build route, as a difference
    module._wait = lambda thread: thread.join()
    for name, content in api["classes"].items():
        setattr(module, name, _class(module, name, content))
    for name in (*api["functions"], *api["other"]):
        setattr(module, name, object())
    module._log = functools.partial(_log, module)
    module._count = functools.partial(_count, module)
    module._plan_bytes = functools.partial(_plan_bytes, module)
    module._records = functools.partial(_records, module)
    module._compute = functools.partial(_compute, module)
    return module


def _class(module: Any, name: str, content: dict[str, Any]) -> Any:
    if "enum" in content:
        members = {key: Enum(name, key, value) for key, value in content["enum"].items()}
        return type(name, (), {**members, "__members__": members})
    if name in SUBCLASSED:
        nested = {key: _class(module, key, inner) for key, inner in content.get("nested", {}).items()}
        return type(name, (SUBCLASSED[name],), nested)
    offered = RTX_CLASSES if module._compiles else CLASSES
    if name in offered:
        return type(name, (offered[name],), {"_api": content, "_module": module, "_class": name})
    return type(name, (Strict,), {"_api": content, "_module": module, "_class": name})


def _log(module: Any, severity: str, text: str) -> None:
    logger = module._logger() if module._logger else None
    assert logger is not None, "use after free: the logger is gone"
    logger.log(getattr(module.ILogger.Severity, severity), text)


def _count(module: Any, kind: str, value: Any) -> None:
    live = module._live.setdefault(kind, weakref.WeakSet())
    live.add(value)


def _plan_bytes(module: Any, network: Network, config: BuilderConfig, kernels: set[str]) -> bytes:
    shapes: list[Any] = [list(p.get_shape(network._inputs[0]._name)) for p in config._profiles]
    facts = {
        "io": [
            {"name": t._name, "mode": mode, "dtype": t._dtype.name, "shape": list(t._shape)}
            for tensors, mode in ((network._inputs, "INPUT"), (network._outputs, "OUTPUT"))
            for t in tensors
        ],
        "profiles": shapes or [[list(network._inputs[0]._shape)] * 3],
        "capability": list(module._device.capability),
        "hardware": config.hardware_compatibility_level.name,
        "version_compatible": "VERSION_COMPATIBLE" in config._flags,
        "detailed": config.profiling_verbosity == module.ProfilingVerbosity.DETAILED,
        "typed": network.get_flag(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED) and "fp32" not in module._inject,
        "implicit": getattr(config, "_scaled", None) or [],
        "half": "FP16" in config._flags,
        "told": next((way for way in ("mixed", "lost") if way in module._inject), ""),
        "kernels": {name.partition(":")[2]: int(k) for name, _, k in (e.rpartition("#") for e in kernels)},
    }
    model = with_faults(module, network, config._route)
    more = [t._name for t in network._outputs if t._name not in {o.name for o in model.graph.output}]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    whole = module._compiles  # TensorRT-RTX compiles a network as one layer, which leaves nothing between layers
    facts["debugged"] = _unfused(model) if network._debugged and not whole else []
    head = json.dumps(facts).encode()
    return (
        module._magic + bytes(20) + bytes(module._numbers) + struct.pack("<I", len(head)) + head
    ) + model.SerializeToString()


def with_faults(module: Any, network: Network, route: str = "") -> Any:
    """A copy of the graph in which TensorRT computes some nodes wrongly: a node of "wrong NODE" gives 0.6 of what it
    should; of "wrong fused NODE" only as long as what it makes is no output; of "wrong plain NODE" in no build of which
    inner tensors are seen; after "by -knob=value: " only where the build route has that word."""
    model = onnx.ModelProto()
    model.CopyFrom(network._model)
    outputs = {t._name for t in network._outputs}
    seen = network._debugged or len(outputs) > len(network._model.graph.output)
    by_route = [f.removeprefix(f"by {word}: ") for word in route.split() for f in module._inject]
    for fault in (f.split(" ") for f in dict.fromkeys((*module._inject, *by_route)) if f.startswith("wrong ")):
        node = next(n for n in model.graph.node if n.name == fault[-1])
        if (fault[1] == "fused" and node.output[0] in outputs) or (fault[1] == "plain" and seen):
            continue
        name, kind = node.output[0], _values(model)[node.output[0]].elem_type
        node.output[0] = f"{name}/right"
        told = onnx.ValueInfoProto(name=node.output[0])
        told.type.CopyFrom(next(v for v in (*model.graph.value_info, *model.graph.output) if v.name == name).type)
        model.graph.value_info.append(told)
        factor = onnx.helper.make_tensor(f"{name}/factor", kind, [], [0.6])
        model.graph.initializer.append(factor)
        wrong = onnx.helper.make_node("Mul", [node.output[0], factor.name], [name], f"{name}/wrong")
        model.graph.node.insert(list(model.graph.node).index(node) + 1, wrong)
    return model


def _unfused(model: Any) -> list[str]:
    """What is left between layers: Relu and Q are fused into what makes their input, DQ into what reads it."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    kinds, given = _values(model), {o.name for o in model.graph.output}
    return [
        name
        for node in model.graph.node
        for name in node.output
        if readers.get(name) not in (["Relu"], ["QuantizeLinear"])
        and not name.endswith("/right")
        and node.op_type not in ("DequantizeLinear", "Constant")
        and name not in given
        and kinds[name].elem_type in (1, 10, 3)
    ]


def _compile(module: Any, context: Context, what: str) -> None:
    """A kernel for this GPU: from the cache that the context's settings hold, or in COMPILE_S seconds."""
    config = alive(context._config, "the runtime configuration") if context._config else None
    kernels = config.get_runtime_cache()._kernels if config and config._cache else set()
    kernel = f"{zlib.crc32(alive(context._engine, 'the engine')._graph)}:{what}"
    if kernel not in kernels:
        time.sleep(COMPILE_S)
        module._compiled.append(what)
    kernels.add(kernel)


def _calibrate(module: Any, config: BuilderConfig) -> str:
    """What a weakly typed INT8 build refuses; the tensors that have a scale are kept."""
    calibrator = config.int8_calibrator
    if calibrator is None:
        return "Error Code 4: Internal Error (Calibration failure: neither a calibrator nor dynamic ranges)"
    assert initialised(calibrator).get_batch_size() > 0
    lines = bytes(calibrator.read_calibration_cache() or b"").decode().splitlines()
    major, minor, patch = module._numbers[:3]
    if not lines and calibrator.get_batch(["input"]) is None:
        return "Error Code 4: Internal Error (Calibration failure occurred with no scaling factors detected)"
    if lines[0] != f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2":
        return "Error Code 4: Internal Error (Calibration table does not match calibrator algorithm type)"
    if config._calibration_profile is None:
        return "Error Code 4: API Usage Error (Calibration profile is not defined)"
    table = dict(line.rsplit(": ", 1) for line in lines[1:])
    config._scaled = [name for name, code in table.items() if struct.unpack(">f", bytes.fromhex(code))[0] > 0]
    return ""


def _quantization_problem(model: Any) -> str:
    """What a strongly typed build refuses of Q and DQ (IQuantizeLayer and IDequantizeLayer in NvInfer.h)."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    types = {name: kind.elem_type for name, kind in _values(model).items()}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, scale, *zero = node.input
        high = data if node.op_type == "QuantizeLinear" else node.output[0]
        if scale not in constants:
            return f"{node.name}: scale is not a build-time constant"
        if types.get(high, types[scale]) != types[scale]:
            return f"{node.name}: {DTYPES[types[high]]} tensor with a scale of type {DTYPES[types[scale]]}"
        if not (np.isfinite(constants[scale]).all() and (constants[scale] > 0).all()):
            return f"{node.name}: scale coefficients must all be positive"
        if any(name and constants[name].any() for name in zero):
            return f"{node.name}: non-zero zero point is not supported"
        if any(name and constants[name].dtype != np.int8 for name in zero):
            return f"{node.name}: only INT8 is supported"
    return ""


def _values(model: Any) -> dict[str, Any]:
    graph = model.graph
    return {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.input, *graph.output)}


@functools.cache
def runtime() -> Any:
    """ONNX Runtime, imported once: afterwards it may be hidden from everyone else."""
    import onnxruntime

    return onnxruntime


def _session(module: Any, engine: Engine) -> Any:
    onnxruntime = runtime()
    key = hash(engine._graph)
    if key not in module._sessions:
        model = onnx.load_from_string(engine._graph)
        shapes = {
            v.name: v.type.tensor_type for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = rounded_to_fp16(model).SerializeToString()
        run = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        module._sessions[key] = (model, shapes, run)
    return module._sessions[key]


def _debug_tensor(module: Any, engine: Engine, name: str, shape: Any) -> tuple[int, tuple[int, ...]]:
    """Type and shape of an inner tensor at one input shape."""
    told = _values(_session(module, engine)[0])[name]
    return told.elem_type, tuple(d.dim_value or shape[0] for d in told.shape.dim)


def _compute_inner(module: Any, engine: Engine, name: str, given: tuple[int, tuple[int, ...]], address: int) -> None:
    """Run the graph again up to an inner tensor, and leave it at an address."""
    import ctypes

    key = ("inner", hash(engine._graph))
    if key not in module._sessions:
        model = onnx.load_from_string(engine._graph)
        outputs = {o.name for o in model.graph.output}
        told = [onnx.ValueInfoProto(name=n) for n in engine._facts["debugged"] if n not in outputs]
        model.graph.output.extend(told)
        options = runtime().SessionOptions()
        options.intra_op_num_threads = 1
        run = runtime().InferenceSession(
            rounded_to_fp16(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        module._sessions[key] = run
    run = module._sessions[key]
    content = ctypes.string_at(given[0], 4 * math.prod(given[1]))
    (values,) = run.run([name], {run.get_inputs()[0].name: np.frombuffer(content, np.float32).reshape(given[1])})
    values = np.ascontiguousarray(values)
    ctypes.memmove(address, values.ctypes.data, values.nbytes)


def _compute(module: Any, engine: Engine, addresses: list[int], shapes: list[tuple[int, ...]]) -> None:
    import ctypes

    given, *taken = (np.dtype(NUMPY_TYPES[tensor["dtype"]]) for tensor in engine._facts["io"])
    content = ctypes.string_at(addresses[0], given.itemsize * math.prod(shapes[0]))
    run = _session(module, engine)[2]
    outputs = run.run(None, {run.get_inputs()[0].name: np.frombuffer(content, given).reshape(shapes[0])})
    for values, kind, address, shape in zip(outputs, taken, addresses[1:], shapes[1:], strict=True):
        assert values.shape == tuple(shape)
        made = np.ascontiguousarray(values, kind)
        ctypes.memmove(address, made.ctypes.data, made.nbytes)


def _records(module: Any, engine: Engine, shape: tuple[int, ...] | None) -> list[dict[str, Any]]:
    """One record for every node but Q/DQ and Relu, which are fused; a Reformat in front."""
    model, values, _ = _session(module, engine)
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}

    start = model.graph.input[0].name

    def tensor(name: str, kind: str) -> dict[str, Any]:
        dims = [d.dim_value or (shape[0] if shape else -1) for d in values[name].shape.dim] if name in values else []
        if shape is None and any(n < 0 for n in dims):
            return {"Name": name, "Dimensions": dims, "Format/Datatype": "N/A due to dynamic shapes"}
        if module._major < 11:
            return {"Name": name, "Dimensions": dims, "Format/Datatype": FORMATS_10[kind]}
        return {"Name": name, "Dimensions": dims, "Format": "Row major linear", "DataType": kind}

    def kind_of(name: str) -> str:
        if engine._facts["implicit"]:
            kept = engine._facts["told"] == "mixed" and name != start
            return "Int8" if name in engine._facts["implicit"] and not kept else "Half"
        if not engine._facts["typed"]:
            return "Float"
        if name in dequantised:
            return "Int8"
        code = values[name].elem_type if name in values else 1
        return {10: "Half", 3: "Int8"}.get(code, "Float")

    records = [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0",
            "LayerType": "Reformat",
            "Inputs": [tensor(start, "Float")],
            "Outputs": [tensor(start, "Float")],
            "ParameterType": "Reformat",
            "Metadata": "",
        }
    ]
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    weighted = [n.name for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Relu", "Constant") or node.name.endswith("/wrong"):
            continue
        data = node.input[0]
        kind = kind_of(data)
        if engine._facts["told"] == "mixed" and node.name in weighted[1:]:
            kind = "Half"
        runs = KERNELS["Half" if engine._facts["told"] == "lost" and kind == "Int8" else kind]
        record = {
            "Name": node.name,
            "LayerType": {"Conv": "CaskConvolution", "Gemm": "MatrixMultiply"}.get(node.op_type, node.op_type),
            "Inputs": [tensor(data, kind)],
            "Outputs": [tensor(node.output[0], kind_of(node.output[0]))],
            "TacticName": f"sm89_xmma_gemm_{runs}_fake{engine._facts['kernels'].get(node.name) or ''}"
            if node.name in weighted
            else f"sm89_fake_{node.op_type.lower()}",
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
        if node.op_type == "Conv":
            kernel = next(list(a.ints) for a in node.attribute if a.name == "kernel_shape")
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            record |= {"ParameterType": "Convolution", "Kernel": kernel, "Groups": groups}
            record["OutMaps"] = record["Outputs"][0]["Dimensions"][1]
        records.append(record)
    assert weights
    return records


@contextlib.contextmanager
def injected(module: Any, *failures: str) -> Any:
    """Let the next calls fail."""
    module._inject |= set(failures)
    try:
        yield
    finally:
        module._inject -= set(failures)
