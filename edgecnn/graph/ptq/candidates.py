"""`--method auto`: zero points, cross-layer equalization and layer-wise reconstruction, judged on held-out images.

Few images are judged on in folds: each by candidates that were made of the others, and what is taken is made of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session, run_session
from edgecnn.data.dataset import Dataset, batches
from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.observe import fill_batch, frozen_batch
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.ptq.channel_tolerance import find_tolerated_shares
from edgecnn.graph.ptq.equalization import equalize_channels
from edgecnn.graph.ptq.layer_reconstruction import LayerResult, reconstruct_layers
from edgecnn.graph.ptq.scores import Scores, choose_best
from edgecnn.graph.ptq.zero_point_folding import add_zero_point, find_foldable_groups, fold_zero_points
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.graph.qdq.scales import choose_params, join_scale_groups
from edgecnn.machine.threads import allowed_threads
from edgecnn.quantization import (
    Placement,
    QuantizedWeights,
    QuantParams,
    quantize_weights,
    round_params,
)
from edgecnn.results.quantization import CandidateRow

STRENGTH = 0.5  # of the equalization
UNSEEN = 64.0  # images that may reach beyond those seen: with as many the range of a channel is taken to be doubled
RECONSTRUCTION_IMAGES, RANGE_IMAGES, HELD_OUT_IMAGES = 192, 256, 64
FOLDS, FEW_IMAGES = 4, 64  # below so many, judged in folds
FEWEST_IMAGES = 16
Progress = Callable[[int, int], None]


@dataclass
class Candidate:
    """One way to quantize: the float graph, the one to insert pairs into (other biases), and the pairs' numbers."""

    name: str
    float_model: onnx.ModelProto
    model: onnx.ModelProto
    scales: dict[str, QuantParams]
    weights: dict[str, QuantizedWeights]
    tensors: Mapping[str, TensorStatistics]
    equalized: dict[str, float]
    layers: dict[str, LayerResult]


def round_candidate(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    method: str,
    half: bool,
    *,
    offsets: bool = False,
    name: str = "",
) -> Candidate:
    """Scales by a range method, weights rounded to the nearest; with offsets where they are free."""
    groups = join_scale_groups(placement, tensors)
    scales = {n: choose_params(s, method, placement.scheme) for n, s in groups.items()}
    if offsets and placement.scheme == "tensorrt":
        for group in find_foldable_groups(model, placement):
            if groups[group].low >= 0 and groups[group].largest > 0:
                scales[group] = add_zero_point(scales[group])
    scales = {n: round_params(s, half) for n, s in scales.items()}
    graph = OnnxGraph(model)
    weights = {
        w.initializer: quantize_weights(
            graph.array(w.initializer),
            w.axis,
            half,
            search=method != "minmax",
            tolerated=find_tolerated_shares(graph, placement, w, tensors, scales),
        )
        for w in placement.weights
    }
    return Candidate(name or method, model, model, scales, weights, tensors, {}, {})


def insert_candidate(candidate: Candidate, placement: Placement) -> onnx.ModelProto:
    """The graph with the pairs of `candidate`, offsets folded away."""
    model, scales = candidate.model, candidate.scales
    if placement.scheme == "tensorrt":
        model, scales = fold_zero_points(model, placement, scales, candidate.weights)
    return insert_qdq(model, placement, scales, candidate.weights)


