"""Build, load, run, time, inspect: on a strict fake of TensorRT 10.3, 10.16 and 11.4."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn import cli
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, _cuda, load_backend, open_engine
from edgecnn.backends._half import rounded_to_fp16
from edgecnn.backends.trt.library import errors_in, load_tensorrt, logger_for, recording
from edgecnn.data.dataset import Dataset
from edgecnn.errors import ArtifactError, BackendError, DeviceError, EdgecnnError, GraphError
from edgecnn.measure.latency import measure_latency
from edgecnn.measure.predict import predict
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.layers import layers_from_json, mean_times, shares_of
from edgecnn.session import TimedSession
from edgecnn.steps.reference import reference as make_reference
from edgecnn.steps.validate import validate
from tests.backends.conftest import install
from tests.fakes.fake_cuda import COMPUTE_MS, COPY_MS, FakeDevice, pycuda_module
from tests.fakes.fake_tensorrt import injected
from tests.fakes.tiny import CONV_MACS, GEMM_MACS

if TYPE_CHECKING:  # imported before the first test of this file
    import onnx
    import onnxruntime

pytestmark = pytest.mark.onnx

OPTIONS = BuildOptions(target="l4", batch=BatchSettings(min=1, opt=2, max=4))
Graph = Callable[..., Path]


def build(graph: Path, **changes: Any) -> Path:
    plan = graph.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph, plan, dataclasses.replace(OPTIONS, **changes))
    return plan


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3, 8, 8)).astype(np.float32)


def reference(graph: Path, batch: np.ndarray) -> np.ndarray:
    rounded = rounded_to_fp16(onnx.load(graph)).SerializeToString()
    return onnxruntime.InferenceSession(rounded, providers=["CPUExecutionProvider"]).run(None, {"input": batch})[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_whole_way(trt: Any, device: FakeDevice, graph: Graph, precision: str) -> None:
    """Same logits as the graph, at every batch size, enqueued and replayed; nothing is left on the device."""
    source = graph(precision)
    plan = build(source)
    before = device.live()
    with open_engine(plan) as session:
        assert isinstance(session, TimedSession)
        assert (session.input.name, session.input.shape) == ("input", (None, 3, 8, 8))
        assert (session.output.name, session.output.shape) == ("logits", (None, 5))
        results = []
        for n in (1, 2, 4, 3, 2, 1, 2, 4):
            batch = images(n, seed=n)
            logits = session.run(batch)
            np.testing.assert_allclose(logits, reference(source, batch), rtol=1e-5, atol=1e-6)
            results.append((logits, logits.copy()))
        assert device.live()["executables"] == 3  # graphs of the shapes that came twice
        for logits, copy in results:  # a later batch overwrites none of them
            np.testing.assert_array_equal(logits, copy)
    assert device.live() == before


def test_the_sidecar_says_what_was_built(trt: Any, graph: Graph) -> None:
    source = graph("int8")
    sidecar = read_sidecar(build(source))
    assert (sidecar.kind, sidecar.precision_requested, sidecar.precision_obtained) == ("engine", "int8", "int8")
    assert sidecar.labels == ["a", "b", "c"]
    assert list(sidecar.parents) == [source.name]
    assert sidecar.device is not None
    assert sidecar.device.gpu_name == "NVIDIA L4"
    assert sidecar.device.compute_capability == "8.9"
    assert sidecar.device.tensorrt == trt.__version__
    assert sidecar.facts["profiles"] == [{"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}]
    assert sidecar.facts["tf32"] is False
    shares = shares_of(layers_from_json(sidecar.facts["layers"]))
    assert shares.int8_macs_pct == 100
    assert shares.reformat_layers == 1
    macs = [layer.macs for layer in layers_from_json(sidecar.facts["layers"]) if layer.role == "compute"]
    assert macs == [CONV_MACS, GEMM_MACS]


def test_what_the_graph_promised_is_not_taken_for_what_the_engine_has(trt: Any, graph: Graph) -> None:
    facts = read_sidecar(build(graph("int8", int8_share_pct=77.0, opset=19))).facts
    assert (facts["graph_int8_share_pct"], facts["int8_share_pct"], facts["opset"]) == (77.0, 100.0, 19)


def test_few_shapes_are_kept_and_all_of_them_right(one_trt: Any, device: FakeDevice, graph: Graph) -> None:
    source = graph()
    plan = build(source, batch=BatchSettings(1, 2, 9))
    with open_engine(plan) as session:
        for n in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 1, 1, 6, 6, 9, 9):
            batch = images(n, seed=n)
            np.testing.assert_allclose(session.run(batch), reference(source, batch), rtol=1e-5, atol=1e-6)
            assert device.live()["executables"] <= 4
            assert len(one_trt._live["IExecutionContext"]) <= 5


def test_precision_comes_from_the_graph_and_no_flag_touches_it(trt: Any, graph: Graph) -> None:
    for precision in ("fp32", "fp16", "int8"):
        assert read_sidecar(build(graph(precision))).precision_obtained == precision
    for made in trt._builds:
        assert made["flags"] & {"FP16", "INT8", "BF16", "TF32"} == set()


def test_timed_by_events(trt: Any, graph: Graph) -> None:
    with open_engine(build(graph())) as session:
        assert isinstance(session, TimedSession)
        for _ in range(3):  # enqueued, then replayed as a graph
            timing = session.timed(images(2))
            assert (timing.h2d_ms, timing.compute_ms, timing.d2h_ms) == (COPY_MS, COMPUTE_MS, COPY_MS)
            assert timing.clock == "cuda events"
        assert session.info.graph
        assert session.info.pci_bus_id == "0000:41:00.0"


def test_layers_and_their_times(trt: Any, graph: Graph) -> None:
    with load_backend("trt").open_engine(build(graph("fp16"))) as session:
        layers = session.layers(3)
        times = mean_times(session.layer_runs_ms(images(3), 2))
        assert times.keys() == {layer.name for layer in layers}
        assert shares_of(layers, times).fp16_time_pct > 50
        assert shares_of(layers, times).reformat_time_pct > 0


def test_the_first_run_of_a_context_is_in_no_layer_time(one_trt: Any, graph: Graph) -> None:
    with load_backend("trt").open_engine(build(graph())) as session:
        session.run(images(2))
        records, asked = one_trt._records, []
        contexts = one_trt._live["IExecutionContext"]

        def noted(engine: Any, shape: Any) -> Any:
            """Layer times are asked for: of which run of the context?"""
            (context,) = [c for c in contexts if c.profiler is not None]
            asked.append(context._runs)
            return records(engine, shape)

        one_trt._records = noted
        session.layer_runs_ms(images(2), 3)
        assert asked == [2, 3, 4]


def test_a_graph_that_cannot_be_captured_is_a_stated_fallback(trt: Any, device: FakeDevice, graph: Graph) -> None:
    source = graph()
    with load_backend("trt").open_engine(build(source)) as session, injected(trt, "capture"):
        for _ in range(4):
            np.testing.assert_allclose(session.run(images(2)), reference(source, images(2)), rtol=1e-5, atol=1e-6)
        assert not session.info.graph
        assert session.info.graph_fallback.startswith("cudaStreamEndCapture failed: cudaErrorStreamCapture")
        measured = measure_latency("x", session, images(2), warmup_ms=0, duration_s=0)
        assert any(w.startswith("not replayed as a CUDA graph: cudaStreamEndCapture") for w in measured.warnings)
        assert device.live()["executables"] == device.live()["graphs"] == 0


@pytest.mark.parametrize("failing", ["capture", "cudaGraphInstantiate"])
def test_the_error_of_a_failed_capture_is_not_the_next_call_s(
    one_trt: Any, device: FakeDevice, graph: Graph, failing: str
) -> None:
    source = graph()
    with load_backend("trt").open_engine(build(source)) as session:
        device.fail = {} if failing == "capture" else {failing: 901}
        with injected(one_trt, *({"capture"} & {failing})):
            for n in (2, 2, 2, 3):
                np.testing.assert_allclose(session.run(images(n)), reference(source, images(n)), rtol=1e-5, atol=1e-6)
        assert session.info.graph_fallback
        assert device.last_error == 0


def test_pycuda_runs_it_without_graphs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice, graph: Graph
) -> None:
    install(monkeypatch, tmp_path, "10.3.0", device)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_module(device))
    monkeypatch.setenv("EDGECNN_CUDA", "pycuda")
    _cuda._load.cache_clear()
    source = graph()
    with load_backend("trt").open_engine(build(source)) as session:
        for _ in range(3):
            np.testing.assert_allclose(session.run(images(2)), reference(source, images(2)), rtol=1e-5, atol=1e-6)
        assert session.info.graph_fallback == "pycuda cannot record them"
    del session  # pycuda frees streams and events with their objects
    gc.collect()
    assert set(device.live().values()) == {0}


@pytest.mark.parametrize("n", [0, 5])
def test_a_batch_outside_the_profile_is_refused_with_what_is_allowed(one_trt: Any, graph: Graph, n: int) -> None:
    with open_engine(build(graph())) as session, pytest.raises(BackendError, match=r"takes \(1\.\.4\)x3x8x8, float32"):
        session.run(images(n))


def test_the_last_images_of_a_data_set_may_be_fewer_than_the_profile_takes(one_trt: Any, graph: Graph) -> None:
    source, pictures = graph(), images(9)
    dataset = Dataset("d", tuple("abcdefghi"), None, None, None, lambda k: b"", None, lambda k: pictures[k])
    with open_engine(build(source, batch=BatchSettings(min=3, opt=3, max=4))) as session:
        found = predict(session, dataset, batch=4)
    np.testing.assert_allclose(found.logits, reference(source, pictures), rtol=1e-5, atol=1e-6)


def test_a_thousand_opens_leak_nothing(one_trt: Any, device: FakeDevice, graph: Graph) -> None:
    plan = build(graph())
    backend, batch = load_backend("trt"), images(1)
    for turn in range(1000):
        with backend.open_engine(plan) as session:
            if turn % 100 == 0:
                session.run(batch)
                session.run(batch)
                assert device.live()["executables"] == 1
    gc.collect()
    assert device.calls["cudaMalloc"] == device.calls["cudaFree"] >= 2000
    assert device.calls["cudaHostAlloc"] == device.calls["cudaFreeHost"]
    assert set(device.live().values()) == {0}
    assert {kind: len(live) for kind, live in one_trt._live.items()} == dict.fromkeys(one_trt._live, 0)


@pytest.mark.parametrize("failing", ["cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags", "context"])
def test_an_open_that_fails_leaks_nothing(one_trt: Any, device: FakeDevice, graph: Graph, failing: str) -> None:
    plan = build(graph())
    if failing == "context":
        one_trt._inject.add("context")
    else:
        device.fail[failing] = 2
    with pytest.raises(DeviceError, match=r"out of memory|cudaErrorMemoryAllocation|OutOfMemory"):
        open_engine(plan)
    gc.collect()
    assert set(device.live().values()) == {0}


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ("builder", BackendError, "CUDA initialization failure with error: 35"),
        ("parse", GraphError, r"node '/conv/Conv' \(Conv\): Assertion failed"),
        ("build", BackendError, "Could not find any implementation for node /conv/Conv"),
        ("build_oom", DeviceError, "out of memory: .*Requested size was 9000000000"),
        ("deserialize", BackendError, "the plan just built cannot be loaded: .*Serialization"),
        ("context", DeviceError, "execution context: out of memory"),
        ("fp32", BackendError, "fp16 was asked for, and none of the engine's 2 Conv and Gemm layers is fp16"),
    ],
)
def test_a_build_that_fails_says_what_tensorrt_said_and_writes_nothing(
    trt: Any, graph: Graph, failure: str, kind: type[EdgecnnError], words: str
) -> None:
    source = graph("fp16")
    with injected(trt, failure), pytest.raises(kind, match=words) as caught:
        build(source)
    assert ("the driver is for CUDA 12.8" in caught.value.hint) == (failure == "builder")
    assert sorted(p.name for p in source.parent.iterdir() if p.suffix != "" and p.is_file()) == [
        "model.fp16.onnx",
        "model.fp16.onnx.json",
    ]


def test_what_tensorrt_said_last_is_kept_however_much_it_said_before(one_trt: Any) -> None:
    logger = logger_for(one_trt)
    with recording(one_trt) as messages:
        for k in range(5000):
            logger.log(one_trt.ILogger.Severity.INFO, f"tactic {k}")
        logger.log(one_trt.ILogger.Severity.ERROR, "no implementation")
    assert errors_in(messages) == "no implementation"
    assert len(messages) <= 2000


def test_a_failed_build_leaves_the_previous_plan(one_trt: Any, graph: Graph) -> None:
    source = graph()
    plan = build(source)
    before = plan.read_bytes(), sidecar_path(plan).read_bytes()
    with injected(one_trt, "build"), pytest.raises(BackendError):
        build(source)
    assert (plan.read_bytes(), sidecar_path(plan).read_bytes()) == before


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ("runtime", BackendError, "runtime cannot be made"),
        ("deserialize", BackendError, r"cannot load it: IRuntime::deserializeCudaEngine: .*Serialization"),
        ("context", DeviceError, "out of memory"),
    ],
)
def test_an_open_that_fails_says_what_tensorrt_said(
    trt: Any, graph: Graph, failure: str, kind: type[EdgecnnError], words: str
) -> None:
    plan = build(graph())
    with injected(trt, failure), pytest.raises(kind, match=words):
        open_engine(plan)


def test_a_run_that_fails_says_what_tensorrt_said(trt: Any, device: FakeDevice, graph: Graph) -> None:
    with (
        pytest.raises(BackendError, match="could not run a batch: IExecutionContext::executeV3: .*illegal memory"),
        open_engine(build(graph())) as session,
        injected(trt, "execute"),
    ):
        session.run(images(1))
    gc.collect()
    assert set(device.live().values()) == {0}


def test_a_plan_without_a_sidecar_needs_trust(one_trt: Any, graph: Graph) -> None:
    plan = build(graph())
    sidecar_path(plan).unlink()
    with pytest.raises(ArtifactError, match="has no sidecar .* native code"):
        open_engine(plan)
    with open_engine(plan, trust=True) as session:
        assert session.run(images(1)).shape == (1, 5)


def test_a_plan_of_another_tool_is_measured_with_the_preprocessing_of_the_reference(
    one_trt: Any, graph: Graph, tmp_path: Path
) -> None:
    source = graph()
    plan = build(source)
    sidecar_path(plan).unlink()
    preprocessing = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
    content, known = source.read_bytes(), Sidecar(kind="graph", preprocessing=preprocessing, labels=list("abcde"))
    write_artifact(source, lambda path: path.write_bytes(content) and None, known)
    rng = np.random.default_rng(0)
    for k in range(10):
        picture = tmp_path / "data" / "abcde"[k % 5] / f"{k}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(picture)
    saved = make_reference(source, tmp_path / "r.npz", data=str(tmp_path / "data"))
    found = validate(plan, saved, data=str(tmp_path / "data"), trust=True)
    assert (found.n, found.n_labelled, found.agreement_pct) == (10, 10, 100)
    with pytest.raises(ArtifactError, match="native code"):
        validate(plan, saved, data=str(tmp_path / "data"))


def test_a_changed_plan_is_refused_trusted_or_not(one_trt: Any, graph: Graph) -> None:
    plan = build(graph())
    plan.write_bytes(plan.read_bytes() + b"\0")
    for trust in (False, True):
        with pytest.raises(ArtifactError, match="is not the one its sidecar promises"):
            open_engine(plan, trust=trust)
    assert not one_trt._live.get("ICudaEngine")


def test_a_foreign_prefix_is_refused_with_the_way_to_cut_it_off(one_trt: Any, graph: Graph) -> None:
    plan = build(graph())
    metadata = b'{"author": "Ultralytics"}'
    foreign = plan.with_name("foreign.engine")
    foreign.write_bytes(len(metadata).to_bytes(4, "little") + metadata + plan.read_bytes())
    with pytest.raises(ArtifactError, match="a JSON prefix of 25 bytes written by Ultralytics") as caught:
        open_engine(foreign, trust=True)
    subprocess.run(caught.value.hint.partition(": ")[2], shell=True, check=True)
    with open_engine(foreign.with_name("foreign.clean.plan"), trust=True) as session:
        assert session.run(images(1)).shape == (1, 5)


def test_tensorrt_s_warnings_are_passed_on(
    one_trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = build(graph())
    create = one_trt.ICudaEngine.create_execution_context

    def warn(self: Any, strategy: Any) -> Any:
        one_trt._log("WARNING", "Using an engine plan file across different models of devices is not recommended")
        return create(self, strategy)

    monkeypatch.setattr(one_trt.ICudaEngine, "create_execution_context", warn)
    with open_engine(plan):
        assert "TensorRT warns: Using an engine plan file across different models" in capsys.readouterr().err


def test_a_plan_of_another_version_is_refused_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Graph
) -> None:
    install(monkeypatch, tmp_path, "10.3.0", FakeDevice("Orin", (8, 7), 15_600_000_000, True))
    plan = build(graph(), target="gpu")
    newer = install(monkeypatch, tmp_path, "11.4.0.106", FakeDevice())
    with pytest.raises(BackendError) as caught:
        open_engine(plan)
    assert "built by TensorRT 10.3.0.26 (sidecar: Orin, SM 8.7); here are 11.4.0.106 and SM 8.9" in str(caught.value)
    assert f"--backend trt --target gpu --profile 1:2:4 -o {plan}" in caught.value.hint
    assert not newer._live.get("ICudaEngine")


def test_version_compatible_plans_run_on_newer_versions_and_need_trust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Graph
) -> None:
    install(monkeypatch, tmp_path, "10.3.0", FakeDevice())
    plan = build(graph(), version_compatible=True)
    assert "lean runtime" in str(read_sidecar(plan).facts["notes"])
    install(monkeypatch, tmp_path, "10.16.1.11", FakeDevice())
    with pytest.raises(ArtifactError, match="carries host code"):
        open_engine(plan)
    with open_engine(plan, trust=True) as session:
        assert session.run(images(1)).shape == (1, 5)


def test_hardware_compatibility_levels(trt: Any, graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar = read_sidecar(build(graph(), hardware_compatibility="ampere_plus"))
    assert sidecar.facts["hardware_compatibility"] == "ampere_plus"
    assert "slower than a plan for one GPU" in capsys.readouterr().err
    if trt.__version__ == "10.3.0":
        with pytest.raises(BackendError, match="no hardware compatibility level same_compute_capability"):
            build(graph(), hardware_compatibility="same_compute_capability")
    else:
        build(graph(), hardware_compatibility="same_compute_capability")


def test_ampere_plus_is_refused_where_the_gpu_is_integrated(
    one_trt: Any, device: FakeDevice, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.integrated = True
    with pytest.raises(DeviceError, match="ampere_plus is for cards: NVIDIA L4 has an integrated GPU"):
        build(graph(), hardware_compatibility="ampere_plus")
    assert one_trt._builds == []
    build(graph(), hardware_compatibility="same_compute_capability")


def test_a_plan_of_another_architecture_is_refused_before_it_is_loaded(
    one_trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    plan = build(graph())
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert cli.main(["bench", "--engine", str(plan)]) == 2
    assert "built for Linux x86_64, here is Linux aarch64" in capsys.readouterr().err
    assert not one_trt._live.get("ICudaEngine")


def test_the_workspace_comes_from_free_memory_and_is_said(
    trt: Any, device: FakeDevice, graph: Graph, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_sidecar(build(graph())).facts["workspace_bytes"] == int(0.75 * device.total)
    assert "workspace limit 18.00 GB: 75 % of 24.00 GB free of 24.00" in capsys.readouterr().err
    assert read_sidecar(build(graph(), workspace_mb=100)).facts["workspace_bytes"] == 100_000_000
    assert "Killed" not in capsys.readouterr().err  # a card of its own: the host's memory is not what runs out


def test_a_board_that_shares_its_memory_gets_half_of_what_linux_has_left(
    one_trt: Any, device: FakeDevice, graph: Graph, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device.integrated = True
    monkeypatch.setattr("edgecnn.backends.trt.build.available_memory_bytes", lambda: 3_000_000_000)
    assert read_sidecar(build(graph())).facts["workspace_bytes"] == 1_500_000_000
    assert "`Killed`" in capsys.readouterr().err
    monkeypatch.setattr("edgecnn.backends.trt.build.available_memory_bytes", lambda: 9_000_000_000)
    build(graph())
    assert "Killed" not in capsys.readouterr().err


def test_what_built_the_plan_is_gone_before_the_plan_is_read_back(
    one_trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, held = one_trt.Runtime.deserialize_cuda_engine, []

    def noted(self: Any, plan: Any) -> Any:
        held.append({kind: len(live) for kind, live in one_trt._live.items() if live})
        return load(self, plan)

    monkeypatch.setattr(one_trt.Runtime, "deserialize_cuda_engine", noted)
    build(graph())
    assert {"Builder", "INetworkDefinition", "OnnxParser", "IBuilderConfig"} < one_trt._live.keys()
    assert held == [{"Runtime": 1}]


def test_the_optimization_level_is_passed_on(trt: Any, graph: Graph) -> None:
    build(graph(), optimization_level=5)
    assert trt._builds[-1]["level"] == 5


@pytest.mark.parametrize(("target", "words"), [("rtx-40", "GeForce RTX 40"), ("a100", "8.0"), ("thor", "11.0")])
def test_another_target_is_refused_before_anything_is_built(
    one_trt: Any, graph: Graph, target: str, words: str
) -> None:
    with pytest.raises(DeviceError, match=words):
        build(graph(), target=target)
    assert one_trt._builds == []


def test_a_graph_that_is_not_what_its_sidecar_promises_is_refused(one_trt: Any, graph: Graph) -> None:
    with pytest.raises(GraphError, match="promises fp16, and the graph is fp32"):
        build(graph("fp32", promised="fp16"))


def test_a_graph_without_a_sidecar_builds_by_what_is_in_it(trt: Any, graph: Graph) -> None:
    assert read_sidecar(build(graph("int8", sidecar=False))).precision_requested == "int8"


def test_a_frozen_batch_is_refused_unless_it_is_the_one_asked_for(trt: Any, graph: Graph) -> None:
    source = graph(batch=2)
    with pytest.raises(GraphError, match="frozen at 2, asked for are 1 to 4"):
        build(source)
    with open_engine(build(source, batch=BatchSettings(min=2, opt=2, max=2))) as session:
        assert session.run(images(2)).shape == (2, 5)


def test_a_version_that_is_not_supported_is_refused(one_trt: Any, graph: Graph) -> None:
    for version in ("8.6.1", "10.0.1", "12.0.0"):
        one_trt.__version__ = version
        with pytest.raises(BackendError, match=rf"TensorRT {version} is not supported; 10\.3 to 11\.x are"):
            build(graph())


def test_without_the_package_the_refusal_says_what_to_install(
    one_trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="needs the package 'tensorrt', which is not installed here") as caught:
        build(graph())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_package_without_its_libraries_is_named(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(f"raise {error}('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError, match="installed, but not its libraries: libnvinfer"):
        load_tensorrt()


def test_a_device_needs_neither_torch_nor_onnx_nor_onnxruntime(root: Path) -> None:
    """What builds, loads, inspects and judges an engine imports where none of them is installed."""
    program = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'onnxruntime', 'sklearn'): sys.modules[name] = None\n"
        "import edgecnn.backends.trt.build, edgecnn.backends.trt.engine, edgecnn.backends.trt.profile\n"
        "import edgecnn.gate.judge, edgecnn.inspection.layers, edgecnn.measure.latency\n"
        "import edgecnn.measure.classification, edgecnn.pipeline.run, edgecnn.remote.worker, edgecnn.remote.qualify\n"
        "import edgecnn.steps.build, edgecnn.steps.validate, edgecnn.steps.bench, edgecnn.steps.gate\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    assert ran.returncode == 0, ran.stderr


def test_check_where_no_builder_can_be_made(
    one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorRT is installed, and there is no GPU: our rules answer, and why TensorRT did not."""
    with injected(one_trt, "builder"):
        assert cli.main(["check", str(graph("fp32"))]) == 0
    said = capsys.readouterr()
    assert "not asked: TensorRT: TensorRT's builder cannot be made: CUDA initialization failure" in " ".join(
        said.out.split()
    )
    assert "Traceback" not in said.err
