"""Layer-wise reconstruction, in graph order: the scale of a layer's input, then weights and bias that make up for all
that was quantized before it.

Both graphs, the float one and the one quantized so far, are run only from the tensors that the layers before have
read; those are kept on disk, for a fixed number of images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgecnn.data.dataset import Dataset
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.gptq import LARGE, Floats, GptqRounding, Moments, search_row_scales, solve_ridge
from edgecnn.graph.ptq.im2col import Layer, layer_from_node
from edgecnn.graph.ptq.subgraph import SUFFIX, ActivationCache, Subgraph, trace_back
from edgecnn.quantization import Placement, QuantizedWeights, QuantParams, round_params

Array = npt.NDArray[np.float32]

LAYER_IMAGES = 192
BATCH = 16  # at most: there are four batches or more, so that one can be held out
SCALE_SHARES = (1.0, 0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5, 0.42)
STRENGTHS = (0.003, 0.03, 0.3)


@dataclass
class BothGraphs:
    """The float graph and the graph quantized so far, over the same images."""

    graph: OnnxGraph
    placement: Placement
    scales: dict[str, QuantParams]
    weights: dict[str, Array]
    float_cache: ActivationCache
    quantized_cache: ActivationCache
    images: int
    fixed: set[str] = field(default_factory=set)

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the graph quantized so far: pairs of the groups whose scale is fixed."""
        paired = {
            (e.node, e.index): q.tensor
            for q in self.placement.activations
            if q.scale_group in self.fixed
            for e in q.edges
        }
        made = []
        for node in self.graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for k in range(len(copy.input)):
                if (node.name, k) in paired:
                    copy.input[k] = paired[node.name, k] + SUFFIX
            made.append(copy)
        for q in self.placement.activations:
            if q.scale_group in self.fixed:
                made += _pair_nodes(q.tensor)
        return made

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """Scales and zero points of the pairs, and the weights as they are now."""
        made: dict[str, npt.NDArray[Any]] = dict(self.weights)
        for q in self.placement.activations:
            if q.scale_group in self.fixed:
                scale = self.scales[q.scale_group]
                made[f"{q.tensor}_scale"] = np.float32(scale.scale)
                made[f"{q.tensor}_zero"] = np.array(scale.zero_point, scale.dtype)
        return made


def _pair_nodes(tensor: str) -> list[onnx.NodeProto]:
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}_codes"]),
        helper.make_node("DequantizeLinear", [f"{tensor}_codes", *names], [tensor + SUFFIX]),
    ]


@dataclass(frozen=True)
class LayerResult:
    """What became of one layer: its weights, its bias, how they were rounded, and the share of its output's power
    that is noise with its weights rounded to nearest, and now."""

    weights: QuantizedWeights
    bias: Array | None
    rounding: str
    noise_before: float
    noise_after: float


