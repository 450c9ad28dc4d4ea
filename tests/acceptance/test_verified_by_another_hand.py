"""Verification from the outside: figures counted by hand, a network whose distances are known, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import edgecnn as ec
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.data.pairs import all_pairs
from edgecnn.measure import verification
from edgecnn.measure.predict import Predictions
from edgecnn.measure.verification import measure_verification
from edgecnn.results.verification import ChosenThreshold, Verification
from tests.acceptance.channel_pictures import PREPROCESSING, SIDE, save_color

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx

THRESHOLD = 0.5
CHOSEN = ChosenThreshold(THRESHOLD, 90.0, 100, ("x", "y"), ("z", "w"))
Command = Callable[..., "Result"]


def embeddings(counts: list[int], spread: float, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = random.standard_normal((len(counts), 6))[labels] + spread * random.standard_normal((len(labels), 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"c{k}" for k in range(len(counts)))
    return Predictions(tuple(map(str, range(len(labels)))), labels, rows.astype(np.float32), "p", "d", names)


def measured(reference: Predictions, noise: float = 0.1) -> tuple[Predictions, Verification]:
    random = np.random.default_rng(1)
    rows = reference.logits + noise * random.standard_normal(reference.logits.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    engine = replace(reference, logits=rows.astype(np.float32))
    return engine, measure_verification("e", engine, reference, all_pairs(reference.labels), CHOSEN)


def distances(found: Predictions) -> tuple[list[float], list[float]]:
    """Of pairs of one class, and of two, one by one."""
    rows, kinds = found.logits.astype(np.float64), ([], [])  # type: tuple[Any, tuple[list[float], list[float]]]
    for a, b in itertools.combinations(range(len(rows)), 2):
        kinds[int(found.labels[a] != found.labels[b])].append(float(((rows[a] - rows[b]) ** 2).sum()))
    return kinds


def test_each_rate_is_what_counting_pairs_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "REPLICATES", 5)
    reference = embeddings([60, 60, 60], 0.5, seed=3)  # 10 800 pairs of two classes
    engine, found = measured(reference)
    near, far = map(np.array, distances(engine))
    assert (found.same_pairs, found.different_pairs) == (len(near), len(far)) == (3 * 1770, 10_800)
    accuracy = 50 * ((near <= THRESHOLD).mean() + (far > THRESHOLD).mean())
    assert found.verification_pct == pytest.approx(accuracy)
    auc = ((near[:, None] < far[None]).mean() + (near[:, None] == far[None]).mean() / 2).item()
    assert found.roc_auc == pytest.approx(auc)
    accepted = [(near <= t).mean() for t in near if (far <= t).mean() <= 0.01]
    assert found.tar_at_far_1e2_pct == pytest.approx(100 * max(accepted))
    assert found.tar_at_far_1e3_pct is None  # 10 expected false accepts
    theirs = [np.array(d) <= THRESHOLD for d in distances(reference)]
    ours = near <= THRESHOLD, far <= THRESHOLD
    changed = sum(int((mine != own).sum()) for mine, own in zip(ours, theirs, strict=True))
    assert found.decisions_changed_n == changed > 0
    drop = 50 * (theirs[0].mean() - theirs[1].mean()) + 50 - accuracy
    assert found.verification_drop_pp == pytest.approx(drop)


@pytest.mark.parametrize(("second", "told"), [(100, True), (99, False)])
def test_a_rate_is_told_with_a_hundred_expected_false_accepts(
    second: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "REPLICATES", 3)
    _, found = measured(embeddings([100, second], 0.5, seed=0))
    assert found.different_pairs == 100 * second
    assert (found.tar_at_far_1e2_pct is not None) == told
    assert any("0.01 false ones are not told" in said for said in found.verification_findings) != told


def test_the_interval_over_identities_is_that_of_classes_drawn_again() -> None:
    reference = embeddings([4] * 30, 0.6, seed=5)
    engine, found = measured(reference)
    assert found.resampled == "identities"
    rows, classes = engine.logits.astype(np.float64), 30
    d = ((rows[:, None] - rows[None]) ** 2).sum(2) <= THRESHOLD
    blocks = d.reshape(classes, 4, classes, 4).sum((1, 3))  # accepted pairs of images of two classes
    own = (np.diag(blocks) - 4) / 2
    random, drawn = np.random.default_rng(9), []
    for _ in range(2000):
        chosen = random.integers(0, classes, classes)
        apart = chosen[:, None] != chosen[None]
        refused = 1 - blocks[np.ix_(chosen, chosen)][apart].sum() / (16 * apart.sum())
        drawn.append(50 * (own[chosen].sum() / (6 * classes) + refused))
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found.verification_ci_pct == pytest.approx((low, high), abs=0.25 * (high - low))


def angle_model() -> onnx.ModelProto:
    """input -> embedding [batch, 3], the means of the channels scaled to unit length."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w"], ["g"], "fc"),
        helper.make_node("ReduceL2", ["g", "axes"], ["norm"], "norm", keepdims=1),
        helper.make_node("Add", ["norm", "least"], ["length"], "length"),
        helper.make_node("Div", ["g", "length"], ["embedding"], "unit"),
    ]
    arrays = {"w": np.eye(3, dtype=np.float32), "axes": np.array([1], np.int64), "least": np.float32(1e-6)}
    graph = helper.make_graph(
        nodes,
        "angles",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])


