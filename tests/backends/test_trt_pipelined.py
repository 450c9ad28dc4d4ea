"""Pipelined queries on the fake of TensorRT and of CUDA, whose times are a simulation: every figure here follows from
the times of a copy in, of compute and of a copy out."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.backends.trt import pipelined as trt_pipelined
from edgecnn.errors import BackendError
from edgecnn.measure import latency as measure_module
from edgecnn.measure import pipelined as measure_pipelined
from edgecnn.measure.comparison import compare_latency
from edgecnn.measure.latency import measure_latency
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.latency import Clocks, Latency
from edgecnn.session import PipelinedSession, PipelineOptions, Query
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice, pycuda_module
from tests.fakes.fake_tensorrt import injected

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

Graph = Callable[..., Path]
BATCH = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> None:
    """The host's clock is the fake device's."""
    clock = types.SimpleNamespace(
        perf_counter=lambda: device.now_ms / 1000, perf_counter_ns=lambda: round(device.now_ms * 1e6)
    )
    for module in (trt_pipelined, measure_pipelined):
        monkeypatch.setattr(module, "time", clock)
    for module in (measure_module, measure_pipelined):
        monkeypatch.setattr(module, "read_cpu_time", lambda: None)


@pytest.fixture
def plan(one_trt: Any, graph: Graph) -> Path:
    source = graph()
    path = source.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(source, path, BuildOptions("l4", BatchSettings(1, 2, 4)))
    return path


@pytest.fixture
def session(plan: Path) -> Iterator[PipelinedSession]:
    with open_engine(plan) as opened:
        assert isinstance(opened, PipelinedSession)
        yield opened


def measured(session: Any, duration_s: float = 0.1, warmup_ms: float = 5, **more: Any) -> Latency:
    known = {"clocks": Clocks, **more}
    return measure_latency("e", session, BATCH, warmup_ms=warmup_ms, duration_s=duration_s, **known)


def logits(plan: Path) -> np.ndarray:
    run = onnxruntime.InferenceSession(str(plan.with_suffix(".onnx")), providers=["CPUExecutionProvider"])
    return run.run(None, {"input": BATCH})[0]


def queries(session: PipelinedSession, turns: int = 12, **options: Any) -> list[Query]:
    with session.pipeline(BATCH, PipelineOptions(**options)) as pipeline:
        pipeline.begin()
        found = [query for _ in range(turns) for query in pipeline.turn()]
        return found + pipeline.drain()


@pytest.mark.parametrize(
    ("copy_in", "compute", "copy_out", "period"),
    [
        (0.125, 1.0, 0.125, 1.0),  # the copies hide behind the compute
        (2.0, 1.0, 0.5, 2.0),  # the copy in decides
        (0.25, 1.0, 1.5, 1.5),  # the copy out decides
        (1.0, 1.0, 1.0, 1.5),  # three parts at once would take three queries in flight: there are two
    ],
)
def test_throughput_is_that_of_two_in_flight_and_latency_that_of_one(
    session: Any, device: FakeDevice, copy_in: float, compute: float, copy_out: float, period: float
) -> None:
    device.ms.update({"in": copy_in, "compute": compute, "out": copy_out})
    found = measured(session)
    assert (found.mode, found.clock, found.transfers, found.graph) == ("pipelined", "cuda events", True, True)
    assert (found.h2d_ms_p50, found.compute_ms_p50) == pytest.approx((copy_in, compute))
    assert found.latency_ms_p50 == pytest.approx(copy_in + compute + copy_out)
    alone = copy_in + compute + copy_out  # the first query, whose parts nothing hides
    assert found.duration_s * 1000 == pytest.approx(alone + (found.n_queries - 1) * period, abs=period)
    assert found.throughput_images_per_s == pytest.approx(2 * found.n_queries / found.duration_s)
    assert found.duration_s >= 0.1
    assert device.races == []
    single = measured(session, mode="single-shot", warmup_ms=0, duration_s=0, min_queries=5)
    assert (single.mode, single.latency_ms_p50, single.enqueue_ms_p50) == ("single-shot", pytest.approx(alone), None)


def test_two_are_in_flight_and_their_parts_overlap_in_order(session: Any, device: FakeDevice) -> None:
    device.ms.update({"in": 0.5, "compute": 1.0, "out": 0.25})
    before = len(device.busy)
    found = queries(session)
    assert len(found) == 12
    for q in found:
        assert q.start_h2d_ms < q.end_h2d_ms <= q.start_compute_ms < q.end_compute_ms <= q.start_d2h_ms < q.end_d2h_ms
    for first, second in itertools.pairwise(found):
        assert first.start_enqueue_ms <= second.start_enqueue_ms < first.end_d2h_ms  # two in flight
        assert second.start_h2d_ms < first.end_compute_ms <= second.start_compute_ms  # copied in meanwhile
    for first, third in zip(found, found[2:], strict=False):
        assert third.start_enqueue_ms >= first.end_d2h_ms  # and never three
    streams = {engine: {handle for e, handle, _, _ in device.busy[before:] if e == engine} for engine in device.ms}
    assert len(streams["compute"] | streams["out"]) == 2
    assert device.races == []


def test_each_slot_has_the_logits_of_the_graph(plan: Path, device: FakeDevice) -> None:
    with load_backend("trt").open_engine(plan) as session:
        for options in (PipelineOptions(), PipelineOptions(streams=3), PipelineOptions(transfers=False)):
            with session.pipeline(BATCH, options) as pipeline:
                for _ in range(3):
                    pipeline.turn()
                pipeline.drain()
                results = pipeline.results()
            assert len(results) == 2 * options.streams
            for outputs in results:
                np.testing.assert_allclose(outputs["logits"], logits(plan), rtol=1e-5, atol=1e-6)
        assert device.races == []
        assert session.run(BATCH).shape == (2, 5)  # the session runs beside its pipelines
    assert set(device.live().values()) == {0}


def test_nothing_is_copied_on_the_host_and_each_part_is_queued_once(
    session: Any, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session.pipeline(BATCH, PipelineOptions()) as pipeline:
        monkeypatch.setattr(np, "copyto", None)
        device.calls.clear()
        pipeline.begin()
        for _ in range(10):
            pipeline.turn()
        pipeline.drain()
    assert {name: device.calls[name] for name in ("cudaMemcpyAsync", "cudaGraphLaunch", "cudaEventSynchronize")} == {
        "cudaMemcpyAsync": 20,
        "cudaGraphLaunch": 10,
        "cudaEventSynchronize": 10,
    }
    assert device.calls["cudaEventRecord"] == 1 + 6 * 10
    assert "cudaStreamSynchronize" not in device.calls


def test_without_transfers_a_query_is_its_compute(session: Any, device: FakeDevice) -> None:
    device.ms.update({"in": 5.0, "out": 5.0})
    found = measured(session, options=PipelineOptions(transfers=False))
    assert (found.transfers, found.h2d_ms_p50, found.d2h_ms_p50) == (False, 0, 0)
    assert found.latency_ms_p50 == found.compute_ms_p50 == pytest.approx(1)
    assert found.throughput_images_per_s == pytest.approx(2000)


@pytest.mark.parametrize(("computes", "faster"), [(1, 1.0), (2, 2.0)])
def test_streams_fill_a_gpu_that_one_does_not(session: Any, device: FakeDevice, computes: int, faster: float) -> None:
    device.computes = computes
    one, two = (measured(session, options=PipelineOptions(streams=n)) for n in (1, 2))
    assert two.throughput_images_per_s / one.throughput_images_per_s == pytest.approx(faster, rel=0.02)
    assert (one.streams, two.streams) == (1, 2)
    assert any(w.startswith("2 streams share the GPU") for w in two.warnings)
    assert not any("share the GPU" in w for w in one.warnings)
    assert device.races == []


def test_the_host_s_time_to_enqueue_is_told_and_a_long_one_is_a_warning(
    one_trt: Any, plan: Path, device: FakeDevice
) -> None:
    device.enqueue_ms, device.launch_ms = 0.9, 0.0625
    with open_engine(plan) as session:
        found = measured(session)
        assert found.enqueue_ms_p50 == pytest.approx(0.0625)
        assert not any("enqueuing" in w for w in found.warnings)
    with open_engine(plan) as session, injected(one_trt, "capture"):
        found = measured(session)
        assert found.enqueue_ms_p50 == pytest.approx(0.9)
        assert not found.graph
        assert any("bound by the host's enqueuing (0.900 of 1." in w for w in found.warnings)
        assert any(w.startswith("not replayed as a CUDA graph: cudaStreamEndCapture") for w in found.warnings)
    assert set(device.live().values()) == {0}


def test_throughput_queues_the_work_alone_and_is_timed_by_the_host(session: Any, device: FakeDevice) -> None:
    with session.pipeline(BATCH, PipelineOptions(timed=False)) as pipeline:
        device.calls.clear()
        for _ in range(10):
            pipeline.turn()
        pipeline.drain()
    assert device.calls["cudaEventRecord"] == 3 * 10
    found = measured(session, options=PipelineOptions(timed=False))
    assert (found.mode, found.clock, found.compute_ms_p50, found.transfers) == ("pipelined", "host", None, True)
    assert found.throughput_images_per_s == pytest.approx(2000, rel=0.02)
    assert found.latency_ms_p50 == pytest.approx(2)  # the wait behind the query before it included


def test_the_clocks_are_read_with_nothing_in_flight_and_that_is_no_part_of_the_run(
    session: Any, device: FakeDevice
) -> None:
    readings = []

    def read() -> Clocks:
        readings.append(device.now_ms)
        assert not any(work.engine for stream in device.streams.values() for _, _, work in stream.queue)
        device.now_ms += 7000
        return Clocks()

    found = measured(session, duration_s=1.2, clocks=read)
    assert len(readings) == 4  # before, and after 0.5, 1.0 and 1.2 s
    assert found.throughput_images_per_s == pytest.approx(2000, rel=0.01)
    assert 1.2 <= found.duration_s < 1.25


def test_slow_queries_are_as_many_as_asked_for(session: Any, device: FakeDevice) -> None:
    device.ms["compute"] = 300.0
    found = measured(session, duration_s=0.01, warmup_ms=0, min_queries=10)
    assert 10 <= found.n_queries <= 12


def test_pycuda_pipelines_without_graphs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice, graph: Graph
) -> None:
    install(monkeypatch, tmp_path, "10.3.0", device)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_module(device))
    monkeypatch.setenv("EDGECNN_CUDA", "pycuda")
    plan = graph().with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph(), plan, BuildOptions("l4", BatchSettings(1, 2, 4)))
    with load_backend("trt").open_engine(plan) as session:
        found = measured(session)
        assert "not replayed as a CUDA graph: pycuda cannot record them" in found.warnings
        assert found.throughput_images_per_s == pytest.approx(2000, rel=0.02)
        with session.pipeline(BATCH, PipelineOptions()) as pipeline:
            pipeline.turn()
            pipeline.turn()
            pipeline.drain()
            for outputs in pipeline.results():
                np.testing.assert_allclose(outputs["logits"], logits(plan), rtol=1e-5, atol=1e-6)
    assert device.races == []


def test_a_batch_that_cannot_run_is_tensorrt_s_error_and_nothing_stays(
    one_trt: Any, plan: Path, device: FakeDevice
) -> None:
    with load_backend("trt").open_engine(plan) as session:
        refused = pytest.raises(BackendError, match=r"TensorRT could not run a batch: .*illegal memory access")
        with refused, injected(one_trt, "execute"):
            session.pipeline(BATCH, PipelineOptions())
        with (
            injected(one_trt, "capture"),
            session.pipeline(BATCH, PipelineOptions()) as pipeline,
            session.pipeline(BATCH, PipelineOptions()),  # another one, for the same log of TensorRT's
            injected(one_trt, "execute"),
            refused,
        ):
            pipeline.turn()
        with pytest.raises(BackendError, match="a batch of shape 9x3x8x8"):
            session.pipeline(np.zeros((9, 3, 8, 8), np.float32), PipelineOptions())
    assert set(device.live().values()) == {0}


def test_engines_in_turn_are_both_pipelined_or_both_single_shot(
    session: Any, plan: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"warmup_ms": 2, "duration_s": 0.1, "clocks": Clocks}
    with open_engine(plan) as other:
        [found] = compare_latency({"a": other, "b": session}, BATCH, **how).values()
        assert (found.latency_ratio_mode, found.latency_ratio) == ("pipelined", pytest.approx(1))
        assert found.reference_latency_ms_p50 == pytest.approx(1.25)
    with open_engine(plan.with_suffix(".onnx")) as alone:
        monkeypatch.setattr(type(session), "pipeline", None)
        [found] = compare_latency({"onnx": alone, "b": session}, BATCH, **how).values()
        assert found.latency_ratio_mode == "single-shot"
    assert device.races == []


def test_the_command_writes_what_nvidia_s_analysis_reads(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, label = tmp_path / "analysis", plan.stem
    ask = ["bench", "--engine", str(plan), "--duration", "0.02", "--warmup", "0", "--export", str(folder)]
    assert cli.main([*ask, "--streams", "2", "--no-transfers"]) == 0
    out = capsys.readouterr()
    assert {"mode", "enqueue"} <= set(out.out.split())
    assert "pipelined mode, 2 streams, clock cuda events, without transfers, a CUDA graph" in out.err
    layers, profile = (json.loads((folder / f"{name}_{label}.json").read_text()) for name in ("layers", "profile"))
    head, *rows = profile
    assert head == {"count": 50}
    assert [row["name"] for row in rows] == [layer["Name"] for layer in layers["Layers"]]
    assert layers["Bindings"] == ["input", "logits"]
    assert all({"Name", "LayerType", "Inputs", "Outputs"} <= layer.keys() for layer in layers["Layers"])
    for row in rows:
        assert list(row) == ["name", "timeMs", "averageMs", "medianMs", "percentage"]
        assert row["timeMs"] == pytest.approx(50 * row["averageMs"])
        assert row["medianMs"] == row["averageMs"]
    assert sum(row["percentage"] for row in rows) == pytest.approx(100)
    assert cli.main([*ask, "--batch", "1,2"]) == 0
    assert {p.name for p in folder.glob("*_batch*.json")} == {
        f"{name}_{label}_batch{n}.json" for name in ("layers", "profile") for n in (1, 2)
    }


def test_a_comparison_says_how_both_sides_were_run(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, short = str(plan.with_suffix(".onnx")), ["--duration", "0.02", "--warmup", "0"]
    ask = ["bench", "--engine", str(plan), "--vs", graph, *short]
    assert cli.main(ask) == 0
    assert "interleaved rounds of single-shot queries" in capsys.readouterr().out
    assert cli.main([*ask, "--streams", "2"]) == 2
    assert cli.main([*ask, "--mode", "pipelined"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert cli.main([*ask[:3], "--vs", str(plan), *short]) == 0
    assert "interleaved rounds of pipelined queries" in capsys.readouterr().out
