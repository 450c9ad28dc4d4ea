"""Three CIFAR-10 networks and their ensemble: accuracy against latency, in float32 and in INT8, beside the best member.

    python benchmarks/ensembles.py [--work DIR] [--plot FILE.svg] [--seconds 3] [--threads 1] [--shared DIR]

The members are trained as `MEMBERS` says on the 20 000 CIFAR-10 images of the shared folder, of which a twentieth is
held out of each training, the same of all: the weights of the second ensemble are chosen on these. Top-1 is of the
10 000 test images, paired with the best member in float32; INT8 is what ONNX Runtime's integer kernels give. A latency
is that of one image, in turn with the best member's. `--work` keeps the runs, and what is there is not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import ROOT, Recorder, Row

MEMBERS = {
    "resnet20": ("model.name=resnet20_cifar", "train.epochs=3"),
    "resnet20-he": ("train.init=he", "train.batch=32", "train.learning_rate=0.1", "train.epochs=2"),
    "resnet32": ("model.name=resnet32_cifar", "train.epochs=2"),
}
HELD_OUT = "train.validation=0.05"


def main() -> None:
    """Train, merge, quantize and measure; print and file one row for each graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
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
    top1 = {name: ec.validate(graphs[name], graphs[name], data=source).top1_pct or 0.0 for name in MEMBERS}
    best = max(top1, key=lambda name: top1[name])
    recorder = Recorder("ensembles", "python benchmarks/ensembles.py", tools=("onnx", "onnxruntime"))
    rows = []
    for name, fp32 in graphs.items():
        ranges = ec.calibrate(fp32, data=source)
        stem = fp32.parent / fp32.name.removesuffix(".fp32.onnx")
        int8 = ec.quantize(fp32, f"{stem}.int8.onnx", precision="int8", scheme="ort-cpu", ranges=ranges, data=source)
        for precision, path in (("fp32", fp32), ("int8", Path(int8))):
            found = beside(path, graphs[best], fp32, source, options)
            rows.append(recorder.add({"model": name, "precision": precision}, {"best_member": best, **found}))
    return rows


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


def beside(path: Path, best: Path, fp32: Path, source: str, options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and latency of one graph, beside the best member and, of an INT8 one, beside its own in float32."""
    import edgecnn as ec
    from edgecnn.artifact.sidecar import read_sidecar

    found = ec.validate(path, best, data=source, threads=options.threads)
    drop, low_high = found.top1_drop_pp or 0.0, found.top1_drop_ci_pp or (0.0, 0.0)
    other = None if path == best else best
    latency = ec.bench(path, versus=other, duration_s=options.seconds, threads=options.threads).measurements[0]
    known = read_sidecar(fp32).facts
    row: dict[str, Any] = {
        "n": found.n,
        "top1_pct": round(found.top1_pct or 0.0, 2),
        "gain_pp": round(-drop, 2),
        "gain_ci_pp": [round(-end, 2) for end in reversed(low_high)],
        "latency_ms_p50": round(latency.latency.latency_ms_p50, 3) if latency.latency else None,
        "params": known["params"],
    }
    if latency.ratio is not None:
        row["latency_ratio"] = round(latency.ratio.latency_ratio, 3)
    if path != fp32:
        own = ec.validate(path, fp32, data=source, threads=options.threads)
        row["int8_drop_pp"] = round(own.top1_drop_pp or 0.0, 2)
        row["int8_drop_ci_pp"] = [round(end, 2) for end in own.top1_drop_ci_pp or ()]
    if "ensemble" in known:
        row["weights"] = [round(member["weight"], 4) for member in known["ensemble"]]
    return row


def draw(rows: list[Row], path: Path) -> None:
    """Top-1 over latency; a line joins the precisions of one graph."""
    from edgecnn.report.charts.complexity import PRECISIONS
    from edgecnn.report.charts.discs import Disc, Panel, disc_plot

    discs = [
        Disc(
            label=f"{row['model']} {row['precision']}",
            cost=row["latency_ms_p50"],
            accuracy_pct=row["top1_pct"],
            params=row["params"],
            group=row["precision"],
            tip=f"{row['model']}, {row['precision']}: {row['top1_pct']} % top-1, {row['latency_ms_p50']} ms",
            joined=row["model"],
        )
        for row in rows
    ]
    panel = Panel(
        title="Three networks and their ensemble: accuracy against latency",
        notes=(f"top-1 on {rows[0]['n']} test images of CIFAR-10; median latency of one image on one core",),
        cost_axis="latency, ms (median)",
        accuracy_axis="top-1, %",
        discs=tuple(discs),
        groups={name: colour for name, colour in PRECISIONS.items() if any(d.group == name for d in discs)},
        tick=lambda ms: f"{ms:g}",
    )
    path.write_text(disc_plot([panel]), encoding="utf-8")


if __name__ == "__main__":
    main()
