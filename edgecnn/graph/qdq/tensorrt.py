"""TensorRT's scheme (NVIDIA, "Explicit quantization"): int8, symmetric.

Nothing on the outputs of weighted nodes, which TensorRT fuses with what follows. A residual Add reads its identity
branch as INT8 and takes the convolution's branch as it comes. Concat and AveragePool are INT8 on both sides or on
neither, so a dense block that goes on through BatchNormalization stays whole. Nodes that only move data commute with a
pair and read the one that is there.
"""

from __future__ import annotations

import onnx

from edgecnn.graph.onnx_graph import WEIGHTED, OnnxGraph
from edgecnn.graph.qdq.pairs import MOVES, PlacedPairs, activated_output

AFFINE = frozenset({"BatchNormalization", "Mul", "Add", "Sub", "Div", "Identity"})


class TensorRtPlacer:
    """Settles pairs from the last node to the first, as `Placer` says."""

    def __init__(self, graph: OnnxGraph, excluded: frozenset[str] = frozenset(), pools: bool = False) -> None:
        self.graph, self.pairs, self._excluded = graph, PlacedPairs(), excluded
        self._pools = pools
        self._depth = _weighted_depth(graph)
        self._read_by_weighted = {node.input[0] for node in graph.weighted() if node.name not in excluded}

    def resolve(self, tensor: str) -> None:
        readers = self.graph.readers.get(tensor, [])
        for node, index in readers:
            if node.op_type == "Add" and self._identity_of(node) == index:
                paired = tensor in self.pairs or tensor in self._read_by_weighted
                if paired or (self._convolved_sum(node) and self._flows(activated_output(self.graph, node))):
                    self.pairs.add(tensor, (node, index))
        if tensor not in self.pairs:
            return
        for node, index in readers:
            if (node.op_type == "AveragePool" or node.op_type in MOVES) and index == 0 and self._all_flow(node):
                self.pairs.add(tensor, (node, index))

    def decide(self, node: onnx.NodeProto) -> None:
        if self._pools and node.op_type == "GlobalAveragePool" and self._all_flow(node):
            if len(self.graph.readers[node.input[0]]) == 1:  # else the others' float result would be quantized for it
                self.pairs.add(node.input[0], (node, 0))
            return
        if node.op_type != "Concat" or node.name in self._excluded or not self._flows(node.output[0]):
            return
        if len(self.graph.varying(node)) < len(node.input):
            return
        for reader in self.graph.readers[node.output[0]]:
            self.pairs.add(node.output[0], reader)
        for index, tensor in enumerate(node.input):
            self.pairs.add(tensor, (node, index))
            self.pairs.join(tensor, node.output[0])

    def join_scales(self) -> None:
        self.pairs.join_moved(self.graph)

    def _flows(self, tensor: str) -> bool:
        """Whether everything that reads `tensor` reads it as INT8, at once or behind data movements."""
        if tensor in self.graph.outputs or tensor not in self.graph.readers:
            return False
        return all(
            self.pairs.has(tensor, (node, index)) or (node.op_type in MOVES and index == 0 and self._all_flow(node))
            for node, index in self.graph.readers[tensor]
        )

    def _all_flow(self, node: onnx.NodeProto) -> bool:
        return node.name not in self._excluded and all(self._flows(out) for out in self.graph.outputs_of(node))

    def _convolved_sum(self, node: onnx.NodeProto) -> bool:
        return any(self._convolved(tensor) for tensor in node.input)

    def _convolved(self, tensor: str) -> bool:
        """Whether `tensor` is a weighted node's result that TensorRT can fuse with its one reader."""
        while len(self.graph.readers.get(tensor, [])) == 1 and (node := self.graph.producer.get(tensor)) is not None:
            if node.op_type in WEIGHTED:
                return True
            if node.op_type not in AFFINE or len(self.graph.varying(node)) != 1:
                return False
            tensor = self.graph.varying(node)[0][1]
        return False

    def _identity_of(self, node: onnx.NodeProto) -> int | None:
        """Which input of a residual Add is the identity (or the projection) branch; None when it has none."""
        if node.name in self._excluded or len(self.graph.varying(node)) != 2 or node.input[0] == node.input[1]:
            return None
        first, second = (self._convolved(tensor) for tensor in node.input)
        if first and second:
            return 0 if self._depth[node.input[0]] < self._depth[node.input[1]] else 1
        if first or second:
            return 1 if first else 0
        shared = [i for i, tensor in enumerate(node.input) if tensor in self._read_by_weighted]
        return shared[0] if len(shared) == 1 else None


def _weighted_depth(graph: OnnxGraph) -> dict[str, int]:
    """The largest number of weighted nodes on a way from the input to each tensor."""
    depth: dict[str, int] = {}
    for node in graph.nodes:
        below = max((depth.get(name, 0) for name in node.input), default=0)
        step = 1 if node.op_type in WEIGHTED else 0
        depth.update((name, below + step) for name in node.output)
    return depth
