"""`search --objective energy`: beside made-up rails, with none, and after a kill."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import edgecnn as ec
from edgecnn.cli import main
from edgecnn.machine.power_sensor import PowerSensor
from edgecnn.measure import energy as measured
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.tuning import choice, fastest
from edgecnn.tuning.workbench import Kept, Workbench
from tests.fakes.measurements import energy, latency
from tests.fakes.searched import GUILTY, compare_made_up, write_searched

pytestmark = pytest.mark.onnx
RAILS = "VDD_IN by INA3221 (hwmon)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, its ranges, and labelled images."""
    return write_searched(tmp_path_factory.mktemp("made"))


def words(folder: Path, output: Path, *more: object, objective: str = "energy") -> list[str]:
    asked = ["search", folder / "m.fp32.onnx", "--max-drop", 6, "--target", "cpu", "-o", output, "--threads", 1,
             "--data", folder / "train.npz", "--held-out", folder / "held.npz", "--test", folder / "test.npz",
             "--method", "minmax", "--objective", objective, *more]  # fmt: skip
    return [str(word) for word in asked]


@pytest.fixture
def joules(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """A query of INT8 takes half the energy of float, but in `stem`, where it takes twice as much; which graphs were
    run, in their order."""
    ran: list[Kept] = []
    cost: dict[str, tuple[Kept, float]] = {}
    really = Workbench._timed_graph

    def timed_graph(bench: Workbench, kept: Kept) -> Path:
        path = really(bench, kept)
        weighted = bench.task.weighted
        own = 1.0 + sum(1.0 if name in kept else 2.0 if name == "stem" else 0.5 for name in weighted)
        cost[path.name] = kept, 0.01 * own
        return path

    def bench(engine: Path, **how: Any) -> LatencyFile:
        kept, own = cost[engine.name]
        ran.append(kept)
        assert how["versus"] is None
        row = LatencyRow(latency=latency(engine.stem), energy=energy(own, (0.99 * own, 1.01 * own)))
        return LatencyFile(device=Device(cpu="x"), reference=None, measurements=(row,))

    monkeypatch.setattr(Workbench, "_timed_graph", timed_graph)
    monkeypatch.setattr("edgecnn.tuning.workbench.engines.bench", bench)
    return ran


def test_the_graph_of_least_energy_within_the_budget(
    made: Path, tmp_path: Path, joules: list[Kept], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(made, tmp_path / "s.onnx", "--json", "--svg", tmp_path / "s.svg")) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert (found["objective"], found["answer"], found["kept"]) == ("energy", "int8", ["stem", GUILTY])
    assert found["power_sensor"] == RAILS
    answer = 1 + 1 + 1 + 0.5 + 0.5 + 0.5
    assert found["energy_ratio"] == pytest.approx(answer / 6)
    low, high = found["energy_ratio_ci"]
    assert low == pytest.approx(answer / 6 * 0.99 / 1.01)
    assert high == pytest.approx(answer / 6 * 1.01 / 0.99)
    assert found["joules_per_inference"] == pytest.approx(0.01 * answer)
    assert (found["latency_ratio"], found["latency_batch"], found["latency_threads"]) == (None, 1, 1)
    assert all("latency_ms_p50" not in p or p["latency_ms_p50"] is None for p in found["points"])
    first = joules[0]
    assert joules[1:5] == [first, (), (), first]  # the sensor, and then four runs, forwards and backwards
    assert "x the energy, 95 % interval [" in err
    lines = [json.loads(line) for line in (tmp_path / "s.trials.jsonl").read_text().splitlines()]
    compared = [line for line in lines if "ratio" in line]
    assert {line["power_sensor"] for line in compared} == {RAILS}
    assert {line["seconds"] for line in compared} == {fastest.SECONDS["energy"], choice.SECONDS["energy"]}
    assert all(line["against_joules"] > 0 and line["against_ms_p50"] == 0 for line in compared)
    assert "energy over the float graph" in (tmp_path / "s.svg").read_text()
    done = len(joules)
    assert main(words(made, tmp_path / "s.onnx")) == 0
    said = capfd.readouterr().out
    assert len(joules) == done + 1, "each trial is there already; the sensor is asked again"
    assert f"energy: {RAILS}; a meter at the wall reads more" in said
    assert "J per inference above idle at batch 1" in said


def test_an_energy_that_idle_power_hides_ends_it_and_the_same_command_goes_on(
    made: Path, tmp_path: Path, joules: list[Kept], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = importlib.import_module("edgecnn.tuning.workbench").engines.bench

    def noisy(engine: Path, **how: Any) -> LatencyFile:
        found: LatencyFile = good(engine, **how)
        if len(joules) != 12:
            return found
        row = LatencyRow(latency=latency(engine.stem), energy=energy(0.01, (-0.01, 0.03)))
        return dataclasses.replace(found, measurements=(row,))

    monkeypatch.setattr("edgecnn.tuning.workbench.engines.bench", noisy)
    assert main(words(made, tmp_path / "s.onnx")) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: the energy of a query cannot be told from the idle power: 5.00 W while")
    assert "the same command then goes on" in hint
    kept = (tmp_path / "s.trials.jsonl").read_text()
    assert kept.count('"ratio"') == 2
    assert main(words(made, tmp_path / "s.onnx")) == 0
    assert (tmp_path / "s.trials.jsonl").read_text().startswith(kept)


def test_trials_of_another_objective_or_sensor_are_not_taken(
    made: Path, tmp_path: Path, joules: list[Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workbench, "compare", compare_made_up)
    log = tmp_path / "s.trials.jsonl"
    asked = words(made, tmp_path / "s.onnx")
    assert main(words(made, tmp_path / "s.onnx", objective="latency")) == 0
    by_latency = log.read_text()
    assert joules == []
    assert main(asked) == 0
    by_energy = log.read_text().splitlines()
    assert by_energy[0] != by_latency.splitlines()[0]
    assert not any("ratio" in line and not line["power_sensor"] for line in map(json.loads, by_energy))
    log.write_text("\n".join(line.replace("VDD_IN", "VIN") for line in by_energy) + "\n")
    done = len(joules)
    assert main(asked) == 0
    assert len(joules) - done == done, "by another rail it is measured anew"


@pytest.mark.parametrize("unknown", [False, True])
def test_without_a_sensor_it_is_refused_before_any_trial(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unknown: bool
) -> None:
    def sensor(_: str) -> PowerSensor | None:
        if unknown:
            raise ec.MeasurementError("it is not known which of the rails CVB make up Board", "")
        return None

    monkeypatch.setattr("edgecnn.steps.bench.open_power_sensor", sensor)
    monkeypatch.setattr("edgecnn.tuning.workbench.SENSED_S", 0.02)
    monkeypatch.setattr("edgecnn.tuning.search.rank_nodes", None)
    (tmp_path / "s.trials.jsonl").write_text('{"key": "of another search"}\n{"kept": []}\n')
    assert main(words(made, tmp_path / "s.onnx")) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: m.fp32: its energy was not measured: ")
    assert error.endswith("of the rails CVB make up Board" if unknown else "nor a GPU that NVIDIA's NVML reads")
    assert hint == "hint: measure on a Jetson, or on a GPU with nvidia-ml-py installed"
    assert [p.name for p in tmp_path.iterdir()] == ["s.trials.jsonl"], "and what another search has tried stays"
    assert "of another search" in (tmp_path / "s.trials.jsonl").read_text()


def test_one_comparison_beside_rails_that_are_read(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing made up but the watts: 9 while an engine is queried, 2 before and after."""
    monkeypatch.setattr(measured, "IDLE_S", 0.05)
    monkeypatch.setattr(measured, "PERIOD_S", 0.01)
    monkeypatch.setattr(measured, "GAP_S", 10.0)  # a busy machine may not run the thread that reads for a while
    monkeypatch.setattr(measured, "BLOCK_S", 0.04)
    monkeypatch.setattr("edgecnn.measure.latency.CLOCK_PERIOD_S", 0.05)
    now = {"watts": 2.0}
    really = measured.measure_with_energy

    def beside(measure: Any, sensor_of: Any) -> Any:
        def busy(*, stretches: Any) -> Any:
            now["watts"] = 9.0
            try:
                return measure(stretches=stretches)
            finally:
                now["watts"] = 2.0

        return really(busy, sensor_of)

    monkeypatch.setattr("edgecnn.steps.bench.measure_with_energy", beside)
    rails = PowerSensor("INA3221 (hwmon)", ("VDD_IN",), lambda: {"VDD_IN": now["watts"]})
    monkeypatch.setattr("edgecnn.steps.bench.open_power_sensor", lambda _: rails)
    seen: list[Any] = []

    def stop(trials: Any) -> Kept:
        seen.extend(trials.compare(trials.task.all_float, [()], 0.5))
        raise KeyboardInterrupt

    monkeypatch.setattr("edgecnn.tuning.search.find_fastest", stop)
    monkeypatch.setattr("edgecnn.tuning.workbench.SENSED_S", 0.15)
    assert main(words(made, tmp_path / "s.onnx")) == 130
    (line,) = seen
    assert line.power_sensor == RAILS
    assert 0 < line.ratio_ci[0] <= line.ratio <= line.ratio_ci[1]
    last = json.loads((tmp_path / "s.trials.jsonl").read_text().splitlines()[-1])
    assert last["ratio"] == line.ratio
    assert last["against_joules"] > 0
