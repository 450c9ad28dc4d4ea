"""A measurement tells the seconds that it was planned to take, and those that are left."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgecnn.recipe.schema import BenchSettings
from edgecnn.steps import _planned as planned
from edgecnn.steps.bench import bench, bench_all
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

SHORT = BenchSettings(duration_s=0.1, warmup_ms=0.0)


@pytest.mark.usefixtures("short_blocks")
def test_bench_tells_seconds_up_to_what_was_planned_and_a_short_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {name: tmp_path / f"{name}.onnx" for name in ("a", "b")}
    for path in graphs.values():
        onnx.save(
            build("c = Conv(input, out=4, k=3)\np = GlobalAveragePool(c)\nf = Flatten(p)\nlogits = Gemm(f, out=3)"),
            path,
        )
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    ask = {"duration_s": SHORT.duration_s, "warmup_ms": SHORT.warmup_ms, "versus": graphs["b"], "progress": tell}
    bench(graphs["a"], **ask)  # type: ignore[arg-type]
    assert told == []
    monkeypatch.setattr(planned, "SHORTEST_TOLD_S", 0.0)
    now = 1.0

    def later() -> float:
        nonlocal now
        now += 0.4
        return now

    monkeypatch.setattr(planned.time, "monotonic", later)
    bench(graphs["a"], **ask)  # type: ignore[arg-type]
    assert {total for _, total in told} == {1}
    assert (told[0], told[-1], told[-2]) == ((0, 1), (1, 1), (0, 1))
    told.clear()
    bench_all(graphs, tmp_path / "latency.json", settings=BenchSettings(duration_s=0.3, warmup_ms=0), progress=tell)
    assert {total for _, total in told} == {2}
    assert sorted(told) == told
    assert (told[0], told[-1], told[-2]) == ((0, 2), (2, 2), (1, 2)), "late, one second is left until it is over"
