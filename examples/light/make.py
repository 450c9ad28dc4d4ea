"""Makes the graph and the pictures of this folder again: `python examples/light/make.py`, with the extra `cpu`.

The pictures are the UCI handwritten digits (E. Alpaydin, C. Kaynak, 1998) as scikit-learn ships them, in MNIST's
format: 200 for calibration, 540 for the verdict, those that the recipe `lenet5-digits` tests with.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

from edgecnn.cli import main
from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.pixels import digits

CALIBRATION = 200


def make(folder: Path) -> None:
    """Write `lenet5.onnx` and the four IDX files into `folder`."""
    run = folder / "run"
    if code := main(["run", "lenet5-digits", "--until", "export", "--threads", "1", "--out", str(run)]):
        raise SystemExit(code)
    (run / "model.fp32.onnx").replace(folder / "lenet5.onnx")
    write_pictures(folder)


def write_pictures(folder: Path) -> None:
    """Write the four IDX files."""
    size = Preprocessing(resize=8, crop=8, mean=(0.5,), std=(0.5,), channels=1)
    train, test = digits(folder, size, "train"), digits(folder, size, "test")
    for stem, images in (("train", train.subset(list(range(CALIBRATION)))), ("t10k", test)):
        _idx(folder / f"{stem}-images-idx3-ubyte.gz", _pixels(images))
        assert images.labels is not None
        _idx(folder / f"{stem}-labels-idx1-ubyte.gz", images.labels.astype(np.uint8))


def _pixels(images: Dataset) -> np.ndarray:
    return np.stack([np.frombuffer(images.content(i), np.uint8).reshape(8, 8) for i in range(len(images))])


def _idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    make(parser.parse_args().output)
