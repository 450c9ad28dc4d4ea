"""A search on another machine: graphs are made here, and built, judged and timed there."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgecnn as ec
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.cli import main
from edgecnn.errors import BackendError, RefusedError, RemoteError
from edgecnn.measure.energy import require_energy
from edgecnn.records import to_plain
from edgecnn.remote.command import Source
from edgecnn.results.build_routes import Knob
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyFile, LatencyRatio, LatencyRow
from edgecnn.targets import find_target
from edgecnn.tuning.on_host import HostWorkbench
from edgecnn.tuning.workbench import Kept
from tests.fakes.fake_ssh import ssh_here
from tests.fakes.measurements import energy, latency
from tests.fakes.searched import GUILTY, compare_made_up, write_searched
from tests.fakes.sshd import empty_wheels

pytestmark = pytest.mark.onnx
NEEDED = ["numpy==9", "pillow==99", "pydantic==9", "typer==9", "rich==99", "tomli==9"]
Times = dict[Kept, LatencyRatio]


def test_an_energy_is_asked_for_by_bench_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --vs, which times both in turn and tells no energy of the second."""
    asked: list[object] = []
    row = LatencyRow(latency=latency("e"), energy=energy(0.02, (0.019, 0.021)))
    told = to_plain(LatencyFile(device=Device(cpu="x"), reference=None, measurements=(row,)))

    def command_on(hosts: Sequence[str], arguments: Sequence[object], *, as_json: bool) -> Any:
        asked.extend([*hosts, *arguments, as_json])
        return (SimpleNamespace(error=None, found=SimpleNamespace(result=told)),)

    monkeypatch.setattr("edgecnn.tuning.on_host.command_on", command_on)
    bench = HostWorkbench(SimpleNamespace(host="jetson", batch=4), tmp_path, "key")  # type: ignore[arg-type]
    assert require_energy(bench._bench(tmp_path / "e.plan", None, 4.0)).joules_per_inference == 0.02
    numbers = ["--batch=4", "--duration=4", "--warmup=50"]
    assert asked == ["jetson", "bench", *numbers, Source(tmp_path / "e.plan", "--engine"), True]


ROUTE = "-conv_lowering=off"


def test_routes_are_asked_for_and_a_failed_one_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[object]] = []
    knobs = [{"name": "-conv_lowering", "values": ["on", "off"], "default": "on"}]
    answers: list[Any] = [
        SimpleNamespace(error=None, found=SimpleNamespace(result={"target": "gpu", "by": "TensorRT", "knobs": knobs})),
        *(SimpleNamespace(error=RefusedError("jetson: no code", "h"), found=None) for _ in range(3)),
        SimpleNamespace(error=RemoteError("jetson: was started anew", "h"), found=None),
    ]

    def command_on(hosts: Sequence[str], arguments: Sequence[object], *, as_json: bool) -> Any:
        asked.append([word for word in arguments if isinstance(word, str)])
        return (answers.pop(0),)

    monkeypatch.setattr("edgecnn.tuning.on_host.command_on", command_on)
    write_artifact(tmp_path / "g.onnx", lambda path: path.write_bytes(b"g") and None, Sidecar(kind="graph"))
    task = SimpleNamespace(host="jetson", batch=1, elsewhere=True, target=find_target("gpu"))
    bench = HostWorkbench(task, tmp_path, "key")  # type: ignore[arg-type]
    assert bench.build_knobs() == (Knob("-conv_lowering", ("on", "off"), "on"),)
    with pytest.raises(RefusedError, match="no code"):
        bench._engine(tmp_path / "g.onnx")
    with pytest.raises(BackendError, match="no code") as told:
        bench.by(ROUTE)._engine(tmp_path / "g.onnx", ROUTE)
    assert type(told.value) is BackendError, "a failed trial"
    with pytest.raises(BackendError, match="no code"):
        bench.by(ROUTE, 2)._engine(tmp_path / "g.onnx", ROUTE)
    with pytest.raises(RemoteError, match="started anew"):
        bench.by(ROUTE)._engine(tmp_path / "g.onnx", ROUTE)
    sizes = ["build", "--target=gpu", "--profile=1:1:8"]
    by = [*sizes, f"--build-route={ROUTE}"]
    assert asked == [["routes", "--target=gpu"], sizes, by, [*by, "--rebuilds=3"], by]


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
    first = ("stem",)
    monkeypatch.setattr("edgecnn.tuning.search.find_fastest", lambda trials: trials.compare((), [first], 0.5)[0].kept)
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
