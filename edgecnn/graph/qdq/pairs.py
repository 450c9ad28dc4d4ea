"""The Q/DQ pairs decided so far, which tensors share a scale, and what both schemes know about operators."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import onnx

from edgecnn.graph.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from edgecnn.quantization import QuantizedTensor

# Nodes that move values without changing them (a padding of zeros is exact at any scale).
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice", "Identity", "Pad"}
)
Use = tuple[onnx.NodeProto, int]


class PlacedPairs:
    """The pairs decided so far: tensor -> the reading (node, input) pairs, and which tensors share a scale."""

    def __init__(self) -> None:
        self._uses: dict[str, list[Use]] = {}
        self._leader: dict[str, str] = {}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._uses

    def add(self, tensor: str, use: Use) -> None:
        uses = self._uses.setdefault(tensor, [])
        if not self.has(tensor, use):
            uses.append(use)

    def has(self, tensor: str, use: Use) -> bool:
        return any(n is use[0] and i == use[1] for n, i in self._uses.get(tensor, ()))

    def join(self, first: str, second: str) -> None:
        self._leader[self._lead(first)] = self._lead(second)

    def join_moved(self, graph: OnnxGraph) -> None:
        """One scale for a pair and the pairs that its values reach by data movement alone."""
        for tensor in self._uses:
            above = tensor
            while (node := graph.producer.get(above)) is not None and node.op_type in MOVES:
                above = node.input[0]
                if self.has(above, (node, 0)):
                    self.join(tensor, above)
                    break

    def join_alike(self, tensors: Iterable[tuple[str, str]], spans: Mapping[str, float], most: float) -> None:
        """One scale for two tensors, and for all that share theirs already, where the widest of these ranges is at most
        `most` times the narrowest; a tensor of unknown span is like any other."""
        widest: dict[str, float] = {}
        for tensor in self._uses:
            if tensor in spans:
                lead = self._lead(tensor)
                widest[lead] = max(widest.get(lead, 0.0), spans[tensor])
        narrowest = dict(widest)
        for pair in tensors:
            leads = [self._lead(tensor) for tensor in pair]
            low, high = (
                pick((of[lead] for lead in leads if lead in of), default=0.0)
                for pick, of in ((min, narrowest), (max, widest))
            )
            if high <= most * low:
                self.join(*pair)
                narrowest[leads[1]], widest[leads[1]] = low, high

    def tensors(self, graph: OnnxGraph) -> tuple[QuantizedTensor, ...]:
        from edgecnn.quantization import Edge, QuantizedTensor

        made = itertools.chain(graph.inputs, (name for node in graph.nodes for name in node.output))
        rank = {id(node): k for k, node in enumerate(graph.nodes)}
        order = [name for name in made if name in self._uses]
        group: dict[str, str] = {}
        for name in order:
            group.setdefault(self._lead(name), name)
        done = []
        for name in order:
            uses = sorted(self._uses[name], key=lambda use: (rank[id(use[0])], use[1]))
            done.append(QuantizedTensor(name, tuple(Edge(n.name, i) for n, i in uses), group[self._lead(name)]))
        return tuple(done)

    def _lead(self, tensor: str) -> str:
        while (leader := self._leader.get(tensor, tensor)) != tensor:
            tensor = leader
        return tensor


class Placer(Protocol):
    """One scheme's rules. Nodes are visited from the last to the first, so that all readers of a tensor are settled
    (`decide`) before the tensor itself is (`resolve`)."""

    pairs: PlacedPairs

    def resolve(self, tensor: str) -> None:
        """Settle which further readers of `tensor` take its pair."""

    def decide(self, node: onnx.NodeProto) -> None:
        """Settle whether `node` reads its inputs as INT8."""

    def join_scales(self) -> None:
        """Settle at the end which tensors share a scale."""


def activated_output(graph: OnnxGraph, node: onnx.NodeProto) -> str:
    """The tensor that `node` makes, behind the Relu or Clip that alone reads it."""
    result = str(node.output[0])
    readers = graph.readers.get(result, [])
    if result not in graph.outputs and len(readers) == 1 and readers[0][0].op_type in ("Relu", "Clip"):
        return str(readers[0][0].output[0])
    return result
