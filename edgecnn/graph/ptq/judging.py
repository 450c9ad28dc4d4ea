"""`--method auto`: headroom of ranges, zero points, cross-layer equalization and layer-wise reconstruction, judged on
images that neither the ranges nor the weights of a candidate have seen.

Of many images every fourth one is judged on, and what is taken is made of the others. Few are all judged on, in folds,
each by what was made of others, and what is taken is made of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.data.dataset import Dataset
from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.candidates import (
    Candidate,
    compute_logits,
    insert_candidate,
    reconstruct_candidate,
    round_candidate,
)
from edgecnn.graph.ptq.equalization import equalize_channels
from edgecnn.graph.ptq.headroom import (
    FEW_IMAGES,
    Fold,
    Tensors,
    collect_parts,
    find_bounded,
    find_signed,
    judging_images,
    make_folds,
    merge_tensors,
    spread,
)
from edgecnn.graph.ptq.scores import Scores, choose_best
from edgecnn.quantization import Placement
from edgecnn.results.quantization import CandidateRow

STRENGTH = 0.5  # of the equalization
UNSEEN = 16.0  # images that may reach beyond those seen: with as many the range of a channel is taken to be doubled
RECONSTRUCTION_IMAGES = 192
FEWEST_IMAGES = 16
PLAIN, OFFSETS = "least squared error", "with offsets"
RECONSTRUCTED, EQUALIZED = "reconstructed", "reconstructed, equalized"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Judged:
    """Candidates in the order in which each must beat the one taken before it, how each did, and those that could not
    be made, with the reason."""

    made: list[Candidate]
    scores: list[Scores]
    fallen: list[str]

    @property
    def best(self) -> Candidate:
        """What is to be taken."""
        return self.made[choose_best(self.scores)]

    def rows(self) -> list[CandidateRow]:
        """The rows of the report."""
        return [
            CandidateRow(
                name=candidate.name,
                sqnr_db=round(scores.sqnr_db, 2),
                agreement_pct=round(scores.agreement_pct, 1),
                n=len(scores.noise),
                taken=candidate is self.best,
            )
            for candidate, scores in zip(self.made, self.scores, strict=True)
        ]


@dataclass(frozen=True)
class Trial:
    """What candidates are made of and judged by; `expected` are the float graph's logits of what the folds hold out,
    in their order; `tensors` is what tensors hold for all images that are shown, `bounded` which of them are."""

    model: onnx.ModelProto
    placement: Placement
    half: bool
    data: Dataset
    expected: npt.NDArray[np.float32]
    tensors: Tensors
    folds: list[Fold] = field(default_factory=list)
    bounded: frozenset[str] = frozenset()
    equalized: dict[str, float] = field(default_factory=dict)
    searched: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def looked_at(self) -> Trial:
        """The same with its folds, by a pass of the float graph. Scaling bounds nothing: channels brought to what was
        seen of them have the same largest value in every part by that alone. With many images ranges of values of
        either sign do without headroom too."""
        seen = collect_parts(self.model, self.data)
        bounded = self.bounded if self.equalized else find_bounded(self.placement, seen)
        if len(self.data) >= FEW_IMAGES:
            bounded |= find_signed(self.placement, seen)
        return replace(self, tensors=merge_tensors(seen), folds=make_folds(len(self.data), seen), bounded=bounded)

    def score(self, made: Sequence[Candidate]) -> Scores:
        """How the candidates of the folds do on the images that they have not seen."""
        found, first = [], 0
        for fold, candidate in zip(self.folds, made, strict=True):
            expected = self.expected[first : first + len(fold.held)]
            found.append(_score(candidate, self.placement, expected, self.data.subset(fold.held), self.half))
            first += len(fold.held)
        return Scores.joined(found)

    def round(self, tensors: Tensors, name: str, *, offsets: bool = False) -> Candidate:
        """By least squared error, with headroom."""
        made = round_candidate(
            self.model,
            self.placement,
            tensors,
            "mse",
            self.half,
            offsets=offsets,
            name=name,
            bounded=self.bounded,
            searched=self.searched,
        )
        return replace(made, equalized=self.equalized)

    def reconstruct(self, tensors: Tensors, name: str, images: Sequence[int], progress: Progress | None) -> Candidate:
        """With weights and biases made up on these images; raises `LinAlgError` where that has no solution."""
        start = self.round(tensors, name, offsets=True)
        shown = self.data.subset(spread(images, RECONSTRUCTION_IMAGES))
        return reconstruct_candidate(start, self.placement, self.half, shown, progress)


def judge_candidates(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    progress: Progress | None = None,
    *,
    expected: npt.NDArray[np.float32] | None = None,
) -> Judged:
    """Candidates, each judged on images that neither its ranges nor its weights have seen. `expected` are the float
    graph's logits of `judging_images`, where they are known, maybe of more."""
    if expected is None:
        expected = compute_logits(model, data.subset(judging_images(len(data))))
    fallen: list[str] = []
    trial = Trial(model, placement, half, data, expected, tensors).looked_at()
    level = _equalize(trial, tensors, fallen)
    judged = _judge_ranges(trial, tensors, fallen)
    groups = [(level, EQUALIZED)] if level else []
    if level is None or len(data) >= FEW_IMAGES:
        groups.append((trial, RECONSTRUCTED))
    rounds = len(trial.folds) + (len(trial.folds) > 1)
    for number, (one, name) in enumerate(groups):
        if not judged.best.layers:
            shown = [_part_of(progress, number * rounds + k, len(groups) * rounds) for k in range(rounds)]
            _add_reconstructed(one, judged, name, shown)
    if progress is not None:
        progress(len(groups) * rounds, len(groups) * rounds)
    return judged


