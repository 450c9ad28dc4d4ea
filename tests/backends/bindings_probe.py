"""Run by test_trt_bindings.py in a process of its own: the real bindings of one version, without a GPU.

The libraries below them are stubs, so no object of TensorRT can be made. But an argument is checked before a call is
made: on an object that was never initialised, a call whose names and types are right gets through to C++ and crashes
there, and one that is wrong is a TypeError. Each is tried in a child process.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt


def outcome(call: Callable[[], Any]) -> str:
    """ "refused" for a TypeError about arguments, "taken" for anything else, a crash too."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(10)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            call()
        except TypeError as exc:
            os._exit(0 if "factory function returned nullptr" in str(exc) else 3)
        except AttributeError:
            os._exit(4)
        except BaseException:  # noqa: BLE001 - whatever came out of C++
            os._exit(0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {3: "refused", 4: "absent"}.get(code, "taken")


def bare(name: str) -> Any:
    """An object that was never initialised."""
    kind = getattr(trt, name)
    return kind.__new__(kind)


def setting(name: str, attribute: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(bare(name), attribute, value)


def getting(name: str, attribute: str) -> Callable[[], Any]:
    return lambda: getattr(bare(name), attribute)


def right_calls(logger: Any, monitor: Any, profiler: Any) -> dict[str, Callable[[], Any]]:
    """Every call and property as the backend uses it."""
    shape, ampere = (1, 3, 8, 8), trt.HardwareCompatibilityLevel.AMPERE_PLUS
    user_managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    calls = {
        "Builder()": lambda: trt.Builder(logger),
        "create_network": lambda: bare("Builder").create_network(flag),
        "create_builder_config": lambda: bare("Builder").create_builder_config(),
        "create_optimization_profile": lambda: bare("Builder").create_optimization_profile(),
        "build_serialized_network": lambda: bare("Builder").build_serialized_network(
            bare("INetworkDefinition"), bare("IBuilderConfig")
        ),
        "OnnxParser()": lambda: trt.OnnxParser(bare("INetworkDefinition"), logger),
        "parse_from_file": lambda: bare("OnnxParser").parse_from_file("model.onnx"),
        "get_error": lambda: bare("OnnxParser").get_error(0),
        "get_flag": lambda: bare("INetworkDefinition").get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        "get_layer": lambda: bare("INetworkDefinition").get_layer(0),
        "get_input": lambda: bare("INetworkDefinition").get_input(0),
        "get_output": lambda: bare("ILayer").get_output(0),
        "layer input": lambda: bare("ILayer").get_input(0),
        "pool": lambda: bare("IBuilderConfig").set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 34),
        "set_flag": lambda: bare("IBuilderConfig").set_flag(trt.BuilderFlag.VERSION_COMPATIBLE),
        "clear_flag": lambda: bare("IBuilderConfig").clear_flag(trt.BuilderFlag.TF32),
        "add_profile": lambda: bare("IBuilderConfig").add_optimization_profile(bare("IOptimizationProfile")),
        "create_cache": lambda: bare("IBuilderConfig").create_timing_cache(b"content"),
        "set_cache": lambda: bare("IBuilderConfig").set_timing_cache(bare("ITimingCache"), False),
        "combine": lambda: bare("ITimingCache").combine(bare("ITimingCache"), False),
        "set_shape": lambda: bare("IOptimizationProfile").set_shape("input", shape, shape, shape),
        "Runtime()": lambda: trt.Runtime(logger),
        "deserialize": lambda: bare("Runtime").deserialize_cuda_engine(b"ftrt"),
        "tensor_name": lambda: bare("ICudaEngine").get_tensor_name(0),
        "tensor_mode": lambda: bare("ICudaEngine").get_tensor_mode("input"),
        "tensor_dtype": lambda: bare("ICudaEngine").get_tensor_dtype("input"),
        "tensor_shape": lambda: bare("ICudaEngine").get_tensor_shape("input"),
        "profile_shape": lambda: bare("ICudaEngine").get_tensor_profile_shape("input", 0),
        "create_context": lambda: bare("ICudaEngine").create_execution_context(user_managed),
        "memory_size": getting("ICudaEngine", "device_memory_size_v2"),
        "set_memory": lambda: bare("IExecutionContext").set_device_memory(0x7F0012345678, 1 << 34),
        "create_inspector": lambda: bare("ICudaEngine").create_engine_inspector(),
        "set_input_shape": lambda: bare("IExecutionContext").set_input_shape("input", shape),
        "set_profile": lambda: bare("IExecutionContext").set_optimization_profile_async(1, 0x55D012345678),
        "profiles": getting("ICudaEngine", "num_optimization_profiles"),
        "infer_shapes": lambda: bare("IExecutionContext").infer_shapes(),
        "context_shape": lambda: bare("IExecutionContext").get_tensor_shape("logits"),
        "set_address": lambda: bare("IExecutionContext").set_tensor_address("input", 0x7F0012345678),
        "execute": lambda: bare("IExecutionContext").execute_async_v3(0x55D012345678),
        "report": lambda: bare("IExecutionContext").report_to_profiler(),
        "information": lambda: bare("EngineInspector").get_engine_information(trt.LayerInformationFormat.JSON),
        "level": setting("IBuilderConfig", "builder_optimization_level", 3),
        "verbosity": setting("IBuilderConfig", "profiling_verbosity", trt.ProfilingVerbosity.DETAILED),
        "hardware": setting("IBuilderConfig", "hardware_compatibility_level", ampere),
        "monitor": setting("IBuilderConfig", "progress_monitor", monitor),
        "profiler": setting("IExecutionContext", "profiler", profiler),
        "emits": setting("IExecutionContext", "enqueue_emits_profile", False),
        "host_code": setting("Runtime", "engine_host_code_allowed", True),
        "inspected": setting("EngineInspector", "execution_context", bare("IExecutionContext")),
    }
    if hasattr(trt, "IInt8EntropyCalibrator2"):
        from edgecnn.backends.trt.implicit import cache_calibrator

        calibrator = cache_calibrator(trt, b"TRT-100300-EntropyCalibration2")
        calls["create_network, weakly typed"] = lambda: bare("Builder").create_network(0)
        calls["calibrator"] = setting("IBuilderConfig", "int8_calibrator", calibrator)
        calls["int8"] = lambda: bare("IBuilderConfig").set_flag(trt.BuilderFlag.INT8)
        calls["fp16"] = lambda: bare("IBuilderConfig").set_flag(trt.BuilderFlag.FP16)
        calls["calibration"] = lambda: bare("IBuilderConfig").set_calibration_profile(bare("IOptimizationProfile"))
    if hasattr(trt.IBuilderConfig, "build_route"):
        calls["route"] = setting("IBuilderConfig", "build_route", "-conv_lowering=off")
        calls["routes"] = getting("IBuilderConfig", "all_build_routes")
    for name in ("num_layers", "num_inputs", "num_outputs"):
        calls[f"network.{name}"] = getting("INetworkDefinition", name)
    for name in ("type", "metadata", "num_outputs"):
        calls[f"layer.{name}"] = getting("ILayer", name)
    for name in ("name", "dtype", "shape"):
        calls[f"tensor.{name}"] = getting("ITensor", name)
    return calls


def wrong_calls(logger: Any) -> dict[str, Callable[[], Any]]:
    """Calls that must be refused, or this probe would prove nothing."""
    more = {"a calibrator that is none": setting("IBuilderConfig", "int8_calibrator", object())}
    routes = {"a route that is a list": setting("IBuilderConfig", "build_route", ["-conv_lowering=off"])}
    return {
        **(routes if hasattr(trt.IBuilderConfig, "build_route") else {}),
        **(more if hasattr(trt, "IInt8EntropyCalibrator2") else {}),
        "a name that no overload has": lambda: bare("Builder").create_network(flag=1),
        "an address that is no number": lambda: bare("IExecutionContext").set_tensor_address("input", "0x7f"),
        "a stream that is no number": lambda: bare("IExecutionContext").execute_async_v3(object()),
        "a shape that is none": lambda: bare("IOptimizationProfile").set_shape("input", "1", "2", "3"),
        "a pool that is a number": lambda: bare("IBuilderConfig").set_memory_pool_limit(0, 1 << 20),
        "too many arguments": lambda: bare("ICudaEngine").get_tensor_name(0, 1),
        "a logger that is none": lambda: trt.Builder(object()),
        "a monitor that is none": setting("IBuilderConfig", "progress_monitor", object()),
    }


def check_own_code(folder: Path) -> None:
    """The backend itself on these bindings: its subclasses, and its refusals when nothing can be made."""
    from edgecnn.backends import BuildOptions, load_backend
    from edgecnn.backends.trt.library import load_tensorrt, logger_for, recording
    from edgecnn.errors import BackendError
    from tests.fakes.fake_cuda import FakeDevice, runtime_module
    from tests.fakes.tiny import tiny_graph

    sys.modules["cuda.bindings.runtime"] = runtime_module(FakeDevice())
    assert load_tensorrt() is trt
    with recording(trt) as messages:
        logger_for(trt).log(trt.ILogger.Severity.WARNING, "careful")
        logger_for(trt).log(trt.ILogger.Severity.VERBOSE, "chatter")
    assert messages == [("WARNING", "careful")]
    graph, plan = folder / "tiny.onnx", folder / "tiny.plan"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    with pytest.raises(BackendError, match="TensorRT's builder cannot be made"):
        load_backend("trt").engine_from_onnx(graph, plan, BuildOptions("gpu"))
    numbers = bytes((*(int(n) for n in trt.__version__.split(".")), 0)[:4])
    plan.write_bytes(b"ftrt" + bytes(20) + numbers)
    with pytest.raises(BackendError, match="TensorRT's runtime cannot be made"):
        load_backend("trt").open_engine(plan, trust=True)


def check_class_assignment() -> None:
    """A plain layer becomes the kind of layer that its type says."""
    for name in ("IConvolutionLayer", "IDeconvolutionLayer"):
        layer = bare("ILayer")
        layer.__class__ = getattr(trt, name)
        assert isinstance(layer, getattr(trt, name))
        for attribute in ("kernel_size_nd", "num_groups"):
            assert hasattr(type(layer), attribute)


def main(folder: Path, version: str) -> None:
    assert trt.__version__ == version, trt.__version__
    from edgecnn.backends.trt.library import logger_for
    from edgecnn.backends.trt.progress import BuildProgress, Interruption, progress_monitor

    monitor = progress_monitor(trt, BuildProgress(), Interruption())
    monitor.phase_start("Timing", None, 3)
    assert monitor.step_complete("Timing", 0) is True
    monitor.phase_finish("Timing")

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            pass

    right = {k: outcome(c) for k, c in right_calls(logger_for(trt), monitor, Profiler()).items()}
    wrong = {k: outcome(c) for k, c in wrong_calls(logger_for(trt)).items()}
    assert set(right.values()) == {"taken"}, {k: v for k, v in right.items() if v != "taken"}
    assert set(wrong.values()) == {"refused"}, {k: v for k, v in wrong.items() if v != "refused"}
    taken_away = outcome(lambda: trt.BuilderFlag.FP16)
    assert taken_away == ("absent" if version.startswith("11") else "taken")
    check_class_assignment()
    check_own_code(folder)
    print(f"{version}: {len(right)} calls taken, {len(wrong)} refused")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