def reconstruct_layers(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, QuantParams],
    caps: Mapping[str, float],
    data: Dataset,
    half: bool,
    half_weights: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    *,
    search: bool = False,
) -> tuple[dict[str, QuantParams], dict[str, LayerResult]]:
    """Scales and weights, layer by layer. `scales` are the first guess; `caps` the largest value of each group.

    With `half` scales of activations are FP16 numbers if they can be, and those of the initializers `half_weights` are.
    """
    graph = OnnxGraph(model)
    images = _choose_images(data)
    with tempfile.TemporaryDirectory() as folder:
        caches = [ActivationCache(Path(folder) / name) for name in ("float", "quantized")]
        for cache in caches:
            cache.folder.mkdir()
        sides = BothGraphs(graph, placement, dict(scales), {}, caches[0], caches[1], len(images))
        batches, size = 0, min(BATCH, max(1, len(images) // 4))
        for start in range(0, len(images), size):
            batch = np.stack([data.tensor(i) for i in images[start : start + size]])
            for cache in caches:
                cache.put(graph.input, batches, batch)
            batches += 1
        inputs = _layer_inputs(graph, placement)
        weighted = {graph.node[w.node].input[0] for w in placement.weights}
        searched = {q.scale_group for q in placement.activations if q.tensor in weighted and search}
        sides.fixed = {q.scale_group for q in placement.activations} - searched
        results: dict[str, LayerResult] = {}
        for number, (tensor, layers) in enumerate(inputs):
            results.update(_reconstruct_readers(sides, placement, tensor, layers, caps, batches, half, half_weights))
            _forget(sides, [t for t, _ in inputs[number + 1 :]])
            if progress is not None:
                progress(number + 1, len(inputs))
        return sides.scales, results


def _choose_images(data: Dataset) -> list[int]:
    count = min(len(data), LAYER_IMAGES)
    return [int(i) for i in np.linspace(0, len(data) - 1, count).round()]


def _layer_inputs(graph: OnnxGraph, placement: Placement) -> list[tuple[str, list[Layer]]]:
    """The tensors that weighted nodes read, in the order of the graph, each with its readers."""
    wanted = {w.node for w in placement.weights}
    found: dict[str, list[Layer]] = {}
    for node in graph.nodes:
        # a MatMul by a stack of matrices is no single product: it keeps its nearest codes
        if node.name in wanted and not any(
            d > 1 for d in graph.initializers[node.input[1]].dims[:-2] if node.op_type == "MatMul"
        ):
            found.setdefault(node.input[0], []).append(layer_from_node(graph, node))
    return list(found.items())


def _reconstruct_readers(
    sides: BothGraphs,
    placement: Placement,
    tensor: str,
    layers: list[Layer],
    caps: Mapping[str, float],
    batches: int,
    half: bool,
    half_weights: Collection[str],
) -> dict[str, LayerResult]:
    graph = sides.graph
    paired = {(e.node, e.index): q for q in placement.activations for e in q.edges}
    quantized = paired[layers[0].node.name, 0]
    float_part = Subgraph(graph, graph.nodes, {}, set(sides.float_cache.params), tensor)
    quantized_part = Subgraph(graph, sides.nodes(), sides.constants(), set(sides.quantized_cache.params), tensor)
    if quantized.scale_group not in sides.fixed:
        some = list(range(0, batches, max(1, batches // 2)))[:2]
        pairs = [(float_part.run(sides.float_cache, b), quantized_part.run(sides.quantized_cache, b)) for b in some]
        guess, cap = sides.scales[quantized.scale_group], caps[quantized.scale_group]
        sides.scales[quantized.scale_group] = _search_params(graph, guess, cap, layers, half, pairs)
        sides.fixed.add(quantized.scale_group)
    scale = sides.scales[quantized.scale_group]
    whole = all((n.name, k) in paired for n, k in graph.readers[tensor])
    moments = {layer.node.name: _empty_moments(graph, layer) for layer in layers}
    for batch in range(batches):
        x, seen = float_part.run(sides.float_cache, batch), quantized_part.run(sides.quantized_cache, batch)
        _gather(graph, layers, moments, x, scale.fake_quantize(seen), batch, sides.images)
        if tensor not in sides.float_cache.params or batch:
            sides.float_cache.put(tensor, batch, x)
        sides.quantized_cache.put(*((tensor + SUFFIX, batch, seen, scale) if whole else (tensor, batch, seen)))
    results = {}
    for layer in layers:
        done = _solve(graph, layer, moments[layer.node.name], layer.weight in half_weights)
        results[layer.node.name] = done
        sides.weights[layer.weight] = done.weights.dequantize()
        if layer.bias and done.bias is not None:
            sides.weights[layer.bias] = done.bias
    return results


def _samples_wanted(columns: int) -> int:
    return int(np.clip(6 * columns, 4096, 8192))


def _gather(
    graph: OnnxGraph,
    layers: Sequence[Layer],
    moments: Mapping[str, tuple[Moments, Moments]],
    x: Array,
    quantized: Array,
    batch: int,
    images: int,
) -> None:
    for layer in layers:
        train, held = moments[layer.node.name]
        weight = layer.matrix(graph.array(layer.weight)).astype(np.float32)
        per_image = -(-_samples_wanted(weight.shape[2]) // images)
        rows, seen = (layer.sampled(v, per_image, batch) for v in (x, quantized))
        missed = np.matmul(rows - seen, weight.transpose(0, 2, 1))
        (held if batch % 4 == 3 else train).add(seen, missed)


def _empty_moments(graph: OnnxGraph, layer: Layer) -> tuple[Moments, Moments]:
    shape = layer.matrix(graph.array(layer.weight)).shape
    return Moments.empty(*shape), Moments.empty(*shape)


def _search_params(
    graph: OnnxGraph,
    guess: QuantParams,
    cap: float,
    layers: Sequence[Layer],
    half: bool,
    pairs: Sequence[tuple[Array, Array]],
) -> QuantParams:
    """The scale with the least error at the outputs of all `layers`, relative to each output's variance."""
    low, high = guess.bounds
    reach = max(abs(low), abs(high)) if not guess.zero_point else high - low
    tried = [guess]
    for share in SCALE_SHARES:
        tried.append(round_params(QuantParams(guess.scale * share * cap / reach, guess.zero_point, guess.dtype), half))
    errors = np.zeros(len(tried))
    for layer in layers:
        weight = layer.matrix(graph.array(layer.weight)).astype(np.float32).transpose(0, 2, 1)
        for number, (x, seen) in enumerate(pairs):
            rows, noisy = layer.sampled(x, 64, number), layer.sampled(seen, 64, number)
            y = np.matmul(rows, weight)
            variance = float(y.var(axis=1).sum()) or 1.0
            for k, scale in enumerate(tried):
                lost = np.matmul(scale.fake_quantize(noisy), weight) - y
                errors[k] += float(lost.var(axis=1).sum()) / variance
    return tried[int(np.argmin(errors))]


def _solve(graph: OnnxGraph, layer: Layer, moments: tuple[Moments, Moments], half: bool) -> LayerResult:
    """Weights and bias of one layer. How far the regression may go is settled on a quarter of the images, which it
    does not see; then everything is fitted to all of them."""
    original = graph.array(layer.weight)
    weight = layer.matrix(original)
    both = moments[0].plus(moments[1]).centered()
    train = moments[0].centered()
    held = moments[1].centered() if moments[1].count else train
    wide = weight.shape[2] >= LARGE
    changes = {strength: solve_ridge(train, strength) for strength in (STRENGTHS[1:2] if wide else STRENGTHS)}
    errors = {k: float(held.error(change, train.offset(change)).sum()) for k, change in changes.items()}
    best = min(errors, key=lambda k: errors[k])
    name, aim = "feedback", weight
    if errors[best] < float((held.rr + np.square(held.r - train.r)).sum()):
        name, aim = f"ridge {best}", weight + (changes[best] if wide else solve_ridge(both, best))
    tried: dict[str, tuple[Floats, Floats]] = {}
    scale = search_row_scales(weight, both, half)
    tried["nearest"] = (np.clip(np.rint(weight / scale[:, :, None]), -127, 127), scale)
    scale = search_row_scales(aim, both, half)
    tried[name] = (GptqRounding.of(both).rounded(aim, scale), scale)
    noise = {k: float(held.error(c * s[:, :, None] - weight).sum()) for k, (c, s) in tried.items()}
    chosen = min(noise, key=lambda k: noise[k])
    codes, scale = tried[chosen]
    bias = None
    if layer.bias:
        offset = both.offset(codes * scale[:, :, None] - weight)
        bias = (graph.array(layer.bias).astype(np.float64).reshape(-1) + offset.reshape(-1)).astype(np.float32)
    signal = float(held.error(-weight).sum()) or 1.0
    made = QuantizedWeights(
        layer.array(codes, original.shape).astype(np.int8),
        scale.reshape(-1).astype(np.float32),
        original.ndim - 1 if layer.transposed else 0,
    )
    return LayerResult(
        weights=made,
        bias=bias,
        rounding=chosen,
        noise_before=noise["nearest"] / signal,
        noise_after=noise[chosen] / signal,
    )


def _forget(sides: BothGraphs, remaining: Sequence[str]) -> None:
    """Drop what no layer to come is computed from."""
    for cache, nodes in ((sides.float_cache, sides.graph.nodes), (sides.quantized_cache, sides.nodes())):
        producer = {o: n for n in nodes for o in n.output if o}
        needed: set[str] = set()
        for target in remaining:
            needed.update(trace_back(producer, set(cache.params), target)[0])
        for tensor in set(cache.params) - needed:
            cache.drop(tensor)
