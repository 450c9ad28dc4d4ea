"""ONNX Runtime's providers for GPUs, on a fake that computes with the real CPU provider on a fake device: what is asked
for is what computes, or it is an error."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import load_backend, open_engine
from edgecnn.backends.ort.gpu_session import nodes_in_profile
from edgecnn.backends.ort.opening import load_provider, native_stderr
from edgecnn.backends.ort.provider import CUDA as CUDA_PROVIDER
from edgecnn.backends.ort.trial import ONE_NODE
from edgecnn.errors import ArtifactError, BackendError, DeviceError, MissingPackageError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.engine import EngineInfo
from edgecnn.session import TimedSession
from edgecnn.steps.bench import bench
from edgecnn.steps.build import build
from edgecnn.steps.validate import validate
from tests.fakes.fake_onnxruntime import CPU, CUDA, PLUGIN_MODULE, RTX, TENSORRT, FakeRuntime
from tests.fakes.tiny import tiny_graph

if TYPE_CHECKING:
    import onnxruntime

pytestmark = pytest.mark.onnx

NAMES = {"cuda": CUDA, "tensorrt": TENSORRT, "rtx": RTX}


def images(n: int) -> Any:
    return np.random.default_rng(n).standard_normal((n, 3, 8, 8), np.float32)


def expected(graph: Path, batch: Any) -> Any:
    return onnxruntime.InferenceSession(str(graph), providers=[CPU]).run(None, {"input": batch})[0]


@pytest.mark.parametrize("provider", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_computes_on_the_provider_that_was_asked_for(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, provider: Any, precision: str
) -> None:
    source = graph(precision, int8_share_pct=90.0, integer_kernels=2, weighted_nodes=2)
    engine = build(source, tmp_path / "e.onnx", provider=provider, batch=BatchSettings(1, 2, 4))
    made = read_sidecar(engine)
    assert (made.backend, made.provider, made.target) == (f"ort-{provider}", NAMES[provider], f"ort-{provider}")
    assert (made.facts["cpu_nodes"], made.facts["graph_nodes"]) == (0, len(onnx.load(source).graph.node))
    assert made.device is not None
    assert (made.device.gpu_name, made.device.provider) == ("NVIDIA L4", NAMES[provider])
    with open_engine(engine) as session:
        for n in (1, 4, 2, 3, 1, 4):  # more shapes than are kept
            np.testing.assert_allclose(session.run(images(n)), expected(source, images(n)), rtol=1e-5, atol=1e-6)
        assert isinstance(session, TimedSession)
        timing = session.timed(images(1))
        assert (timing.h2d_ms, timing.compute_ms, timing.d2h_ms, timing.clock) == (0.125, 1.0, 0.125, "cuda events")
    assert not any(runtime.device.live().values()), "everything is given back"
    assert runtime.sessions == 0
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


def test_tf32_is_off_and_int8_is_simulated_under_cuda(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    engine = build(graph("int8"), tmp_path / "e.onnx", provider="cuda")
    assert {options["use_tf32"] for _, options in runtime.options} == {"0"}
    assert runtime.config[-1]["session.disable_quant_qdq"] == "1"
    found = bench(engine, duration_s=0.1, warmup_ms=0)
    (row,) = found.measurements
    assert row.engine is not None
    assert row.engine.simulated
    assert row.engine.simulation
    assert any("no integer convolutions" in warning for warning in row.latency.warnings)
    assert found.device.provider == CUDA
    assert "cudaexecutionprovider" in found.device.key, "latencies of other runtimes are not compared with these"


@pytest.mark.parametrize("provider", ["tensorrt", "rtx"])
def test_who_compiles_gets_q_dq_the_batches_and_our_folder(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, provider: Any
) -> None:
    source = graph("int8", int8_share_pct=90.0, integer_kernels=2)
    engine = build(source, tmp_path / "e.onnx", provider=provider, batch=BatchSettings(1, 2, 4))
    name, options = runtime.options[-1]
    assert name == NAMES[provider]
    assert "session.disable_quant_qdq" not in runtime.config[-1], "it would fold the weights' DQ away"
    texts = [options[key] for key in sorted(options) if key.endswith("_shapes")]
    assert texts == ["input:4x3x8x8", "input:1x3x8x8", "input:2x3x8x8"]
    kept = {Path(value) for key, value in options.items() if key.endswith("cache_path")}
    assert len(kept) == 1
    (folder,) = kept
    assert folder.is_relative_to(tmp_path / "cache" / "edgecnn" / "ort")
    assert folder.stat().st_mode & 0o77 == 0, "engines are native code: nobody else writes there"
    facts = read_sidecar(engine).facts
    assert (facts["shares_by"], facts["graph_int8_share_pct"]) == ("compiled_at_load", 90.0)
    assert not {"int8_share_pct", "integer_kernels"} & facts.keys(), "what was compiled is not what was asked for"
    assert not read_sidecar(engine).engine.simulated
    assert read_sidecar(engine).precision_obtained == ""
    retrained = onnx.load(source)
    retrained.graph.initializer[0].raw_data = bytes(len(retrained.graph.initializer[0].raw_data))
    other = tmp_path / "retrained.onnx"
    onnx.save(retrained, other)
    build(other, tmp_path / "r.onnx", provider=provider, batch=BatchSettings(1, 2, 4))
    assert Path(next(v for k, v in runtime.options[-1][1].items() if k.endswith("cache_path"))) != folder


LOG = (
    "\x1b[1;31m2026-11-26 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] provider_bridge_ort.cc:2043 "
    "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
    "libcublasLt.so.13: cannot open shared object file: No such file or directory\n\x1b[m\n"
    "\x1b[0;93m[W:onnxruntime:Default] Failed to create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.\x1b[m"
)


def test_a_fall_back_to_the_cpu_is_an_error_with_onnx_runtime_s_reason(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime.falls_back = LOG.replace("%", "%%")
    source = graph("fp32")
    assert cli.main(["build", str(source), "--provider", "cuda", "-o", str(tmp_path / "e.onnx")]) == 2
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"], "its own log does not come between"
    assert f"{CUDA} was asked for, and ONNX Runtime 1.31.1 would compute on {CPU} instead: libcublasLt.so.13" in said[0]
    assert "edgecnn[gpu]" in said[1]
    assert not (tmp_path / "e.onnx").exists()
    runtime.falls_back = "out of luck"
    with pytest.raises(DeviceError, match="instead: out of luck"):
        build(source, tmp_path / "e.onnx", provider="cuda")
    assert not any(runtime.device.live().values())


@pytest.mark.parametrize("places", [True, False])
def test_nodes_that_are_left_to_the_cpu_are_counted(
    runtime: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    graph: Callable[..., Path],
    tmp_path: Path,
    places: bool,
) -> None:
    """By the session itself, and in older releases by a profile."""
    runtime.left, runtime.places = ("Flatten", "Gemm"), places
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime.module())
    engine = build(graph("fp32"), tmp_path / "e.onnx", provider="cuda")
    facts = read_sidecar(engine).facts
    assert facts["cpu_nodes"] == 2
    (row,) = bench(engine, duration_s=0.1, warmup_ms=0).measurements
    assert row.facts is not None
    assert row.facts.cpu_nodes == 2
    assert f"2 of {facts['graph_nodes']} nodes run on the CPU" in row.latency.warnings
    runtime.left = (
        "Conv",
        "Relu",
        "FusedConv",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
        "ReorderOutput",
        "ReorderInput",
    )
    with pytest.raises(DeviceError, match="takes none of the . nodes"):
        build(graph("fp32"), tmp_path / "none.onnx", provider="cuda")
    assert not any(runtime.device.live().values())


def test_a_profile_of_the_real_runtime_counts_each_node_once(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "p")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = tiny_graph("fp32")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    for _ in range(3):
        session.run(None, {"input": images(2)})
    assert nodes_in_profile(Path(session.end_profiling()).read_text()) == {CPU: len(model.graph.node)}


def test_the_real_runtime_tells_where_its_nodes_are() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(ONE_NODE, options, providers=[CPU])
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not tell: profiles do")
    parts = session.get_provider_graph_assignment_info()
    assert [(part.ep_name, len(part.get_nodes())) for part in parts] == [(CPU, 1)]


def test_the_graph_of_one_node_is_a_graph() -> None:
    model = onnx.load_from_string(ONE_NODE)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Relu"]


def test_a_graph_of_any_batch_is_compiled_when_it_is_built(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    source = graph("fp32")
    with open_engine(source, provider="cuda") as session:
        np.testing.assert_allclose(session.run(images(3)), expected(source, images(3)), rtol=1e-5, atol=1e-6)
    with pytest.raises(BackendError, match="a graph of any batch") as caught:
        open_engine(source, provider="tensorrt")
    assert "--backend ort-tensorrt" in caught.value.hint
    frozen = tmp_path / "frozen.onnx"
    onnx.save(tiny_graph("fp32", 2), frozen)
    with open_engine(frozen, provider="tensorrt") as session:
        session.run(images(2))
        assert not any(key.endswith("_shapes") for key in runtime.options[-1][1])
    model = tiny_graph("fp32")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "open.onnx")
    with pytest.raises(BackendError, match="more than the batch of input is left open"):
        build(tmp_path / "open.onnx", tmp_path / "e.onnx", provider="rtx")


def test_an_engine_is_not_run_on_another_provider(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    engine = build(graph("fp32"), tmp_path / "e.onnx", provider="cuda")
    with pytest.raises(ArtifactError, match="is an engine for CUDAExecutionProvider, not for --provider cpu"):
        open_engine(engine, provider="cpu")
    with open_engine(engine, provider="cuda") as session:
        session.run(images(1))
    with pytest.raises(BackendError, match="--provider cuda with --backend trt"):
        build(graph("fp32"), provider="cuda", backend="trt")
    with pytest.raises(DeviceError, match="target cpu is built with --backend ort"):
        build(graph("fp32"), provider="cuda", target="cpu")


def test_a_wheel_without_the_provider_is_named(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.offers = (CPU,)
    with pytest.raises(BackendError, match=r"onnxruntime \d.* has no CUDAExecutionProvider, but CPU") as caught:
        build(graph("fp32"), tmp_path / "e.onnx", provider="cuda")
    assert "pip uninstall onnxruntime" in caught.value.hint
    monkeypatch.setattr("edgecnn.backends.ort.opening.board_name", lambda: "NVIDIA Jetson Orin NX")
    with pytest.raises(BackendError) as caught:
        build(graph("fp32"), tmp_path / "e.onnx", provider="cuda")
    assert "no onnxruntime-gpu for a Jetson" in caught.value.hint
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="onnxruntime") as caught:
        load_provider(CUDA_PROVIDER)
    assert "no onnxruntime-gpu for a Jetson" in caught.value.hint


def test_a_tensorrt_that_the_provider_cannot_load_is_refused_by_name(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    sys.modules["tensorrt"].__version__ = "11.4.0.106"  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=r"loads libnvinfer\.so\.10, and here is TensorRT 11\.4\.0") as caught:
        build(graph("fp32"), tmp_path / "e.onnx", provider="tensorrt")
    assert "tensorrt>=10,<11" in caught.value.hint


def test_without_a_gpu_it_is_said(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.device.fail["cudaSetDevice"] = 100
    for provider in NAMES:
        assert cli.main(["build", str(graph("fp32")), "--provider", provider, "-o", str(tmp_path / "e.onnx")]) == 2
        said = capsys.readouterr().err
        assert "cudaErrorNoDevice" in said
        assert "needs an NVIDIA GPU" in said


def plugin(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime, outcome: str) -> Any:
    """The plugin's wheel, whose library is not registered so far, and how registering it ends."""
    runtime.offers = (CPU,)
    wheel, module = types.ModuleType(PLUGIN_MODULE), runtime.module()
    vars(wheel).update(get_ep_name=lambda: RTX, get_library_path=lambda: "/wheel/libplugin.so")

    def register(name: str, path: str) -> None:
        assert (name, path) == (RTX, "/wheel/libplugin.so")
        if outcome:
            raise RuntimeError(outcome)
        runtime.offers = (RTX, CPU)

    vars(module)["register_execution_provider_library"] = register
    monkeypatch.setitem(sys.modules, PLUGIN_MODULE, wheel)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


