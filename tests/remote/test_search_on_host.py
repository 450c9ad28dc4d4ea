"""A search on another machine: graphs are made here, and built, judged and timed there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import edgecnn as ec
from edgecnn.cli import main
from edgecnn.results.latency import LatencyRatio
from edgecnn.tuning.on_host import HostWorkbench
from edgecnn.tuning.workbench import Kept
from tests.fakes.fake_ssh import ssh_here
from tests.fakes.searched import GUILTY, compare_made_up, write_searched
from tests.fakes.sshd import empty_wheels

pytestmark = pytest.mark.onnx
NEEDED = ["numpy==9", "pillow==99", "pydantic==9", "typer==9", "rich==99", "tomli==9"]
Times = dict[Kept, LatencyRatio]


@pytest.mark.slow
def test_a_search_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(ssh_here(tmp_path / "device")), prepend=os.pathsep)
    shutil.rmtree(tmp_path / "device" / "home" / ".edgecnn-remote")
    wheels = empty_wheels(tmp_path / "wheels", NEEDED)
    assert main(["remote", "setup", "device", "--python", sys.executable, "--wheels", str(wheels)]) == 0
    folder, timed = write_searched(tmp_path), list[LatencyRatio]()
    really = HostWorkbench.compare

    def compare(
        bench: HostWorkbench, against: Kept, others: Sequence[Kept], seconds: float
    ) -> dict[Kept, LatencyRatio]:
        if not timed:
            timed.extend(really(bench, against, others[:1], 0.1).values())
        return compare_made_up(bench, against, others, seconds)

    monkeypatch.setattr(HostWorkbench, "compare", compare)
    monkeypatch.setattr("edgecnn.tuning.search.find_fastest", lambda trials: trials.time((), [("stem",)], 0.5)[0].kept)
    found = ec.search(
        folder / "m.fp32.onnx",
        folder / "s.onnx",
        max_drop_pp=6.0,
        data=folder / "train.npz",
        held_out=folder / "held.npz",
        test=folder / "test.npz",
        method="minmax",
        threads=1,
        host="device",
    )
    assert (found.answer, found.kept) == ("int8", ("stem", GUILTY))
    assert timed[0].latency_ratio > 0
    asked = (tmp_path / "device" / "argv").read_text().splitlines()
    assert asked.count("device") >= 3  # it was there that engines were built, judged and timed
    with pytest.raises(ec.RecipeError, match="coverage with --on device"):
        ec.search(folder / "m.fp32.onnx", max_drop_pp=6, data="d", objective="coverage", host="device")
