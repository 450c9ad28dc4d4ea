"""The graphs that a reconstruction runs side by side, the float one and the one quantized so far, each from the tensors
that it has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgecnn.data.dataset import Dataset
from edgecnn.graph.calibration.observe import fill_batch, frozen_batch
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.subgraph import CODES, HALF, SUFFIX, WIDENED, ActivationCache, Subgraph, trace_back
from edgecnn.quantization import Placement, QuantParams

Array = npt.NDArray[np.float32]

BATCH, PIXELS = 16, 4 * 224 * 224  # at most: there are four batches or more, so that one can be held out
HALF_LARGEST, HALF_FINEST = 2.0**15, 2.0**-22  # of values, and of a step eight times as coarse as FP16 near zero


@dataclass
class FloatSide:
    """The float graph over the images; `halves` are the tensors that it keeps as FP16."""

    graph: OnnxGraph
    cache: ActivationCache
    halves: set[str] = field(default_factory=set)

    def nodes(self) -> list[onnx.NodeProto]:
        """Those of the graph, and what makes FP16 of the tensors kept so, which is what others read."""
        made = []
        for node in self.graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for k, name in enumerate(copy.input):
                if name in self.halves:
                    copy.input[k] = name + WIDENED
            made.append(copy)
        for name in self.halves:
            made.append(helper.make_node("Cast", [name], [name + HALF], to=onnx.TensorProto.FLOAT16))
            made.append(helper.make_node("Cast", [name + HALF], [name + WIDENED], to=onnx.TensorProto.FLOAT))
        return made

    def part(self, tensor: str, half: bool) -> Subgraph:
        """What makes `tensor`, as FP16 with `half`."""
        if half:
            self.halves.add(tensor)
            return Subgraph(self.graph, self.nodes(), {}, self.cache.types, tensor + HALF, np.float16)
        return Subgraph(self.graph, self.nodes(), {}, self.cache.types, tensor, np.float32)


@dataclass
class QuantizedSide:
    """The graph quantized so far, over the same images."""

    graph: OnnxGraph
    placement: Placement
    scales: Mapping[str, QuantParams]
    cache: ActivationCache
    weights: dict[str, Array] = field(default_factory=dict)

    def nodes(self) -> list[onnx.NodeProto]:
        """Those of the graph and all pairs."""
        paired = {(e.node, e.index): q.tensor for q in self.placement.activations for e in q.edges}
        made = []
        for node in self.graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for k in range(len(copy.input)):
                if (node.name, k) in paired:
                    copy.input[k] = paired[node.name, k] + SUFFIX
            made.append(copy)
        for q in self.placement.activations:
            made += _pair_nodes(q.tensor)
        return made

    def constants(self) -> dict[str, npt.NDArray[Any]]:
        """Scales and zero points of the pairs, and the weights as they are now."""
        made: dict[str, npt.NDArray[Any]] = dict(self.weights)
        for q in self.placement.activations:
            scale = self.scales[q.scale_group]
            made[f"{q.tensor}_scale"] = np.float32(scale.scale)
            made[f"{q.tensor}_zero"] = np.array(scale.zero_point, scale.dtype)
        return made

    def part(self, tensor: str, codes: str | None = None) -> Subgraph:
        """What makes `tensor`; with `codes` of that type, its codes."""
        target, kind = (tensor, np.float32) if codes is None else (tensor + CODES, codes)
        return Subgraph(self.graph, self.nodes(), self.constants(), self.cache.types, target, kind)


def _pair_nodes(tensor: str) -> list[onnx.NodeProto]:
    names = [f"{tensor}_scale", f"{tensor}_zero"]
    return [
        helper.make_node("QuantizeLinear", [tensor, *names], [tensor + CODES]),
        helper.make_node("DequantizeLinear", [tensor + CODES, *names], [tensor + SUFFIX]),
    ]


def keep_images(graph: OnnxGraph, caches: Sequence[ActivationCache], data: Dataset, images: Sequence[int]) -> int:
    """Put the images into each cache; how many batches they are."""
    for cache in caches:
        cache.folder.mkdir()
    pixels = max(1, data.tensor(images[0])[0].size)
    size = frozen_batch(graph) or int(max(1, min(BATCH, len(images) // 4, max(2, PIXELS // pixels))))
    for batch, start in enumerate(range(0, len(images), size)):
        value = fill_batch(graph, np.stack([data.tensor(i) for i in images[start : start + size]]))
        for cache in caches:
            cache.put(graph.input, batch, value)
    return -(-len(images) // size)


def fits_half(params: QuantParams, largest: float) -> bool:
    """Whether FP16 holds values up to `largest` that are quantized by `params`: its rounding is an eighth of a step at
    most wherever there are codes."""
    return largest <= HALF_LARGEST and params.scale >= HALF_FINEST


def forget(side: FloatSide | QuantizedSide, remaining: Sequence[str]) -> None:
    """Drop what no layer to come is computed from."""
    producer = {o: n for n in side.nodes() for o in n.output if o}
    known = set(side.cache.types)
    needed: set[str] = set()
    for target in remaining:
        needed.update(trace_back(producer, known, target)[0])
    for tensor in known - needed:
        side.cache.drop(tensor)