def test_the_plugin_is_registered_once(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, graph: Callable[..., Path], tmp_path: Path
) -> None:
    plugin(monkeypatch, runtime, "")
    build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")
    plugin(monkeypatch, runtime, "library is already registered")
    runtime.offers = (RTX, CPU)
    build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("FAIL : Failed to load library x.so with error: libcuda.so.1: cannot open", "libcuda.so.1: cannot open"),
        ("The requested API version [27] is not available", r"The requested API version \[27\]"),
    ],
)
def test_a_plugin_that_does_not_fit_is_refused_in_onnx_runtime_s_words(
    runtime: FakeRuntime,
    monkeypatch: pytest.MonkeyPatch,
    graph: Callable[..., Path],
    tmp_path: Path,
    outcome: str,
    said: str,
) -> None:
    plugin(monkeypatch, runtime, outcome)
    with pytest.raises(DeviceError, match=rf"the plugin does not fit \(onnxruntime .*\): {said}") as caught:
        build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")
    assert "edgecnn[ort-rtx]" in caught.value.hint


def test_what_a_plugin_lacks(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, graph: Callable[..., Path], tmp_path: Path
) -> None:
    module = plugin(monkeypatch, runtime, "")
    module.register_execution_provider_library = lambda name, path: None  # no device of its own afterwards
    with pytest.raises(DeviceError, match=r"sees no GPU that it takes; here is NVIDIA L4 \(8\.9\)"):
        build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")
    del module.register_execution_provider_library
    with pytest.raises(BackendError, match="takes no plugins"):
        build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")
    monkeypatch.setitem(sys.modules, PLUGIN_MODULE, None)
    with pytest.raises(MissingPackageError) as caught:
        build(graph("fp32"), tmp_path / "e.onnx", provider="rtx")
    assert "edgecnn[ort-rtx]" in caught.value.hint


