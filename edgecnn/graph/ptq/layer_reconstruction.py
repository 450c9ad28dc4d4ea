"""Layer-wise reconstruction, in graph order: weights and bias that make up for all that was quantized before.

The float graph and the graph quantized so far are run only from the tensors that the layers before have read; those are
kept on disk, for a fixed number of images: codes as such, and floats that are only ever quantized in FP16, whose
rounding is at most an eighth of a step of the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.data.dataset import Dataset
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.gptq import LARGE, Floats, GptqRounding, Moments, Samples, search_row_scales, solve_ridge
from edgecnn.graph.ptq.graph_sides import FloatSide, QuantizedSide, fits_half, forget, keep_images
from edgecnn.graph.ptq.im2col import Layer, layer_from_node
from edgecnn.graph.ptq.subgraph import ActivationCache
from edgecnn.quantization import Placement, QuantizedTensor, QuantizedWeights, QuantParams

Array = npt.NDArray[np.float32]

LAYER_IMAGES = 192
STRENGTHS = (0.003, 0.03, 0.3)


@dataclass(frozen=True)
class LayerResult:
    """What became of one layer: its weights, its bias, how they were rounded, and the share of its output's power
    that is noise with its weights rounded to nearest, and now."""

    weights: QuantizedWeights
    bias: Array | None
    rounding: str
    noise_before: float
    noise_after: float


@dataclass(frozen=True)
class Work:
    """What all layers need: both sides, in how many batches how many images are kept, the largest values of groups, and
    which scales of weights are to be FP16 numbers."""

    exact: FloatSide
    side: QuantizedSide
    batches: int
    images: int
    caps: Mapping[str, float]
    half_weights: Collection[str]


def reconstruct_layers(
    model: onnx.ModelProto,
    placement: Placement,
    scales: Mapping[str, QuantParams],
    caps: Mapping[str, float],
    data: Dataset,
    half_weights: Collection[str],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, LayerResult]:
    """What becomes of each layer, by its node's name, one after the other; raises `LinAlgError` where the equations of
    one have no solution.

    `caps` are the largest value of each group. Scales of the initializers `half_weights` are FP16 numbers.
    """
    graph = OnnxGraph(model)
    images = _choose_images(data)
    inputs = _layer_inputs(graph, placement)
    made: dict[str, LayerResult] = {}
    with scratch_folder() as scratch:
        caches = [ActivationCache(scratch / name) for name in ("float", "quantized")]
        batches = keep_images(graph, caches, data, images)
        side = QuantizedSide(graph, placement, scales, caches[1])
        work = Work(FloatSide(graph, caches[0]), side, batches, len(images), caps, half_weights)
        for number, (tensor, layers) in enumerate(inputs):
            made |= _reconstruct_readers(work, tensor, layers)
            remaining = [t for t, _ in inputs[number + 1 :]]
            forget(work.exact, remaining)
            forget(side, remaining)
            if progress is not None:
                progress(number + 1, len(inputs))
    return made


def _reconstruct_readers(work: Work, tensor: str, layers: Sequence[Layer]) -> dict[str, LayerResult]:
    """What becomes of the `layers`, which read `tensor`."""
    exact, side = work.exact, work.side
    graph = exact.graph
    paired = {(e.node, e.index): q for q in side.placement.activations for e in q.edges}
    quantized = paired[layers[0].node.name, 0]
    whole, group = all((n.name, k) in paired for n, k in graph.readers[tensor]), quantized.scale_group
    part = exact.part(tensor, whole and fits_half(side.scales[group], work.caps[group]))
    if part.session is not None:
        for batch in range(work.batches):
            exact.cache.put(part.target, batch, part.run(exact.cache, batch))
    moments = _gather(work, quantized, layers, part.target, whole)
    made = {}
    for layer, sums in zip(layers, moments, strict=True):
        done = _solve(graph, layer, sums, layer.weight in work.half_weights)
        made[layer.node.name] = done
        side.weights[layer.weight] = done.weights.dequantize()
        if layer.bias and done.bias is not None:
            side.weights[layer.bias] = done.bias
    return made


def _gather(
    work: Work, quantized: QuantizedTensor, layers: Sequence[Layer], kept: str, whole: bool
) -> list[tuple[Moments, Samples]]:
    """What each of `layers` reads in the graph quantized so far, and what it misses there; that is kept for the layers
    to come, as codes where `whole`, where nothing reads it as floats. `kept` is its name on the float side."""
    exact, side = work.exact, work.side
    params = side.scales[quantized.scale_group]
    part = side.part(quantized.tensor, params.dtype if whole else None)
    weights = [layer.matrix(side.graph.array(layer.weight)).astype(np.float32) for layer in layers]
    moments = [(Moments.empty(*weight.shape), Samples()) for weight in weights]
    for batch in range(work.batches):
        x, value = exact.cache.get(kept, batch), part.run(side.cache, batch)
        if part.session is not None:
            side.cache.put(part.target, batch, value)
        for layer, weight, (train, held) in zip(layers, weights, moments, strict=True):
            rows = layer.sampled(x, _per_image(layer, work), batch)
            seen = layer.sampled(value, _per_image(layer, work), batch, params if whole else None)
            if not whole:
                seen = params.fake_quantize(seen)
            held.pilot = train.pilot
            missed = np.matmul(rows - seen, weight.transpose(0, 2, 1))
            (held if batch % 4 == 3 else train).add(seen, missed)
    return moments


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


def _per_image(layer: Layer, work: Work) -> int:
    return -(-int(np.clip(6 * layer.columns(work.exact.graph), 4096, 8192)) // work.images)


def _solve(graph: OnnxGraph, layer: Layer, moments: tuple[Moments, Samples], half: bool) -> LayerResult:
    """Weights and bias of one layer. How far the regression may go is settled on a quarter of the images, which it
    does not see; then everything is fitted to all of them. Behind a global pool an image is one sample: what wins on
    few of them must do so by more than these leave open."""
    original = graph.array(layer.weight)
    weight = layer.matrix(original)
    train = moments[0].centered()
    held = moments[1] if moments[1].count else train
    wide = weight.shape[2] >= LARGE
    changes = {strength: solve_ridge(train, strength) for strength in (STRENGTHS[1:2] if wide else STRENGTHS)}
    errors = {k: float(held.error(change, train.offset(change)).sum()) for k, change in changes.items()}
    best = min(errors, key=lambda k: errors[k])
    name, aim = "feedback", weight
    kept = float(held.error(np.zeros_like(weight), train.r).sum())
    both = train.plus(moments[1]) if moments[1].count else train
    told = moments[1].tell if moments[1].count else lambda *_: True
    if errors[best] < kept and told(changes[best], np.zeros_like(weight)):
        name, aim = f"ridge {best}", weight + (changes[best] if wide else solve_ridge(both, best))
    tried: dict[str, tuple[Floats, Floats]] = {}
    scale = search_row_scales(weight, both, half)
    tried["nearest"] = (np.clip(np.rint(weight / scale[:, :, None]), -127, 127), scale)
    scale = search_row_scales(aim, both, half)
    tried[name] = (GptqRounding.of(both).rounded(aim, scale), scale)
    moved = {k: c * s[:, :, None] - weight for k, (c, s) in tried.items()}
    noise = {k: float(held.error(change).sum()) for k, change in moved.items()}
    chosen = min(noise, key=lambda k: noise[k])
    if chosen != "nearest" and not told(moved[chosen], moved["nearest"]):
        chosen = "nearest"
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
