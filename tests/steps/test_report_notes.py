"""What a report says beside its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecnn.artifact.run_folder import TargetRun
from edgecnn.recipe.load import load_recipe
from edgecnn.results.verdict import Verdict
from edgecnn.steps import report
from tests.fakes.measurements import TENSORRT, engine, measurement, ratio


@pytest.mark.parametrize(("interval", "said"), [((1.02, 1.2), True), ((0.98, 1.2), False), ((0.7, 0.8), False)])
def test_int8_slower_than_fp16_is_a_note_of_every_report(
    interval: tuple[float, float], said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replace(ratio(), fp16_reference="fp16", int8_vs_fp16_ratio=1.1, int8_vs_fp16_ratio_ci=interval)
    rows = (measurement("int8", engine=engine("int8", **TENSORRT), ratio=found),)
    monkeypatch.setattr(TargetRun, "measurements", rows)
    run = TargetRun(tmp_path / "gpu", (), None)
    run.folder.mkdir()
    notes = report.report_of(run, load_recipe("lenet5-digits"), Verdict((), "inconclusive")).notes
    assert any(n.startswith("int8: INT8 is slower than FP16: 1.100 x fp16") for n in notes) == said