def test_doctor_tries_each_way(runtime: FakeRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = {row["way"]: row for row in json.loads(capsys.readouterr().out)["ways"]}
    assert {name for name, row in found.items() if row["works"] == "yes"} >= {
        "ort",
        "ort-cuda",
        "ort-tensorrt",
        "ort-rtx",
    }
    assert not any(runtime.device.live().values())
    runtime.falls_back = LOG.replace("%", "%%")
    assert "libcublasLt.so.13" in load_backend("ort-cuda").why_not()


def test_what_libraries_write_is_kept_and_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    with native_stderr() as said:
        os.write(2, b"a library")
        assert said() == "a library"
        os.write(2, b" and more")
    os.write(2, b"after")
    assert said() == "a library and more"
    assert capfd.readouterr().err == "after"


@pytest.mark.parametrize(
    ("provider", "precision", "simulated"),
    [(CUDA, "int8", True), (CUDA, "fp16", False), (TENSORRT, "int8", False), (RTX, "fp16", False), (CPU, "fp16", True)],
)
def test_what_is_simulated(provider: str, precision: str, simulated: bool) -> None:
    assert EngineInfo(provider=provider, precision_requested=precision).simulated is simulated


def test_a_graph_is_measured_on_a_provider(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(graph("int8"))
    bench_it = ["bench", "--engine", source, "--duration", "0.1", "--warmup", "0", "--json"]
    assert cli.main([*bench_it, "--provider", "cuda"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["measurements"]
    assert (row["backend"], row["provider"], row["clock"]) == ("ort-cuda", CUDA, "cuda events")
    assert cli.main(bench_it) == 0
    (row,) = json.loads(capsys.readouterr().out)["measurements"]
    assert (row["backend"], row["provider"]) == ("ort", CPU)
    assert cli.main([*bench_it, "--provider", "cuda", "--end-to-end", "--data", "digits"]) == 2
    assert "--provider cuda with --end-to-end" in capsys.readouterr().err
    assert cli.main([*bench_it, "--provider", "metal"]) == 2


def test_a_graph_is_judged_on_a_provider(runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path) -> None:
    source = graph("fp32", sidecar=False)
    np.savez(
        tmp_path / "data.npz",
        input=images(6),
        labels=np.arange(6) % 5,
    )
    found = tmp_path / "a.json"
    validate(source, source, found, data=str(tmp_path / "data.npz"), provider="cuda")
    content = json.loads(found.read_text())
    assert (content["backend"], content["provider"], content["agreement_pct"]) == ("ort-cuda", CUDA, 100.0)


def test_providers_are_onnx_runtime_s(runtime: FakeRuntime, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"")
    with pytest.raises(BackendError, match="a checkpoint is PyTorch's"):
        bench(checkpoint, provider="cuda")
    plan = tmp_path / "m.plan"
    plan.write_bytes(b"ftrt" + bytes(28))
    with pytest.raises(ArtifactError, match="is an engine for TensorRT, not for --provider cuda"):
        bench(plan, provider="cuda")


def test_what_is_tensorrt_s_alone_is_refused_and_not_ignored(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    cache = tmp_path / "x.cache"
    cache.write_text("TRT-8602-EntropyCalibration2\ninput: 3c010204\n")
    with pytest.raises(BackendError, match="a weakly typed build is TensorRT 10's alone"):
        build(graph("fp32"), tmp_path / "e.onnx", provider="cuda", weakly_typed=True, ranges=cache)
    assert not (tmp_path / "e.onnx").exists()
