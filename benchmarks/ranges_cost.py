"""What calibration costs beside the network itself, and what its sampled counts cost in quality, on eight networks.

    python benchmarks/ranges_cost.py cost [NETWORK...] [--images 256] [--rounds 3] [--busy] [--shared DIR]
    python benchmarks/ranges_cost.py quality [NETWORK...] [--images 64] [--held-out 64] [--draws 3] [--shared DIR]

`cost`: CPU seconds of whole processes in turn, with two threads each: `edgecnn calibrate`, and one that reads the same
images and runs the same graph in ONNX Runtime; the ratio is the median over rounds. `quality`: SQNR of the logits on
held-out images, 10 log10(sum f^2 / sum (f - q)^2), of every range method with the counts that calibration keeps and
with every value counted, over several draws of images: thresholds that differ by a thousandth round other values, which
alone moves the SQNR by some tenths of a dB; and whether the extremes of all channels are equal bit by bit. Graphs and
images come from the shared folder, random weights are seeded. The rows are in benchmarks/results/ranges_cost.json and
ranges_quality.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _result import Recorder, measure_process, neighbors

PUBLISHED = {"mobilenet_v2": "mobilenet_v2_1.0_224_fp32", "mobilenet_v1_x0_5": "mobilenet_v1_0.5_160_fp32"}
COSTLY = ("mobilenet_v2", "squeezenet1_1", "resnet18", "resnet50", "shufflenet_v2_x1_0", "efficientnet_b0")
ALL = (*COSTLY, "resnet20_cifar", "mobilenet_v1_x0_5")
METHODS = ("minmax", "percentile", "entropy", "mse")
THREADS, BUSY = 2, 2
PLAIN = f"""
import sys, numpy, onnxruntime
graph, images, count = sys.argv[1], numpy.load(sys.argv[2])["input"], int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = {THREADS}, 4
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
batch = max(1, min(64, 8 * 224 * 224 // (images.shape[2] * images.shape[3])))
for k in range(0, count, batch):
    session.run(None, {{session.get_inputs()[0].name: images[k : min(count, k + batch)]}})
"""
Array = npt.NDArray[np.float32]


def measure_cost(name: str, count: int, rounds: int, shared: Path, folder: Path) -> dict[str, Any]:
    """CPU seconds and peak memory of both processes, in turn."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        graph = other.submit(_prepare, name, shared, count, folder).result()
    images = folder / "images.npz"
    plain = [sys.executable, "-c", PLAIN, str(graph), str(images), str(count)]
    options = ["--data", str(images), "--threads", str(THREADS), "-o", str(folder / "x.calib.json")]
    calibrate = [sys.executable, "-m", "edgecnn", "calibrate", str(graph), *options, "--images"]
    measure_process([*calibrate, 2])  # what is measured finds bytecode, as one that is installed does
    runs = [(measure_process(plain), measure_process([*calibrate, count])) for _ in range(rounds)]
    return {
        "cpu_ratio": round(statistics.median(c.cpu_s / p.cpu_s for p, c in runs), 2),
        "plain_cpu_s": [round(p.cpu_s, 2) for p, _ in runs],
        "calibrate_cpu_s": [round(c.cpu_s, 2) for _, c in runs],
        "plain_peak_mb": max(p.peak_mb for p, _ in runs),
        "calibrate_peak_mb": max(c.peak_mb for _, c in runs),
    }


def _prepare(name: str, shared: Path, count: int, folder: Path) -> Path:
    """In a process of its own, for the peak memory of a child begins at that of its parent."""
    np.savez(folder / "images.npz", input=read_images(name, shared, count, 0)[0])
    return prepare_graph(name, shared, folder)


def measure_quality(name: str, count: int, held_out: int, draws: int, shared: Path, folder: Path) -> dict[str, Any]:
    """SQNR with exact counts and what sampled ones add to it, of every method, for TensorRT's scheme: means over
    `draws`, and the standard error of the difference."""
    from edgecnn.graph.serving import load_body
    from edgecnn.graph.simplify import simplify_graph

    model = simplify_graph(load_body(prepare_graph(name, shared, folder)))
    found = [_compare_counts(model, *read_images(name, shared, count, held_out, seed)) for seed in range(draws)]
    row: dict[str, Any] = {
        "draws": draws,
        **found[0][0],
        "extremes_differ": sum(f[0]["extremes_differ"] for f in found),
    }
    for method in METHODS:
        exact, sampled = np.array([f[1][method] for f in found]).T
        row[f"{method}_exact_db"] = round(float(exact.mean()), 2)
        row[f"{method}_difference_db"] = round(float((sampled - exact).mean()), 3)
        spread = float((sampled - exact).std(ddof=1)) if draws > 1 else None
        row[f"{method}_difference_se_db"] = None if spread is None else round(spread / draws**0.5, 3)
    return row


def _compare_counts(
    model: Any, calibration: Array, test: Array
) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """What was sampled; and the SQNR by method with exact and with sampled counts."""
    from int8_vs_peers import _dataset

    from edgecnn.graph.calibration import watch
    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.ptq.quantize import quantize_int8

    expected = _logits(model, test)
    sampled = collect_from_model(model, "", _dataset(calibration), threads=THREADS)
    kept, watch.COUNTED = watch.COUNTED, 1 << 62
    exact = collect_from_model(model, "", _dataset(calibration), threads=THREADS)
    watch.COUNTED = kept
    differing = {
        n
        for n, s in sampled.tensors.items()
        for a, b in ((s.channel_low, exact.tensors[n].channel_low), (s.channel_high, exact.tensors[n].channel_high))
        if not np.array_equal(a, b)
    }
    facts = {
        "tensors": len(sampled.tensors),
        "sampled": sum(s.step > 1 for s in sampled.tensors.values()),
        "largest_step": max(s.step for s in sampled.tensors.values()),
        "extremes_differ": len(differing),
    }
    decibels = {}
    for method in METHODS:
        compared = (exact,) if method == "minmax" and not differing else (exact, sampled)  # the same ranges
        made = [quantize_int8(model, r, "tensorrt", method=method, around="fp32").model for r in compared]
        reached = [_sqnr_db(expected, _logits(m, test)) for m in made]
        decibels[method] = reached[0], reached[-1]
    return facts, decibels


def _logits(model: Any, images: Array) -> Array:
    from edgecnn.backends._onnxruntime import open_session

    session = open_session(model, threads=THREADS)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[k : k + 8]})[0] for k in range(0, len(images), 8)])


