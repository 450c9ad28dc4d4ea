"""From a sensor to the terminal, latency.json and the verdict: a graph on ONNX Runtime, beside a made-up rail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgecnn import cli
from edgecnn.artifact.run_folder import read_target_run
from edgecnn.gate.judge import judge
from edgecnn.machine.power_sensor import PowerSensor
from edgecnn.measure import energy
from edgecnn.recipe.schema import Tolerances

if TYPE_CHECKING:
    import onnx

    from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "IDLE_S", 0.05)
    monkeypatch.setattr(energy, "PERIOD_S", 0.01)
    monkeypatch.setattr(energy, "GAP_S", 10.0)  # a busy machine may not run the thread that reads for a while
    onnx.save(tiny_graph("fp32"), tmp_path / "fp32.onnx")
    assert cli.main(["build", str(tmp_path / "fp32.onnx"), "-o", str(tmp_path / "built" / "fp32.onnx")]) == 0
    return tmp_path / "built" / "fp32.onnx"


def test_the_energy_of_an_engine_is_shown_written_and_judged(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = iter([2.0] * 3 + [9.0] * 100_000)
    sensor = PowerSensor("INA3221 (hwmon)", ("VDD_IN",), lambda: {"VDD_IN": next(reads)})
    monkeypatch.setattr("edgecnn.steps.bench.open_power_sensor", lambda _: sensor)
    asked = ["bench", "--engine", str(engine), "--duration", "1.1", "--warmup", "0", "--threads", "1"]
    assert cli.main([*asked, "-o", str(engine.with_name("latency.json"))]) == 0
    said = capsys.readouterr()
    assert "W idle, which is taken off" in said.out
    assert "VDD_IN by INA3221 (hwmon)" in said.err
    (row,) = json.loads(engine.with_name("latency.json").read_text())["measurements"]
    assert row["power_rails"] == ["VDD_IN"]
    assert row["power_w"] == pytest.approx(9, rel=0.1)
    low, high = row["joules_per_inference_ci"]
    assert low <= row["joules_per_inference"] <= high
    found = read_target_run(engine.parent).measurements
    checks = judge(Tolerances(joules_per_inference_max=high * 1.01), found).checks
    assert [c.verdict for c in checks if c.tolerance == "joules_per_inference_max"] == ["PASS"]


def test_a_machine_without_a_sensor_says_so_and_leaves_a_tolerance_open(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgecnn.steps.bench.open_power_sensor", lambda _: None)
    latency = engine.with_name("latency.json")
    assert cli.main(["bench", "--engine", str(engine), "--duration", "0.05", "-o", str(latency)]) == 0
    assert "energy: not measured: this machine has no sensor" in capsys.readouterr().err
    assert "joules" not in latency.read_text()
    verdict = judge(Tolerances(joules_per_inference_max=1.0), read_target_run(engine.parent).measurements)
    assert verdict.exit_code == 3
