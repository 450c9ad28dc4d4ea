"""`edgecnn search` beside the k worst nodes kept in float by hand, on a ResNet-20 and a processor.

    python benchmarks/search_proof.py [--max-drop 0.5 ...] [--seconds 20] [--shared DIR]

Both have the same ranges, method (`auto`), budget and 10 000 test images. By hand: the k nodes (1, 2, 4, 8) that
`edgecnn sensitivity` ranks first; those whose drop on the test images has its upper 95 % bound within the budget are
timed in turn for 3 s each, and the fastest is held against what the search found, again in turn, for `--seconds` each.
The latencies are those of one thread. Weights and images come from the shared folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import Measured, Recorder, measure_process

NETWORK, WEIGHTS = "resnet20_cifar", "resnet20_cifar10jpeg.safetensors"
BY_HAND = (1, 2, 4, 8)
THREADS = ["--threads", "1"]


def main() -> None:
    """Measure, print and file one row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-drop", type=float, nargs="+", default=[0.5])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", "../shared")))
    options = parser.parse_args()
    shared = options.shared.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder, data = Path(temporary), f"cifar10:{shared / 'data' / 'cifar10-jpeg'}"
        edgecnn(folder, "export", NETWORK, "--checkpoint", shared / "weights" / WEIGHTS, "-o", "m.fp32.onnx")
        edgecnn(folder, "calibrate", "m.fp32.onnx", "--data", data, "-o", "m.calib.json")
        hand = keep_by_hand(folder, data)
        for most in options.max_drop:
            command = f"python benchmarks/search_proof.py --max-drop {most:g} --seconds {options.seconds:g}"
            recorder = Recorder("search_proof", command, tools=("onnxruntime",))
            recorder.add({"network": NETWORK, "max_drop_pp": most}, measure(folder, data, most, hand, options.seconds))


def edgecnn(folder: Path, *words: object) -> Measured:
    """A command of this checkout."""
    return measure_process([sys.executable, "-m", "edgecnn", *words], folder=folder)


def keep_by_hand(folder: Path, data: str) -> dict[int, float]:
    """k -> the upper 95 % bound of the drop of hand{k}.onnx, in points."""
    images = ["--ranges", "m.calib.json", "--data", data]
    edgecnn(folder, "sensitivity", "m.fp32.onnx", *images, *THREADS)
    rows = json.loads((folder / "m.sensitivity.json").read_text(encoding="utf-8"))["rows"]
    worst = list(dict.fromkeys(row["node"] for row in rows))
    edgecnn(folder, "reference", "m.fp32.onnx", "--data", data, "-o", "r.npz")
    bounds = {}
    for k in BY_HAND:
        kept = [word for name in worst[:k] for word in ("--exclude", name)]
        made = ["--precision", "int8", "--scheme", "ort-cpu", *kept, *images, "-o", f"hand{k}.onnx", *THREADS]
        edgecnn(folder, "quantize", "m.fp32.onnx", *made)
        said = edgecnn(folder, "validate", f"hand{k}.onnx", "--reference", "r.npz", "--data", data, "--json").said
        bounds[k] = json.loads(said)["top1_drop_ci_pp"][1]
    return bounds


def measure(folder: Path, data: str, most: float, hand: dict[int, float], seconds: float) -> dict[str, Any]:
    """What the search found, and its latency over that of the fastest graph by hand within the budget."""
    words = ["m.fp32.onnx", "--data", data, "--max-drop", most, "-o", f"s{most:g}.onnx", "--json", *THREADS]
    run = edgecnn(folder, "search", *words)
    found = json.loads(run.said)
    trials = (folder / f"s{most:g}.trials.jsonl").read_text(encoding="utf-8").count("\n")
    row = {
        "answer": found["answer"],
        "kept": len(found["kept"]),
        "int8_share_pct": found["int8_share_pct"],
        "n": found["n"],
        "drop_bound_pp": round(found["top1_drop_ci_pp"][1], 3),
        "float_ratio": round(found["latency_ratio"] or 1.0, 4),
        "trials": trials,
        "search_cpu_s": round(run.cpu_s, 1),
        "search_clock_s": round(run.clock_s, 1),
        "hand_bounds_pp": {str(k): round(bound, 3) for k, bound in hand.items()},
    }
    eligible = [k for k, bound in hand.items() if bound <= most]
    if not eligible:
        return {**row, "hand_k": None}
    names = [f"hand{k}.onnx" for k in eligible]
    timed = {names[0]: 1.0, **{n: r.latency_ratio for n, r in compare(folder, names, 3.0).items()}}
    best = min(timed, key=lambda name: timed[name])
    ratio = compare(folder, [best, found["output"]], seconds)[found["output"]]
    low, high = ratio.latency_ratio_ci
    return {
        **row,
        "hand_k": eligible[names.index(best)],
        "ratio": round(ratio.latency_ratio, 4),
        "ratio_ci": [round(low, 4), round(high, 4)],
        "hand_ms_p50": round(ratio.reference_latency_ms_p50, 4),
    }


def compare(folder: Path, names: list[str], seconds: float) -> dict[str, Any]:
    """Each but the first over the first, in turn; nothing where there is but one."""
    from edgecnn.backends import open_engine
    from edgecnn.machine.threads import spin_while_waiting
    from edgecnn.measure.comparison import compare_latency
    from edgecnn.steps.bench import input_for

    if len(names) < 2:
        return {}
    with contextlib.ExitStack() as stack, spin_while_waiting():
        opened = {name: stack.enter_context(open_engine(folder / name, 1)) for name in names}
        images = input_for(opened[names[0]], folder / names[0], 1)
        return dict(compare_latency(opened, images, warmup_ms=200, duration_s=seconds))


if __name__ == "__main__":
    main()
