"""Linear probes: how well each stage of a trained network separates other classes (Alain and Bengio 2016).

For little and very different data, where the last stage may be too much about what the network was trained on: the
table says which stage, or all of them together, a linear classifier should read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.data.dataset import Dataset, stratified
from edgecnn.data.open import has_test_split, open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import DataError
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.training.loader import ImageLoader
from edgecnn.pytorch.training.progress import Progress, Silent
from edgecnn.pytorch.training.transfer import count_classes, stage_names
from edgecnn.pytorch.weights import load_weights
from edgecnn.recipe.schema import AugmentSettings
from edgecnn.results.probe import StageProbe
from edgecnn.zoo import find_model

BATCH = 64
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the weights of standardized features
FOLDS, MANY = 5, 5_000  # with more images one fold is enough
TOGETHER = "all together"


@dataclass(frozen=True)
class ProbedStage:
    """A row, which test images are `right`, [test_n] in the order of the data set, and the seconds that it took, by the
    clock and of the processor, the one pass over the images included."""

    row: StageProbe
    right: npt.NDArray[np.bool_]
    seconds: float
    cpu_seconds: float


def probe(
    name: str,
    source: str,
    weights: str = "default",
    *,
    ema: bool = False,
    images: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[StageProbe]:
    """StageProbe every stage of a network, globally averaged, and all of them side by side; in forward order.

    `images` limits the training images, stratified. Raises `DataError` for data that cannot be learned from.
    """
    preprocessing = preprocessing_from_json(find_model(name).preprocessing)
    train = open_dataset(source, preprocessing, "train")
    if train.labels is None or len(np.unique(train.labels)) < 2:
        raise DataError(f"{train.name}: a probe needs at least two classes", "name labeled images of two classes")
    test = open_dataset(source, preprocessing, "test", train.label_names or ()) if has_test_split(source) else None
    if images is not None and images < len(train):
        train = train.subset(stratified(train.labels, train.ids, images, seed))
    return [one.row for one in probe_images(name, weights, train, test, ema=ema, seed=seed, progress=progress)]


def probe_images(
    name: str,
    weights: str,
    train: Dataset,
    test: Dataset | None,
    *,
    ema: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[ProbedStage]:
    """`probe` on images that are open already."""
    card, progress = find_model(name), progress or Silent()
    begun, begun_cpu = time.monotonic(), time.process_time()
    network = build_model(card.name, count_classes(weights, card, ema))
    info = load_weights(network, card, weights, seed, ema=ema)
    for note in info.weights_notes:
        progress.note(note)
    progress.note(f"features of {len(train)} training and {0 if test is None else len(test)} test images")
    stages = stage_names(network)
    known, labels = _features(network, train, stages)
    unseen, truth = ({}, labels[:0]) if test is None else _features(network, test, stages)
    passed, passed_cpu = time.monotonic() - begun, time.process_time() - begun_cpu
    rows = []
    for stage in (*stages, TOGETHER):
        started, started_cpu = time.monotonic(), time.process_time()
        inputs = torch.cat(list(known.values()), 1) if stage == TOGETHER else known[stage]
        held = None
        if unseen:
            held = torch.cat(list(unseen.values()), 1) if stage == TOGETHER else unseen[stage]
        row, right = _probe(stage, inputs, labels, held, truth, seed)
        took = passed + time.monotonic() - started, passed_cpu + time.process_time() - started_cpu
        rows.append(ProbedStage(row, right, *took))
        progress.note(f"{stage}: {row.validation_top1_pct:.2f} %")
    return rows


@torch.no_grad()
def _features(network: nn.Module, dataset: Dataset, stages: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor]:
    """The globally averaged output of each stage, [N, channels], and the labels."""
    network.eval()
    pictures = ImageLoader(dataset, AugmentSettings(), torch.device("cpu"))
    found: dict[str, list[Tensor]] = {stage: [] for stage in stages}
    order = np.array_split(pictures.readable, -(-len(dataset) // BATCH))
    with _listening(network, stages, found):
        for batch in pictures.batches(order):
            network(pictures.inputs(batch))
    return {stage: torch.cat(parts) for stage, parts in found.items()}, pictures.labels


@contextlib.contextmanager
def _listening(network: nn.Module, stages: tuple[str, ...], found: dict[str, list[Tensor]]) -> Iterator[None]:
    def listen(stage: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[stage].append(output.mean((2, 3)) if output.ndim == 4 else output.flatten(1))

        return hook

    handles = [network.get_submodule(stage).register_forward_hook(listen(stage)) for stage in stages]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _probe(
    stage: str, inputs: Tensor, labels: Tensor, held: Tensor | None, truth: Tensor, seed: int
) -> tuple[StageProbe, npt.NDArray[np.bool_]]:
    """Choose the weight decay by cross-validation, then fit all training images."""
    classes = int(labels.max()) + 1
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    folds = [torch.from_numpy(fold == k) for k in range(FOLDS if len(labels) <= MANY else 1)]
    scores = []
    for decay in DECAYS:
        hits = [_hits(_fit(inputs[~f], labels[~f], classes, decay), inputs[f], labels[f]) for f in folds]
        scores.append(float(torch.cat(hits).double().mean()))
    best = max(range(len(DECAYS)), key=lambda k: (scores[k], k))  # of equals, the simpler
    final = _fit(inputs, labels, classes, DECAYS[best])
    right = np.zeros(0, bool) if held is None else _hits(final, held, truth).numpy()
    row = StageProbe(
        name=stage,
        features=inputs.shape[1],
        decay=DECAYS[best],
        validation_top1_pct=100 * scores[best],
        n=len(labels),
        top1_pct=None if held is None else 100 * float(right.mean()),
        test_n=len(right),
    )
    return row, right


def _fit(inputs: Tensor, labels: Tensor, classes: int, decay: float) -> nn.Module:
    """Multinomial logistic regression on standardized features, by L-BFGS from zero."""
    mean, std = inputs.mean(0), inputs.std(0).clamp(min=1e-6)
    x = (inputs - mean) / std
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    wanted = F.one_hot(labels, classes).to(x.dtype)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def loss() -> float:
        """With its gradients, which are short: autograd would take most of the time."""
        logits = layer(x)
        wrong = (logits.softmax(1) - wanted) / len(x)
        layer.weight.grad, layer.bias.grad = wrong.T @ x + decay * layer.weight, wrong.sum(0)
        return float(F.cross_entropy(logits, labels) + decay * layer.weight.square().sum() / 2)

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # the same on features that are not standardized
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer


@torch.no_grad()
def _hits(layer: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    found: Tensor = layer(inputs).argmax(1) == labels
    return found
