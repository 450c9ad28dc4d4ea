"""Verification by embeddings, from a recipe to the answer about two images."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.cli import main
from edgecnn.data.calibration_set import UNDECODED
from edgecnn.data.open import open_dataset

if TYPE_CHECKING:  # imported before the first test of this file
    import edgecnn as ec
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.steps.calibrate import calibration_images

pytestmark = pytest.mark.torch

QUICK = ["--threads", "1", "--set", "train.epochs=1", "--set", "bench.duration_s=0.1", "--set", "bench.warmup_ms=0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the recipe on digits."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    assert main(["run", "lenet5-digits-verify", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    whole = open_dataset("digits", UNDECODED, "test")
    assert whole.labels is not None
    assert whole.image is not None

    def of(digit: str) -> list[Path]:
        paths = []
        for k in np.flatnonzero(whole.labels == int(digit))[:6].tolist():
            paths.append(folder / f"{digit}-{k}.png")
            whole.image(k).save(paths[-1])
        return paths

    return of


def test_int8_passes_its_gate_and_the_reports_say_what_was_verified(edgecnn: Callable[..., Any], run: Path) -> None:
    report = json.loads((run / "cpu" / "report.json").read_text())
    assert report["verdict"]["verdict"] == "PASS"
    rows = {m["name"]: m for m in report["measurements"]}
    assert set(rows) == {"fp32", "fp16", "int8", "int8-tensorrt"}
    for row in rows.values():
        assert row["verification_n"] == 162
        assert row["same_pairs"] + row["different_pairs"] == 162 * 161 // 2
        assert row["tar_at_far_1e2_pct"] is None  # 87 expected false accepts
        assert row["resampled"] == "images"
    assert rows["fp32"]["decisions_changed_n"] == 0
    assert 0.9 < rows["int8"]["embedding_cosine_least"] < 1
    text = (run / "cpu" / "report.md").read_text()
    assert "ROC AUC" in text
    assert "hold for these classes alone (0, 1, 2)" in text
    page = run / "page.html"
    edgecnn("report", run / "cpu", "-o", page)
    assert "tells pairs of one class from pairs of two" in page.read_text()
    again = edgecnn("run", "lenet5-digits-verify", "--out", run, "--dry-run", *QUICK)
    assert "everything is up to date" in again.err


def test_only_the_trained_classes_calibrate(run: Path) -> None:
    graph = run / "model.fp32.onnx"
    used = calibration_images(graph, "digits", images=2000)
    assert used.labels is not None
    assert set(used.labels.tolist()) == {5, 6, 7, 8, 9}
    assert read_ranges(run / "model.calib.json").images == min(512, len(used))


def test_of_a_manifest_unseen_images_are_left_out_aloud(edgecnn: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "set.txt"
    edgecnn("calibration-set", "digits", "--images", "30", "-o", manifest)
    mixed = edgecnn("calibrate", run / "model.fp32.onnx", "--data", f"{manifest}:digits", "-o", tmp_path / "c.json")
    assert "15 of 30 images left out, of classes that did not train the network: 0, 1, 2, 3, 4" in mixed.err
    assert read_ranges(tmp_path / "c.json").images == 15
    whole = open_dataset("digits", UNDECODED, "train")
    assert whole.labels is not None
    held = {name for name, label in zip(whole.ids, whole.labels, strict=True) if label < 3}
    lines = [line for line in manifest.read_text().splitlines() if line.startswith("#") or line.split()[0] in held]
    manifest.write_text("\n".join(lines) + "\n")
    said = edgecnn("calibrate", run / "model.fp32.onnx", "--data", f"{manifest}:digits", "-o", tmp_path / "c.json")
    assert "none of its 9 images is of a class that the network was trained on" in said.refused()


def test_same_answers_with_distance_and_threshold(
    edgecnn: Callable[..., Any], run: Path, pictures: Callable[[str], list[Path]]
) -> None:
    engine, zeros, ones = run / "cpu" / "int8.onnx", pictures("0"), pictures("1")
    assert "same class: squared distance 0.0000, threshold" in edgecnn("same", engine, zeros[0], zeros[0]).out
    known = read_sidecar(engine).facts["verification"]["threshold"]
    inside = [ec.same(engine, a, b) for a, b in itertools.pairwise(zeros)]
    across = [json.loads(edgecnn("same", engine, a, b, "--json").out) for a, b in zip(zeros, ones, strict=False)]
    assert {found.threshold for found in inside} == {found["threshold"] for found in across} == {known}
    assert np.mean([f.distance for f in inside]) < np.mean([f["distance"] for f in across])
    assert all(f["same"] == (f["distance"] <= known) for f in across)


def test_same_refuses_what_it_cannot_compare(
    edgecnn: Callable[..., Any], run: Path, digits: Path, pictures: Callable[[str], list[Path]], tmp_path: Path
) -> None:
    [image, *_] = pictures("0")
    engine = run / "cpu" / "int8.onnx"
    assert "nope.png: no such image" in edgecnn("same", engine, image, "nope.png").refused()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "not a readable image" in edgecnn("same", engine, image, tmp_path / "broken.png").refused()
    said = edgecnn("same", digits / "cpu" / "int8.onnx", image, image).refused()
    assert "no embedding network" in said
    for name in ("last.safetensors", "last.safetensors.json"):  # of an unfinished training
        shutil.copy(run / name, tmp_path)
    edgecnn("export", "lenet5", "--checkpoint", tmp_path / "last.safetensors", "-o", tmp_path / "e.fp32.onnx")
    said = edgecnn("same", tmp_path / "e.fp32.onnx", image, image).refused()
    assert "no validation pairs have chosen a threshold" in said


def test_validate_takes_saved_embeddings_a_graph_or_the_checkpoint(
    edgecnn: Callable[..., Any], run: Path, digits: Path, tmp_path: Path
) -> None:
    engine, out = run / "cpu" / "int8.onnx", tmp_path / "int8.accuracy.json"
    found = json.loads(
        edgecnn("validate", engine, "--reference", run / "reference.npz", "--data", "digits", "--json", "-o", out).out
    )
    assert {k: v for k, v in json.loads(out.read_text()).items() if k in found} == found
    checkpoint = ec.validate_verification(engine, run / "model.safetensors", data="digits")
    assert checkpoint.roc_auc == found["roc_auc"]
    graph = edgecnn("validate", engine, "--reference", run / "model.fp32.onnx", "--data", "digits").out
    assert "4293 pairs of one class and 8748 of two" in graph
    for reference in (digits / "reference.npz", digits / "model.fp32.onnx"):
        said = edgecnn("validate", engine, "--reference", reference, "--data", "digits").refused()
        assert "no embedding network" in said
    plain = digits / "cpu" / "int8.onnx"
    said = edgecnn("validate", plain, "--reference", run / "model.fp32.onnx", "--data", "digits").refused()
    assert "an embedding network" in said


def test_images_of_classes_that_were_seen_test_nothing(edgecnn: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    for name in ("3", "7"):
        (tmp_path / "seen" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 40 * k).save(tmp_path / "seen" / name / f"{k}.png")
    engine, graph = run / "cpu" / "int8.onnx", run / "model.fp32.onnx"
    said = edgecnn("validate", engine, "--reference", graph, "--data", tmp_path / "seen").refused()
    assert "all of its classes trained the network or chose its threshold" in said
    (tmp_path / "seen" / "7").rename(tmp_path / "seen" / "cat")
    said = edgecnn("validate", engine, "--reference", graph, "--data", tmp_path / "seen").refused()
    assert "one class only (cat)" in said


def test_lfw_is_validated_on_its_own_pairs(edgecnn: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("Ann", "Bo"):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for k in (1, 2):
            Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(
                tmp_path / "lfw" / name / f"{name}_000{k}.jpg"
            )
    (tmp_path / "pairs.txt").write_text("1\t2\nAnn\t1\t2\nBo\t1\t2\nAnn\t1\tBo\t1\nAnn\t2\tBo\t2\n")
    engine, graph = run / "cpu" / "int8.onnx", run / "model.fp32.onnx"
    row = json.loads(edgecnn("validate", engine, "--reference", graph, "--data", f"lfw:{tmp_path}", "--json").out)
    assert (row["verification_n"], row["identities"], row["same_pairs"], row["different_pairs"]) == (4, 2, 2, 2)


REFUSED = [
    "predict {engine} {engine}",
    "layers {engine}",
    "sensitivity {graph} --ranges {graph} --data digits",
    "search {graph} --data digits --max-drop 1",
    "calibrate {graph} --data digits --check",
    "import {graph} -o other.onnx",
    "monitor rows.jsonl --engine {engine} -o log.jsonl",
    "repro {graph}",
    "explain {run}",
    "bundle {run} --for cpu -o other.tar",
    "bundle {run} --for triton -o other",
    "release {run} --unsigned -o other.tar",
    "push {run} owner/name",
    "validate {engine} --reference {graph} --data digits --stages",
    "export lenet5 --checkpoint {run}/model.safetensors --output probabilities -o other.onnx",
    "train lenet5-digits-verify --set qat.epochs=1",
]


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_of_classifiers_refuses_it_by_name(edgecnn: Callable[..., Any], run: Path, line: str) -> None:
    words = line.format(run=run, engine=run / "cpu" / "int8.onnx", graph=run / "model.fp32.onnx").split()
    said = edgecnn(*words).refused()
    assert "an embedding network" in said or "is a classifier's" in said


def test_one_image_of_a_class_is_refused_before_anything_is_trained(
    edgecnn: Callable[..., Any], tmp_path: Path
) -> None:
    for k in range(6):
        (tmp_path / "imgs" / f"c{k}").mkdir(parents=True)
        for n in range(1 if k == 5 else 12):
            Image.new("L", (8, 8), 9 * n + k).save(tmp_path / "imgs" / f"c{k}" / f"{n}.png")
    sets = ["train.batch=16", "verification.images_per_class=8", 'verification.validation_classes=["c0","c1"]',
            'verification.test_classes=["c2","c3"]']  # fmt: skip
    options = [word for one in sets for word in ("--set", one)]
    given = ["train", "lenet5-digits-verify", "--data", tmp_path / "imgs", "--out", tmp_path / "out", *options]
    assert "the class 'c5' has one image" in edgecnn(*given).refused()
    shutil.rmtree(tmp_path / "imgs" / "c5")
    assert "5 classes" in edgecnn(*given).refused()
    for k in range(1, 5):
        shutil.rmtree(tmp_path / "imgs" / f"c{k}")
    assert "one class only (c0)" in edgecnn(*given).refused()
