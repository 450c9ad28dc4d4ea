"""A judged run without a network: predictions, latencies and pictures are made up, everything else is measured and
written by the functions that do so in a real one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecnn.artifact.run_folder import read_target_run
from edgecnn.artifact.sidecar import Sidecar, parents_of
from edgecnn.artifact.write import write_artifact, write_json_artifact
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.machine.cpu import cpu_device
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.latency import measure_latency
from edgecnn.measure.predict import Predictions, write_predictions
from edgecnn.recipe.load import load_recipe
from edgecnn.records import to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.engine import CPU_PROVIDER, EngineFacts, EngineInfo
from edgecnn.results.latency import LatencyFile, LatencyRatio, LatencyRow
from edgecnn.session import Array, Session, SessionInfo, TensorSpec
from edgecnn.steps.gate import gate
from edgecnn.steps.recipe_copy import keep_recipe
from edgecnn.steps.report import report

PREPROCESSING = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
PRECISIONS = ("fp32", "fp16", "int8")
HOSTILE = [  # names of classes, which are those of folders too
    "<script>hacked = 1<⁄script>",
    "<img src=x onerror=hacked=1>",
    '"><b>bold',
    "' onfocus=hacked=1 x='",
    "&lt;b&gt; & co",
    "\u202egnp.exe",
    "a-name-without-any-place-to-break-it-" * 3,
    "Größe 日本語",
]
KNOWN_PICTURES = 40  # different files; the others are links to them
RECIPE = """
title = "made up"
[model]
name = "resnet18"
[data]
source = "{data}"
[tolerances]
top1_drop_pp_max = 1.0
agreement_pct_min = 90
"""


class Spinning(Session):
    """A session that is busy for some milliseconds, and now and then for longer."""

    def __init__(self, ms: float, seed: int) -> None:
        spec = TensorSpec("input", (None, 1), "float32"), TensorSpec("logits", (None, 2), "float32")
        self._info, self._ms, self._random = SessionInfo((spec[0],), (spec[1],)), ms, np.random.default_rng(seed)

    @property
    def info(self) -> SessionInfo:
        """One input, two logits."""
        return self._info

    def run_all(self, inputs: object) -> dict[str, Array]:
        """Two logits, later."""
        end = time.perf_counter() + self._ms / 1000 * (1 + self._random.gamma(1.5, 0.04))
        while time.perf_counter() < end:
            pass
        return {"logits": np.zeros((1, 2), np.float32)}

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def make_pictures(folder: Path, names: list[str], each: int) -> None:
    """`each` JPEGs of 320 x 240 in a folder for each class, most of them links to few files."""
    random = np.random.default_rng(0)
    files: list[Path] = []
    for k in range(each * len(names)):
        path = folder / names[k % len(names)] / f"{k:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(files) < KNOWN_PICTURES:
            small = random.integers(0, 255, (5, 7, 3), dtype=np.uint8)
            Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(path, quality=85)
            files.append(path)
        else:
            os.link(files[k % KNOWN_PICTURES], path)


def make_predictions(dataset: Dataset, noise: float, seed: int, like: Predictions | None = None) -> Predictions:
    """Logits that are right for most images; those of `like` with some noise where it is given."""
    random, n, classes = np.random.default_rng(seed), len(dataset), len(dataset.label_names or ())
    assert dataset.labels is not None
    logits = random.normal(0, 1, (n, classes)).astype(np.float32) * noise
    logits += np.eye(classes, dtype=np.float32)[dataset.labels] * 4 if like is None else like.logits
    digests = like.sha256s if like else tuple(dataset.sha256(k) for k in range(n))
    return Predictions(
        dataset.ids,
        dataset.labels,
        logits,
        PREPROCESSING.sha256,
        dataset.name,
        dataset.label_names or (),
        sha256s=digests,
    )


def make_judged_run(
    folder: Path, *, networks: int = 20, images: int = 10_000, classes: int = 1000, names: list[str] | None = None
) -> Path:
    """A run folder with one judged target, `cpu`, of as many engines; the pictures lie beside it. Every network comes
    in FP32, FP16 and INT8 in turn, every sixth engine is simulated; `names` are those of the first classes."""
    labels = sorted([*(names or []), *(f"class {k:04d}" for k in range(classes - len(names or [])))])
    data, out, target = folder / "pictures", folder / "run", folder / "run" / "cpu"
    make_pictures(data, labels, -(-images // classes))
    target.mkdir(parents=True)
    recipe_file = folder / "made-up.toml"
    recipe_file.write_text(RECIPE.format(data=data))
    keep_recipe(load_recipe(str(recipe_file)), out)
    dataset = open_dataset(str(data), PREPROCESSING, "test", labels)
    made = Sidecar(kind="predictions", recipe="made-up", labels=labels, preprocessing=to_plain(PREPROCESSING))
    reference = make_predictions(dataset, 1.0, 0)
    write_predictions(out / "reference.npz", reference, made)
    rows = [_engine(k, dataset, reference, target, made, str(data)) for k in range(networks)]
    first = rows[0].latency.name
    file = LatencyFile(device=cpu_device(1), reference=first, measurements=tuple(rows))
    write_json_artifact(target / "latency.json", to_plain(file), Sidecar(kind="latency", recipe="made-up"))
    recipe = load_recipe(str(recipe_file))
    gate(read_target_run(target), recipe)
    report(read_target_run(target), recipe)
    return out


def _engine(k: int, dataset: Dataset, reference: Predictions, target: Path, made: Sidecar, data: str) -> LatencyRow:
    precision = PRECISIONS[k % 3]
    name = precision if k < 3 else f"{precision}-{k // 3}"
    scheme = ("tensorrt" if k % 6 == 5 else "ort-cpu") if precision == "int8" else ""
    info = EngineInfo("engine", "ort", CPU_PROVIDER, precision, precision, scheme, "cpu")  # type: ignore[arg-type]
    found = make_predictions(dataset, {"fp32": 0.001, "fp16": 0.02, "int8": 0.25}[precision], k + 1, reference)
    accuracy = measure_accuracy(name, found, reference)
    noise = [{"tensor": f"/layer{j}/conv", "nodes": [], "logit_noise_pct": 60 / 1.6**j} for j in range(8)]
    facts = {"layer_noise": noise, "weights_logit_noise_pct": 11.0} if precision == "int8" else {}
    engine = target / f"{name}.onnx"
    write_artifact(engine, lambda path: path.write_bytes(b"no graph"), Sidecar(kind="engine", tools={"numpy": "2"}))
    sidecar = Sidecar(
        kind="accuracy",
        recipe="made-up",
        parents=parents_of(target / "x", engine, target.parent / "reference.npz"),
        fields={"data.source": data},
        preprocessing=made.preprocessing,
        labels=made.labels,
        facts=facts,
    )
    content = to_plain(AccuracyFile(accuracy=accuracy, engine=info))
    write_json_artifact(target / f"{name}.accuracy.json", content, sidecar)
    with Spinning(0.2 * (1 + k / 3) / (1 + k % 3), k) as session:
        latency = measure_latency(
            name, session, np.zeros((1, 1), np.float32), warmup_ms=0, duration_s=0.05, min_queries=60
        )
    share: dict[str, Any] = {f"{p}_share_pct": 90.0 if p == precision else 5.0 for p in PRECISIONS}
    ratio = LatencyRatio("fp32", 1 / (1 + k % 3), (0.9 / (1 + k % 3), 1.1 / (1 + k % 3)), 20)
    return LatencyRow(
        latency=latency,
        engine=info,
        facts=EngineFacts(size_mb=40 / (1 + k % 3), shares_by="macs", **share),
        ratio=ratio,
    )
