"""Layer by layer, in the order of the graph: the scale of a layer's input, then weights and bias that make up for
everything that was quantised before it.

Both graphs, the float one and the one quantised so far, are run only from the tensors that the layers before have
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
from edgecnn.graph.ptq.gptq import LARGE, Feedback, Floats, Moments, ridge, row_scales
from edgecnn.graph.ptq.im2col import Layer, layer_of
from edgecnn.graph.ptq.subgraph import SUFFIX, Segment, Store, reached
from edgecnn.graph.qdq.codes import Scale, WeightCodes, scaled_for
from edgecnn.graph.qdq.placement import Placement
from edgecnn.graph.simplify import GraphIndex

Array = npt.NDArray[np.float32]

IMAGES = 192
BATCH = 16  # at most: there are four batches or more, so that one can be held out
SCALE_SHARES = (1.0, 0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5, 0.42)
STRENGTHS = (0.003, 0.03, 0.3)


@dataclass
class Sides:
    """The float graph and the graph quantised so far, over the same images."""

    index: GraphIndex
    placement: Placement
    scales: dict[str, Scale]
    weights: dict[str, Array]
    exact: Store
    rough: Store
    images: int
    fixed: set[str] = field(default_factory=set)

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the graph quantised so far: pairs of the groups whose scale is fixed."""
        paired = {
            (e.node, e.index): q.tensor for q in self.placement.activations if q.group in self.fixed for e in q.edges
        }
        made = []
        for node in self.index.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for k in range(len(copy.input)):
                if (node.name, k) in paired:
                    copy.input[k] = paired[node.name, k] + SUFFIX
            made.append(copy)
        for q in self.placement.activations:
            if q.group in self.fixed:
                made += _pair_nodes(q.tensor)
        return made

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """Scales and zero points of the pairs, and the weights as they are now."""
        made: dict[str, npt.NDArray[Any]] = dict(self.weights)
        for q in self.placement.activations:
            if q.group in self.fixed:
                scale = self.scales[q.group]
                made[f"{q.tensor}_scale"] = np.float32(scale.scale)
                made[f"{q.tensor}_zero"] = (np.uint8 if scale.unsigned else np.int8)(scale.zero)
        return made


def _pair_nodes(tensor: str) -> list[onnx.NodeProto]:
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *names], [f"{tensor}_codes"]),
        helper.make_node("DequantizeLinear", [f"{tensor}_codes", *names], [tensor + SUFFIX]),
    ]


@dataclass(frozen=True)
class LayerResult:
    """What became of one layer: its codes, its bias, and the share of its output that is noise before and after."""

    codes: WeightCodes
    bias: Array | None
    row: dict[str, Any]


