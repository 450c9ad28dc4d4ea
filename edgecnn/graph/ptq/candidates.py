"""`--method auto`: zero points, cross-layer equalization and layer-wise reconstruction, judged on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session, run_session
from edgecnn.data.dataset import Dataset, batches
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.observe import fill_batch, frozen_batch
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.ptq.channel_tolerance import find_tolerated_shares
from edgecnn.graph.ptq.equalization import equalize_channels
from edgecnn.graph.ptq.layer_reconstruction import LayerResult, reconstruct_layers
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
RECONSTRUCTION_IMAGES, HELD_OUT_IMAGES = 192, 64
FEWEST_IMAGES = 16
Progress = Callable[[int, int], None]


NOTHING_LEFT_DB = -300.0  # of a candidate whose logits are not finite: never taken, and still JSON


@dataclass
class Candidate:
    """One way to quantize: the float graph, the one to insert pairs into (other biases), the pairs' numbers, and how it
    did."""

    name: str
    float_model: onnx.ModelProto
    model: onnx.ModelProto
    scales: dict[str, QuantParams]
    weights: dict[str, QuantizedWeights]
    tensors: Mapping[str, TensorStatistics]
    equalized: dict[str, float]
    layers: dict[str, LayerResult]
    sqnr_db: float = 0.0
    agreement_pct: float = 0.0

    def to_row(self, n: int, taken: bool) -> CandidateRow:
        """Its row in the report, judged on `n` images."""
        return CandidateRow(
            name=self.name,
            sqnr_db=round(self.sqnr_db, 2),
            agreement_pct=round(self.agreement_pct, 1),
            n=n,
            taken=taken,
        )


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


def choose_candidate(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    progress: Progress | None = None,
) -> tuple[Candidate, list[CandidateRow], list[str]]:
    """The best of several candidates on images that none of them has seen, how each did there, and which fell away."""
    made, fallen = make_candidates(model, placement, tensors, half, data, progress)
    best = max(made, key=lambda c: c.sqnr_db)
    return best, [c.to_row(len(_held_out(data)), c is best) for c in made], fallen


def make_candidates(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    progress: Progress | None = None,
) -> tuple[list[Candidate], list[str]]:
    """All candidates, each judged on every fourth image and made from others; and those that could not be made, with
    the reason."""
    held_out = data.subset(_held_out(data))
    rest = sorted(set(range(len(data))) - set(_held_out(data)))
    spread = np.linspace(0, len(rest) - 1, min(len(rest), RECONSTRUCTION_IMAGES)).round().astype(int)
    reconstruction = data.subset([rest[k] for k in dict.fromkeys(spread.tolist())])
    expected = compute_logits(model, held_out)
    made = [round_candidate(model, placement, tensors, "mse", half, name="least squared error")]
    if placement.scheme == "tensorrt":
        made.append(round_candidate(model, placement, tensors, "mse", half, offsets=True, name="with offsets"))
    flat, factors = equalize_channels(model, placement, tensors, STRENGTH)
    seen = tensors
    if factors:
        seen = collect_from_model(flat, "", reconstruction, threads=allowed_threads(), progress=progress).tensors
    start = round_candidate(flat, placement, seen, "mse", half, offsets=True)
    start = replace(start, name="reconstructed" + (", equalized" if factors else ""), equalized=factors)
    finer = replace(start, name=f"{start.name}, scales by output error")
    done = _reconstruct_candidates([start, finer], placement, half, reconstruction, progress)
    made += [c for c in done if isinstance(c, Candidate)]
    for number, candidate in enumerate(made, 1):
        _judge(candidate, placement, expected, held_out, half)
        if progress is not None:
            progress(number, len(made))
    return made, [c for c in done if isinstance(c, str)]


def _held_out(data: Dataset) -> list[int]:
    return list(range(3, len(data), 4))[:HELD_OUT_IMAGES]


def _judge(
    candidate: Candidate, placement: Placement, expected: npt.NDArray[np.float32], held_out: Dataset, half: bool
) -> None:
    """Fill in how the logits of `candidate`, as it will be built, compare with the float graph's."""
    made = insert_candidate(candidate, placement)
    found = compute_logits(rounded_to_fp16(to_fp16(made, candidate)[0]) if half else made, held_out)
    if not np.isfinite(found).all():
        candidate.sqnr_db, candidate.agreement_pct = NOTHING_LEFT_DB, 0.0
        return
    signal, noise = (float(np.square(v, dtype=np.float64).sum()) for v in (expected, expected - found))
    candidate.sqnr_db = 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    candidate.agreement_pct = 100 * float((expected.argmax(1) == found.argmax(1)).mean())


def _reconstruct_candidates(
    starts: Sequence[Candidate],
    placement: Placement,
    half: bool,
    data: Dataset,
    progress: Progress | None,
) -> list[Candidate | str]:
    """Two candidates that start alike, with weights and biases made up layer by layer, the second with scales by the
    error at layer outputs; or why that could not be."""
    start = starts[0]
    caps = {n: max(s.high, 0.0) - min(s.low, 0.0) if start.scales[n].zero_point else s.largest
            for n, s in join_scale_groups(placement, start.tensors).items()}  # fmt: skip
    rounded = {n for n, weights in start.weights.items() if half and weights.in_fp16}
    done = reconstruct_layers(
        start.model, placement, start.scales, caps, data, half, rounded, progress, searches=(False, True)
    )
    return [
        f"{one.name} (the images leave its equations without a solution: {found})"
        if isinstance(found, np.linalg.LinAlgError)
        else _with_layers(one, *found)
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
