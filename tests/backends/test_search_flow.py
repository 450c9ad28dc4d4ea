"""A search on a device: each graph that is tried becomes an engine, which is judged and timed, here on the fake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import edgecnn as ec
from edgecnn.remote import engines
from edgecnn.results.latency import LatencyRatio
from edgecnn.tuning.workbench import Kept, Workbench
from tests.fakes.searched import GUILTY, compare_made_up, write_searched

pytestmark = pytest.mark.onnx


def test_engines_are_judged_and_timed(one_trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = write_searched(tmp_path), list[str]()
    really, timed = Workbench.compare, list[float]()

    def compare(bench: Workbench, against: Kept, others: Sequence[Kept], seconds: float) -> dict[Kept, LatencyRatio]:
        if not timed:
            timed.extend(ratio.latency_ratio for ratio in really(bench, against, others, 0.1).values())
        return compare_made_up(bench, against, others, seconds)

    monkeypatch.setattr(Workbench, "compare", compare)
    validate = engines.validate

    def judge(engine: Path, *more: Any, **named: Any) -> Any:
        opened.append(engine.suffix)
        return validate(engine, *more, **named)

    monkeypatch.setattr(engines, "validate", judge)
    found = ec.search(
        folder / "m.fp32.onnx",
        folder / "s.onnx",
        max_drop_pp=6.0,
        data=folder / "train.npz",
        held_out=folder / "held.npz",
        test=folder / "test.npz",
        target="gpu",
        method="minmax",
        threads=1,
    )
    assert (found.answer, found.kept, found.scheme, found.around) == ("int8", ("stem", GUILTY), "tensorrt", "fp16")
    assert set(opened) == {".plan"}
    assert timed == [pytest.approx(1.0)]  # the fake takes its time for any engine
    assert found.latency_ratio is not None
    assert found.latency_ratio < 1
    plain = next(point for point in found.points if point.all_float)
    assert plain.test_n == 240  # FP16 is judged too, before INT8 is
