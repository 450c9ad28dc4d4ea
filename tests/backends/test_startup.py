"""What an engine costs before its first answer, as bench measures it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.artifact.run_folder import read_target_run
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.recipe.schema import BatchSettings, BenchSettings
from edgecnn.steps._startup import open_measured
from edgecnn.steps.bench import bench, bench_all
from tests.fakes.fake_cuda import FakeDevice

pytestmark = pytest.mark.onnx

Graph = Callable[..., Path]
QUICK = {"duration_s": 0.02, "warmup_ms": 0.0}


def built(graph: Path) -> Path:
    plan = graph.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph, plan, BuildOptions("gpu", BatchSettings(1, 1, 4)))
    return plan


def test_each_engine_of_a_run_has_its_own(one_trt: Any, device: FakeDevice, graph: Graph, tmp_path: Path) -> None:
    plans = {precision: built(graph(precision)) for precision in ("fp32", "fp16")}
    bench_all(plans, tmp_path / "latency.json", settings=BenchSettings(duration_s=0.02, warmup_ms=0.0))
    rows = read_target_run(tmp_path).measurements
    for row in rows:
        assert row.startup is not None
        assert 0 < row.startup.load_s < 10
        assert 0 < row.startup.first_query_ms < 10_000
        assert row.startup.device_memory_mb is not None
        assert row.startup.device_memory_mb > 4 * 3 * 8 * 8 * 4 / 1e6, "at least its input at the largest batch"
    assert [row.figure("load_s") for row in rows] == [row.startup.load_s for row in rows if row.startup]


def test_the_clock_covers_the_load_and_the_first_query_alone(one_trt: Any, device: FakeDevice, graph: Graph) -> None:
    plan = built(graph("fp32"))

    class Slow:
        def __enter__(self) -> Slow:
            time.sleep(0.02)
            device.allocate("memory", 5_000_000)
            return self

        def __exit__(self, *rest: object) -> None:
            return

        def run(self, batch: np.ndarray) -> np.ndarray:
            time.sleep(0.03)
            device.allocate("memory", 2_000_000)
            return batch

    def first(session: Any) -> np.ndarray:
        time.sleep(0.5)
        return np.zeros(1, np.float32)

    with contextlib.ExitStack() as stack:
        found: Any = open_measured(stack, plan, Slow, first)[1]  # type: ignore[arg-type]
    assert 0.02 <= found.load_s < 0.4
    assert 30 <= found.first_query_ms < 400
    assert found.device_memory_mb == pytest.approx(7.0)


def test_memory_that_others_gave_back_is_no_figure(one_trt: Any, device: FakeDevice, graph: Graph) -> None:
    plan, others = built(graph("fp32")), device.allocate("memory", 900_000_000)

    def opened() -> Any:
        device.release("memory", others)
        return open_engine(plan)

    with contextlib.ExitStack() as stack:
        found = open_measured(stack, plan, opened, lambda s: np.zeros((1, 3, 8, 8), np.float32))[1]
    assert found.device_memory_mb is None


def test_where_gpu_and_host_share_memory_linux_is_asked(
    one_trt: Any, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.integrated = True
    monkeypatch.setattr("edgecnn.backends._cuda.available_memory_bytes", lambda: 3_000_000_000)
    assert load_backend("trt").free_memory_bytes() == 3_000_000_000
    assert load_backend("ort").free_memory_bytes() is None


def test_a_processor_has_times_and_no_device_memory(graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(graph("fp32"), **QUICK)  # type: ignore[arg-type]
    (row,) = found.measurements
    assert row.startup is not None
    assert row.startup.device_memory_mb is None
    assert cli.main(["bench", "--engine", str(graph("fp32")), "--duration", "0.02", "--warmup", "0"]) == 0
    assert "first query" in (said := capsys.readouterr().err)
    assert "device memory" not in said
