"""How far ranges reach beyond what was seen, and the folds by which that is judged.

A range of least squared error suits the values that were seen. An image that goes beyond it is clipped all along, and
one such image in twenty can hold most of the noise in the logits; with few images, or of one kind, many are such. How
much room pays for itself shows on images that are left out of the ranges, each in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.qdq.scales import join_scale_groups
from edgecnn.machine.threads import allowed_threads
from edgecnn.quantization import Placement, QuantParams

FACTORS = (1.0, 1.12, 1.25)
FOLDS, JUDGED_IMAGES, HEADROOM_IMAGES = 4, 128, 32
Tensors = Mapping[str, TensorStatistics]


@dataclass(frozen=True)
class Headroom:
    """Ranges are `factor` times as wide as they would be; those of the groups `bounded` not wider than the values."""

    factor: float = 1.0
    bounded: frozenset[str] = frozenset()

    def widen(self, params: QuantParams, statistics: TensorStatistics) -> QuantParams:
        """The parameters of a group with these statistics."""
        factor = self.factor
        if statistics.name in self.bounded:
            span = max(statistics.high, 0.0) - min(statistics.low, 0.0)
            whole = span / 255 if params.dtype == "uint8" else statistics.largest / 127
            factor = min(factor, max(1.0, whole / params.scale))
        return replace(params, scale=params.scale * factor)


@dataclass(frozen=True)
class Fold:
    """Images that are judged on, the others, and what the float graph's tensors hold for those."""

    held: list[int]
    fit: list[int]
    tensors: Tensors


def split_images(count: int) -> list[list[int]]:
    """At most `JUDGED_IMAGES` of so many images in `FOLDS` parts, each spread over all of them."""
    chosen = np.linspace(0, count - 1, min(count, JUDGED_IMAGES)).round().astype(int).tolist()
    return [chosen[k::FOLDS] for k in reversed(range(FOLDS))]


def collect_parts(model: onnx.ModelProto, data: Dataset, numbers: Collection[int] = range(FOLDS)) -> dict[int, Tensors]:
    """What the tensors of the float graph hold for each of the parts of the images."""
    parts = split_images(len(data))
    of, threads = sum(map(len, parts)), allowed_threads()
    return {k: collect_from_model(model, "", data.subset(parts[k]), threads=threads, of=of).tensors for k in numbers}


def make_folds(count: int, seen: Mapping[int, Tensors]) -> list[Fold]:
    """The folds of so many images of whose other parts it is known what the tensors hold."""
    parts, made = split_images(count), list[Fold]()
    for number, held in enumerate(parts):
        others = [k for k in range(len(parts)) if k != number]
        if seen.keys() >= set(others):
            fit = sorted(image for k in others for image in parts[k])
            made.append(Fold(held, fit, merge_tensors([seen[k] for k in others])))
    return made


def merge_tensors(parts: Sequence[Tensors]) -> dict[str, TensorStatistics]:
    """What they hold for the images of all parts."""
    made = {name: copy.deepcopy(one) for name, one in parts[0].items()}
    for part in parts[1:]:
        for name, one in part.items():
            made[name].merge(one)
    return made


def find_bounded(placement: Placement, seen: Iterable[Tensors]) -> frozenset[str]:
    """The scale groups whose largest value is the same in every part: a ReLU6 or the white of pixels bounds them."""
    parts = [join_scale_groups(placement, one) for one in seen]
    return frozenset(name for name in parts[0] if len({part[name].largest for part in parts}) == 1)
