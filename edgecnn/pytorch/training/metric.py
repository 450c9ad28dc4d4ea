"""Training of an embedding: images of one class near each other, of different ones far apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecnn.contract import EMBEDDING
from edgecnn.data.class_split import LEAST, ClassSplit
from edgecnn.data.pairs import SortedPairs, all_pairs, choose_threshold, squared_distances
from edgecnn.errors import DataError
from edgecnn.pytorch.embedding import EmbeddingNetwork
from edgecnn.pytorch.training.augment import key
from edgecnn.pytorch.training.epoch import EVALUATION_BATCH, DataSplits, Learner, Score, Trainer
from edgecnn.pytorch.training.loader import Positions, Source
from edgecnn.pytorch.training.process_group import ProcessGroup
from edgecnn.pytorch.training.progress import Progress
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.results.verification import ChosenThreshold

TRIPLET_MARGIN, CONTRASTIVE_MARGIN = 0.2, 1.0


def distances_within(embeddings: Tensor) -> Tensor:
    """Squared distances [N, N] of rows [N, D] of unit length."""
    return (2 - 2 * embeddings @ embeddings.T).clamp(min=0)


def triplet_loss(embeddings: Tensor, label: Tensor, margin: float) -> Tensor:
    """Mean of max(d(a, p) - d(a, n) + margin, 0) over every two images a, p of one class, with squared distances d, and
    as n the nearest image of another class that is farther from a than p (semi-hard); where none is, the farthest
    (Schroff et al., arXiv:1503.03832)."""
    d = distances_within(embeddings)
    same = label[:, None] == label
    ordered, place = d.detach().masked_fill(same, torch.inf).sort(1)
    farther = torch.searchsorted(ordered, d.detach(), right=True)
    negative = place.gather(1, torch.minimum(farther, (~same).sum(1, keepdim=True) - 1))
    losses = F.relu(d - d.gather(1, negative) + margin)
    return losses[same.fill_diagonal_(False)].mean()


def contrastive_loss(embeddings: Tensor, label: Tensor, margin: float) -> Tensor:
    """Mean over pairs of one class of d^2, and over pairs of two of max(margin - d, 0)^2, half of each, with distances
    d that are not squared (Hadsell, Chopra, LeCun 2006, here with both kinds of pairs alike in weight)."""
    d = distances_within(embeddings)
    same = label[:, None] == label
    apart = F.relu(margin - (d + 1e-12).sqrt()).square()[~same].mean()
    return (d[same.fill_diagonal_(False)].mean() + apart) / 2


class MetricTrainer(Trainer):
    """Batches of P classes with K images each; "top-1" is the share of images whose nearest other one, of the batch or
    of all that are evaluated, is of their class."""

    def __init__(
        self,
        recipe: Recipe,
        learner: Learner,
        splits: DataSplits,
        classes: ClassSplit,
        processes: ProcessGroup,
        progress: Progress,
    ) -> None:
        super().__init__(recipe.train, learner, splits, processes, progress)
        own = recipe.verification
        self.classes = classes
        self.images_per_class = own.images_per_class
        self.classes_per_batch = recipe.train.batch // own.images_per_class
        triplets = recipe.train.loss == "triplet"
        self._pull = triplet_loss if triplets else contrastive_loss
        self._margin = own.margin if own.margin is not None else TRIPLET_MARGIN if triplets else CONTRASTIVE_MARGIN
        self.dimensions = own.embedding
        labels = splits.train.labels.cpu().numpy()[splits.train.readable]
        self._members = [splits.train.readable[labels == k] for k in np.unique(labels)]
        if len(self._members) < max(LEAST, self.classes_per_batch):
            raise DataError(
                f"{len(self._members)} classes to train on make no batch of {self.classes_per_batch}",
                f"lower train.batch to {len(self._members)} times verification.images_per_class "
                f"({self.images_per_class}), or raise that",
            )

    def guessing_loss(self) -> float:
        """Of embeddings that are all alike: the margin, or half its square."""
        return max(self._margin, self._margin**2 / 2, 0.1)

    def _order(self, epoch: int) -> Iterator[Positions]:
        random = np.random.default_rng(key(self.settings.seed, epoch, "order"))
        decks: list[list[int]] = [[] for _ in self._members]
        turns: list[int] = []
        for _ in range(self.steps):
            if len(turns) < self.classes_per_batch:
                turns = [*turns, *(k for k in random.permutation(len(decks)).tolist() if k not in turns)]
            chosen, turns = turns[: self.classes_per_batch], turns[self.classes_per_batch :]
            yield np.concatenate([self._draw(decks, k, random) for k in chosen])

    def _draw(self, decks: list[list[int]], k: int, random: np.random.Generator) -> Positions:
        """K images of class `k`, or all of a smaller one: each as often as the others of its class."""
        count = min(self.images_per_class, len(self._members[k]))
        if len(decks[k]) < count:
            decks[k] = [*decks[k], *(p for p in random.permutation(self._members[k]).tolist() if p not in decks[k])]
        drawn, decks[k] = decks[k][:count], decks[k][count:]
        return np.array(drawn, np.int64)

    def _loss(self, heads: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        main, *auxiliary = (self._pull(rows.float(), wanted, self._margin) for rows in heads)
        return main + self.learner.auxiliary_weight * sum(auxiliary, main.new_zeros(()))

    def _count_right(self, output: Tensor, label: Tensor) -> Tensor:
        return (label[_nearest(output.float(), 1)[:, 0]] == label).sum()

    @torch.no_grad()
    def embed(self, source: Source, body: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] and labels [N] of all readable images, by the averaged weights where there are some."""
        body = self.learner.body if body is None or body is self.learner.body else EmbeddingNetwork(body)
        self.network.eval()
        order = source.readable
        parts = (order[start : start + EVALUATION_BATCH] for start in range(0, len(order), EVALUATION_BATCH))
        rows, labels = [], []
        with self.averaged():
            for batch in source.batches(parts):
                with self._autocast():
                    rows.append(body(self._prepared(source.inputs(batch))).float())
                labels.append(batch.label)
        return torch.cat(rows), torch.cat(labels)

    def evaluate(self, source: Source, body: nn.Module | None = None) -> Score:
        """The loss over all images at once, and whether the nearest other image (one of the nearest five) is of the
        same class."""
        rows, labels = self.embed(source, body)
        hits = labels[_nearest(rows, 5)] == labels[:, None]
        return Score(
            loss=float(self._pull(rows, labels, self._margin)),
            top1_pct=100 * float(hits[:, 0].float().mean()),
            top5_pct=100 * float(hits.any(1).float().mean()),
            n=len(labels),
            roc_auc=_roc_auc(rows, labels),
        )

    def facts(self) -> Mapping[str, Any]:
        """The network's kind, as its sidecars say it."""
        return {"classes": 0, "features": {EMBEDDING: [self.dimensions]}}

    def closing_facts(self) -> Mapping[str, Any]:
        """The threshold that pairs of the validation classes choose."""
        return {"verification": to_plain(self.choose_threshold())}

    def choose_threshold(self) -> ChosenThreshold:
        """By the pairs of the validation classes, with the network as it is."""
        assert self.splits.validation is not None
        rows, labels = (t.cpu().numpy() for t in self.embed(self.splits.validation))
        pairs = all_pairs(labels)
        threshold, accuracy = choose_threshold(squared_distances(rows, pairs), pairs.same)
        return ChosenThreshold(
            threshold=threshold,
            validation_pct=100 * accuracy,
            validation_pairs=len(pairs),
            train_classes=self.classes.train,
            validation_classes=self.classes.validation,
        )


def _roc_auc(rows: Tensor, labels: Tensor) -> float:
    values, pairs = rows.cpu().numpy(), all_pairs(labels.cpu().numpy())
    distances = squared_distances(values, pairs)
    return SortedPairs(distances, np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same), 0.0).measure(None, ()).auc


def _nearest(rows: Tensor, count: int) -> Tensor:
    """[N, count]: the other rows that are nearest to each, the nearest first."""
    d = distances_within(rows.detach()).fill_diagonal_(torch.inf)
    return d.topk(min(count, len(rows) - 1), largest=False).indices
