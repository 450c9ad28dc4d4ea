"""A search on a device: each graph that is tried becomes an engine, which is judged and timed, here on the fake."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import edgecnn as ec
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.cli import main
from edgecnn.remote import engines
from edgecnn.results.latency import LatencyRatio
from edgecnn.tuning.workbench import REBUILDS, Kept, Workbench
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.searched import GUILTY, compare_made_up, write_searched

pytestmark = [pytest.mark.onnx, pytest.mark.usefixtures("short_blocks")]


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


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice) -> Any:
    """The fake tensorrt 11.4, on which one route is faster and right, a faster one wrong, and one cannot be built."""
    fake = install(monkeypatch, tmp_path, "11.4.0.106", device)
    fake._fastest = 5
    fake._by_route = {"-conv_lowering=off": -2, "-kgen:tiling=2": -3, "-kgen:tiling=0": -4}
    fake._inject |= {"by -kgen:tiling=2: wrong last", "no build by -kgen:tiling=0"}
    return fake


def searched(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: object) -> tuple[int, dict[str, Any]]:
    """`edgecnn search`, in which graphs have times that are made up, and routes those of the fake."""
    really = Workbench.compare

    def compare(bench: Workbench, against: Kept, others: Sequence[Kept], seconds: float) -> dict[Kept, LatencyRatio]:
        if against in others:
            return really(bench, against, others, 0.02)
        by = 0.9 if bench.route else 1.0
        found = compare_made_up(bench, against, others, seconds)
        return {kept: dataclasses.replace(r, latency_ratio=by * r.latency_ratio) for kept, r in found.items()}

    monkeypatch.setattr(Workbench, "compare", compare)
    monkeypatch.setattr("edgecnn.tuning.search.find_fastest", lambda trials: ("stem",))  # as it would, by many builds
    words = ["search", folder / "m.fp32.onnx", "--max-drop", 6, "--target", "gpu", "-o", folder / "s.onnx",
             "--data", folder / "train.npz", "--held-out", folder / "held.npz", "--test", folder / "test.npz",
             "--method", "minmax", "--threads", 1, *more]  # fmt: skip
    code = main([str(word) for word in words])
    path = folder / "s.search.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return code, {key: value for key, value in found.items() if key != "provenance"}


def test_build_routes_are_one_more_axis(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_searched(tmp_path)
    code, found = searched(folder, monkeypatch)
    page, said = capsys.readouterr()
    assert (code, found["answer"], found["kept"]) == (0, "int8", ["stem", GUILTY])
    assert (found["build_route"], found["routes_tried"], found["routes_known"]) == ("-conv_lowering=off", 3, 3)
    assert any(
        "by -kgen:tiling=0: " in line and "Could not find any implementation" in line for line in found["failed"]
    )
    points = {p["route"]: p for p in found["points"] if p["kept"] == ["stem", GUILTY]}
    assert points["-conv_lowering=off"]["test_top1_drop_ci_pp"] == found["top1_drop_ci_pp"]
    assert points["-kgen:tiling=2"]["expected_bound_pp"] > 6  # the faster one, which loses too much
    assert points["-kgen:tiling=2"]["test_n"] is None
    assert found["latency_ratio"] == points["-conv_lowering=off"]["latency_ratio"] < points[""]["latency_ratio"]
    routes = [built["route"] for built in newest._builds if built["route"]]
    once = ["-conv_lowering=off", "-kgen:tiling=2", "-kgen:tiling=2 -conv_lowering=off"]
    assert routes == [*once, *["-conv_lowering=off"] * REBUILDS]
    assert "build routes: 3 of 3 tried" in page
    assert '[build.routes] int8 = "-conv_lowering=off"' in said
    command = next(line for line in page.splitlines() if "edgecnn build" in line)
    monkeypatch.chdir(folder)
    assert main([*shlex.split(command)[1:], "-o", "s.plan"]) == 0
    assert read_sidecar(folder / "s.plan").facts["build_route"] == "-conv_lowering=off"


def test_a_kill_among_the_routes(newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_searched(tmp_path)
    really, left = Workbench.require_made, 2

    def require_made(bench: Workbench, kept: Kept) -> None:
        nonlocal left
        left -= bool(bench.route)
        if left < 0:
            raise KeyboardInterrupt
        really(bench, kept)

    monkeypatch.setattr(Workbench, "require_made", require_made)
    assert searched(folder, monkeypatch)[0] == 130
    monkeypatch.setattr(Workbench, "require_made", really)
    before = [built["route"] for built in newest._builds]
    assert before.count("-conv_lowering=off") == 1
    code, found = searched(folder, monkeypatch)
    assert (code, found["build_route"]) == (0, "-conv_lowering=off")
    lines = [json.loads(line) for line in (folder / "s.trials.jsonl").read_text().splitlines()]
    first = [line for line in lines if line.get("route") == "-conv_lowering=off" and line.get("seconds") == 0.5]
    alone = [line for line in first if line["kept"] == line["against"]]
    assert [line["build"] for line in alone] == list(range(REBUILDS + 1))


def test_which_routes_are_tried_can_be_said(
    newest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_searched(tmp_path)
    assert searched(folder, monkeypatch, "--routes", "-conv_lowerin=[on|off]") == (2, {})
    assert "did you mean '-conv_lowering'" in capsys.readouterr().err
    assert newest._builds == []
    assert searched(folder, monkeypatch, "--routes", "none")[1]["routes_known"] == 0
    assert {built["route"] for built in newest._builds} == {""}


def test_the_knobs_are_listed(newest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes"]) == 0
    assert "-conv_lowering" in capsys.readouterr().out
    assert main(["routes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["by"] == "TensorRT 11.4.0.106"
    assert listed["knobs"][1] == {"name": "-kgen:tiling", "values": ["0", "1", "2"], "default": "1"}


def test_a_device_that_is_lost_among_the_routes(
    newest: Any, device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search ends with the second, and goes on with it."""
    folder = write_searched(tmp_path)
    really, left = Workbench.require_made, 1

    def require_made(bench: Workbench, kept: Kept) -> None:
        nonlocal left
        left -= bool(bench.route)
        if left < 0:
            device.fail |= {"cudaGetDeviceProperties": 100, "cudaMalloc": 100}
        really(bench, kept)

    monkeypatch.setattr(Workbench, "require_made", require_made)
    assert searched(folder, monkeypatch)[0] == 2
    assert "cudaErrorNoDevice" in capsys.readouterr().err
    monkeypatch.setattr(Workbench, "require_made", really)
    trials = [json.loads(line) for line in (folder / "s.trials.jsonl").read_text().splitlines()]
    assert {line["route"] for line in trials if line.get("route")} == {"-conv_lowering=off"}
    device.fail.clear()
    device.last_error = 0  # of a process that has ended
    code, found = searched(folder, monkeypatch)
    assert (code, found["build_route"], found["routes_tried"]) == (0, "-conv_lowering=off", 3)
    assert {line["route"] for line in found["points"]} >= {"-kgen:tiling=2"}
    assert not any("NoDevice" in line for line in found["failed"])
