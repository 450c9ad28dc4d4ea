"""Layer-wise reconstruction, in graph order: the scale of a layer's input, then weights and bias that make up for all
that was quantized before it.

The float graph and the graphs quantized so far, one for each candidate, are run only from the tensors that the layers
before have read; those are kept on disk, for a fixed number of images: codes as such, and floats that are only ever
quantized in FP16, whose rounding is at most an eighth of a step of the codes. The float graph is run once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.data.dataset import Dataset
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.gptq import LARGE, Floats, GptqRounding, Moments, Samples, search_row_scales, solve_ridge
from edgecnn.graph.ptq.graph_sides import FloatSide, QuantizedSide, fits_half, forget, keep_images
from edgecnn.graph.ptq.im2col import Layer, layer_from_node
from edgecnn.graph.ptq.subgraph import ActivationCache, Subgraph
from edgecnn.machine.threads import open_pool
from edgecnn.quantization import Placement, QuantizedTensor, QuantizedWeights, QuantParams, round_params

Array = npt.NDArray[np.float32]

LAYER_IMAGES, SEARCH_IMAGES = 192, 32
SCALE_SHARES = (1.0, 0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5, 0.42)
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
    """What all layers need: the float side, in how many batches how many images are kept, the largest values of groups,
    and which scales are to be FP16 numbers."""

    exact: FloatSide
    batches: int
    images: int
    caps: Mapping[str, float]
    half: bool
    half_weights: Collection[str]


@dataclass
class Readers:
    """The layers that read the tensor `quantized`, as one candidate has it; `kept` is its name on the float side, and
    `whole` whether nothing reads it as floats."""

    work: Work
    side: QuantizedSide
    quantized: QuantizedTensor
    layers: Sequence[Layer]
    kept: str
    whole: bool
    moments: list[tuple[Moments, Samples]] = field(default_factory=list)
    part: Subgraph | None = None

    def settle_scale(self) -> None:
        """Fix the scale of the tensor, and open the part of the graph that makes it."""
        work, side, tensor, group = self.work, self.side, self.quantized.tensor, self.quantized.scale_group
        if group not in side.fixed:
            share = min(SEARCH_IMAGES / work.images, 0.5)
            count = max(1, round(share * work.batches))
            some = np.linspace(0, work.batches, count, endpoint=False).astype(int).tolist()
            part = side.part(tensor)
            pairs = [(work.exact.cache.get(self.kept, b), part.run(side.cache, b)) for b in some]
            params = _search_params(side.graph, side.scales[group], work.caps[group], self.layers, work.half, pairs)
            side.scales[group] = params
            side.fixed.add(group)
        self.part = side.part(tensor, side.scales[group].dtype if self.whole else None)
        shapes = [layer.matrix(side.graph.array(layer.weight)).shape for layer in self.layers]
        self.moments = [(Moments.empty(*shape), Samples()) for shape in shapes]

    def gather(self, rows: Sequence[Array], batch: int) -> None:
        """Add what the layers read in one batch, `rows` on the float side; and keep it for the layers to come."""
        assert self.part is not None
        params, cache = self.side.scales[self.quantized.scale_group], self.side.cache
        value = self.part.run(cache, batch)
        if self.part.session is not None:
            cache.put(self.part.target, batch, value)
        for layer, exact, (train, held) in zip(self.layers, rows, self.moments, strict=True):
            seen = layer.sampled(value, _per_image(layer, self.work), batch, params if self.whole else None)
            if not self.whole:
                seen = params.fake_quantize(seen)
            weight = layer.matrix(self.side.graph.array(layer.weight)).astype(np.float32)
            held.pilot = train.pilot
            missed = np.matmul(exact - seen, weight.transpose(0, 2, 1))
            (held if batch % 4 == 3 else train).add(seen, missed)

    def solve(self) -> dict[str, LayerResult] | np.linalg.LinAlgError:
        """What became of the layers, which the graph quantized so far has from now on; or why that has no solution."""
        made: dict[str, LayerResult] = {}
        for layer, moments in zip(self.layers, self.moments, strict=True):
            try:
                done = _solve(self.side.graph, layer, moments, layer.weight in self.work.half_weights)
            except np.linalg.LinAlgError as exc:
                return exc
            made[layer.node.name] = done
            self.side.weights[layer.weight] = done.weights.dequantize()
            if layer.bias and done.bias is not None:
                self.side.weights[layer.bias] = done.bias
        return made


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
    searches: Sequence[bool] = (False,),
) -> list[tuple[dict[str, QuantParams], dict[str, LayerResult]] | np.linalg.LinAlgError]:
    """For each of `searches`, scales and weights, layer by layer, with True with the scales of activations by the error
    at layer outputs; or why its equations have no solution.

    `scales` are the first guess; `caps` the largest value of each group. With `half` scales of activations are FP16
    numbers if they can be, and those of the initializers `half_weights` are.
    """
    graph = OnnxGraph(model)
    images = _choose_images(data)
    inputs = _layer_inputs(graph, placement)
    groups = {q.scale_group for q in placement.activations}
    weighted = {graph.node[w.node].input[0] for w in placement.weights}
    searched = {q.scale_group for q in placement.activations if q.tensor in weighted}
    results: list[dict[str, LayerResult] | np.linalg.LinAlgError] = [{} for _ in searches]
    with scratch_folder() as scratch, open_pool(len(searches)) as pool:
        caches = [ActivationCache(scratch / str(k)) for k in range(1 + len(searches))]
        work = Work(
            FloatSide(graph, caches[0]), keep_images(graph, caches, data, images), len(images), caps, half, half_weights
        )
        sides = [
            QuantizedSide(graph, placement, dict(scales), cache, groups - searched if search else set(groups))
            for search, cache in zip(searches, caches[1:], strict=True)
        ]
        for number, (tensor, layers) in enumerate(inputs):
            live = [k for k, found in enumerate(results) if isinstance(found, dict)]
            made = _reconstruct_readers(work, [sides[k] for k in live], tensor, layers, pool)
            for k, one in zip(live, made, strict=True):
                before = results[k]
                results[k] = {**before, **one} if isinstance(one, dict) and isinstance(before, dict) else one
            remaining = [t for t, _ in inputs[number + 1 :]]
            forget(work.exact, remaining)
            for k in live:
                forget(sides[k], remaining)
            if progress is not None:
                progress(number + 1, len(inputs))
    return [(side.scales, r) if isinstance(r, dict) else r for side, r in zip(sides, results, strict=True)]


def _reconstruct_readers(
    work: Work, sides: Sequence[QuantizedSide], tensor: str, layers: Sequence[Layer], pool: Executor
) -> list[dict[str, LayerResult] | np.linalg.LinAlgError]:
    """What became of the `layers`, which read `tensor`, on each of `sides`."""
    if not sides:
        return []
    graph, exact = work.exact.graph, work.exact
    paired = {(e.node, e.index): q for q in sides[0].placement.activations for e in q.edges}
    quantized = paired[layers[0].node.name, 0]
    whole, group = all((n.name, k) in paired for n, k in graph.readers[tensor]), quantized.scale_group
    part = exact.part(tensor, whole and fits_half(sides[0].scales[group], work.caps[group]))
    if part.session is not None:
        for batch in range(work.batches):
            exact.cache.put(part.target, batch, part.run(exact.cache, batch))
    readers = [Readers(work, side, quantized, layers, part.target, whole) for side in sides]
    list(pool.map(Readers.settle_scale, readers))
    for batch in range(work.batches):
        x = exact.cache.get(part.target, batch)
        rows = [layer.sampled(x, _per_image(layer, work), batch) for layer in layers]
        list(pool.map(lambda one, rows=rows, batch=batch: one.gather(rows, batch), readers))
    return list(pool.map(Readers.solve, readers))


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


def _solve(graph: OnnxGraph, layer: Layer, moments: tuple[Moments, Samples], half: bool) -> LayerResult:
    """Weights and bias of one layer. How far the regression may go is settled on a quarter of the images, which it
    does not see; then everything is fitted to all of them."""
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
    if errors[best] < kept:
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
