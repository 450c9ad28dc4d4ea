"""What each step costs beside another checkout: did anything get slower?

    python benchmarks/steps_cost.py BASE [NETWORK ...] [--images 64] [--rounds 5] [--busy] [--shared DIR]

BASE is another checkout (`git worktree add --detach DIR COMMIT`). Whole processes, the two checkouts in turn, each with
files that it made itself from the same photographs; weights are random, which changes no cost. `again` is a run of
`lenet5-digits` that finds everything up to date, `train` one epoch of it. Ratio: this checkout's CPU seconds over the
other's, the median over the rounds; below 1 is faster. `--busy` has two busy loops beside all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _result import ROOT, Measured, Recorder, commit_of, measure_process, neighbors
from validate_speed import part_of

NETWORKS = ("lenet5", "mobilenet_v2", "resnet18")
BUSY = 2
Step = tuple[str, list[object]]


def steps_of(network: str, folder: Path, data: object, images: int) -> Iterator[Step]:
    """The steps of one network in `folder`, each after those whose files it reads."""
    graph, ranges, half, whole = (folder / name for name in ("net.onnx", "net.calib.json", "half.onnx", "int8.onnx"))
    engine, reference = folder / "net.engine.onnx", folder / "reference.npz"
    fed: list[object] = ["--data", data]
    count: list[object] = ["--images", images]
    yield "export", ["export", network, "--weights", "none", "-o", graph]
    yield "reference", ["reference", graph, *fed, "-o", reference]
    yield "calibrate", ["calibrate", graph, *fed, *count, "-o", ranges]
    yield "quantize to FP16", ["quantize", graph, "--precision", "fp16", "-o", half]
    yield (
        "quantize by mse",
        ["quantize", graph, "--precision", "int8", "--ranges", ranges, "--method", "mse", "-o", whole],
    )
    yield "build", ["build", whole, "--target", "cpu", "-o", engine]
    yield "validate", ["validate", engine, *fed, "--reference", reference, "-o", folder / "net.accuracy.json"]
    yield "inspect", ["inspect", whole]


def flow_steps(folder: Path) -> Iterator[Step]:
    """Those that a recipe brings."""
    yield "train", ["train", "lenet5-digits", "--set", "train.epochs=1", "--out", folder / "train"]
    yield "run", ["run", "lenet5-digits", "--out", folder / "run"]
    yield "again", ["run", "lenet5-digits", "--out", folder / "run"]


def main() -> None:
    """Measure, print and file one row for each step of each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, "lenet5-digits"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT.parent / "shared")))
    options = parser.parse_args()
    count = BUSY * options.busy
    for network in options.networks:
        words = f"BASE {network} --images {options.images} --rounds {options.rounds}"
        command = f"python benchmarks/steps_cost.py {words}" + " --busy" * options.busy
        recorder = Recorder("steps_cost", command, tools=("numpy", "onnx", "onnxruntime", "torch"))
        with tempfile.TemporaryDirectory() as folder, neighbors(count):
            seen = _measure(network, Path(folder), options)
        for step, rounds in seen.items():
            key = {"network": network, "step": step, "images": options.images, "busy": options.busy}
            recorder.add(key | {"base_commit": commit_of(options.base)}, _found(rounds), neighbors=count)


def _measure(network: str, folder: Path, options: argparse.Namespace) -> dict[str, list[tuple[Measured, Measured]]]:
    trees = (ROOT, options.base.resolve())
    data: object = "digits"
    if "lenet5" not in network:
        data = part_of(options.shared.resolve() / "data" / "imagenet-500", 2 * options.images, folder / "images")
    seen: dict[str, list[tuple[Measured, Measured]]] = {}
    for number in range(options.rounds):
        sides = []
        for tree in trees:
            mine = folder / f"{number}-{trees.index(tree)}"
            mine.mkdir()
            recipe = network == "lenet5-digits"
            sides.append(flow_steps(mine) if recipe else steps_of(network, mine, data, options.images))
        for steps in zip(*sides, strict=True):
            both = [
                measure_process([sys.executable, "-m", "edgecnn", *words], tree=tree, folder=tree)
                for tree, (_, words) in zip(trees, steps, strict=True)
            ]
            seen.setdefault(steps[0][0], []).append((both[0], both[1]))
    return seen


def _found(rounds: list[tuple[Measured, Measured]]) -> dict[str, object]:
    return {
        "cpu_ratio": round(statistics.median(a.cpu_s / b.cpu_s for a, b in rounds), 3),
        "made_cpu_s": [round(a.cpu_s, 2) for a, _ in rounds],
        "base_cpu_s": [round(b.cpu_s, 2) for _, b in rounds],
        "made_peak_mb": max(a.peak_mb for a, _ in rounds),
        "base_peak_mb": max(b.peak_mb for _, b in rounds),
    }


if __name__ == "__main__":
    main()
