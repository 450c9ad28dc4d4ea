"""Three CIFAR-10 networks and their ensemble: accuracy against latency, in float32 and in INT8, beside the best member.

    python benchmarks/ensembles.py [--images 10000] [--calibration 512] [--work DIR] [--plot FILE.svg] [--rounds 50]
        [--threads 1] [--shared DIR]

The members are trained as `MEMBERS` says on the 20 000 CIFAR-10 images of the shared folder, of which a twentieth is
held out of each training, the same of all: the weights of the second ensemble are chosen on these. Top-1 is of test
images, paired with the best member in float32; INT8 is what ONNX Runtime's integer kernels give. A latency is the
processor time of one image on one core, in turn with the best member's: the clock's is that of the machine's other work
too. `--work` keeps the runs, and what is there is not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _result import ROOT, Recorder, Row

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset
    from edgecnn.measure.predict import Predictions
    from edgecnn.session import Session

MEMBERS = {
    "resnet20": ("train.epochs=3",),
    "resnet20-he": ("train.init=he", "train.batch=32", "train.learning_rate=0.1", "train.epochs=2"),
    "resnet20-b32": ("train.batch=32", "train.learning_rate=0.1", "train.epochs=2"),
}
HELD_OUT = "train.validation=0.05"
QUERIES = 20  # in a round


def main() -> None:
    """Train, merge, quantize and measure; print and file one row for each graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, options.work or Path(folder))
    if options.plot is not None:
        draw(rows, options.plot)


def measure(options: argparse.Namespace, work: Path) -> list[Row]:
    """A row for each network and each ensemble, in float32 and in INT8."""
    import edgecnn as ec

    source = f"cifar10:{options.shared.resolve() / 'data' / 'cifar10-jpeg'}"
    graphs = {name: train(name, source, work, options.threads) for name in MEMBERS}
    members = list(graphs.values())
    graphs["ensemble"] = ec.export_ensemble(members, work / "ensemble.fp32.onnx")
    graphs["ensemble, weighted"] = ec.export_ensemble(members, work / "weighted.fp32.onnx", weights_from=source)
    images = test_images(graphs["ensemble"], source, options.images)
    floats = {name: answers(path, images, source, options) for name, path in graphs.items()}
    best = max(MEMBERS, key=lambda name: right(floats[name]).mean())
    words = f"--images {options.images} --calibration {options.calibration} --threads {options.threads}"
    recorder = Recorder("ensembles", f"python benchmarks/ensembles.py {words}", tools=("onnx", "onnxruntime"))
    rows = []
    for name, fp32 in graphs.items():
        found = row_of(fp32, floats[name], graphs[best], floats[best], options)
        rows.append(recorder.add({"model": name, "precision": "fp32"}, {"best_member": best, **found}))
        path = fp32.with_name(fp32.name.replace("fp32", "int8"))
        data = {"data": source, "images": options.calibration}
        int8 = Path(ec.quantize(fp32, path, precision="int8", scheme="ort-cpu", threads=options.threads, **data))
        answered = answers(int8, images, source, options)
        found = row_of(int8, answered, graphs[best], floats[best], options)
        drop, ends = paired(floats[name], answered)
        found |= {"int8_drop_pp": drop, "int8_drop_ci_pp": ends}
        rows.append(recorder.add({"model": name, "precision": "int8"}, {"best_member": best, **found}))
    return rows


def test_images(graph: Path, source: str, count: int) -> Dataset:
    """So many test images, spread over the classes."""
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.data.dataset import spread
    from edgecnn.steps._images import open_images

    whole = open_images(read_sidecar(graph), source, "test")
    return whole.subset(spread(whole, count))


def answers(path: Path, images: Dataset, source: str, options: argparse.Namespace) -> Predictions:
    """What one graph says of them."""
    import edgecnn as ec
    from edgecnn.measure.predict import read_predictions

    made = ec.reference(path, path.with_suffix(".npz"), data=source, dataset=images, threads=options.threads)
    return read_predictions(made)


