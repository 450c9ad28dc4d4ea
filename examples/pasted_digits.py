"""What `fast_rcnn.py` and `captioning.py` share: pictures of pasted digits, and the maps of a network that sees them.

A picture has one or two handwritten digits of several sizes on a noisy ground, among fragments of others. The network
is a ResNet-20 of the zoo that learns single digits; `ec.export(features=...)` gives its maps C1 and C2 in place of its
logits, at a larger size, in FP32 and in INT8.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

import edgecnn as ec
from edgecnn.data.dataset import Split
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.pytorch.models import build_model
from edgecnn.zoo import find_model

NETWORK, MAPS, STRIDES = "resnet20_cifar", ("C1", "C2"), (2, 4)
SIDE, SINGLE_SIDE = 64, 32  # pixels of a picture, and of one with a single digit
SIZES, APART = (16, 26), 6  # sides of digits, and by how much more two are beside than above each other, in pixels
FRAGMENTS, FRAGMENT_SIDE = 6, 7
SINGLES, EPOCHS, BATCH = 3000, 3, 32
MAP_BATCH = 50

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Picture(NamedTuple):
    """`pixels` [side, side]; `boxes` [n, 4] are squares around the digits: left, top, right, bottom, in pixels."""

    pixels: Pixels
    boxes: Floats
    labels: npt.NDArray[np.int64]


class Painter:
    """Makes pictures of the digits of one split of `source` (`digits`, `mnist:DIR`); the same for the same seed."""

    def __init__(self, source: str, split: Split, seed: int) -> None:
        self.dataset = open_dataset(source, Preprocessing(28, 28, (0.0,), (1.0,), channels=1), split)
        self.random = np.random.default_rng(seed)

    def pictures(self, count: int, *, digits: int = 2, side: int = SIDE) -> list[Picture]:
        """`count` pictures of one to `digits` digits each."""
        return [self._picture(int(self.random.integers(1, digits + 1)), side) for _ in range(count)]

    def _picture(self, digits: int, side: int) -> Picture:
        pixels = self.random.integers(0, 60, (side, side)).astype(np.uint8)
        for _ in range(FRAGMENTS * side**2 // SIDE**2):
            row, column = self.random.integers(4, 10, 2)
            fragment = self._digit(20)[0][row : row + FRAGMENT_SIDE, column : column + FRAGMENT_SIDE]
            _paste(pixels, fragment, *self.random.integers(0, side - FRAGMENT_SIDE, 2))
        boxes, labels = self._places(digits, side), []
        for left, top, right, _ in boxes:
            drawn, label = self._digit(right - left)
            _paste(pixels, drawn, left, top)
            labels.append(label)
        return Picture(pixels, boxes.astype(np.float32), np.array(labels, np.int64))

    def _places(self, digits: int, side: int) -> npt.NDArray[np.int64]:
        """Boxes [digits, 4] that do not overlap; of two it is clear whether they are beside or above each other."""
        while True:
            sizes = self.random.integers(SIZES[0], SIZES[1] + 1, digits)
            corners = np.stack([self.random.integers(0, side - size + 1, 2) for size in sizes])
            boxes = np.concatenate([corners, corners + sizes[:, None]], 1)
            if digits == 1:
                return boxes
            apart = (boxes[0, :2] >= boxes[1, 2:]) | (boxes[1, :2] >= boxes[0, 2:])
            across, down = np.abs(np.diff(boxes[:, :2] + boxes[:, 2:], axis=0))[0] / 2
            if apart.any() and abs(across - down) >= APART:
                return boxes

    def _digit(self, size: int) -> tuple[Pixels, int]:
        """A digit [size, size], whose ink touches two sides of the square at least, and its class."""
        dataset, index = self.dataset, int(self.random.integers(len(self.dataset)))
        assert dataset.image is not None
        assert dataset.labels is not None
        image = dataset.image(index).convert("L")
        left, top, right, bottom = image.getbbox() or (0, 0, *image.size)
        half = max(right - left, bottom - top) / 2
        x, y = (left + right) / 2, (top + bottom) / 2
        square = (x - half, y - half, x + half, y + half)
        drawn = image.transform((size, size), Image.Transform.EXTENT, square, Image.Resampling.BILINEAR)
        return np.asarray(drawn), int(dataset.labels[index])


def _paste(pixels: Pixels, drawn: Pixels, left: int, top: int) -> None:
    place = pixels[top : top + len(drawn), left : left + drawn.shape[1]]
    np.maximum(place, drawn, out=place)


def network_input(pictures: Sequence[Picture]) -> Floats:
    """float32 [N, 3, side, side], preprocessed as the network's card says."""
    side = len(pictures[0].pixels)
    known = preprocessing_from_json(find_model(NETWORK).preprocessing)
    preprocessing = dataclasses.replace(known, resize=side, crop=side)
    return np.stack([preprocessing.tensor(Image.fromarray(picture.pixels)) for picture in pictures])


def train_backbone(source: str, file: Path) -> None:
    """Train the network on pictures of single training digits, and write its weights."""
    torch.manual_seed(0)
    pictures = Painter(source, "train", seed=0).pictures(SINGLES, digits=1, side=SINGLE_SIDE)
    print(f"training {NETWORK} on {SINGLES} pictures of single digits", flush=True)
    images, labels = torch.from_numpy(network_input(pictures)), torch.tensor([int(p.labels[0]) for p in pictures])
    network = build_model(NETWORK, 10).train()
    fit(network, SINGLES, EPOCHS, lambda chosen: nn.functional.cross_entropy(network(images[chosen]), labels[chosen]))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict()}, file.with_suffix(".partial"))
    file.with_suffix(".partial").replace(file)


def fit(network: nn.Module, count: int, epochs: int, loss_of: Callable[[Tensor], Tensor], step: float = 3e-3) -> None:
    """AdamW on batches of the positions 0 to `count`, in one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(network.parameters(), step, weight_decay=1e-3)
    steps = epochs * -(-count // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, step, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(count).split(BATCH):
            loss = loss_of(chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def features_graphs(source: str, folder: Path) -> tuple[Path, Path]:
    """The features graphs in FP32 and in INT8 for ONNX Runtime's integer kernels; weights that are in `folder` already
    are not trained again."""
    folder = folder / source.partition(":")[0]
    weights = folder / "backbone.pth"
    if not weights.exists():
        train_backbone(source, weights)
    fp32 = ec.export(NETWORK, folder / "features.fp32.onnx", checkpoint=weights, size=SIDE, features=MAPS)
    calibration = folder / "calibration.npz"
    np.savez(calibration, input=network_input(Painter(source, "train", seed=1).pictures(128)))
    int8 = ec.quantize(fp32, precision="int8", scheme="ort-cpu", method="mse", data=calibration)
    return fp32, int8.path


def compute_maps(graph: Path, pictures: Sequence[Picture]) -> list[Tensor]:
    """C1 [N, 32, 32, 32] and C2 [N, 64, 16, 16] of pictures, by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(os.fspath(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [
        session.run(list(MAPS), {name: network_input(pictures[start : start + MAP_BATCH])})
        for start in range(0, len(pictures), MAP_BATCH)
    ]
    return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*parts, strict=True)]
