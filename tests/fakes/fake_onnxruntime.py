"""ONNX Runtime on the fake GPU: the real one's CPU provider computes, on memory of the fake device and in its stream's
turn, under the name of a provider for GPUs; nodes of the operators in `left` stay on the CPU.

It is strict where the real one is silent: options that a provider does not know, and addresses that are nobody's.
"""

from __future__ import annotations

import ctypes
import json
import os
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.fakes.fake_cuda import FakeDevice, Work

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
CUDA, TENSORRT, RTX = "CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"
PLUGIN_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
OPTIONS = {  # the names in the libraries of onnxruntime-gpu 1.31.1 and of the plugin 0.5.0, as far as they are used
    CUDA: {"device_id", "use_tf32", "user_compute_stream"},
    TENSORRT: {
        *("device_id", "user_compute_stream", "trt_engine_cache_enable", "trt_engine_cache_path"),
        *("trt_timing_cache_enable", "trt_timing_cache_path"),
        *(f"trt_profile_{bound}_shapes" for bound in ("min", "opt", "max")),
    },
    RTX: {
        *("device_id", "has_user_compute_stream", "user_compute_stream", "nv_runtime_cache_path"),
        *(f"nv_profile_{bound}_shapes" for bound in ("min", "opt", "max")),
    },
}


@dataclass
class FakeRuntime:
    """What the fake is to do, and what it was given."""

    device: FakeDevice
    offers: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    falls_back: str = ""  # what it writes to standard error, before it takes the CPU
    left: tuple[str, ...] = ()
    places: bool = True  # whether sessions tell which provider has which node
    options: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    config: list[dict[str, str]] = field(default_factory=list)
    sessions: int = 0
    severity: int = 2  # of the log that belongs to no session
    logs_while_running: str = ""  # an error in that log, at each run

    def module(self) -> types.ModuleType:
        """What `import onnxruntime` finds."""
        module = types.ModuleType("onnxruntime")
        vars(module).update({k: v for k, v in vars(onnxruntime).items() if not k.startswith("__")})
        module.__file__, module.__spec__, module.__version__ = onnxruntime.__file__, onnxruntime.__spec__, "1.31.1"
        fakes = {
            "get_available_providers": lambda: list(self.offers),
            "SessionOptions": lambda: Options(self),
            "InferenceSession": type("InferenceSession", (_Session,), {"fake": self, **self._told()}),
            "get_ep_devices": lambda: [types.SimpleNamespace(ep_name=name) for name in self.offers],
            "register_execution_provider_library": lambda name, path: None,
            "preload_dlls": lambda: print("Failed to load libcublasLt.so.13"),
            "set_default_logger_severity": lambda severity: setattr(self, "severity", severity),
        }
        vars(module).update(fakes)
        return module

    def _told(self) -> dict[str, Any]:
        if not self.places:
            return {}

        def told(session: _Session) -> list[Any]:
            assert self.config[-1]["session.record_ep_graph_assignment_info"] == "1"
            return [
                types.SimpleNamespace(
                    ep_name=name, get_nodes=lambda name=name: [n for n in session.nodes if n[1] == name]
                )
                for name in session.get_providers()
            ]

        return {"get_provider_graph_assignment_info": told}


class Options:
    """The real session options, and what was set in them."""

    def __init__(self, fake: FakeRuntime) -> None:
        self.__dict__.update(real=onnxruntime.SessionOptions(), fake=fake, config={}, added=[], profiled=False)
        fake.config.append(self.config)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)
        self.__dict__["profiled"] = self.profiled or name == "enable_profiling"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.config[key] = value
        self.real.add_session_config_entry(key, value)

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        assert len(devices) == 1
        self.added.append((devices[0].ep_name, options))


class _Session:
    fake: FakeRuntime

    def __init__(self, source: Any, options: Options, providers: Any = None, enable_fallback: int = 1) -> None:
        asked = options.added or [p if isinstance(p, tuple) else (p, {}) for p in providers]
        ((self._asked, given),) = asked
        for key, value in given.items():
            assert key in OPTIONS[self._asked], key
            assert isinstance(value, str)
        self._options, fake = options, self.fake
        self._provider = self._asked
        if self._asked != CPU:
            assert enable_fallback == 0
            fake.options.append((self._asked, given))
            self._stream = fake.device.stream(int(given["user_compute_stream"]))
            if fake.falls_back:
                ctypes.CDLL(None).dprintf(2, fake.falls_back.encode() + b"\n")
                self._provider = CPU
        self._real = onnxruntime.InferenceSession(source, options.real, providers=[CPU])
        fake.sessions += 1
        self.nodes = [(n, CPU if op in fake.left else self._provider) for n, op in _nodes(source)]

    def __del__(self) -> None:
        self.fake.sessions -= 1

    def get_providers(self) -> list[str]:
        return list(dict.fromkeys((self._provider, CPU)))

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def run(self, names: Any, feeds: Any) -> Any:
        assert not (self._asked != CPU and self._stream.queue), "the stream is to be idle"
        if self._asked != CPU and self.fake.severity <= 3:
            os.write(2, self.fake.logs_while_running.encode())
        return self._real.run(names, feeds)

    def end_profiling(self) -> str:
        assert self._options.profiled
        path = Path(self._real.end_profiling())
        events = json.loads(path.read_text())
        of = dict(self.nodes)
        for event in events:
            if event.get("cat") == "Node":
                event["args"]["provider"] = CPU if event["args"]["op_name"] in self.fake.left else self._provider
        assert of
        path.write_text(json.dumps(events))
        return str(path)

    def io_binding(self) -> Any:
        return _Binding(self.fake.device)

    def run_with_iobinding(self, binding: _Binding, run_options: Any) -> None:
        assert run_options.get_run_config_entry("disable_synchronize_execution_providers") == "1"

        def work() -> None:
            feeds = {name: array.copy() for name, array in binding.inputs.items()}
            for spec, found in zip(self.get_outputs(), self._real.run(None, feeds), strict=True):
                binding.outputs[spec.name][...] = found

        self.fake.device.enqueue(self._stream.handle, Work(work, "compute", self.fake.device.ms["compute"]))


class _Binding:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def _array(self, kind: str, index: int, dtype: Any, shape: list[int], address: int) -> Any:
        assert (kind, index) == ("cuda", 0)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._device.check_range(address, nbytes, "memory")
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(address), dtype).reshape(shape)

    def bind_input(self, name: str, *where: Any) -> None:
        self.inputs[name] = self._array(*where)

    def bind_output(self, name: str, *where: Any) -> None:
        self.outputs[name] = self._array(*where)


def _nodes(source: Any) -> list[tuple[str, str]]:
    import onnx

    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    return [(node.output[0], node.op_type) for node in model.graph.node]
