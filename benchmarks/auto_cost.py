"""What `--method auto` costs and brings, beside another checkout and beside a plain forward pass, in one sitting.

    python benchmarks/auto_cost.py [NETWORK ...] [--base CHECKOUT] [--images 64] [--rounds 3] [--busy] [--shared DIR]

Each `edgecnn quantize` by `auto` (TensorRT's scheme around FP32, its ranges included) is a process of its own; the
checkouts take turns, and every round calibrates with other photographs (CIFAR-10: with the same). The forward pass is a
process that reads the same images and runs the float graph once in ONNX Runtime. `sqnr_db` = 10 log10(sum f^2 /
sum (f - q)^2) over the logits of images that no step has seen. One draw of 64 images moves it by a decibel or more, so
`sqnr_gain_db` is the mean over the rounds, and `sqnr_gain_error_db` the standard error of it. A network without
published weights in the shared folder has random ones, with batch normalization settled on real images. `--busy` has
two busy loops beside all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import ROOT, Measured, Recorder, commit_of, measure_process, neighbors

HERE = Path(__file__).resolve()
NETWORKS = ("mobilenet_v2", "resnet18", "squeezenet1_1", "resnet20_cifar")
PRESETS = {"mobilenet_v2": "half-224"}  # graphs from elsewhere
HELD_OUT, BUSY = 128, 2


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--base", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    parser.add_argument("--prepare", nargs=2, metavar=("NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--score", nargs=3, metavar=("NETWORK", "FLOAT", "INT8"), help=argparse.SUPPRESS)
    parser.add_argument("--forward", nargs=3, metavar=("NETWORK", "FLOAT", "DATA"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shared = options.shared.resolve()
    if options.prepare:
        _prepare(*options.prepare, options.images, options.rounds, shared)
    elif options.score:
        _score(*options.score, shared)
    elif options.forward:
        _forward(*options.forward, options.images)
    else:
        for network in options.networks:
            _file(network, options, shared)


def _file(network: str, options: argparse.Namespace, shared: Path) -> None:
    trees = {"base": options.base.resolve(), "made": ROOT} if options.base else {"made": ROOT}
    words = ["--base BASE"] * bool(options.base) + [f"--images {options.images} --rounds {options.rounds}"]
    command = " ".join([f"python benchmarks/auto_cost.py {network}", *words, *["--busy"] * options.busy])
    count = BUSY * options.busy
    with tempfile.TemporaryDirectory() as folder, neighbors(count):
        recorder = Recorder("auto_cost", command, tools=("numpy", "onnxruntime"))
        found = _measure(network, Path(folder), trees, options.images, options.rounds, shared)
        key = {"network": network, "images": options.images, "busy": options.busy, "base_commit": None}
        key |= {"base_commit": commit_of(trees["base"])} if "base" in trees else {}
        recorder.add(key, found, neighbors=count)


def _measure(
    network: str, folder: Path, trees: dict[str, Path], images: int, rounds: int, shared: Path
) -> dict[str, Any]:
    graph, made = folder / "net.fp32.onnx", folder / "net.int8.onnx"
    tool, edgecnn = [sys.executable, HERE, "--shared", shared], [sys.executable, "-m", "edgecnn"]
    measure_process([*tool, "--images", images, "--rounds", rounds, "--prepare", network, folder])
    seen: dict[str, list[Measured]] = {name: [] for name in (*trees, "forward")}
    row: dict[str, Any] = {f"{name}_sqnr_db": [] for name in trees}
    for number in range(rounds):
        data = _calibration(network, folder, number, shared)
        fed = ["--precision", "int8", "--method", "auto", "--around", "fp32", "--data", data, "--images", images]
        for name, tree in trees.items():
            # in a checkout's folder, for `-m` looks there first
            seen[name].append(measure_process([*edgecnn, "quantize", graph, *fed, "-o", made], tree=tree, folder=tree))
            score = json.loads(measure_process([*tool, "--score", network, graph, made]).said)
            row[f"{name}_sqnr_db"].append(score["sqnr_db"])
            row["held_out_images"] = score["n"]
        seen["forward"].append(measure_process([*tool, "--images", images, "--forward", network, graph, data]))
    for name, runs in seen.items():
        row |= {f"{name}_cpu_s": [round(r.cpu_s, 2) for r in runs], f"{name}_peak_mb": max(r.peak_mb for r in runs)}
    for name in trees:
        row[f"{name}_over_forward"] = _ratio(seen[name], seen["forward"])
    return row | (_beside(row, seen) if "base" in trees else {})


def _beside(row: dict[str, Any], seen: dict[str, list[Measured]]) -> dict[str, Any]:
    gains = [a - b for a, b in zip(row["made_sqnr_db"], row["base_sqnr_db"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    return {
        "cpu_ratio": _ratio(seen["made"], seen["base"]),
        "memory_ratio": round(row["made_peak_mb"] / row["base_peak_mb"], 3),
        "sqnr_gain_db": round(statistics.mean(gains), 2),
        "sqnr_gain_error_db": None if error is None else round(error, 2),
    }


def _ratio(ours: list[Measured], theirs: list[Measured]) -> float:
    return round(statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours, theirs, strict=True)), 3)


def _prepare(network: str, folder: str, images: int, rounds: int, shared: Path) -> None:
    """The float graph, and for each round a folder of links to some of the photographs that no score is made of."""
    import numpy as np

    made = Path(folder) / "net.fp32.onnx"
    if network in PRESETS:
        found = next((shared / "weights").glob(f"{network}*.onnx"))
        words = [sys.executable, "-m", "edgecnn", "import", found, "--preprocess", PRESETS[network], "-o", made]
        subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL)
    else:
        from zoo_int8 import _export, _images

        from edgecnn.zoo import find_model

        card = find_model(network)
        _export(card, made, shared, _images(card, shared))
    if "cifar" in network:
        return
    photographs = sorted((shared / "data" / "imagenet-500").glob("*/*.jpg"))
    free = np.delete(np.arange(len(photographs)), _held_out(len(photographs)))
    if images > len(free):
        sys.exit(f"{images} images: {len(free)} are not held out")
    for number in range(rounds):
        for k in np.random.default_rng(number).permutation(free)[:images]:
            link = Path(folder, str(number), photographs[k].parent.name, photographs[k].name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(photographs[k])


def _held_out(images: int) -> list[int]:
    """Which images the score is made of."""
    return [2 * (k * (images // 2 - 1) // (HELD_OUT - 1)) + 1 for k in range(HELD_OUT)]


def _calibration(network: str, folder: Path, number: int, shared: Path) -> str:
    return f"cifar10:{shared / 'data' / 'cifar10-jpeg'}" if "cifar" in network else str(folder / str(number))


def _open(network: str, data: str, split: str) -> Any:
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.zoo import find_model, presets

    fields = presets()[PRESETS[network]] if network in PRESETS else find_model(network).preprocessing
    return open_dataset(data, preprocessing_from_json(fields), split)


def _score(network: str, exact: str, made: str, shared: Path) -> None:
    """SQNR and agreement on images that are not among those for calibration."""
    import numpy as np

    from edgecnn.backends._onnxruntime import open_session
    from edgecnn.data.dataset import batches

    if "cifar" in network:
        data = _open(network, f"cifar10:{shared / 'data' / 'cifar10-jpeg'}", "test")
        data = data.subset(np.linspace(0, len(data) - 1, 16 * HELD_OUT).astype(int).tolist())
    else:
        data = _open(network, str(shared / "data" / "imagenet-500"), "test")
        data = data.subset(_held_out(len(data)))
    sessions = [open_session(Path(g)) for g in (exact, made)]
    pairs = [[s.run(None, {s.get_inputs()[0].name: part.input})[0] for s in sessions] for part in batches(data, 16)]
    logits, found = (np.concatenate([p[k] for p in pairs]).astype(np.float64) for k in range(2))
    sqnr = 10 * np.log10(np.square(logits).sum() / np.square(logits - found).sum())
    agreement = 100 * (logits.argmax(1) == found.argmax(1)).mean()
    print(json.dumps({"sqnr_db": round(float(sqnr), 2), "agreement_pct": round(float(agreement), 1), "n": len(data)}))


def _forward(network: str, graph: str, data: str, images: int) -> None:
    from edgecnn.backends._onnxruntime import open_session
    from edgecnn.data.dataset import batches

    session = open_session(Path(graph))
    whole = _open(network, data, "train")
    for part in batches(whole.subset(range(min(images, len(whole)))), 8):
        session.run(None, {session.get_inputs()[0].name: part.input})


if __name__ == "__main__":
    main()
