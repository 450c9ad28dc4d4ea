"""FP16 and INT8 graphs of every network of the zoo, on real images: are they complete, legal, and near FP32?

    python benchmarks/zoo_int8.py [NETWORK...] [--rows F.jsonl] [--table docs/networks.md] [--shared DIR] [--jobs N]

With `--rows`, networks that are in the file are not measured again, and each new one is added to it.

Each network is exported with published weights where the shared folder has them; else with the initialisation of its
paper, seeded, and batch normalisation settled on real images, or He's where there is none. It is calibrated on
`CALIBRATION` images and measured on `TEST` others. SQNR = 10 log10(sum f^2 / sum (f - q)^2) over all logits;
`between_images` takes the logits less their mean over the images, which is what a class is decided by.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.backends.ort.session import OrtSession
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.graph.calibration.collect import PIXELS, collect_from_model
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.lint import lint
from edgecnn.graph.load import load_graph
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.qdq.verify import assert_placed, measure_int8_share_pct
from edgecnn.graph.simplify import simplify_graph
from edgecnn.machine.cpu import cpu_name
from edgecnn.targets import find_target
from edgecnn.zoo import ModelCard, cards, find_model

CALIBRATION, TEST = 32, 12
SETTLING = 12  # of the calibration images, for the statistics of random networks
TARGET, TENSORRTS = "orin-nx-16gb", ("10.3", "11.4")
PUBLISHED = {"squeezenet1_1": "squeezenet1_1_imagenet", "resnet20_cifar": "resnet20_cifar10jpeg"}
HEAD = """# The networks

Everything here is generated; the command stands above each table. `edgecnn models` lists what is known of each network,
`edgecnn summary NETWORK` its layers.
"""
MARKS = "<!-- INT8 -->", "<!-- /INT8 -->"


def measure_network(name: str, folder: Path, shared: Path) -> dict[str, Any]:
    """Export, calibrate, make FP16, INT8 for TensorRT (around FP16) and for the CPU, check and run each.

    Raises what the project raises when a graph is incomplete; findings of the lint come back in `findings`.
    """
    card = find_model(name)
    data = _images(card, shared)
    row: dict[str, Any] = {"name": name, "weights": _export(card, folder / "fp32.onnx", shared, data)}
    source = load_graph(folder / "fp32.onnx")
    model = simplify_graph(source)
    at_once = max(1, min(CALIBRATION, PIXELS // int(np.prod(card.input_shape[1:]))))
    ranges = collect_from_model(model, "", data.subset(range(CALIBRATION)), batch=at_once, threads=1)
    batch = np.stack([data.tensor(i) for i in range(CALIBRATION, CALIBRATION + TEST)])
    exact = _run(folder / "fp32.onnx", batch)
    row["nodes"] = len(model.graph.node)

    half, kept = to_fp16(source, ranges)
    found = _run(_saved(half, folder), batch)
    row |= {"fp16_kept_float32": len(kept), "fp16_sqnr_db": _sqnr_db(exact, found)}

    legal = quantize_int8(model, ranges, "tensorrt", around="fp16").model
    assert_placed(legal, place(model, "tensorrt"))
    row |= {
        "int8_share_pct": round(measure_int8_share_pct(legal), 2),
        "pairs": len(place(model, "tensorrt").activations),
    }
    found = _run(_saved(legal, folder), batch, simulated=True)
    row["int8_sqnr_db"] = _sqnr_db(exact, found)
    row["int8_sqnr_between_images_db"] = _sqnr_db(exact - exact.mean(0), found - exact.mean(0))

    made = quantize_int8(model, ranges, "ort-cpu")
    integer, report = made.model, made.report
    assert_placed(integer, made.placement)
    row["cpu_sqnr_db"] = _sqnr_db(exact, _run(_saved(integer, folder), batch))
    row |= {"integer_kernels": report.integer_kernels, "kernels": report.weighted_nodes}
    orin, cpu = find_target(TARGET), find_target("cpu")
    refused = [f for graph in (half, legal) for version in TENSORRTS for f in lint(graph, orin, version)]
    row["findings"] = sorted({f"{f.where}: {f.what}" for f in refused + lint(integer, cpu)})
    return row


def measure_zoo(names: Sequence[str], shared: Path, jobs: int, file: Path | None = None) -> list[dict[str, Any]]:
    """`measure_network` of each, the largest first, in processes of their own; in the order of `names`."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in map(json.loads, lines)}
    order = sorted((n for n in names if n not in rows), key=lambda n: -find_model(n).macs)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        running = {pool.submit(_measure_alone, name, shared): name for name in order}
        try:
            for done in concurrent.futures.as_completed(running):
                row = rows[running[done]] = done.result()
                print(json.dumps(row), file=sys.stderr, flush=True)
                if file is not None:
                    with file.open("a", encoding="utf-8") as output:
                        output.write(json.dumps(row) + "\n")
        finally:
            pool.shutdown(cancel_futures=True)  # the first failure ends the walk
    return [rows[name] for name in names]


