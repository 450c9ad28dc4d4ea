"""Quantization-aware training of an INT8 graph: the loop of `training/`, with the graph as its network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.dataset import Dataset, Split, nfc
from edgecnn.data.open import has_test_split, open_dataset
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError, TrainingError
from edgecnn.pytorch.checkpoint import read_weights
from edgecnn.pytorch.qat.network import QuantizedNetwork
from edgecnn.pytorch.training.epoch import DataSplits, Learner, Trainer
from edgecnn.pytorch.training.loop import train
from edgecnn.pytorch.training.optimizer import ParameterGroup
from edgecnn.pytorch.training.process_group import ProcessGroup
from edgecnn.pytorch.training.progress import Progress
from edgecnn.pytorch.training.splits import split_images
from edgecnn.recipe.schema import Recipe
from edgecnn.results.training import TrainResult

_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """What training made, and the network with its weights."""

    result: TrainResult
    network: QuantizedNetwork

    def logits(self, data: Dataset) -> npt.NDArray[np.float32]:
        """Of all images as the graph takes them: [N, classes]."""
        made = []
        with torch.no_grad():
            for start in range(0, len(data), _BATCH):
                pixels = [data.tensor(k) for k in range(start, min(start + _BATCH, len(data)))]
                made.append(self.network.graph_logits(torch.from_numpy(np.stack(pixels))).numpy())
        return np.concatenate(made)


def train_quantized(
    recipe: Recipe,
    graph: onnx.ModelProto,
    teacher: onnx.ModelProto,
    source: Sidecar,
    folder: Path,
    *,
    resume: bool | None = False,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
    bits: int = 8,
) -> Trained:
    """Train the INT8 `graph` on the recipe's images for `qat.epochs` to give the probabilities of the float graph
    `teacher`, of which it was made; `source` is its sidecar, `folder` holds the checkpoints. Labels only choose the
    best epoch. It resumes as `training.loop.train` does, and raises the same; `GraphError` for a node that cannot be
    trained, `DataError` for images of other classes than the graph's."""
    preprocessing = preprocessing_from_json(source.preprocessing or {})
    takes_pixels = source.contract.calibrated_input != "normalised"
    pixels = preprocessing if takes_pixels else None
    network, known = QuantizedNetwork(graph, normalized=pixels, bits=bits), QuantizedNetwork(teacher, normalized=pixels)

    def make(recipe: Recipe, processes: ProcessGroup, skip_corrupt: bool, progress: Progress) -> Trainer:
        splits = _open_splits(recipe, source, preprocessing, processes.device, skip_corrupt)
        network.to(processes.device)
        groups = [ParameterGroup([parameter], step) for parameter, step in network.steps()]
        learner = Learner(network, network, groups, teacher=known.to(processes.device))
        return Trainer(recipe.train, learner, splits, processes, progress)

    with _keys_of_qat():
        result = train(
            with_qat_settings(recipe),
            folder,
            resume=resume,
            threads=threads,
            skip_corrupt=skip_corrupt,
            progress=progress,
            make=make,
        )
    network.load_state_dict(read_weights(result.checkpoint))
    return Trained(result, network.cpu().eval())


@contextlib.contextmanager
def _keys_of_qat() -> Iterator[None]:
    """What the loop says of its settings, by the keys that they have in a recipe."""
    try:
        yield
    except TrainingError as exc:
        message, hint = (re.sub(r"\btrain\.(epochs|learning_rate)\b", r"qat.\1", s) for s in (exc.message, exc.hint))
        raise TrainingError(message, hint.removesuffix(", or set train.warmup_epochs")) from exc


def with_qat_settings(recipe: Recipe) -> Recipe:
    """The recipe as the loop reads it: `[qat]` in place of how `[train]` would optimize, images and losses as there."""
    settings = replace(
        recipe.train,
        epochs=recipe.qat.epochs,
        learning_rate=recipe.qat.learning_rate,
        optimizer="adamw",
        weight_decay=0.0,
        lr_schedule="cosine",
        warmup_epochs=0.0,
        milestones=None,
        early_stop=0,
        label_smoothing=0.0,
        ema=0.0,
        amp="off",
        channels_last=False,
        sync_batchnorm=False,
        gradient_norms=False,
    )
    return replace(recipe, train=settings)


def _open_splits(
    recipe: Recipe, source: Sidecar, preprocessing: Preprocessing, device: torch.device, skip_corrupt: bool
) -> DataSplits:
    """The recipe's images with the classes of the graph; raises `DataError` where they have others."""
    data = recipe.data.source
    labels, wnids = [nfc(name) for name in source.labels or ()], source.wnids or ()

    def opened(split: Split) -> Dataset:
        found = open_dataset(data, preprocessing, split, labels, wnids)
        if found.labels is None or found.by_position or (labels and list(found.label_names or ()) != labels):
            raise DataError(
                f"{found.name}: its classes are not those of the graph: {', '.join(labels[:5]) or 'unknown ones'}",
                "name the data set that the network was trained for: labels are what it learns",
            )
        return found

    test = opened("test") if has_test_split(data) else None
    return split_images(recipe.train, opened("train"), test, device, skip_corrupt)