def right(predictions: Predictions) -> np.ndarray:
    """[n], which images are."""
    return np.asarray(predictions.logits.argmax(axis=1) == predictions.labels)


def paired(before: Predictions, after: Predictions) -> tuple[float, list[float]]:
    """The drop of top-1 from one to the other in points, and its 95 % interval."""
    from edgecnn.statistics import drop_interval

    old, new = right(before), right(after)
    lost, gained = int((old & ~new).sum()), int((~old & new).sum())
    ends = drop_interval(lost, gained, len(old))
    return round(100 * (lost - gained) / len(old), 2), [round(100 * float(end), 2) for end in ends]


def train(name: str, source: str, work: Path, threads: int) -> Path:
    """The float32 graph of one member."""
    settings = [word for setting in (*MEMBERS[name], HELD_OUT) for word in ("--set", setting)]
    command = [sys.executable, "-m", "edgecnn", "run", "resnet20-cifar10", "--data", source, "--until", "export"]
    subprocess.run(
        [*command, *settings, "--threads", str(threads), "--out", str(work / name)],
        check=True,
        cwd=ROOT,
        stdout=sys.stderr,
    )
    return work / name / "model.fp32.onnx"


def row_of(
    path: Path, found: Predictions, best: Path, of_best: Predictions, options: argparse.Namespace
) -> dict[str, Any]:
    """Accuracy and latency of one graph, beside the best member."""
    from edgecnn.artifact.sidecar import read_sidecar

    drop, (low, high) = paired(of_best, found)
    own, others = latencies_ms(path, best, options.rounds)
    known = read_sidecar(path).facts
    row = {
        "n": len(found.ids),
        "top1_pct": round(100 * float(right(found).mean()), 2),
        "gain_pp": 0.0 - drop,
        "gain_ci_pp": [0.0 - high, 0.0 - low],
        "latency_cpu_ms": round(float(np.median(own)), 3),
        "latency_ratio": round(float(np.median(own / others)), 3),
        "params": known["params"],
    }
    return row | ({"weights": [round(m["weight"], 4) for m in known["ensemble"]]} if "ensemble" in known else {})


def latencies_ms(path: Path, best: Path, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Processor time of one image on one thread by this graph and by the best member, [rounds] each, in turn."""
    from edgecnn.backends import open_engine

    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    with open_engine(path, 1) as one, open_engine(best, 1) as other:

        def spent(session: Session) -> float:
            session.run(image)
            before = time.process_time()
            for _ in range(QUERIES):
                session.run(image)
            return 1000 * (time.process_time() - before) / QUERIES

        both = np.array([[spent(one), spent(other)] for _ in range(rounds)])
    return both[:, 0], both[:, 1]


def draw(rows: list[Row], path: Path) -> None:
    """Top-1 over latency; a line joins the precisions of one graph."""
    from edgecnn.report.charts.complexity import PRECISIONS
    from edgecnn.report.charts.discs import Disc, Panel, disc_plot

    discs = [
        Disc(
            label=f"{row['model']} {row['precision']}",
            cost=row["latency_cpu_ms"],
            accuracy_pct=row["top1_pct"],
            params=row["params"],
            group=row["precision"],
            tip=f"{row['model']}, {row['precision']}: {row['top1_pct']} % top-1, {row['latency_cpu_ms']} ms",
            joined=row["model"],
        )
        for row in rows
    ]
    panel = Panel(
        title="Three networks and their ensemble: accuracy against latency",
        notes=(
            f"top-1 on {rows[0]['n']} test images of CIFAR-10; latency of one image on one core, as processor time",
        ),
        cost_axis="latency, ms of processor time",
        accuracy_axis="top-1, %",
        discs=tuple(discs),
        groups={name: colour for name, colour in PRECISIONS.items() if any(d.group == name for d in discs)},
        tick=lambda ms: f"{ms:g}",
    )
    path.write_text(disc_plot([panel]), encoding="utf-8")


if __name__ == "__main__":
    main()
