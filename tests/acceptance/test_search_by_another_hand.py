"""`edgecnn search` where its files and images changed, are damaged, or say less than they seem to."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.results.search import ImageSet, JudgedLine
from edgecnn.tuning.workbench import Kept, Workbench
from tests.acceptance.nets import write_npz
from tests.fakes.searched import GUILTY, write_searched

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, its ranges, and labelled images."""
    return write_searched(tmp_path_factory.mktemp("made"))


def asked(folder: Path, output: Path, budget: float, test: Path | None = None) -> tuple[object, ...]:
    images = ("--data", folder / "train.npz", "--held-out", folder / "held.npz", "--test", test or folder / "test.npz")
    how = ("--objective", "coverage", "--target", "gpu", "--method", "minmax", "--threads", 1, "--json")
    return ("search", folder / "m.fp32.onnx", "--max-drop", budget, "-o", output, *images, *how)


def test_corrected_labels_are_judged_anew(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    test = Path(shutil.copy(made / "test.npz", tmp_path / "test.npz"))
    assert edgecnn(*asked(made, tmp_path / "s.onnx", 6, test)).code == 0
    known = dict(np.load(test))
    write_npz(test, known["input"], np.roll(known["label"], 1))
    assert "of 240 test images" in edgecnn(*asked(made, tmp_path / "s.onnx", 6, test)).err


def test_lines_that_no_search_writes_are_tried_again(
    edgecnn: Callable[..., Result], made: Path, tmp_path: Path
) -> None:
    output, log = tmp_path / "s.onnx", tmp_path / "s.trials.jsonl"
    sound = edgecnn(*asked(made, output, 6))
    assert json.loads(sound.out)["kept"] == [GUILTY]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    wrong: Iterator[dict[str, object]] = itertools.cycle(
        [{"n": 0}, {"n": 10**400}, {"lost": -9}, {"lost": 999}, {"int8_share_pct": 1e9}, {"kept": ["ghost"]}]
    )
    damaged = [{**line, **next(wrong)} if "images" in line else line for line in lines]
    assert len([line for line in damaged if "images" in line]) >= 6
    log.write_text("".join(f"{json.dumps(line)}\n" for line in damaged))
    assert edgecnn(*asked(made, output, 6)).out == sound.out


def test_a_copy_of_a_test_image_proves_nothing(edgecnn: Callable[..., Result], made: Path, tmp_path: Path) -> None:
    known = dict(np.load(made / "test.npz"))
    copies: dict[str, Any] = {key: np.repeat(value[:30], 100, axis=0) for key, value in known.items()}
    many = write_npz(tmp_path / "many.npz", copies["input"], copies["label"])
    edgecnn(*asked(made, tmp_path / "s.onnx", 1, many)).refused("30 test images", "--test")


def test_the_graph_of_another_budget_does_not_stay(
    edgecnn: Callable[..., Result], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(self: Workbench, kept: Kept, images: ImageSet) -> JudgedLine:
        return JudgedLine(images=images, kept=kept, n=240, lost=2, int8_share_pct=50.0)

    monkeypatch.setattr(Workbench, "judge", judge)
    output = tmp_path / "s.onnx"
    assert edgecnn(*asked(made, output, 6)).code == 0
    assert output.exists()
    assert json.loads(edgecnn(*asked(made, output, 1.6)).out)["answer"] == "none"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.search.json", "s.trials.jsonl"]
