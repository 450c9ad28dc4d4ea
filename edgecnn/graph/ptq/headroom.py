"""How far ranges reach beyond what was seen, and the folds by which candidates are judged.

A range of least squared error suits the values that were seen. An image that goes beyond it is clipped all along, and
one such image in twenty can hold most of the noise in the logits; with few images, or of one kind, many are such. Room
for them costs next to nothing where none comes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.qdq.scales import join_scale_groups
from edgecnn.machine.threads import allowed_threads
from edgecnn.quantization import Placement

HEADROOM = 1.2  # as wide as without; how much more pays for itself cannot be told from a few dozen images
FEW_VALUES = 8.0  # of a channel, with which a range is doubled; from 40 on, `HEADROOM` is more
SIGNED = 0.5  # of its largest magnitude: the smaller side of what has values of either sign
FEW_IMAGES, FOLDS = 64, 4  # below so many, all are judged on in so many folds
JUDGED_IMAGES, RANGE_IMAGES = 64, 256
Tensors = Mapping[str, TensorStatistics]


@dataclass(frozen=True)
class Fold:
    """Images that are judged on, the others, and what the float graph's tensors hold for those."""

    held: list[int]
    fit: list[int]
    tensors: Tensors


def split_images(count: int) -> list[list[int]]:
    """So many images in parts, each spread over all of them. Few are judged on in turn, part by part; of many every
    fourth one is, at most `JUDGED_IMAGES`: the first part, beside two of the others, at most `RANGE_IMAGES`."""
    if count < FEW_IMAGES:
        return [list(range(k, count, FOLDS)) for k in reversed(range(FOLDS))]
    quarter = list(range(3, count, 4))
    held = spread(quarter, JUDGED_IMAGES)
    others = spread(sorted(set(range(count)) - set(held)), RANGE_IMAGES)
    return [held, others[0::2], others[1::2]]


def judging_images(count: int) -> list[int]:
    """Those of so many images that candidates are judged on, in the order in which they are."""
    parts = split_images(count)
    return [k for part in (parts if count < FEW_IMAGES else parts[:1]) for k in part]


def collect_parts(model: onnx.ModelProto, data: Dataset) -> list[Tensors]:
    """What the tensors of the float graph hold for each part of the images; of many not for the one judged on."""
    parts = split_images(len(data))
    of, threads = sum(map(len, parts)), allowed_threads()
    shown = parts if len(data) < FEW_IMAGES else parts[1:]
    return [collect_from_model(model, "", data.subset(part), threads=threads, of=of).tensors for part in shown]


def make_folds(count: int, seen: Sequence[Tensors]) -> list[Fold]:
    """The folds of so many images of whose parts it is known what the tensors hold."""
    parts = split_images(count)
    if count >= FEW_IMAGES:
        return [Fold(parts[0], sorted(set(range(count)) - set(parts[0])), merge_tensors(seen))]
    made = list[Fold]()
    for number, held in enumerate(parts):
        others = [k for k in range(len(parts)) if k != number]
        fit = sorted(image for k in others for image in parts[k])
        made.append(Fold(held, fit, merge_tensors([seen[k] for k in others])))
    return made


def spread(images: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).round().astype(int)
    return [images[k] for k in dict.fromkeys(chosen.tolist())]


def merge_tensors(parts: Sequence[Tensors]) -> dict[str, TensorStatistics]:
    """What they hold for the images of all parts."""
    made = {name: copy.deepcopy(one) for name, one in parts[0].items()}
    for part in parts[1:]:
        for name, one in part.items():
            made[name].merge(one)
    return made


def find_headroom(placement: Placement, tensors: Tensors) -> dict[str, float]:
    """By scale group, how much wider its range is than what was seen of it: by `HEADROOM`, or by `FEW_VALUES` over the
    values that were seen of a channel where that is more. Behind a global pool a channel has one value in each image.
    """
    counts: dict[str, float] = {}
    for q in placement.activations:
        one = tensors[q.tensor]
        count = one.counted * one.step**2 / len(one.channel_high)
        counts[q.scale_group] = max(counts.get(q.scale_group, 0.0), count)
    return {name: max(HEADROOM, 1 + FEW_VALUES / count) if count else HEADROOM for name, count in counts.items()}


def find_bounded(placement: Placement, seen: Iterable[Tensors]) -> frozenset[str]:
    """The scale groups whose largest value is the same in every part: a ReLU6 or the white of pixels bounds them."""
    parts = [join_scale_groups(placement, one) for one in seen]
    return frozenset(name for name in parts[0] if len({part[name].largest for part in parts}) == 1)


def find_signed(placement: Placement, seen: Iterable[Tensors]) -> frozenset[str]:
    """The scale groups that reach at least `SIGNED` as far on one side of zero as on the other. What is clipped of them
    errs both ways and cancels in what the layers behind add up; behind a ReLU or a SiLU it errs one way, all along in
    an image that goes beyond the range."""
    parts = [join_scale_groups(placement, one) for one in seen]
    reach = {name: (-min(p[name].low for p in parts), max(p[name].high for p in parts)) for name in parts[0]}
    return frozenset(name for name, sides in reach.items() if min(sides) >= SIGNED * max(sides) > 0)
