"""What quantization-aware training wins back: at 8 bits, and at fewer, where quantization alone loses.

    python benchmarks/qat.py [--bits 8 5] [--epochs 1] [--learning-rate 0.02] [--threads 1] [--shared DIR]
        [--folder DIR]

ResNet-20 with the weights and the CIFAR-10 images of the shared folder: its graph for TensorRT as `auto` quantizes it,
then trained as `edgecnn train --qat` trains it, of the 20 000 training images nine tenths. Top-1 of all test images,
each of which is judged before and after: the drop is paired. With fewer bits, which only this program can ask for, each
step of 8 bits is 2^(8 - bits) times as large. At 8 bits the graph that was written runs in ONNX Runtime beside the
network, on `COMPARED` test images. A call that was ended goes on in the next with the same `--folder`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _result import ROOT, Recorder

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset

NETWORK, WEIGHTS = "resnet20_cifar", "resnet20_cifar10jpeg.safetensors"
COMPARED = 1000
RECIPE = """
[model]
name = "{network}"
weights = "{weights}"
[data]
source = "{source}"
[train]
batch = 64
[train.augment]
mirror = true
pad = 4
[qat]
epochs = {epochs}
learning_rate = {rate}
"""


def main() -> None:
    """Measure, print and file one row for each number of bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 5])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT / ".." / "shared")))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as folder:
        for bits in options.bits:
            words = f"--bits {bits} --epochs {options.epochs} --learning-rate {options.learning_rate:g}"
            recorder = Recorder("qat", f"python benchmarks/qat.py {words}", tools=("torch", "onnxruntime"))
            key = {"network": NETWORK, "bits": bits}
            recorder.add(key, measure(bits, options, Path(folder)))


def measure(bits: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One number of bits: before, after, and how the graph that is written compares."""
    import onnx

    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.backends._half import rounded_to_fp16
    from edgecnn.graph.ptq.candidates import compute_logits
    from edgecnn.graph.simplify import simplify_graph
    from edgecnn.pytorch.qat.network import QuantizedNetwork
    from edgecnn.pytorch.qat.train import Trained, train_quantized
    from edgecnn.recipe.load import load_recipe
    from edgecnn.statistics import drop_interval

    source = f"cifar10:{options.shared.resolve() / 'data' / 'cifar10-jpeg'}"
    weights = options.shared.resolve() / "weights" / WEIGHTS
    fp32, int8 = _graphs(weights, source, folder)
    path = folder / "resnet20.toml"
    path.write_text(
        RECIPE.format(
            network=NETWORK, weights=weights, source=source, epochs=options.epochs, rate=options.learning_rate
        )
    )
    recipe, model = load_recipe(str(path)), onnx.load(int8)
    test = _open(source, "test")
    described = dataclasses.replace(read_sidecar(int8), labels=list(test.label_names or ()))
    started = time.process_time()
    work = folder / str(bits)
    begun, teacher = work.exists(), simplify_graph(onnx.load(fp32))
    trained = train_quantized(recipe, model, teacher, described, work, resume=None, threads=options.threads, bits=bits)
    spent = None if begun else round(time.process_time() - started, 1)
    before = dataclasses.replace(trained, network=QuantizedNetwork(model, bits=bits).eval())
    exact = compute_logits(onnx.load(fp32), test)

    def right(one: Trained) -> np.ndarray:
        return np.asarray(one.logits(test).argmax(1) == test.labels)

    old, new, whole = right(before), right(trained), exact.argmax(1) == test.labels
    lost, gained, n = int((old & ~new).sum()), int((~old & new).sum()), len(test)
    row: dict[str, Any] = {
        "epochs": options.epochs,
        "steps": options.epochs * (round(0.9 * len(_open(source, "train"))) // recipe.train.batch),
        "learning_rate": options.learning_rate,
        "n": n,
        "float_top1_pct": round(100 * float(whole.mean()), 2),
        "ptq_top1_pct": round(100 * float(old.mean()), 2),
        "qat_top1_pct": round(100 * float(new.mean()), 2),
        "drop_to_ptq_pp": round(100 * (lost - gained) / n, 2),
        "drop_to_ptq_ci_pp": [round(100 * float(end), 2) for end in drop_interval(lost, gained, n)],
        "recovered_pct": round(100 * (lost - gained) / loss, 1) if (loss := int(old.sum() - whole.sum())) < 0 else None,
        "cpu_s": spent,
    }
    if bits == 8:
        shown = test.subset(list(range(0, n, n // COMPARED)))
        expected = trained.logits(shown)
        found = compute_logits(rounded_to_fp16(trained.network.written_to(model)), shown)
        noise = np.square(expected.astype(np.float64) - found).sum()
        row["graph_sqnr_db"] = round(float(10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise)), 2)
        row["same_top1"] = f"{int((expected.argmax(1) == found.argmax(1)).sum())} of {len(shown)}"
    return row


def _graphs(weights: Path, source: str, folder: Path) -> tuple[Path, Path]:
    from edgecnn.steps.export import export
    from edgecnn.steps.quantize import quantize

    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    if not int8.exists():
        export(NETWORK, fp32, checkpoint=weights)
        quantize(fp32, int8, precision="int8", data=source)
    return fp32, int8


def _open(source: str, split: Any) -> Dataset:
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.zoo import find_model

    return open_dataset(source, preprocessing_from_json(find_model(NETWORK).preprocessing), split)


if __name__ == "__main__":
    main()