def _equalize(trial: Trial, tensors: Mapping[str, TensorStatistics], fallen: list[str]) -> Trial | None:
    """The same with channels scaled; None where none can be, or why it cannot in `fallen`."""
    try:
        room = 1 + UNSEEN / len(trial.data)
        flat, factors = equalize_channels(trial.model, trial.placement, tensors, STRENGTH, room)
        return replace(trial, model=flat, equalized=factors, searched={}).looked_at() if factors else None
    except (GraphError, BackendError) as exc:
        fallen.append(f"{EQUALIZED} ({exc.message})")
        return None


def _judge_ranges(trial: Trial, tensors: Mapping[str, TensorStatistics], fallen: list[str]) -> Judged:
    """The candidates that are rounded to nearest, made of `tensors`."""
    judged = Judged([], [], fallen)
    for name in (PLAIN, OFFSETS)[: 1 + (trial.placement.scheme == "tensorrt")]:
        try:
            offsets = name == OFFSETS
            found = trial.score([trial.round(fold.tensors, name, offsets=offsets) for fold in trial.folds])
            judged.made.append(trial.round(tensors, name, offsets=offsets))
            judged.scores.append(found)
        except (GraphError, BackendError) as exc:
            if name == PLAIN:
                raise
            fallen.append(f"{name} ({exc.message})")
    return judged


def _add_reconstructed(trial: Trial, judged: Judged, name: str, shown: Sequence[Progress | None]) -> None:
    """Add the candidate, or why it could not be made. Of several folds it is made once more, of all images, where it
    would be taken."""
    folds, count = trial.folds, len(judged.made)
    try:
        fits = [
            trial.reconstruct(fold.tensors, name, fold.fit, progress)
            for fold, progress in zip(folds, shown, strict=False)
        ]
        judged.scores.append(trial.score(fits))
        judged.made.append(fits[-1])
        if len(folds) > 1 and judged.best is fits[-1]:
            every = range(len(trial.data))
            judged.made[-1] = trial.reconstruct(trial.tensors, name, every, shown[-1])
        return
    except np.linalg.LinAlgError as exc:
        judged.fallen.append(f"{name} (the images leave its equations without a solution: {exc})")
    except (GraphError, BackendError) as exc:
        judged.fallen.append(f"{name} ({exc.message})")
    del judged.made[count:], judged.scores[count:]


def _part_of(progress: Progress | None, number: int, of: int) -> Progress | None:
    """One of several rounds of the same length, as a part of the whole."""
    return None if progress is None else lambda done, total: progress(number * total + done, of * total)


def _score(
    candidate: Candidate, placement: Placement, expected: npt.NDArray[np.float32], held_out: Dataset, half: bool
) -> Scores:
    """How the logits of `candidate`, as it will be built, compare with the float graph's."""
    made = insert_candidate(candidate, placement)
    found = compute_logits(rounded_to_fp16(to_fp16(made, candidate)[0]) if half else made, held_out, "basic")
    return Scores.between(expected, found)
