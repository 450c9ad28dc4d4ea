"""A search on a device: each graph that is tried becomes an engine, which is judged and timed, here on the fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import edgecnn as ec
from edgecnn.tuning import workbench
from edgecnn.tuning.workbench import Workbench
from tests.fakes.searched import GUILTY, compare_made_up, write_searched

pytestmark = pytest.mark.onnx


def test_engines_are_judged_and_timed(one_trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = write_searched(tmp_path), list[str]()
    monkeypatch.setattr(Workbench, "compare", compare_made_up)
    validate = workbench.validate
    monkeypatch.setattr(
        workbench,
        "validate",
        lambda engine, *more, **named: (opened.append(engine.suffix), validate(engine, *more, **named))[1],
    )
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
    assert found.latency_ratio is not None
    assert found.latency_ratio < 1
    plain = next(point for point in found.points if point.all_float)
    assert plain.test_n == 240  # FP16 is judged too, before INT8 is