@dataclass(frozen=True)
class Judged:
    """Candidates in the order in which each must beat those before, how each did, and those that could not be made,
    with the reason."""

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
    """Candidates, each judged on images that its weights were not fitted to: every fourth one, or with few images each
    one. `expected` are the float graph's logits of `judging_images`, where they are known."""
    folds = _folds(len(data))
    held_out = data.subset([k for held, _ in folds for k in held])
    if expected is None:
        expected = compute_logits(model, held_out)
    made = [round_candidate(model, placement, tensors, "mse", half, name="least squared error")]
    scores = [_score(made[0], placement, expected, held_out, half)]
    fallen: list[str] = []

    def add(name: str, make: Callable[[], tuple[Candidate, Scores]]) -> None:
        try:
            candidate, found = make()
        except (GraphError, BackendError) as exc:
            fallen.append(f"{name} ({exc.message})")
        except np.linalg.LinAlgError as exc:
            fallen.append(f"{name} (the images leave its equations without a solution: {exc})")
        else:
            made.append(candidate)
            scores.append(found)

    if placement.scheme == "tensorrt":
        offsets = round_candidate(model, placement, tensors, "mse", half, offsets=True, name="with offsets")
        add(offsets.name, lambda: (offsets, _score(offsets, placement, expected, held_out, half)))
    starts = _find_starts(model, placement, tensors, half, data, fallen, progress)
    rounds = [fit for _, fit in folds] + [range(len(data))] * (len(folds) > 1)
    for number, group in enumerate(starts):
        shown = [_part_of(progress, number * len(rounds) + k, len(starts) * len(rounds)) for k in range(len(rounds))]
        try:
            steps = [
                _reconstruct_candidates(group, placement, half, data.subset(_spread(fit)), one)
                for fit, one in zip(rounds, shown, strict=True)
            ]
        except (GraphError, BackendError) as exc:
            fallen += [f"{start.name} ({exc.message})" for start in group]
            continue
        for k, start in enumerate(group):
            fits = [step[k] for step in steps]
            add(start.name, partial(_judge_folds, fits, folds, placement, expected, held_out, half))
    return Judged(made, scores, fallen)


def judging_images(data: Dataset) -> list[int]:
    """The images that candidates are judged on, in the order in which they are."""
    return [k for held, _ in _folds(len(data)) for k in held]


def _folds(count: int) -> list[tuple[list[int], list[int]]]:
    """Pairs (images to judge on, images to fit to) of so many images."""
    if count >= FEW_IMAGES:
        held = list(range(3, count, 4))[:HELD_OUT_IMAGES]
        return [(held, sorted(set(range(count)) - set(held)))]
    parts = [list(range(k, count, FOLDS)) for k in reversed(range(FOLDS))]
    return [(part, sorted(set(range(count)) - set(part))) for part in parts]


def _spread(images: Sequence[int]) -> list[int]:
    """At most `RECONSTRUCTION_IMAGES` of them, evenly."""
    chosen = np.linspace(0, len(images) - 1, min(len(images), RECONSTRUCTION_IMAGES)).round().astype(int)
    return [images[k] for k in dict.fromkeys(chosen.tolist())]


def _part_of(progress: Progress | None, number: int, of: int) -> Progress | None:
    """One of several rounds of the same length, as a part of the whole."""
    return None if progress is None else lambda done, total: progress(number * total + done, of * total)


def _find_starts(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    fallen: list[str],
    progress: Progress | None,
) -> list[list[Candidate]]:
    """What is to be reconstructed, those of one graph together: where channels can be scaled equalized, and as it is
    (not with few images, whose headroom leaves little to scale); else with scales by output error too."""
    start = round_candidate(model, placement, tensors, "mse", half, offsets=True, name="reconstructed")
    name = "reconstructed, equalized"
    try:
        flat, factors = equalize_channels(model, placement, tensors, STRENGTH, 1 + UNSEEN / len(data))
        if not factors:
            return [[start, replace(start, name="reconstructed, scales by output error")]]
        some = np.linspace(0, len(data) - 1, min(len(data), RANGE_IMAGES)).round().astype(int)
        shown = data.subset(some.tolist())
        seen = collect_from_model(flat, "", shown, threads=allowed_threads(), progress=progress).tensors
        equalized = round_candidate(flat, placement, seen, "mse", half, offsets=True, name=name)
    except (GraphError, BackendError) as exc:
        fallen.append(f"{name} ({exc.message})")
        return [[start]]
    equalized = replace(equalized, equalized=factors)
    return [[equalized], [start]] if len(data) >= FEW_IMAGES else [[equalized]]