def _sqnr_db(exact: Array, made: Array) -> float:
    noise = np.square(exact.astype(np.float64) - made).sum()
    return 10 * float(np.log10(np.square(exact, dtype=np.float64).sum() / max(noise, 1e-30)))


def prepare_graph(name: str, shared: Path, folder: Path) -> Path:
    """The float32 graph of a network: published where the shared folder has it, else exported with seeded weights."""
    if name in PUBLISHED:
        return shared / "weights" / f"{PUBLISHED[name]}.onnx"
    import zoo_int8

    from edgecnn.zoo import find_model

    card = find_model(name)
    zoo_int8._export(card, folder / "net.onnx", shared, zoo_int8._images(card, shared))
    return folder / "net.onnx"


def read_images(name: str, shared: Path, count: int, held_out: int, seed: int = 0) -> tuple[Array, Array]:
    """`count` images to calibrate with and `held_out` others, preprocessed, in a seeded order."""
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.zoo import find_model

    card = find_model("mobilenet_v2" if name in PUBLISHED else name)
    preprocessing = preprocessing_from_json(card.preprocessing)
    small = preprocessing.crop <= 32
    source = f"cifar10:{shared / 'data' / 'cifar10-jpeg'}" if small else str(shared / "data" / "imagenet-500")
    data = open_dataset(source, preprocessing, "train" if small else "test")
    order = np.random.default_rng(seed).permutation(len(data))[: count + held_out]
    images = np.stack([data.tensor(int(k)) for k in order])
    if name in PUBLISHED:  # made for pixels from -1 to 1
        mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        size = 160 if "160" in PUBLISHED[name] else 224
        first = (224 - size) // 2
        images = ((images * std + mean) * 2 - 1)[:, :, first : first + size, first : first + size]
    images = np.ascontiguousarray(images, np.float32)
    return images[:count], images[count:]


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "quality"))
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--images", type=int)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="beside two busy loops")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", "../shared")))
    options = parser.parse_args()
    count, cost = options.images or (256 if options.what == "cost" else 64), options.what == "cost"
    shared, beside = options.shared.resolve(), BUSY * options.busy
    for name in options.networks or (COSTLY if cost else ALL):
        command = f"python benchmarks/ranges_cost.py {options.what} {name} --images {count}"
        command += f" --rounds {options.rounds}" if cost else f" --held-out {options.held_out} --draws {options.draws}"
        recorder = Recorder(f"ranges_{options.what}", command + " --busy" * options.busy, tools=("onnxruntime",))
        with tempfile.TemporaryDirectory() as made, neighbors(beside):
            folder = Path(made)
            if cost:
                found = measure_cost(name, count, options.rounds, shared, folder)
            else:
                found = measure_quality(name, count, options.held_out, options.draws, shared, folder)
            recorder.add({"network": name, "images": count, "busy": options.busy}, found, neighbors=beside)


if __name__ == "__main__":
    main()
