"""Ways to quantize a graph: by ranges alone, with zero points, with weights made up layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgecnn.backends._onnxruntime import Optimization, onnxruntime_errors, open_session, run_session
from edgecnn.data.dataset import Dataset, batches
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.calibration.observe import fill_batch, frozen_batch
from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.ptq.channel_tolerance import find_tolerated_shares
from edgecnn.graph.ptq.headroom import find_headroom
from edgecnn.graph.ptq.layer_reconstruction import LayerResult, reconstruct_layers
from edgecnn.graph.ptq.zero_point_folding import add_zero_point, find_foldable_groups, fold_zero_points
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.graph.qdq.scales import choose_params, join_scale_groups
from edgecnn.quantization import (
    NOTICED,
    Placement,
    QuantizedWeights,
    QuantParams,
    least_squares_scales,
    quantize_weights,
    round_params,
)

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
    bounded: Collection[str] | None = None,
    searched: dict[str, npt.NDArray[np.float32]] | None = None,
) -> Candidate:
    """Scales by a range method, weights rounded to the nearest; with offsets where they are free. With `bounded`, the
    groups whose ranges stay as they are, those of the others keep headroom. `searched` holds scales of weights
    that were found before, and gets those that were not."""
    groups = join_scale_groups(placement, tensors)
    scales = {n: choose_params(s, method, placement.scheme) for n, s in groups.items()}
    if bounded is not None:
        headroom = find_headroom(placement, tensors)
        for n in scales.keys() - set(bounded):
            scales[n] = replace(scales[n], scale=scales[n].scale * headroom[n])
    if offsets and placement.scheme == "tensorrt":
        for group in find_foldable_groups(model, placement):
            if groups[group].low >= 0 and groups[group].largest > 0:
                scales[group] = add_zero_point(scales[group])
    scales = {n: round_params(s, half) for n, s in scales.items()}
    graph, known = OnnxGraph(model), {} if searched is None else searched
    if method != "minmax":
        for w in placement.weights:
            if w.initializer not in known:
                known[w.initializer] = least_squares_scales(graph.array(w.initializer), w.axis)
    weights = {
        w.initializer: quantize_weights(
            graph.array(w.initializer),
            w.axis,
            half,
            search=method != "minmax",
            tolerated=find_tolerated_shares(graph, placement, w, tensors, scales) if half else NOTICED,
            searched=known.get(w.initializer),
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


def reconstruct_candidate(
    start: Candidate, placement: Placement, half: bool, data: Dataset, progress: Progress | None
) -> Candidate:
    """With weights and biases made up layer by layer; raises `LinAlgError` where their equations have no solution."""
    caps = {n: max(s.high, 0.0) - min(s.low, 0.0) if start.scales[n].zero_point else s.largest
            for n, s in join_scale_groups(placement, start.tensors).items()}  # fmt: skip
    rounded = {n for n, weights in start.weights.items() if half and weights.in_fp16}
    layers = reconstruct_layers(start.model, placement, start.scales, caps, data, rounded, progress)
    return _with_layers(start, layers)


def _with_layers(start: Candidate, layers: dict[str, LayerResult]) -> Candidate:
    done = onnx.ModelProto()
    done.CopyFrom(start.model)
    held = {i.name: i for i in done.graph.initializer}
    nodes = {n.name: n for n in done.graph.node}
    for name, layer in layers.items():
        if layer.bias is not None:
            held[nodes[name].input[2]].CopyFrom(numpy_helper.from_array(layer.bias, nodes[name].input[2]))
    weights = {**start.weights, **{nodes[name].input[1]: layer.weights for name, layer in layers.items()}}
    return replace(start, model=done, float_model=start.model, weights=weights, layers=layers)


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


def compute_logits(
    model: onnx.ModelProto, data: Dataset, optimization: Optimization = "all"
) -> npt.NDArray[np.float32]:
    """Logits [N, classes] of all images under ONNX Runtime."""
    with onnxruntime_errors("the graph"):
        session = open_session(model, optimization=optimization)
    graph = OnnxGraph(model)
    return np.concatenate(
        [
            run_session(session, {graph.input: fill_batch(graph, part.input)})[0][: len(part.input)]
            for part in batches(data, frozen_batch(graph) or 8)
        ]
    )
