"""What INT8 graphs lose with few, lopsided and wrong calibration images: min-max, mse, `auto`, ONNX Runtime's min-max.

    python benchmarks/calibration_sets.py [NETWORK ...] [--sets good16 ...] [--seeds 5] [--methods mse,auto]
        [--base CHECKOUT] [--around fp32] [--keep FOLDER] [--shared DIR]

The networks have published weights and images in the shared folder. A set is a kind and a number of images: "good"
are images like those that are measured on, "class" those of one class (CIFAR-10: a class of it; else ants), "noise"
uniform random pixels, "other" handwritten digits. Each seed draws other images. SQNR = 10 log10(sum f^2 / sum (f -
q)^2) over the logits of `HELD_OUT` images that are in no set, agreement = same top-1 as the float graph.
`beside_ort_pp` is how many points `auto` agrees more often than ONNX Runtime's min-max, paired over all seeds, with a
95 % interval over the images.
With `--base`, `auto` of that checkout is measured with the same images.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _result import ROOT, Recorder, commit_of

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset

NETWORKS = {  # preprocessing of graphs from elsewhere; None: of the zoo
    "resnet20_cifar": None,
    "squeezenet1_1": None,
    "mobilenet_v1_0.5": "half-160",
    "mobilenet_v2": "half-224",
}
SETS = ("good16", "good32", "good64", "good256", "class64", "noise64", "other64")
METHODS = ("minmax", "mse", "auto", "ort-MinMax")
HELD_OUT = {True: 500, False: 244}  # of CIFAR-10, of the photographs
HERE = Path(__file__).resolve()


def main() -> None:
    """Measure, print and file one row for each network and set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--around", choices=("fp16", "fp32"), default="fp32")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--keep", type=Path, help="where graphs and decoded images are kept between runs")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "SET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if options.one:
            network, name = options.one
            print(json.dumps(_measure_one(network, name, options, folder)))
            return
        for network in options.networks:
            _prepare(network, folder, options.shared.resolve())
            for name in options.sets:
                _file(network, name, options, folder)


def _file(network: str, name: str, options: argparse.Namespace, folder: Path) -> None:
    words = [f"--sets {name} --seeds {options.seeds}"] + ["--base BASE"] * bool(options.base)
    command = " ".join([f"python benchmarks/calibration_sets.py {network}", *words])
    recorder = Recorder("calibration_sets", command, tools=("numpy", "onnxruntime"))
    found = _run(network, name, options.methods, ROOT, options, folder)
    if options.base:
        before = _run(network, name, "auto", options.base.resolve(), options, folder)
        found["before"], base = before["auto"], commit_of(options.base.resolve())
        found["base_commit"] = base or None
    exact = found.pop("exact")
    row: dict[str, Any] = {method: _summary(one, exact) for method, one in found.items() if isinstance(one, list)}
    row |= {key: value for key, value in found.items() if not isinstance(value, list)}
    if {"mse", "auto"} <= row.keys():
        gains = [a - b for a, b in zip(row["auto"]["sqnr_db"], row["mse"]["sqnr_db"], strict=True)]
        row["auto_over_mse_db"] = [round(gain, 2) for gain in gains]
    if {"ort-MinMax", "auto"} <= row.keys():
        row["beside_ort_pp"], row["beside_ort_ci_pp"] = _paired(found["auto"], found["ort-MinMax"], exact)
    key = {"network": network, "set": name, "around": options.around}
    recorder.add(key, {"images": _count(name), "seeds": options.seeds, "n": len(exact), **row})


def _run(
    network: str, name: str, methods: str, tree: Path, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """What a process of the checkout `tree` measures."""
    command = [sys.executable, HERE, "--one", network, name, "--methods", methods, "--seeds", options.seeds]
    command += ["--around", options.around, "--keep", folder]
    run = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(HERE.parent)])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def _summary(runs: list[dict[str, Any]], exact: list[int]) -> dict[str, Any]:
    rows = [[a == b for a, b in zip(run["top1"], exact, strict=True)] for run in runs]
    made: dict[str, Any] = {"sqnr_db": [run["sqnr_db"] for run in runs]}
    made["agreement_pct"] = [round(100 * sum(row) / len(row), 2) for row in rows]
    made["cpu_s"] = round(sum(run["cpu_s"] for run in runs) / len(runs), 2)
    return made | ({"taken": [run["taken"] for run in runs]} if "taken" in runs[0] else {})


def _paired(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], exact: list[int]
) -> tuple[float, tuple[float, float]]:
    """Points of agreement won, a mean over seeds for each image, and its interval over the images."""
    both = [np.array([run["top1"] for run in runs]) == np.array(exact) for runs in (ours, theirs)]
    won = (both[0].astype(float) - both[1]).mean(axis=0)
    mean, half = 100 * won.mean(), 196 * won.std(ddof=1) / len(won) ** 0.5
    return round(float(mean), 2), (round(float(mean - half), 2), round(float(mean + half), 2))