def _judge_folds(
    made: Sequence[Candidate | np.linalg.LinAlgError],
    folds: Sequence[tuple[list[int], list[int]]],
    placement: Placement,
    expected: npt.NDArray[np.float32],
    held_out: Dataset,
    half: bool,
) -> tuple[Candidate, Scores]:
    """The last of one candidate's fits, and how the fit of each fold does on its images."""
    for one in made:
        if isinstance(one, np.linalg.LinAlgError):
            raise one
    fits = [one for one in made if isinstance(one, Candidate)]
    found, first = [], 0
    for (held, _), fit in zip(folds, fits, strict=False):
        own = range(first, first + len(held))
        found.append(_score(fit, placement, expected[own.start : own.stop], held_out.subset(own), half))
        first = own.stop
    return fits[-1], Scores.joined(found)


def _score(
    candidate: Candidate, placement: Placement, expected: npt.NDArray[np.float32], held_out: Dataset, half: bool
) -> Scores:
    """How the logits of `candidate`, as it will be built, compare with the float graph's."""
    made = insert_candidate(candidate, placement)
    found = compute_logits(rounded_to_fp16(to_fp16(made, candidate)[0]) if half else made, held_out)
    return Scores.between(expected, found)


def _reconstruct_candidates(
    starts: Sequence[Candidate],
    placement: Placement,
    half: bool,
    data: Dataset,
    progress: Progress | None,
) -> list[Candidate | np.linalg.LinAlgError]:
    """Candidates that start alike, with weights and biases made up layer by layer, the second with scales by the error
    at layer outputs; or why that could not be."""
    start = starts[0]
    caps = {n: max(s.high, 0.0) - min(s.low, 0.0) if start.scales[n].zero_point else s.largest
            for n, s in join_scale_groups(placement, start.tensors).items()}  # fmt: skip
    rounded = {n for n, weights in start.weights.items() if half and weights.in_fp16}
    searches = (False, True)[: len(starts)]
    done = reconstruct_layers(
        start.model, placement, start.scales, caps, data, half, rounded, progress, searches=searches
    )
    return [
        found if isinstance(found, np.linalg.LinAlgError) else _with_layers(one, *found)
        for one, found in zip(starts, done, strict=True)
    ]


def _with_layers(start: Candidate, scales: dict[str, QuantParams], layers: dict[str, LayerResult]) -> Candidate:
    done = onnx.ModelProto()
    done.CopyFrom(start.model)
    held = {i.name: i for i in done.graph.initializer}
    nodes = {n.name: n for n in done.graph.node}
    for name, layer in layers.items():
        if layer.bias is not None:
            held[nodes[name].input[2]].CopyFrom(numpy_helper.from_array(layer.bias, nodes[name].input[2]))
    weights = {**start.weights, **{nodes[name].input[1]: layer.weights for name, layer in layers.items()}}
    return replace(start, model=done, float_model=start.model, scales=scales, weights=weights, layers=layers)


def give_own_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv, Gemm and MatMul has a weight of its own, and a bias where it can (zeros where there
    was none): each is made up for what came before it, so that no two can share them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = OnnxGraph(made)
    for node in made.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in graph.initializers:
            continue
        weight = graph.initializers[node.input[1]]
        if len(graph.readers[weight.name]) > 1:
            node.input[1] = f"{node.name}_own_weight"
            made.graph.initializer.append(numpy_helper.from_array(graph.array(weight.name), node.input[1]))
        name = node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" or (name and (name not in graph.initializers or len(graph.readers[name]) == 1)):
            continue
        turned = node.op_type == "Gemm" and not attribute(node, "transB", 0)
        values = graph.array(name) if name else np.zeros(weight.dims[1 if turned else 0], np.float32)
        own = f"{node.name}_own_bias"
        made.graph.initializer.append(numpy_helper.from_array(values, own))
        del node.input[2:]
        node.input.append(own)
    return made


def compute_logits(model: onnx.ModelProto, data: Dataset) -> npt.NDArray[np.float32]:
    """Logits [N, classes] of all images under ONNX Runtime."""
    with onnxruntime_errors("the graph"):
        session = open_session(model)
    graph = OnnxGraph(model)
    return np.concatenate(
        [
            run_session(session, {graph.input: fill_batch(graph, part.input)})[0][: len(part.input)]
            for part in batches(data, frozen_batch(graph) or 8)
        ]
    )
