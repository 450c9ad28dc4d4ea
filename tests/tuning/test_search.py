"""`search` from a graph to a graph: what it finds, goes on from, and refuses."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgecnn as ec
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.cli import main
from edgecnn.errors import ArtifactError, DataError, DeviceError, EdgecnnError, GraphError, RecipeError
from edgecnn.report.search import search_page
from edgecnn.results.search import ImageSet, JudgedLine, Search
from edgecnn.tuning.workbench import Kept, Workbench
from tests.acceptance.nets import write_npz
from tests.fakes.searched import GUILTY, compare_made_up, network, write_searched

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, its ranges, and labelled images."""
    return write_searched(tmp_path_factory.mktemp("made"))


def find(folder: Path, output: Path, **more: Any) -> Search:
    arguments = {"data": folder / "train.npz", "held_out": folder / "held.npz", "test": folder / "test.npz"}
    given = {"max_drop_pp": 6.0, "objective": "coverage", "target": "gpu", "method": "minmax", "threads": 1}
    return ec.search(folder / "m.fp32.onnx", output, **{**arguments, **given, **more})


def test_the_node_that_breaks_the_budget_stays_in_float(made: Path, tmp_path: Path, capfd: Any) -> None:
    found = find(made, tmp_path / "s.onnx")
    assert (found.answer, found.kept, found.output) == ("int8", (GUILTY,), "s.onnx")
    assert (found.n, found.held_out_n, found.calibration_n) == (240, 240, 32)
    assert found.top1_drop_ci_pp is not None
    assert found.top1_drop_ci_pp[1] <= 6.0
    whole = next(p for p in found.points if not p.kept)
    assert whole.top1_drop_pp > 20
    assert whole.test_n is None  # what the held-out images refuse is not shown the test images
    assert found.int8_share_pct == next(p for p in found.points if p.kept == (GUILTY,)).int8_share_pct
    assert read_sidecar(tmp_path / "s.onnx").fields["quantize.exclude"] == [GUILTY]
    again = ec.validate(tmp_path / "s.onnx", made / "m.fp32.onnx", data=made / "test.npz", threads=1)
    assert again.top1_drop_ci_pp == pytest.approx(found.top1_drop_ci_pp)
    written = json.loads((tmp_path / "s.search.json").read_text())
    parents = {os.path.relpath(made / name, tmp_path) for name in ("m.fp32.onnx", "m.calib.json")}
    assert written["provenance"]["parents"].keys() == parents
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.onnx", "s.onnx.json", "s.search.json", "s.trials.jsonl"]
    words = ["search", made / "m.fp32.onnx", "--max-drop", 6, "--objective", "coverage", "--target", "gpu", "-o",
             tmp_path / "s.onnx", "--data", made / "train.npz", "--held-out", made / "held.npz", "--threads", 1,
             "--test", made / "test.npz", "--method", "minmax", "--svg", tmp_path / "s.svg", "--json"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {key: value for key, value in written.items() if key != "provenance"}
    assert err == ""  # each trial is there already
    assert (tmp_path / "s.svg").read_text().count("<circle") == len(found.points)


PHASES = {  # what is called then, and how often before the kill
    "ranking": ("edgecnn.diagnose.node_sensitivity.compare_logits", 4),
    "timing": ("edgecnn.tuning.workbench.Workbench.compare", 2),
    "judging": ("edgecnn.tuning.workbench.Workbench.judge", 2),
    "the verdict": ("edgecnn.tuning.choice.proves", 1),
    "writing the graph": ("edgecnn.tuning.search.write_artifact", 0),
    "writing the result": ("edgecnn.tuning.search.write_json_artifact", 0),
}


def kill(phase: str, search: Callable[[], Search], monkeypatch: pytest.MonkeyPatch) -> None:
    name, left = PHASES[phase]
    path, _, attribute = name.rpartition(".")
    owner = Workbench if path.endswith("Workbench") else importlib.import_module(path)
    original: Callable[..., Any] = getattr(owner, attribute)

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr(owner, attribute, killed)
        search()


def test_a_kill_in_each_phase(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One search, killed six times: what was done is not done again, and the answer is an undisturbed one's."""
    monkeypatch.setattr(Workbench, "compare", compare_made_up)
    options = {"objective": "latency", "target": "cpu"}
    undisturbed = find(made, tmp_path / "u.onnx", **options)
    assert (undisturbed.answer, undisturbed.kept) == ("int8", ("stem", GUILTY))
    log, kept = tmp_path / "s.trials.jsonl", list[str]()
    for phase in PHASES:
        kill(phase, lambda: find(made, tmp_path / "s.onnx", **options), monkeypatch)
        assert not (tmp_path / "s.search.json").exists()
        lines = log.read_text().splitlines()
        assert lines[: len(kept)] == kept
        assert len(lines) > len(kept) or phase.startswith("writing")
        kept = lines
        log.write_text("\n".join([*lines, '{"images": "held']))  # a line that was being written
    found = find(made, tmp_path / "s.onnx", **options)
    assert log.read_text().splitlines() == kept
    assert sorted(kept) == sorted((tmp_path / "u.trials.jsonl").read_text().splitlines())
    assert dataclasses.replace(found, output="") == dataclasses.replace(undisturbed, output="")
    assert len(list(tmp_path.iterdir())) == 2 * len(["X.onnx", "X.onnx.json", "X.search.json", "X.trials.jsonl"])
    assert find(made, tmp_path / "s.onnx", max_drop_pp=90.0, **options).kept == ("stem",)
    assert len(log.read_text().splitlines()) < len(kept) + 4  # another budget asks for little more


def losing(monkeypatch: pytest.MonkeyPatch, judge: Callable[[Kept], int]) -> None:
    """So many of 240 images, by what is kept."""

    def judged(self: Workbench, kept: Kept, images: ImageSet) -> JudgedLine:
        lost = 0 if kept == self.task.all_float and self.task.scheme == "ort-cpu" else judge(kept)
        return JudgedLine(images=images, kept=kept, n=240, lost=lost, int8_share_pct=100.0 - len(kept))

    monkeypatch.setattr(Workbench, "judge", judged)


def test_all_float_and_nothing_are_answers(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workbench, "compare", compare_made_up)
    losing(monkeypatch, lambda kept: 120)
    found = find(made, tmp_path / "s.onnx", objective="latency", target="cpu")
    assert (found.answer, found.output, found.latency_ratio) == ("float", "m.fp32.onnx", None)
    nothing = find(made, tmp_path / "n.onnx")
    assert (nothing.answer, nothing.output, nothing.kept, nothing.top1_drop_pp) == ("none", "", (), None)
    assert not list(tmp_path.glob("*.onnx"))
    assert [line for line in search_page(nothing).split("\n") if "nothing meets it, not even FP16" in line]


def test_a_graph_that_cannot_be_made_is_no_reason_to_stop(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(kept: Kept) -> int:
        if len(kept) == 1:
            raise GraphError("node 'x': refused", "leave it")
        return 0 if GUILTY in kept else 99

    losing(monkeypatch, judge)
    found = find(made, tmp_path / "s.onnx")
    assert found.answer == "int8"
    assert GUILTY in found.kept
    assert len(found.kept) > 1
    assert any("node 'x': refused" in line for line in found.failed)


def refused(kind: type[EdgecnnError], made: Path, folder: Path, **more: Any) -> EdgecnnError:
    with pytest.raises(EdgecnnError) as told:
        find(made, folder / "s.onnx", **more)
    assert isinstance(told.value, kind)
    assert list(folder.glob("*s.*")) == []
    return told.value


def test_what_is_refused_before_any_trial(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.tuning.search.find_nodes", None)
    small = refused(DataError, made, tmp_path, max_drop_pp=0.8)
    assert "240 test images prove no drop below 1.6 pp" in small.message
    assert "at least 477 labelled test images" in small.hint
    assert "no number of images" in refused(DataError, made, tmp_path, max_drop_pp=0.0).hint
    for name in ("held_out", "test"):
        twice = refused(DataError, made, tmp_path, max_drop_pp=15.0, **{name: made / "train.npz"})
        assert "32 of the calibration images are among the" in twice.message
        assert "sha256" in twice.message
    both = refused(DataError, made, tmp_path, held_out=made / "test.npz")
    assert "240 of the held-out images are among the test images" in both.message
    assert "no labels" in refused(DataError, made, tmp_path, test=made / "unlabelled.npz").message
    assert "0 held-out images, at least 16" in refused(DataError, made, tmp_path, held_out="").message
    with np.load(made / "train.npz") as held:
        write_npz(tmp_path / "changed.npz", held["input"] + 1, held["label"])
    (tmp_path / "m.calib.json").write_text(
        (made / "m.calib.json").read_text().replace(str(made / "train.npz"), str(tmp_path / "changed.npz"))
    )
    lost = refused(DataError, made, tmp_path, data=tmp_path / "changed.npz", ranges=tmp_path / "m.calib.json")
    assert "images that these ranges were made of are not found" in lost.message
    assert isinstance(refused(RecipeError, made, tmp_path, images=0), RecipeError)
    absent = refused(DeviceError, made, tmp_path, objective="latency")
    assert "--objective coverage" in absent.hint


def test_ranges_of_another_graph_and_few_calibration_images(made: Path, tmp_path: Path) -> None:
    other = network()
    other.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(
            2 * onnx.numpy_helper.to_array(other.graph.initializer[0]), other.graph.initializer[0].name
        )
    )
    onnx.save(other, tmp_path / "o.fp32.onnx")
    ranges = ec.calibrate(tmp_path / "o.fp32.onnx", data=made / "train.npz", threads=1)
    told = refused(ArtifactError, made, tmp_path, ranges=ranges)
    assert "not of this one" in told.message
    few = ec.calibrate(made / "m.fp32.onnx", tmp_path / "f.calib.json", data=made / "train.npz", images=15, threads=1)
    assert "15 calibration images, at least 16" in refused(DataError, made, tmp_path, ranges=few).message
