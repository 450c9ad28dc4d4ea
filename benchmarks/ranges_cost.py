"""What calibration costs: time beside the bare float graph and ONNX Runtime's Entropy, and memory at two set sizes.

    python benchmarks/ranges_cost.py GRAPH.onnx IMAGES.npz [--images 64] [--many 4096] [--alone] [-o F]

IMAGES.npz holds `input` (float32 NCHW). Printed, as JSON: the time of `collect_ranges` over that of running the float
graph on the same decoded images (in this process, alternating); whole processes of `edgecnn calibrate` and of ONNX
Runtime's Entropy quantiser on the first `--images`; and the peak memory with `--images` and with `--many` (the images
repeated).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.backends._onnxruntime import open_session
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.load import load_graph
from edgecnn.graph.simplify import simplify_graph

BATCH = 8


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--many", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without Entropy, which keeps every activation")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", choices=("calibrate", "entropy"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        _one(options.one, options.graph, options.data, options.images)
        return
    result: dict[str, Any] = {"graph": options.graph.name, "images": options.images, "cores": os.cpu_count()}
    # processes come first: the peak memory of a child begins at that of its parent
    result |= _process("calibrate", options.graph, options.data, options.images)
    if not options.alone:
        result |= _process("entropy", options.graph, options.data, options.images)
        result["seconds_ratio"] = round(result["entropy_s"] / result["calibrate_s"], 2)
        result["memory_ratio"] = round(result["entropy_peak_mb"] / result["calibrate_peak_mb"], 2)
    if options.many > options.images:
        many = _process("calibrate", options.graph, options.data, options.many)["calibrate_peak_mb"]
        result["many"], result["many_peak_mb"] = options.many, many
        result["growth_pct"] = round(100 * (many / result["calibrate_peak_mb"] - 1), 1)
    result |= _beside_the_graph(options.graph, _images(options.data, options.images), options.repeats)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def _images(path: Path, count: int) -> Dataset:
    """The first `count`, repeated where there are fewer."""
    whole = open_dataset(str(path), None, "train")
    return whole.subset([i % len(whole) for i in range(count)])


def _beside_the_graph(graph: Path, data: Dataset, repeats: int) -> dict[str, Any]:
    batches = [
        np.stack([data.tensor(i) for i in range(k, min(k + BATCH, len(data)))]) for k in range(0, len(data), BATCH)
    ]
    model = simplify_graph(load_graph(graph))
    session = open_session(model)
    name, floats, ranges = session.get_inputs()[0].name, [], []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for batch in batches:
            session.run(None, {name: batch})
        floats.append(time.perf_counter() - started)
        started = time.perf_counter()
        collect_ranges(graph, data)
        ranges.append(time.perf_counter() - started)
    ratio = float(np.median(np.array(ranges[1:]) / np.array(floats[1:])))
    return {
        "float_s": round(float(np.median(floats[1:])), 2),
        "ranges_s": round(float(np.median(ranges[1:])), 2),
        "ranges_over_float": round(ratio, 2),
    }


def _process(name: str, graph: Path, data: Path, images: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(graph), str(data), "--images", str(images), "--one", name]
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    return {f"{name}_s": round(seconds, 2), f"{name}_peak_mb": int(run.stdout.strip().splitlines()[-1])}


def _one(name: str, graph: Path, data: Path, images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if name == "calibrate":
            from edgecnn.artifact.sidecar import Sidecar
            from edgecnn.graph.calibration.file import write_ranges

            write_ranges(
                collect_ranges(graph, _images(data, images)), Path(folder, "calib.json"), Sidecar(kind="ranges")
            )
        else:
            from int8_vs_peers import _onnxruntime

            held = _images(data, images)
            batch = np.stack([held.tensor(i) for i in range(images)])
            _onnxruntime(graph, batch, Path(folder, "int8.onnx"), "Entropy")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
