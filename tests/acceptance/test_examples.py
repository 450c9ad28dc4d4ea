"""The programs of `examples/`: their parts by hand, and each as its page calls it."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROGRAMS = ("architecture_search", "captioning", "fast_rcnn")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A file of `examples/` as a module, without its command line."""
    monkeypatch.syspath_prepend(EXAMPLES)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)
        return made

    return load


def run(folder: Path, name: str, *arguments: str) -> str:
    """What a program prints, called in `folder`."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_are_short() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    assert {path.stem for path in files} >= set(PROGRAMS)
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 250} == {}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("fast_rcnn", ["--data", "mnist:nowhere"], "nowhere"),
        ("captioning", ["--data", "digit"], "'digit'"),
        ("architecture_search", ["--keep", "other.json"], "other.json"),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    name: str, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    Path("other.json").write_text(json.dumps({"children": {"8x3": [0.9, 0.9]}}))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert re.fullmatch(rf"error: [^\n]*{re.escape(said)}[^\n]*\nhint: [^\n]+\n", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize(
    "seeds", [range(1), pytest.param(range(1, 10), marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_the_controller_finds_a_known_optimum_that_random_search_does_not(
    seeds: range, module: Callable[[str], ModuleType]
) -> None:
    """In ten of ten seeds, among 200 of 65 536 children."""
    program = module("architecture_search")
    found = []
    for seed in seeds:
        reward = program.synthetic_reward(seed)
        ours, random = (how(reward, program.SYNTHETIC, 200, seed) for how in (program.search, program.search_at_random))
        assert len(ours) == len(random) == 200
        found.append((max(ours), max(random) < 1, np.mean(ours[-40:]) > 0.9))
    assert found == [(1.0, True, True)] * len(seeds)


def test_children_and_their_names(module: Callable[[str], ModuleType]) -> None:
    program = module("architecture_search")
    network = program.build((0, 1, 3, 0, 1, 1)).eval()
    assert program.describe((0, 1, 3, 0, 1, 1)) == ["4x3", "32x1", "8x3"]
    assert [tuple(p.shape) for p in network.parameters() if p.ndim == 4] == [(4, 1, 3, 3), (32, 4, 1, 1), (8, 32, 3, 3)]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_pictures_are_the_same_for_a_seed_and_hold_what_they_say(module: Callable[[str], ModuleType]) -> None:
    painter = module("pasted_digits").Painter
    pictures = painter("digits", "test", seed=4).pictures(40)
    again = painter("digits", "test", seed=4).pictures(40)
    for one, other in zip(pictures, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert {len(picture.labels) for picture in pictures} == {1, 2}
    for picture in pictures:
        assert picture.pixels.shape == (64, 64)
        assert ((picture.boxes >= 0) & (picture.boxes <= 64)).all()
        for left, top, right, bottom in picture.boxes.astype(int):
            assert right - left == bottom - top
            assert picture.pixels[top:bottom, left:right].max() > 150
        if len(picture.boxes) == 2:
            (a, b) = picture.boxes
            assert (a[:2] >= b[2:]).any() or (b[:2] >= a[2:]).any(), "they do not overlap"


def test_average_precision_by_hand(module: Callable[[str], ModuleType]) -> None:
    """Of two sevens one is found twice, between a wrong box: precision 1 at a recall of 1/2, 2/4 at 1."""
    program = module("fast_rcnn")
    assert program.average_precision(np.array([True, False, True]), 4) == pytest.approx((1 + 2 / 3) / 4)
    assert program.average_precision(np.array([False, True, True]), 2) == pytest.approx(2 / 3), "made monotonic"
    assert program.average_precision(np.array([], bool), 2) == 0
    boxes = [[0, 0, 20, 20], [1, 0, 21, 20], [30, 0, 50, 20], [0, 40, 20, 60]]
    found = program.Detections(torch.tensor(boxes).float(), torch.full((4,), 7), torch.tensor([0.9, 0.8, 0.7, 0.6]))
    objects = np.array([[0, 0, 20, 20], [0, 40, 20, 60]], np.float32)
    picture = module("pasted_digits").Picture(np.zeros((64, 64), np.uint8), objects, np.array([7, 7]))
    precisions = program.score_classes([found], [picture])
    assert precisions[7] == pytest.approx((1 + 2 / 4) / 2)
    assert np.isnan(precisions[:7]).all()


def test_moves_lead_from_a_box_to_its_object(module: Callable[[str], ModuleType]) -> None:
    program = module("fast_rcnn")
    boxes, objects = torch.tensor([[4.0, 8, 24, 28]]), torch.tensor([[6.0, 5, 22, 21]])
    assert torch.allclose(program.moved(boxes, program.moves_between(boxes, objects)), objects, atol=1e-5)


def test_captions_by_hand(module: Callable[[str], ModuleType]) -> None:
    program = module("captioning")

    def caption(*boxes: tuple[int, int, int, int], labels: tuple[int, ...]) -> str:
        picture = program.Picture(np.zeros((64, 64), np.uint8), np.array(boxes, np.float32), np.array(labels))
        return " ".join(program.caption_of(picture))

    left, right, below = (0, 0, 20, 20), (40, 4, 60, 24), (2, 30, 22, 50)
    assert caption(left, labels=(9,)) == "a nine ."
    assert caption(left, right, labels=(3, 7)) == caption(right, left, labels=(7, 3)) == "a three left of a seven ."
    assert caption(below, left, labels=(2, 1)) == caption(left, below, labels=(1, 2)) == "a one above a two ."


def test_bleu_by_hand(module: Callable[[str], ModuleType]) -> None:
    bleu = module("captioning").bleu
    true = ["a", "three", "left", "of", "a", "seven", "."]
    said = [*true[:5], "two", "."]
    assert bleu([true], [true]) == 1
    assert bleu([said], [true]) == pytest.approx((6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert bleu([true[:5]], [true]) == pytest.approx(np.exp(1 - 7 / 5)), "brevity"
    assert bleu(["x"], [true]) == 0


@pytest.mark.slow
def test_architecture_search_on_digits(tmp_path: Path) -> None:
    """What was measured is kept: the same search again prints the same."""
    first = run(tmp_path, "architecture_search", "--seeds", "2", "--children", "10")
    kept = json.loads((tmp_path / "build" / "architecture_search.json").read_text())["children"]
    assert 20 < len(kept) <= 41
    for child in kept.values():
        assert 0 < child["accuracy"] <= 1
        assert abs(child["accuracy"] - child["test_accuracy"]) < 0.15
        assert 0.005 < child["latency_ms"] < 50
    assert re.search(
        r"controller minus random, best of 10 children: [+-]0\.\d{4} \+- \d\.\d{4} \(95 %\), better in", first
    )
    assert re.search(rf"best of {len(kept)} children, .*: reward (0\.9|1\.0)", first)
    assert run(tmp_path, "architecture_search", "--seeds", "2", "--children", "10") == first


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both programs keep the network that they share."""
    return tmp_path_factory.mktemp("pasted")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_fast_rcnn(data: str, pasted: Path, request: pytest.FixtureRequest) -> None:
    """Well above what any box of any class could get by chance, and INT8 costs it little."""
    source = "digits" if data == "digits" else f"mnist:{request.getfixturevalue('shared') / 'data' / 'mnist'}"
    said = run(pasted, "fast_rcnn", "--data", source)
    found = {name: float(value) for name, value in re.findall(r"^(FP32|INT8) +([\d.]+)", said, re.MULTILINE)}
    assert found.keys() == {"FP32", "INT8"}
    assert found["FP32"] > 80
    assert abs(found["FP32"] - found["INT8"]) < 4


@pytest.mark.slow
def test_captioning(pasted: Path, shared: Path) -> None:
    source = f"mnist:{shared / 'data' / 'mnist'}"
    said = run(pasted, "captioning", "--data", source)
    found = {name: float(value) for name, value in re.findall(r"^(FP32|INT8|most frequent) +([\d.]+) %", said, re.M)}
    assert found["FP32"] > 60
    assert found["most frequent"] < 20
    assert abs(found["FP32"] - found["INT8"]) < 4
