"""How many images `edgecnn drift` needs to find what changed, and how often it alarms where nothing did.

    python benchmarks/drift.py SHARED

SHARED holds `data/` and `weights/`. Photographs: 500 of ImageNet, through MobileNetV1 (0.5, 160 pixels); a change is
made to the decoded picture. Reference and log are images that have none in common, drawn anew for each of the seeded
repeats: 250 in the reference, `n` in the log. Class shares: CIFAR-10's test images through ResNet-20, 2000 in the
reference; in the log one class has twice its share. A row tells in how many repeats of 100 the change was found, by
the statistic that it ought to move.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _result import Recorder
from PIL import Image, ImageFilter

from edgecnn.backends._onnxruntime import open_session
from edgecnn.data.preprocess import Preprocessing
from edgecnn.graph.load import load_graph
from edgecnn.inspection.drift import Sample, compare_samples
from edgecnn.inspection.monitor.counts import Batch, tally
from edgecnn.measure.input_statistics import STATISTICS, input_statistics
from edgecnn.results.drift import Drift
from edgecnn.results.monitor import Network

Rows = dict[str, np.ndarray]
REPEATS = 100
REFERENCE = 250
SIZES = (10, 15, 20, 30, 50, 100, 250)
CHANGES: dict[str, tuple[str, Callable[[Image.Image, np.random.Generator], Image.Image]]] = {
    "none": ("", lambda image, _: image),
    "blur": ("Gaussian, radius 2 of a short side of 320 pixels", lambda i, _: i.filter(ImageFilter.GaussianBlur(2))),
    "noise": ("Gaussian, deviation 15 of 255", lambda image, rng: _noisy(image, rng, 15)),
    "darkening": ("half of the light", lambda image, _: image.point(lambda v: v // 2)),
}
MOVES = {"blur": "sharpness", "noise": "noise", "darkening": "brightness", "shares": "classes"}


def _noisy(image: Image.Image, rng: np.random.Generator, deviation: float) -> Image.Image:
    pixels = np.asarray(image) + rng.normal(0, deviation, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def photographs(shared: Path, change: str) -> Rows:
    """Logits and statistics of the photographs, changed."""
    model = load_graph(shared / "weights" / "mobilenet_v1_0.5_160_fp32.onnx")
    session, rng = open_session(model, threads=1), np.random.default_rng(0)
    preprocessing = Preprocessing(183, 160, (0.5,) * 3, (0.5,) * 3)
    made: dict[str, list[object]] = {name: [] for name in ("logits", *STATISTICS)}
    for path in sorted((shared / "data" / "imagenet-500").rglob("*.jpg")):
        with Image.open(path) as opened:
            pixels = np.asarray(preprocessing.crop_image(CHANGES[change][1](opened.convert("RGB"), rng)))
        feed = preprocessing.normalize(pixels)[None]
        made["logits"].append(session.run(None, {session.get_inputs()[0].name: feed})[0].reshape(-1))
        for name, value in input_statistics(pixels).items():
            made[name].append(value)
    return {name: np.array(values) for name, values in made.items()}


def cifar(shared: Path) -> Rows:
    """Logits of CIFAR-10's test images."""
    import edgecnn as ec

    with tempfile.TemporaryDirectory() as folder:
        weights = shared / "weights" / "resnet20_cifar10jpeg.safetensors"
        graph = ec.export("resnet20_cifar", Path(folder) / "m.onnx", checkpoint=weights)
        made = ec.reference(graph, data=f"cifar10:{shared / 'data' / 'cifar10-jpeg'}")
        with np.load(made) as content:
            return {"logits": content["logits"]}


def compared(reference: Rows, log: Rows) -> Drift:
    """The verdict on two sets of rows."""
    sides = []
    for rows in (reference, log):
        network, n = Network(columns=rows["logits"].shape[1]), len(rows["logits"])
        statistics = {name: rows[name] for name in STATISTICS if name in rows}
        sides.append(Sample("", network, tally(Batch(rows["logits"], [None] * n, [""] * n, statistics), network)))
    return compare_samples(*sides)


def take(rows: Rows, chosen: np.ndarray) -> Rows:
    """Some of them."""
    return {name: values[chosen] for name, values in rows.items()}


def alarms(rows: Rows, logs: int, reference: int = REFERENCE) -> int:
    """How many of so many logs alarm that are of the reference's kind, all other images."""
    rng, n = np.random.default_rng(31), len(rows["logits"])
    orders = (rng.permutation(n) for _ in range(logs))
    return sum(compared(take(rows, o[:reference]), take(rows, o[reference:])).verdict == "drift" for o in orders)


def found_pct(plain: Rows, changed: Rows, n: int, repeats: int = REPEATS, statistic: str = "") -> float:
    """In how many per cent of repeats a log of `n` changed images is found, by `statistic` where one is named."""
    rng, found = np.random.default_rng(n), 0
    for _ in range(repeats):
        order = rng.permutation(len(plain["logits"]))
        verdict = compared(take(plain, order[:REFERENCE]), take(changed, order[REFERENCE : REFERENCE + n]))
        found += statistic in verdict.moved if statistic else verdict.verdict == "drift"
    return 100 * found / repeats


def shares_pct(rows: Rows, n: int) -> float:
    """In how many per cent of repeats the class that has twice its share is named."""
    rng, found = np.random.default_rng(n), 0
    said = rows["logits"].argmax(axis=1)
    for k in range(REPEATS):
        order = rng.permutation(len(said))
        rest = order[2000:]
        weight = np.where(said[rest] == k % 10, 2.25, 1.0)  # of a tenth: a fifth
        chosen = rng.choice(rest, n, replace=False, p=weight / weight.sum())
        verdict = compared(take(rows, order[:2000]), take(rows, chosen))
        found += k % 10 in [c.label for c in verdict.classes]
    return 100 * found / REPEATS


def main() -> None:
    """Measure, print and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    shared = parser.parse_args().shared
    recorder = Recorder("drift", "python benchmarks/drift.py SHARED", tools=("numpy", "onnxruntime", "pillow"))
    plain = photographs(shared, "none")
    recorder.add({"what": "none"}, {"logs": 400, "alarms": alarms(plain, 400), "images": "ImageNet"})
    for change, (said, _) in CHANGES.items():
        if change != "none":
            changed = photographs(shared, change)
            found = {str(n): found_pct(plain, changed, n, statistic=MOVES[change]) for n in SIZES}
            recorder.add(
                {"what": change}, {"how": said, "statistic": MOVES[change], "images": "ImageNet", **_least(found)}
            )
    rows = cifar(shared)
    recorder.add({"what": "none, CIFAR-10"}, {"logs": 400, "alarms": alarms(rows, 400, 2000), "images": "CIFAR-10"})
    found = {str(n): shares_pct(rows, n) for n in (50, 100, 200, 300, 500, 1000)}
    recorder.add(
        {"what": "shares"}, {"how": "10 % to 20 %", "statistic": "classes", "images": "CIFAR-10", **_least(found)}
    )


def _least(found: dict[str, float]) -> dict[str, object]:
    enough = [int(n) for n, pct in found.items() if pct >= 95]
    return {"found_pct": found, "least_n": min(enough, default=None)}


if __name__ == "__main__":
    main()