def _count(name: str) -> int:
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def _measure_one(network: str, name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every method on the images of each seed."""
    import onnx
    from int8_vs_peers import _dataset, _onnxruntime, logits

    from edgecnn.backends._half import rounded_to_fp16
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.machine.threads import limit_threads

    path = folder / f"{network}.fp32.onnx"
    model = load_graph(path)
    pictures = functools.cache(lambda kind: np.load(folder / f"{network}.{kind}.npy", mmap_mode="r"))
    held_out = np.ascontiguousarray(pictures("held_out"))
    exact = logits(path, held_out)
    found: dict[str, Any] = {method: [] for method in options.methods.split(",")}
    for seed in range(options.seeds):
        images = choose_images(name, seed, pictures)
        for method in found:
            made = folder / f"{os.getpid()}.onnx"
            started, facts = time.process_time(), dict[str, Any]()
            if method.startswith("ort-"):
                _onnxruntime(_named_input(path, folder), images, made, method.removeprefix("ort-"))
            else:
                data = _dataset(images)
                with limit_threads(2):
                    ranges = collect_ranges(path, data)
                    result = quantize_int8(model, ranges, "tensorrt", method=method, around=options.around, data=data)
                facts["taken"] = next((c.name for c in result.report.candidates if c.taken), "mse")
                onnx.save(rounded_to_fp16(result.model) if options.around == "fp16" else result.model, str(made))
            facts["cpu_s"] = time.process_time() - started
            quantized = logits(made, held_out)
            noise = np.square(exact.astype(np.float64) - quantized).sum()
            facts["sqnr_db"] = round(float(10 * np.log10(np.square(exact, dtype=np.float64).sum() / noise)), 2)
            found[method].append({**facts, "top1": quantized.argmax(1).tolist()})
            made.unlink()
    return found | {"exact": exact.argmax(1).tolist()}


def _named_input(path: Path, folder: Path) -> Path:
    """The simplified graph, whose input is `input`, for ONNX Runtime's quantizer."""
    import onnx

    from edgecnn.graph.load import load_graph
    from edgecnn.graph.simplify import simplify_graph

    made = folder / f"{os.getpid()}.simple.onnx"
    onnx.save(simplify_graph(load_graph(path)), str(made))
    return made


def choose_images(name: str, seed: int, pictures: Any) -> np.ndarray:
    """The images of a set, float32 [N, C, H, W]."""
    kind, count = name.rstrip("0123456789"), _count(name)
    rng = np.random.default_rng(seed)
    if kind == "noise":
        like = pictures("good")
        low, high = (np.array([f(like[:32, c]) for c in range(like.shape[1])]) for f in (np.min, np.max))
        pixels = rng.integers(0, 256, (count, *like.shape[1:])) / 255.0
        return (low[:, None, None] + (high - low)[:, None, None] * pixels).astype(np.float32)
    held = pictures(f"class{seed % 5}" if kind == "class" else kind)
    chosen = np.sort(rng.permutation(len(held))[:count])
    return np.asarray(held[chosen], np.float32)


def _prepare(network: str, folder: Path, shared: Path) -> None:
    """The float graph and the decoded images of each kind, unless they are there."""
    if (folder / f"{network}.held_out.npy").exists():
        return
    from zoo_int8 import _export, _images

    from edgecnn.zoo import find_model

    graph = folder / f"{network}.fp32.onnx"
    preset = NETWORKS[network]
    if preset is None:
        card = find_model(network)
        _export(card, graph, shared, _images(card, shared))
    else:
        source = next((shared / "weights").glob(f"{network}*.onnx"))
        words = [sys.executable, "-m", "edgecnn", "import", source, "--preprocess", preset, "-o", graph]
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    small = "cifar" in network
    for kind, data in (_cifar(network, shared) if small else _photographs(network, shared)).items():
        values = np.stack([data.tensor(k) for k in range(len(data))])
        np.save(folder / f"{network}.{kind}.npy", values)


def _open(network: str, data: str, split: str) -> Dataset:
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.zoo import find_model, presets

    preset = NETWORKS[network]
    fields = presets()[preset] if preset else find_model(network).preprocessing
    return open_dataset(data, preprocessing_from_json(fields), split)  # type: ignore[arg-type]


def _cifar(network: str, shared: Path) -> dict[str, Dataset]:
    source = f"cifar10:{shared / 'data' / 'cifar10-jpeg'}"
    test, train = (_open(network, source, split) for split in ("test", "train"))
    assert train.labels is not None
    made = {"good": train.subset(range(2000)), "other": _open(network, f"mnist:{shared / 'data' / 'mnist'}", "train")}
    made["other"] = made["other"].subset(range(500))
    for number in range(5):
        made[f"class{number}"] = train.subset(np.flatnonzero(train.labels == 2 * number)[:300].tolist())
    spread = np.linspace(0, len(test) - 1, HELD_OUT[True]).astype(int).tolist()
    return made | {"held_out": test.subset(spread)}


def _photographs(network: str, shared: Path) -> dict[str, Dataset]:
    whole = _open(network, str(shared / "data" / "imagenet-500"), "test")
    held_out = list(range(1, len(whole), 2))[: HELD_OUT[False]]
    rest = sorted(set(range(len(whole))) - set(held_out))
    ants = _open(network, str(shared / "data" / "hymenoptera"), "train")
    assert ants.labels is not None
    made = {"good": whole.subset(rest), "held_out": whole.subset(held_out)}
    made["other"] = _open(network, f"mnist:{shared / 'data' / 'mnist'}", "train").subset(range(128))
    one = ants.subset(np.flatnonzero(ants.labels == 0).tolist())
    return made | {f"class{number}": one for number in range(5)}


if __name__ == "__main__":
    main()