def reconstruct(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, Scale],
    caps: Mapping[str, float],
    data: Dataset,
    half: bool,
    half_weights: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    *,
    search: bool = False,
) -> tuple[dict[str, Scale], dict[str, LayerResult]]:
    """Scales and weights, layer by layer. `scales` are the first guess; `caps` the largest value of each group.

    With `half` scales of activations are FP16 numbers if they can be, and those of the initialisers `half_weights` are.
    """
    index = GraphIndex(model)
    images = _chosen(data)
    with tempfile.TemporaryDirectory() as folder:
        stores = [Store(Path(folder) / name) for name in ("exact", "rough")]
        for store in stores:
            store.folder.mkdir()
        sides = Sides(index, placement, dict(scales), {}, stores[0], stores[1], len(images))
        batches, size = 0, min(BATCH, max(1, len(images) // 4))
        for start in range(0, len(images), size):
            batch = np.stack([data.tensor(i) for i in images[start : start + size]])
            for store in stores:
                store.put(index.input, batches, batch)
            batches += 1
        inputs = _layer_inputs(index, placement)
        weighted = {index.node[w.node].input[0] for w in placement.weights}
        searched = {q.group for q in placement.activations if q.tensor in weighted and search}
        sides.fixed = {q.group for q in placement.activations} - searched
        results: dict[str, LayerResult] = {}
        for number, (tensor, layers) in enumerate(inputs):
            results.update(_at(sides, placement, tensor, layers, caps, batches, half, half_weights))
            _forget(sides, [t for t, _ in inputs[number + 1 :]])
            if progress is not None:
                progress(number + 1, len(inputs))
        return sides.scales, results


def _chosen(data: Dataset) -> list[int]:
    count = min(len(data), IMAGES)
    return [int(i) for i in np.linspace(0, len(data) - 1, count).round()]


def _layer_inputs(index: GraphIndex, placement: Placement) -> list[tuple[str, list[Layer]]]:
    """The tensors that weighted nodes read, in the order of the graph, each with its readers."""
    wanted = {w.node for w in placement.weights}
    found: dict[str, list[Layer]] = {}
    for node in index.nodes:
        # a MatMul by a stack of matrices is no single product: it keeps its nearest codes
        if node.name in wanted and not any(
            d > 1 for d in index.initializer[node.input[1]].dims[:-2] if node.op_type == "MatMul"
        ):
            found.setdefault(node.input[0], []).append(layer_of(index, node))
    return list(found.items())


def _at(
    sides: Sides,
    placement: Placement,
    tensor: str,
    layers: list[Layer],
    caps: Mapping[str, float],
    batches: int,
    half: bool,
    half_weights: Collection[str],
) -> dict[str, LayerResult]:
    index = sides.index
    paired = {(e.node, e.index): q for q in placement.activations for e in q.edges}
    quantized = paired[layers[0].node.name, 0]
    exact = Segment(index, index.nodes, {}, set(sides.exact.kind), tensor)
    rough = Segment(index, sides.nodes(), sides.constants(), set(sides.rough.kind), tensor)
    if quantized.group not in sides.fixed:
        first = range(0, batches, max(1, batches // 2))
        sides.scales[quantized.group] = _best_scale(
            index, sides.scales[quantized.group], caps[quantized.group], layers, half,
            [(exact.run(sides.exact, b), rough.run(sides.rough, b)) for b in list(first)[:2]],
        )  # fmt: skip
        sides.fixed.add(quantized.group)
    scale = sides.scales[quantized.group]
    whole = all((n.name, k) in paired for n, k in index.readers[tensor])
    moments = {layer.node.name: _empty(index, layer) for layer in layers}
    for batch in range(batches):
        x, seen = exact.run(sides.exact, batch), rough.run(sides.rough, batch)
        _gather(index, layers, moments, x, scale.applied(seen), batch, sides.images)
        if tensor not in sides.exact.kind or batch:
            sides.exact.put(tensor, batch, x)
        sides.rough.put(*((tensor + SUFFIX, batch, seen, scale) if whole else (tensor, batch, seen)))
    results = {}
    for layer in layers:
        done = _solved(index, layer, moments[layer.node.name], layer.weight in half_weights)
        results[layer.node.name] = done
        sides.weights[layer.weight] = done.codes.values()
        if layer.bias and done.bias is not None:
            sides.weights[layer.bias] = done.bias
    return results


def _samples_wanted(columns: int) -> int:
    return int(np.clip(6 * columns, 4096, 8192))


def _gather(
    index: GraphIndex,
    layers: Sequence[Layer],
    moments: Mapping[str, tuple[Moments, Moments]],
    x: Array,
    quantized: Array,
    batch: int,
    images: int,
) -> None:
    for layer in layers:
        train, held = moments[layer.node.name]
        weight = layer.matrix(index.array(layer.weight)).astype(np.float32)
        per_image = -(-_samples_wanted(weight.shape[2]) // images)
        rows, seen = (layer.sampled(v, per_image, batch) for v in (x, quantized))
        missed = np.matmul(rows - seen, weight.transpose(0, 2, 1))
        (held if batch % 4 == 3 else train).add(seen, missed)


def _empty(index: GraphIndex, layer: Layer) -> tuple[Moments, Moments]:
    shape = layer.matrix(index.array(layer.weight)).shape
    return Moments.empty(*shape), Moments.empty(*shape)


def _best_scale(
    index: GraphIndex,
    guess: Scale,
    cap: float,
    layers: Sequence[Layer],
    half: bool,
    pairs: Sequence[tuple[Array, Array]],
) -> Scale:
    """The scale with the least error at the outputs of all `layers`, relative to each output's variance."""
    low, high = guess.bounds
    reach = max(abs(low), abs(high)) if not guess.zero else high - low
    tried = [guess]
    for share in SCALE_SHARES:
        tried.append(scaled_for(Scale(guess.scale * share * cap / reach, guess.zero, guess.unsigned), half))
    errors = np.zeros(len(tried))
    for layer in layers:
        weight = layer.matrix(index.array(layer.weight)).astype(np.float32).transpose(0, 2, 1)
        for number, (x, seen) in enumerate(pairs):
            rows, rough = layer.sampled(x, 64, number), layer.sampled(seen, 64, number)
            y = np.matmul(rows, weight)
            variance = float(y.var(axis=1).sum()) or 1.0
            for k, scale in enumerate(tried):
                lost = np.matmul(scale.applied(rough), weight) - y
                errors[k] += float(lost.var(axis=1).sum()) / variance
    return tried[int(np.argmin(errors))]


def _solved(index: GraphIndex, layer: Layer, moments: tuple[Moments, Moments], half: bool) -> LayerResult:
    """Weights and bias of one layer. How far the regression may go is settled on a quarter of the images, which it
    does not see; then everything is fitted to all of them."""
    original = index.array(layer.weight)
    weight = layer.matrix(original)
    both = moments[0].plus(moments[1]).centred()
    train = moments[0].centred()
    held = moments[1].centred() if moments[1].count else train
    wide = weight.shape[2] >= LARGE
    changes = {strength: ridge(train, strength) for strength in (STRENGTHS[1:2] if wide else STRENGTHS)}
    errors = {k: float(held.error(change, train.offset(change)).sum()) for k, change in changes.items()}
    best = min(errors, key=lambda k: errors[k])
    name, aim = "feedback", weight
    if errors[best] < float((held.rr + np.square(held.r - train.r)).sum()):
        name, aim = f"ridge {best}", weight + (changes[best] if wide else ridge(both, best))
    tried: dict[str, tuple[Floats, Floats]] = {}
    scale = row_scales(weight, both, half)
    tried["nearest"] = (np.clip(np.rint(weight / scale[:, :, None]), -127, 127), scale)
    scale = row_scales(aim, both, half)
    tried[name] = (Feedback.of(both).rounded(aim, scale), scale)
    noise = {k: float(held.error(c * s[:, :, None] - weight).sum()) for k, (c, s) in tried.items()}
    chosen = min(noise, key=lambda k: noise[k])
    codes, scale = tried[chosen]
    bias = None
    if layer.bias:
        offset = both.offset(codes * scale[:, :, None] - weight)
        bias = (index.array(layer.bias).astype(np.float64).reshape(-1) + offset.reshape(-1)).astype(np.float32)
    signal = float(held.error(-weight).sum()) or 1.0
    row = {"name": layer.node.name, "weights": chosen, "noise_before": noise["nearest"] / signal}
    row["noise_after"] = noise[chosen] / signal
    made = WeightCodes(
        layer.array(codes, original.shape).astype(np.int8),
        scale.reshape(-1).astype(np.float32),
        original.ndim - 1 if layer.transposed else 0,
    )
    return LayerResult(made, bias, row)


def _forget(sides: Sides, remaining: Sequence[str]) -> None:
    """Drop what no layer to come is computed from."""
    for store, nodes in ((sides.exact, sides.index.nodes), (sides.rough, sides.nodes())):
        maker = {o: n for n in nodes for o in n.output if o}
        needed: set[str] = set()
        for target in remaining:
            needed.update(reached(maker, sides.index, set(store.kind), target)[0])
        for tensor in set(store.kind) - needed:
            store.drop(tensor)
