"""How far off is a comparison of an engine with itself? Repeats `compare_latency` on two sessions of one engine.

    python benchmarks/latency_aa.py [--engine E] [--runs 20] [--duration 2] [--threads N] [-o F]

On an idle machine the ratio should lie inside 1 +- 0.03 in 19 of 20 runs, and the intervals should hold 1.
Without --engine a ResNet-20 for 32 x 32 images with random weights is exported and used.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from edgecnn.backends import open_engine
from edgecnn.backends.ort import device
from edgecnn.measure.comparison import compare_latency
from edgecnn.records import to_plain

BAND = 0.03


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--duration", type=float, default=2.0, help="seconds for each of the two sessions")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = options.engine or _default_engine(Path(folder))
        load, runs = os.getloadavg()[0], []
        with open_engine(engine, options.threads) as a, open_engine(engine, options.threads) as b:
            shape = tuple(n or 1 for n in a.input.shape)
            images = np.random.default_rng(0).standard_normal(shape, np.float32)
            for k in range(options.runs):
                started = time.perf_counter()
                found = compare_latency(
                    {"a": a, "a again": b}, images, warmup_ms=200, duration_s=options.duration, seed=k
                )["a again"]
                runs.append({**to_plain(found), "seconds": round(time.perf_counter() - started, 2)})
    ratios = np.array([r["latency_ratio"] for r in runs])
    result = {
        "engine": engine.name,
        "device": to_plain(device(options.threads)),
        "load_before": round(load, 2),
        "runs": len(runs),
        "inside_band": int((np.abs(ratios - 1) <= BAND).sum()),
        "band": BAND,
        "intervals_holding_1": sum(r["latency_ratio_ci"][0] <= 1 <= r["latency_ratio_ci"][1] for r in runs),
        "interval_width_median": float(np.median([r["latency_ratio_ci"][1] - r["latency_ratio_ci"][0] for r in runs])),
        "ratio_min": float(ratios.min()),
        "ratio_max": float(ratios.max()),
        "latency_ms_p50": float(np.median([r["latency_ratio"] * r["reference_latency_ms_p50"] for r in runs])),
        "ratios": [round(float(r), 4) for r in ratios],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def _default_engine(folder: Path) -> Path:
    from edgecnn.steps.export import export

    path = folder / "resnet20_cifar.fp32.onnx"
    export("resnet20_cifar", path, weights="none")
    return path


if __name__ == "__main__":
    main()