def _measure_alone(name: str, shared: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = measure_network(name, Path(folder), shared)
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {**row, "cpu_s": round(time.process_time(), 1), "peak_mb": peak_mb}


def _export(card: ModelCard, path: Path, shared: Path, data: Dataset) -> str:
    import torch

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.weights import load_weights
    from edgecnn.steps.export import export_network

    file = shared / "weights" / f"{PUBLISHED.get(card.name, '')}.safetensors"
    published = card.name in PUBLISHED and file.exists()
    torch.manual_seed(0)
    module = build_model(card.name)
    normalised = any(isinstance(m, torch.nn.BatchNorm2d) for m in module.modules())
    if published or not normalised:
        load_weights(module, card, str(file) if published else "none")
    else:
        _settle(module, np.stack([data.tensor(i) for i in range(SETTLING)]))
    export_network(module, card, path, Sidecar(kind="graph"), max_batch=3)
    return "published" if published else "random"


def _settle(module: Any, images: np.ndarray) -> None:
    """Batch normalisation of a random network: statistics from real images, scales of 0.5, shifts about 0.25.

    With scales of 1 and no shift, networks with gates amplify any rounding: FP16 alone leaves efficientnet_b0 at 10 dB.
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    module.eval()
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.weight.fill_(0.5)
            norm.bias.normal_(0.25, 0.25)
            norm.momentum = None
            norm.train()
        module(torch.from_numpy(images))
    module.eval()


def _images(card: ModelCard, shared: Path) -> Dataset:
    """Real images of many classes: handwritten digits for one channel, CIFAR-10 for 32 pixels, else photographs."""
    preprocessing = preprocessing_from_json(card.preprocessing)
    if preprocessing.channels == 1:
        return open_dataset("digits", preprocessing, "test")
    if preprocessing.crop <= 32:
        return open_dataset(f"cifar10:{shared / 'data' / 'cifar10-jpeg'}", preprocessing, "test")
    photographs = open_dataset(str(shared / "data" / "imagenet-500"), preprocessing, "test")
    step = len(photographs) // (CALIBRATION + TEST)
    return photographs.subset(range(0, step * (CALIBRATION + TEST), step))


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def _run(graph: Path, batch: np.ndarray, simulated: bool = False) -> np.ndarray:
    """Logits of `batch` in threes; one image alone must give what it gives among three."""
    with OrtSession(graph, 1, simulated=simulated) as session:
        logits = np.concatenate([session.run(batch[k : k + 3]) for k in range(0, len(batch), 3)])
        alone = session.run(batch[:1])
    if _sqnr_db(logits[:1], alone) < 25:
        raise AssertionError(f"{graph}: an image alone gives other logits than in a batch of 3")
    return logits


def _sqnr_db(exact: np.ndarray, made: np.ndarray) -> float:
    noise = float(np.square(exact.astype(np.float64) - made).sum())
    return round(10 * float(np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30))), 2)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    clean, total = sum(not row["findings"] for row in rows), sum(row["cpu_s"] for row in rows)
    lines = [
        f"Made by `python benchmarks/zoo_int8.py --table docs/networks.md` ({len(rows)} of {len(cards())} networks are"
        f" measured here): SQNR of the logits against FP32 on {TEST} images (photographs; CIFAR-10, handwritten digits"
        f" for small inputs), MSE ranges from {CALIBRATION} others. Random weights are seeded, with BN settled on"
        " such images. INT8 TensorRT: FP16 around INT8, simulated, beside it the same between images (logits less their"
        " mean over the images); INT8 CPU: ONNX Runtime's integer kernels. Every graph ran at batch 1 and 3;"
        f" {clean} of {len(rows)} networks are free of lint findings for TensorRT {' and '.join(TENSORRTS)} and the"
        " CPU. CPU seconds are those of one process with one thread: imports, export, calibration, three graphs,"
        f" runs and lint; {total:.0f} s in all on {cpu_name()}, a shared machine.",
        "",
        "| network | weights | nodes | INT8 share of multiply-adds, % | FP16 dB | INT8 TensorRT dB | between images dB"
        " | INT8 CPU dB | integer kernels | CPU s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        decibels = [row[k] for k in ("fp16_sqnr_db", "int8_sqnr_db", "int8_sqnr_between_images_db", "cpu_sqnr_db")]
        lines.append(
            f"| `{row['name']}` | {row['weights']} | {row['nodes']} | {row['int8_share_pct']:g} | "
            + " | ".join(f"{v:.1f}" for v in decibels)
            + f" | {row['integer_kernels']} of {row['kernels']} | {row['cpu_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def put_table(text: str, path: Path) -> None:
    """Replace what stands between the marks in `path`, or append the marks."""
    content = path.read_text(encoding="utf-8") if path.exists() else HEAD
    if MARKS[0] not in content:
        content += f"\n## FP16 and INT8 graphs\n\n{MARKS[0]}\n{MARKS[1]}\n"
    before, _, rest = content.partition(MARKS[0])
    path.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", "../shared")))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    rows = measure_zoo(options.networks or list(cards()), options.shared.resolve(), options.jobs, options.rows)
    if options.table:
        put_table(table(rows), options.table)
    print(table(rows))


if __name__ == "__main__":
    main()
