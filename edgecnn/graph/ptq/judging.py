"""`--method auto`: headroom of ranges, zero points, cross-layer equalization and layer-wise reconstruction, judged on
images that neither the ranges nor the weights of a candidate have seen.

Candidates are judged in folds, each image by what was made of others; where there are many images, in one fold alone.
What is taken is made of all images.
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
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.candidates import (
    Candidate,
    compute_logits,
    insert_candidate,
    reconstruct_candidates,
    round_candidate,
)
from edgecnn.graph.ptq.equalization import equalize_channels
from edgecnn.graph.ptq.headroom import (
    FACTORS,
    FOLDS,
    HEADROOM_IMAGES,
    JUDGED_IMAGES,
    Fold,
    Headroom,
    Tensors,
    collect_parts,
    find_bounded,
    make_folds,
    merge_tensors,
    split_images,
)
from edgecnn.graph.ptq.scores import Scores, choose_best
from edgecnn.machine.threads import allowed_threads
from edgecnn.quantization import Placement
from edgecnn.results.quantization import CandidateRow

STRENGTH = 0.5  # of the equalization
UNSEEN = 16.0  # images that may reach beyond those seen: with as many the range of a channel is taken to be doubled
RECONSTRUCTION_IMAGES, RANGE_IMAGES = 192, 256
FEW_IMAGES = 64  # below so many, weights are fitted in every fold
PLAIN, OFFSETS, RECONSTRUCTED = "least squared error", "with offsets", "reconstructed"
EQUALIZED, SEARCHED = "reconstructed, equalized", "scales by output error"
Progress = Callable[[int, int], None]
FEWEST_IMAGES = 16


@dataclass(frozen=True)
class Judged:
    """Candidates in the order in which each must beat the one taken before it, from number `plain` on, how each did,
    and those that could not be made, with the reason."""

    made: list[Candidate]
    scores: list[Scores]
    fallen: list[str]
    plain: int

    @property
    def best(self) -> Candidate:
        """What is to be taken."""
        return self.made[choose_best(self.scores, self.plain)]

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
    in their order; `tensors` is what tensors hold for all images, where it is known, `bounded` which of them are."""

    model: onnx.ModelProto
    placement: Placement
    half: bool
    data: Dataset
    expected: npt.NDArray[np.float32]
    tensors: Tensors | None
    folds: list[Fold] = field(default_factory=list)
    bounded: frozenset[str] = frozenset()
    equalized: dict[str, float] = field(default_factory=dict)
    searched: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def fitted(self) -> list[Fold]:
        """The folds that candidates are judged in."""
        return self.folds if len(self.data) < FEW_IMAGES else self.folds[:1]

    def score(self, made: Sequence[Candidate], most: int = JUDGED_IMAGES) -> Scores:
        """How the candidates of the first folds do on the images that they have not seen, at most so many of each."""
        found, first = [], 0
        for fold, candidate in zip(self.folds, made, strict=False):
            chosen = _spread(range(len(fold.held)), most)
            expected = self.expected[first : first + len(fold.held)][chosen]
            held = self.data.subset([fold.held[k] for k in chosen])
            found.append(_score(candidate, self.placement, expected, held, self.half))
            first += len(fold.held)
        return Scores.joined(found)

    def round(self, tensors: Tensors, name: str, headroom: Headroom, *, offsets: bool = False) -> Candidate:
        """By least squared error."""
        made = round_candidate(
            self.model,
            self.placement,
            tensors,
            "mse",
            self.half,
            offsets=offsets,
            name=name,
            headroom=headroom,
            searched=self.searched,
        )
        return replace(made, equalized=self.equalized)

    def judge_rounded(self, name: str, headroom: Headroom, *, offsets: bool = False) -> Scores:
        """How least squared error does."""
        return self.score([self.round(fold.tensors, name, headroom, offsets=offsets) for fold in self.fitted])

    def judge_headroom(self, headroom: Headroom) -> Scores:
        """How least squared error does with it on some images of each fold."""
        name = EQUALIZED if self.equalized else PLAIN
        made = [self.round(fold.tensors, name, headroom) for fold in self.folds]
        return self.score(made, HEADROOM_IMAGES // len(made))

    def reconstruct(
        self, starts: Sequence[Candidate], images: Sequence[int], searches: Sequence[bool], progress: Progress | None
    ) -> list[Candidate | np.linalg.LinAlgError]:
        """With weights and biases made up on these images."""
        shown = self.data.subset(_spread(images))
        return reconstruct_candidates(starts, self.placement, self.half, shown, progress, searches)

    def make_of_all(
        self, name: str, headroom: Headroom, progress: Progress | None
    ) -> Candidate | np.linalg.LinAlgError:
        """The reconstruction of all images."""
        tensors = self.tensors
        if tensors is None:
            shown = self.data.subset(_spread(range(len(self.data)), RANGE_IMAGES))
            tensors = collect_from_model(self.model, "", shown, threads=allowed_threads()).tensors
        start = self.round(tensors, name, headroom, offsets=True)
        return self.reconstruct([start], range(len(self.data)), [SEARCHED in name], progress)[0]


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
    """Candidates, each judged on images that neither its ranges nor its weights have seen, and the one that is taken
    made of all. `expected` are the float graph's logits of `judging_images`, where they are known."""
    if expected is None:
        expected = compute_logits(model, data.subset(judging_images(data)))
    fallen: list[str] = []
    trial = Trial(model, placement, half, data, expected, tensors)
    level = _equalize(trial, tensors, fallen)
    seen = collect_parts(model, data, range(FOLDS) if level is None or len(data) < FEW_IMAGES else range(1, FOLDS))
    trial = replace(trial, folds=make_folds(len(data), seen), bounded=find_bounded(placement, seen.values()))
    headroom = _find_headroom(level or trial, fallen)
    judged = _judge_ranges(trial, tensors, headroom, fallen)
    groups = _find_groups(trial, level)
    rounds = len(groups) * len(trial.fitted) + 1
    parts = iter([_part_of(progress, number, rounds) for number in range(rounds)])
    for one, names in groups:
        shown = [next(parts) for _ in trial.fitted]
        if not judged.best.layers:
            _judge_reconstructed(one, judged, names, headroom, shown)
    last = next(parts)
    while judged.best.layers:
        number = choose_best(judged.scores, judged.plain)
        name = judged.made[number].name
        one = level if level and "equalized" in name else trial
        try:
            done = one.make_of_all(name, headroom, last)
            if isinstance(done, Candidate):
                judged.made[number] = done
                break
            fallen.append(_without_solution(name, done))
        except (GraphError, BackendError) as exc:
            fallen.append(f"{name} ({exc.message})")
        del judged.made[number], judged.scores[number]
    if last is not None:
        last(1, 1)
    return judged


def judging_images(data: Dataset) -> list[int]:
    """The images that candidates are judged on, in the order in which they are."""
    return [k for part in split_images(len(data)) for k in part]


def _equalize(trial: Trial, tensors: Mapping[str, TensorStatistics], fallen: list[str]) -> Trial | None:
    """The same with channels scaled; None where none can be, or why it cannot in `fallen`."""
    try:
        room = 1 + UNSEEN / len(trial.data)
        flat, factors = equalize_channels(trial.model, trial.placement, tensors, STRENGTH, room)
        if not factors:
            return None
        seen = collect_parts(flat, trial.data)
        return Trial(
            flat,
            trial.placement,
            trial.half,
            trial.data,
            trial.expected,
            merge_tensors(list(seen.values())) if len(trial.data) <= JUDGED_IMAGES else None,
            make_folds(len(trial.data), seen),
            find_bounded(trial.placement, seen.values()),
            factors,
        )
    except (GraphError, BackendError) as exc:
        fallen.append(f"{EQUALIZED} ({exc.message})")
        return None


def _find_headroom(trial: Trial, fallen: list[str]) -> Headroom:
    """The headroom with the least noise; in the form of a network in which ill-scaled channels do not hide it."""
    best, found = Headroom(), -np.inf
    try:
        for factor in FACTORS:
            room = Headroom(factor, trial.bounded)
            reached = trial.judge_headroom(room).sqnr_db
            if reached <= found:
                break
            best, found = room, reached
    except (GraphError, BackendError) as exc:
        fallen.append(f"the headroom of ranges ({exc.message})")
    return best


def _judge_ranges(
    trial: Trial, tensors: Mapping[str, TensorStatistics], headroom: Headroom, fallen: list[str]
) -> Judged:
    """The candidates that are rounded to nearest: the better of with and without headroom is the one to beat."""
    made, scores = list[Candidate](), list[Scores]()
    widened = f"{PLAIN}, {100 * (headroom.factor - 1):.0f} % headroom"
    for name, room in [(PLAIN, Headroom()), (widened, headroom)][: 1 + (headroom.factor > 1)]:
        scores.append(trial.judge_rounded(name, room))
        made.append(trial.round(tensors, name, room))
    plain = max(range(len(scores)), key=lambda k: scores[k].sqnr_db)
    if trial.placement.scheme == "tensorrt":
        room = headroom if plain else Headroom()
        try:
            scores.append(trial.judge_rounded(OFFSETS, room, offsets=True))
            made.append(trial.round(tensors, OFFSETS, room, offsets=True))
        except (GraphError, BackendError) as exc:
            fallen.append(f"{OFFSETS} ({exc.message})")
    return Judged(made, scores, fallen, plain)


def _find_groups(trial: Trial, level: Trial | None) -> list[tuple[Trial, list[str]]]:
    """What is to be reconstructed, those of one graph together, until one is taken: where channels can be scaled
    equalized, else as it is (not with few images); where they cannot, with scales by output error too."""
    if level is None:
        return [(trial, [RECONSTRUCTED, f"{RECONSTRUCTED}, {SEARCHED}"])]
    groups = [(level, [EQUALIZED]), (trial, [RECONSTRUCTED])]
    return groups if len(trial.data) >= FEW_IMAGES else groups[:1]


def _judge_reconstructed(
    trial: Trial, judged: Judged, group: Sequence[str], headroom: Headroom, shown: Sequence[Progress | None]
) -> None:
    """Add the candidates of one graph, or why they could not be made."""
    searches = [SEARCHED in name for name in group]
    fits: list[list[Candidate | np.linalg.LinAlgError]] = []
    try:
        for fold, progress in zip(trial.fitted, shown, strict=True):
            start = trial.round(fold.tensors, group[0], headroom, offsets=True)
            starts = [replace(start, name=name) for name in group]
            fits.append(trial.reconstruct(starts, fold.fit, searches, progress))
    except (GraphError, BackendError) as exc:
        judged.fallen.extend(f"{name} ({exc.message})" for name in group)
        return
    for name, made in zip(group, zip(*fits, strict=True), strict=True):
        whole = [one for one in made if isinstance(one, Candidate)]
        if len(whole) < len(made):
            judged.fallen.append(_without_solution(name, next(one for one in made if not isinstance(one, Candidate))))
            continue
        try:
            found = trial.score(whole)
        except (GraphError, BackendError) as exc:
            judged.fallen.append(f"{name} ({exc.message})")
            continue
        judged.scores.append(found)
        judged.made.append(whole[-1])


def _without_solution(name: str, why: object) -> str:
    return f"{name} (the images leave its equations without a solution: {why})"


def _spread(images: Sequence[int], most: int = RECONSTRUCTION_IMAGES) -> list[int]:
    """At most so many of them, evenly."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), most)).round().astype(int)
    return [images[k] for k in dict.fromkeys(chosen.tolist())]


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
