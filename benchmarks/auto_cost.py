"""What `--method auto` costs and brings, beside another checkout and beside a plain forward pass, in one sitting.

    python benchmarks/auto_cost.py [NETWORK ...] [--base CHECKOUT] [--images 128] [--rounds 2] [--shared DIR] [--json F]

Each `edgecnn quantize` by `auto` (TensorRT's scheme around FP32, its ranges included) is a process of its own; the
checkouts take turns. `cpu_s` is its processor time and that of its children, `peak_mb` its largest resident memory; of
several rounds the median. `forward_cpu_s` is a process that reads the same images and runs the float graph once in
ONNX Runtime. `sqnr_db` = 10 log10(sum f^2 / sum (f - q)^2) over the logits of images that no step has seen,
`candidates` those that `auto` judged on the images it put aside. A network without published weights in the shared
folder has random ones, with batch normalization settled on real images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[1]
NETWORKS = ("mobilenet_v2", "resnet18", "squeezenet1_1", "resnet20_cifar")
PRESETS = {"mobilenet_v2": "half-224"}  # graphs from elsewhere
HELD_OUT = 128


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--base", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prepare", nargs=2, metavar=("NETWORK", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--score", nargs=3, metavar=("NETWORK", "FLOAT", "INT8"), help=argparse.SUPPRESS)
    parser.add_argument("--forward", nargs=3, metavar=("NETWORK", "FLOAT", "DATA"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    shared = options.shared.resolve()
    if options.prepare:
        _prepare(*options.prepare, shared)
    elif options.score:
        _score(*options.score, shared)
    elif options.forward:
        _forward(*options.forward, options.images)
    else:
        _compare(options, shared)


def _compare(options: argparse.Namespace, shared: Path) -> None:
    trees = {"base": options.base, "made": ROOT} if options.base else {"made": ROOT}
    words = [*options.networks, *(("--base", "BASE") if options.base else ()), "--images", options.images]
    result: dict[str, Any] = {
        "command": f"python benchmarks/auto_cost.py {' '.join(map(str, words))} --rounds {options.rounds}",
        "commits": {name: _commit(tree) for name, tree in trees.items()},
        "images": options.images,
    }
    # this process stays small: the peak memory of a child begins at that of its parent
    result |= {"machine": _machine(), "load_1_min": [round(os.getloadavg()[0], 2)], "measured": []}
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            row = _measure(network, Path(folder), trees, options.images, options.rounds, shared)
        result["measured"].append(row)
        result["load_1_min"].append(round(os.getloadavg()[0], 2))
        print(json.dumps(row), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _measure(
    network: str, folder: Path, trees: dict[str, Path], images: int, rounds: int, shared: Path
) -> dict[str, Any]:
    graph, made = folder / "net.fp32.onnx", folder / "net.int8.onnx"
    _child([HERE, "--shared", shared, "--prepare", network, folder], ROOT)
    data = _calibration(network, folder, shared)
    edgecnn, feed = ["-m", "edgecnn"], ["--data", data, "--images", images]
    forward = [HERE, "--images", images, "--forward", network, graph, data]
    words = ["--precision", "int8", "--method", "auto", "--around", "fp32", *feed]
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in (*trees, "forward")}
    scores: dict[str, Any] = {}
    for _ in range(rounds):
        for name, tree in trees.items():
            seen[name].append(_child([*edgecnn, "quantize", graph, *words, "-o", made, "--json"], tree))
            said = json.loads(seen[name][-1].pop("said"))
            score = json.loads(_child([HERE, "--shared", shared, "--score", network, graph, made], ROOT)["said"])
            scores[name] = {**score, "candidates": {c["name"]: c["sqnr_db"] for c in said["candidates"]}}
        seen["forward"].append(_child(forward, ROOT))
    row: dict[str, Any] = {"name": network, "forward_cpu_s": _median(seen["forward"], "cpu_s")}
    for name in trees:
        row[name] = {key: _median(seen[name], key) for key in ("cpu_s", "clock_s", "peak_mb")} | scores[name]
        row[name]["over_forward"] = round(row[name]["cpu_s"] / row["forward_cpu_s"], 2)
    if "base" in trees:
        ratio = [a["cpu_s"] / b["cpu_s"] for a, b in zip(seen["made"], seen["base"], strict=True)]
        row["cpu_ratio"] = round(statistics.median(ratio), 3)
        row["memory_ratio"] = round(row["made"]["peak_mb"] / row["base"]["peak_mb"], 3)
        row["sqnr_gain_db"] = round(row["made"]["sqnr_db"] - row["base"]["sqnr_db"], 2)
    return row


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return round(statistics.median(run[key] for run in runs), 2)


def _child(words: list[Any], tree: Path) -> dict[str, Any]:
    """Seconds, peak memory and standard output of a Python process that imports `tree`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=out,
            stderr=err,
            cwd=tree,  # `-m` looks there first
            env={**os.environ, "PYTHONPATH": f"{tree.resolve()}:{ROOT / 'benchmarks'}"},
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        clock = time.monotonic() - started
        out.seek(0), err.seek(0)
        if child.returncode:
            sys.exit(f"{words}: exit code {child.returncode}\n{err.read().decode()[-2000:]}")
        said = out.read().decode()
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "clock_s": clock,
        "peak_mb": usage.ru_maxrss / 1024,
        "said": said,
    }


def _prepare(network: str, folder: str, shared: Path) -> None:
    """The float graph, and a folder of links to every other photograph."""
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
    for number, path in enumerate(_photographs(shared)):
        if number % 2 == 0:
            link = Path(folder) / "images" / path.parent.name / path.name
            link.parent.mkdir(parents=True)
            link.symlink_to(path)


def _photographs(shared: Path) -> list[Path]:
    return sorted((shared / "data" / "imagenet-500").glob("*/*.jpg"))


def _calibration(network: str, folder: Path, shared: Path) -> str:
    return f"cifar10:{shared / 'data' / 'cifar10-jpeg'}" if "cifar" in network else str(folder / "images")


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
        odd = list(range(1, len(data), 2))
        data = data.subset([odd[int(k)] for k in np.linspace(0, len(odd) - 1, HELD_OUT).round()])
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


def _machine() -> Any:
    code = "import json; from edgecnn.machine.cpu import cpu_device; from edgecnn.records import to_plain; "
    return json.loads(_child(["-c", code + "print(json.dumps(to_plain(cpu_device())))"], ROOT)["said"])


def _commit(tree: Path) -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=tree, capture_output=True, text=True
    )
    return told.stdout.strip() or tree.name


if __name__ == "__main__":
    main()