def write(path: Path, **changed: Any) -> Path:
    """The graph with what its training would have said of it."""
    told: dict[str, object] = {"threshold": THRESHOLD, "validation_pct": 90.0, "validation_pairs": 100}
    told |= {"train_classes": ["x", "y"], "validation_classes": ["z", "w"], **changed}
    pixels = {"interpolation": "bilinear"}
    known = Sidecar(
        kind="graph",
        precision_requested="fp32",
        precision_obtained="fp32",
        preprocessing=PREPROCESSING | pixels,
        facts={"classes": 0, "features": {"embedding": [3]}, "verification": told},
    )
    write_artifact(path, lambda p: onnx.save(angle_model(), p), known)
    return path


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write(tmp_path / "e.fp32.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, color in {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}.items():
        for k in range(4):
            tint = np.clip(color + random.integers(-9, 9, 3), 0, 255)
            save_color(tmp_path / "colors" / name / f"{k}.png", tint.tolist())
    return tmp_path / "colors"


def test_same_says_the_distance_that_the_colors_have(edgecnn: Command, engine: Path, tmp_path: Path) -> None:
    red, green, pink = (
        save_color(tmp_path / f"{k}.png", color) for k, color in enumerate(((255, 0, 0), (0, 255, 0), (255, 60, 60)))
    )
    for other, distance in ((green, 2.0), (pink, 2 - 2 * 255 / np.hypot(255, np.hypot(60, 60))), (red, 0.0)):
        row = json.loads(edgecnn("same", engine, red, other, "--json").out)
        assert row["distance"] == pytest.approx(distance, abs=1e-4)
        assert row["threshold"] == THRESHOLD
        assert row["same"] == (distance <= THRESHOLD)
    assert ec.same(engine, red, pink).same
    assert "different classes: squared distance 2.0000, threshold 0.5000" in edgecnn("same", engine, red, green).out


def test_colors_are_told_apart_without_an_error(edgecnn: Command, engine: Path, pictures: Path) -> None:
    found = edgecnn("validate", engine, "--reference", engine, "--data", pictures)
    assert "18 pairs of one class and 48 of two, 12 images; threshold 0.5000" in found.out
    assert "hold for these classes alone (blue, green, red)" in " ".join(found.out.split())
    row = json.loads(edgecnn("validate", engine, "--reference", engine, "--data", pictures, "--json").out)
    assert (row["verification_pct"], row["roc_auc"], row["tar_at_far_1e2_pct"]) == (100, 1, None)
    for low, high in (row["verification_ci_pct"], [100 * end for end in row["roc_auc_ci"]]):
        assert (70 < low < 80, high) == (True, 100), "12 images without an error do not prove that there are none"


def test_what_cannot_be_verified_is_refused(edgecnn: Command, engine: Path, pictures: Path, tmp_path: Path) -> None:
    def refused(*said: str, reference: Path = engine, data: object = pictures, more: tuple[str, ...] = ()) -> None:
        edgecnn("validate", engine, "--reference", reference, "--data", data, *more).refused(*said)

    refused("--scales", more=("--scales", "8,9"))
    refused("--scales", "--tta", more=("--scales", "8,9", "--tta", "ten-crop"))
    refused("of another training", reference=write(tmp_path / "other.onnx", threshold=0.7))
    save_color(tmp_path / "alone" / "red" / "0.png", (250, 0, 0))
    refused("one class only (red)", data=tmp_path / "alone")
    save_color(tmp_path / "alone" / "blue" / "0.png", (0, 0, 250))
    refused("one image", data=tmp_path / "alone")
    edgecnn("calibrate", engine, "--data", f"lfw:{tmp_path}", "-o", tmp_path / "c.json").refused("pairs")


PAIRS = "1\t2\nAnn\t1\t2\nBo\t1\t2\nAnn\t1\tBo\t1\nAnn\t2\tBo\t2\n"
HOSTILE = {
    "a number of 5000 digits": (PAIRS.replace("1\t2\nAnn\t1", "1\t2\nAnn\t" + "9" * 5000), "pairs.txt:2"),
    "as many pairs": ("9" * 5000 + PAIRS[1:], "pairs.txt:1"),
    "a picture with itself": (PAIRS.replace("Ann\t1\t2", "Ann\t1\t1"), "paired with itself"),
    "picture 0": (PAIRS.replace("Ann\t1\t2", "Ann\t0\t2"), "pairs.txt:2"),
    "kinds that are not promised": (PAIRS.replace("Bo\t1\t2", "Bo\t1\tAnn\t2"), "1 pairs of one person and 3 of two"),
    "no character": (PAIRS.replace("Bo", "B\0o"), "which pairs.txt names"),
    "a name that no file can have": (PAIRS.replace("Bo", "B" * 5000), "B" * 50),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pairs_of_lfw(edgecnn: Command, engine: Path, tmp_path: Path, kind: str) -> None:
    for name, k in itertools.product(("Ann", "Bo"), (1, 2)):
        path = tmp_path / "lfw" / name / f"{name}_000{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (90 * k, 9, len(name) * 50)).save(path)
    text, said = HOSTILE[kind]
    command = ["validate", engine, "--reference", engine, "--data", f"lfw:{tmp_path}"]
    (tmp_path / "pairs.txt").write_text(PAIRS)
    assert edgecnn(*command).code == 0
    (tmp_path / "pairs.txt").write_text(text)
    edgecnn(*command).refused(said)
