"""What `edgecnn sensitivity` costs beside one forward pass, and whether its nodes add up, on six networks.

    python benchmarks/sensitivity_cost.py [NETWORK...] [--images 32] [--rounds 1] [--busy] [--shared DIR]

CPU seconds of whole processes in turn, with two threads each: `edgecnn sensitivity` of all nodes, and one that runs the
same graph over the same images once in ONNX Runtime; the ratio is the median over rounds. SQNR is that of the logits of
the whole INT8 graph by mse, predicted from the sum of what all quantizers make alone. Graphs and images come from the
shared folder, random weights are seeded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from _result import Recorder, measure_process, neighbors
from ranges_cost import BUSY, PLAIN, THREADS, _prepare

NETWORKS = ("resnet20_cifar", "mobilenet_v1_x0_5", "squeezenet1_1", "mobilenet_v2", "resnet18", "resnet50")


def measure(name: str, count: int, rounds: int, shared: Path, folder: Path) -> dict[str, Any]:
    """CPU seconds and peak memory of both processes, and what the second found."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        graph = other.submit(_prepare, name, shared, count, folder).result()
    images, ranges, found = folder / "images.npz", folder / "x.calib.json", folder / "x.sensitivity.json"
    options = ["--data", str(images), "--images", str(count), "--threads", str(THREADS)]
    edgecnn = [sys.executable, "-m", "edgecnn"]
    measure_process([*edgecnn, "calibrate", str(graph), *options, "-o", str(ranges)])
    plain = [sys.executable, "-c", PLAIN, str(graph), str(images), str(count)]
    measured = [*edgecnn, "sensitivity", str(graph), "--ranges", str(ranges), *options, "-o", str(found)]
    runs = [(measure_process(plain), measure_process(measured)) for _ in range(rounds)]
    content = json.loads(found.read_text(encoding="utf-8"))
    return {
        "quantizers": len(content["rows"]),
        "cpu_ratio": round(statistics.median(s.cpu_s / p.cpu_s for p, s in runs), 1),
        "plain_cpu_s": [round(p.cpu_s, 2) for p, _ in runs],
        "sensitivity_cpu_s": [round(s.cpu_s, 2) for _, s in runs],
        "sensitivity_clock_s": [round(s.clock_s, 1) for _, s in runs],
        "sensitivity_peak_mb": max(s.peak_mb for _, s in runs),
        "sqnr_db": round(content["sqnr_db"], 2),
        "predicted_sqnr_db": round(content["predicted_sqnr_db"], 2),
    }


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--busy", action="store_true", help="beside two busy loops")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", "../shared")))
    options = parser.parse_args()
    shared, beside = options.shared.resolve(), BUSY * options.busy
    for name in options.networks or NETWORKS:
        command = f"python benchmarks/sensitivity_cost.py {name} --images {options.images} --rounds {options.rounds}"
        recorder = Recorder("sensitivity_cost", command + " --busy" * options.busy, tools=("onnxruntime",))
        with tempfile.TemporaryDirectory() as made, neighbors(beside):
            found = measure(name, options.images, options.rounds, shared, Path(made))
            recorder.add({"network": name, "images": options.images, "busy": options.busy}, found, neighbors=beside)


if __name__ == "__main__":
    main()
