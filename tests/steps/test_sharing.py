"""validate, reference and calibrate under torchrun give what one process gives; ten crops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import MeasurementError
from edgecnn.measure.predict import Predictions, read_predictions
from edgecnn.measure.ten_crop import TenCrop, measure_ten_crop, ten_crops

pytestmark = pytest.mark.torch

RGB = Preprocessing(resize=40, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def pictures(root: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for k in range(3):
            image = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / name / f"{k}.png")
    return root


def test_ten_crops_are_four_corners_the_centre_and_their_mirrors(tmp_path: Path) -> None:
    dataset = open_dataset(str(pictures(tmp_path)), RGB, "test")
    crops = [np.asarray(c.preprocessing.crop_image(c.image(0))) for c in ten_crops(dataset)]  # type: ignore[union-attr,misc]
    whole = np.asarray(Image.open(tmp_path / "a" / "0.png"))
    expected = [whole[t : t + 32, w : w + 32] for t, w in ((0, 0), (0, 18), (8, 0), (8, 18), (4, 9))]
    for got, wanted in zip(crops, [*expected, *(e[:, ::-1] for e in expected)], strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(ten_crops(dataset)[4].tensor(0), dataset.tensor(0))


def test_probabilities_are_averaged_not_logits(tmp_path: Path) -> None:
    dataset = open_dataset(str(pictures(tmp_path)), RGB, "test")
    answers = iter([[100.0, 0.0]] + [[0.0, 1.0]] * 9)  # one crop very sure of a, nine fairly sure of b

    def run(crops: object) -> Predictions:
        logits = np.tile(np.array(next(answers), np.float32), (6, 1))
        return Predictions(ids=dataset.ids, labels=dataset.labels, logits=logits)  # type: ignore[arg-type]

    found = measure_ten_crop(dataset, run)
    assert found == TenCrop(ten_crop_top1_pct=50.0, ten_crop_top5_pct=None, ten_crop_n=6, ten_crop_nan_count=0)
    labels_b = [k for k, label in enumerate(dataset.labels) if label == 1]  # type: ignore[arg-type]
    assert len(labels_b) == 3


@pytest.mark.parametrize(("threshold", "sure", "fair"), [(0.0, -30.0, 1.0), (0.5, 0.0, 0.8)])
def test_ten_crops_of_one_output_are_decided_by_their_mean_probability(
    tmp_path: Path, threshold: float, sure: float, fair: float
) -> None:
    dataset = open_dataset(str(pictures(tmp_path)), RGB, "test")
    assert dataset.labels is not None
    answers = iter([sure] + [fair] * 9)

    def run(crops: object) -> Predictions:
        logits = np.where(dataset.labels == 1, next(answers), -fair if threshold == 0 else 1 - fair)
        return Predictions(
            ids=dataset.ids,
            labels=dataset.labels,  # type: ignore[arg-type]
            logits=logits[:, None].astype(np.float32),
            threshold=threshold,
        )

    assert measure_ten_crop(dataset, run).ten_crop_top1_pct == 100


def test_a_crop_whose_logits_are_not_finite_makes_its_image_wrong(tmp_path: Path) -> None:
    dataset = open_dataset(str(pictures(tmp_path)), RGB, "test")
    assert dataset.labels is not None
    answers = iter(range(10))

    def run(crops: object) -> Predictions:
        logits = np.eye(6, dtype=np.float32)[dataset.labels]
        logits[0, 3] = np.inf if next(answers) == 4 else 0
        return Predictions(ids=dataset.ids, labels=dataset.labels, logits=logits)  # type: ignore[arg-type]

    found = measure_ten_crop(dataset, run)
    assert found.ten_crop_nan_count == 1
    assert found.ten_crop_top1_pct == found.ten_crop_top5_pct == pytest.approx(100 * 5 / 6)


def test_without_corners_there_is_nothing_to_average(tmp_path: Path) -> None:
    whole = Preprocessing(resize=32, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(MeasurementError, match="leaves no corners"):
        ten_crops(open_dataset(str(pictures(tmp_path)), whole, "test"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_and_three_processes_give_the_results_of_one(tmp_path: Path, root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def edgecnn(processes: int, *arguments: str) -> str:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launch if processes > 1 else []), "-m", "edgecnn", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    edgecnn(1, "train", "lenet5-digits", "--set", "train.epochs=2", "--out", "run", "--threads", "1")
    edgecnn(1, "export", "lenet5", "--checkpoint", "run/model.safetensors", "-o", "run/m.onnx", "--json")
    graph = "run/m.onnx"
    found: dict[str, list[object]] = {"reference": [], "calibrate": [], "validate": []}
    for n in (1, 2, 3):
        edgecnn(n, "reference", "run/model.safetensors", "--data", "digits", "-o", f"r{n}.npz", "--threads", "1")
        edgecnn(n, "calibrate", graph, "--data", "digits", "--images", "101", "--batch", "7", "-o", f"{n}.calib.json")
        shown = edgecnn(
            n,
            "validate",
            graph,
            "--reference",
            "r1.npz",
            "--data",
            "digits",
            "--threads",
            "1",
            "--batch",
            "33",
            "--json",
        )
        predictions = read_predictions(tmp_path / f"r{n}.npz")
        assert len(set(predictions.ids)) == len(predictions.ids) == 540
        found["reference"].append((predictions.ids, predictions.logits.tobytes(), predictions.labels.tobytes()))
        ranges = json.loads((tmp_path / f"{n}.calib.json").read_text())
        found["calibrate"].append({k: v for k, v in ranges.items() if k != "provenance"})
        found["validate"].append(json.loads(shown))
    for what, (one, *others) in found.items():
        for other in others:
            assert other == one, what


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_count_maps_in_part_as_one_does(tmp_path: Path, root: Path) -> None:
    import onnx

    from tests.fakes.graphs import build

    net = """
    c1 = Conv(input, out=16, k=3)
    r1 = Relu(c1)
    c2 = Conv(r1, out=20, k=3)
    s2 = Sigmoid(c2)
    m2 = Mul(c2, s2)
    g = GlobalAveragePool(m2)
    f = Flatten(g)
    logits = Gemm(f, out=3)
    """
    onnx.save(build(net, 64), tmp_path / "m.onnx")
    images = np.random.default_rng(0).standard_normal((101, 4, 64, 64), np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    given = ["-m", "edgecnn", "calibrate", "m.onnx", "--data", "images.npz", "--images", "101", "--threads", "1"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    made = []
    for before, output in (([], "one"), (launch, "two")):
        command = [sys.executable, *before, *given, "-o", f"{output}.calib.json"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        made.append(json.loads((tmp_path / f"{output}.calib.json").read_text()))
        del made[-1]["provenance"]
    assert made[0] == made[1]
    steps = {t["name"]: t["step"] for t in made[0]["tensors"]}
    assert steps == {"input": 1, "r1": 3, "c2": 3, "s2": 3, "m2": 3, "g": 1, "f": 1, "logits": 1}
