"""The scheme of ONNX Runtime's CPU provider: uint8 activations, integer kernels.

ONNX Runtime makes an integer kernel of a node whose inputs and outputs all carry a pair of one type (uint8), and only
when nothing reads the tensor beside its pair: weighted nodes have pairs on their outputs too (behind a Relu or Clip,
which the pair makes redundant), and residual Adds, Concats, gates (SE, SiLU) and data movements join in when their
result is quantized anyway. An excluded node reads no pair, at the price of the integer kernel
of the Conv before it: ONNX Runtime quantizes by itself the weights of a Conv between two pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgecnn.graph.onnx_graph import OnnxGraph, attribute
from edgecnn.graph.qdq.pairs import MOVES, PlacedPairs, Use, activated_output

MOVES_ON_CPU = MOVES - {"Pad", "Identity"}  # those that ONNX Runtime runs on 8-bit tensors
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
HALF_A_BIT = 2**0.5


class OrtCpuPlacer:
    """Settles pairs from the last node to the first, as `Placer` says. `spans` are the widths of the tensors' ranges,
    where they are known: tensors of a Concat whose ranges are too unlike share no scale."""

    def __init__(
        self, graph: OnnxGraph, excluded: frozenset[str] = frozenset(), spans: Mapping[str, float] | None = None
    ) -> None:
        self.graph, self.pairs, self._excluded, self._spans = graph, PlacedPairs(), excluded, spans or {}
        self._concatenated: list[tuple[str, str]] = []
        self._positive = _never_negative(graph)
        for node in graph.weighted():
            if node.name not in excluded:
                self._pair_result(node)

    def resolve(self, tensor: str) -> None:
        """All or none: ONNX Runtime fuses only when every reader of a tensor reads its pair."""
        if tensor in self.pairs:
            for reader in self._possible_readers(tensor):
                self.pairs.add(tensor, reader)

    def decide(self, node: onnx.NodeProto) -> None:
        if not self._joins(node):
            return
        moves = node.op_type in MOVES_ON_CPU
        results = self.graph.outputs_of(node) if moves else [activated_output(self.graph, node)]
        if not all(out in self.pairs for out in results):
            return
        for index, tensor in enumerate(node.input[:1] if moves else node.input):
            self.pairs.add(tensor, (node, index))
            # A scale shared with values below zero would keep a Relu from dropping out of its convolution.
            if node.op_type == "Concat" and (tensor in self._positive) == (results[0] in self._positive):
                self._concatenated.append((tensor, results[0]))

    def join_scales(self) -> None:
        """Tensors of a Concat share a scale, since to write one 8-bit tensor with the scale of another costs time; but
        not one that takes half a bit or more from what else reads them."""
        self.pairs.join_moved(self.graph)
        others = {
            tensor: span
            for tensor, span in self._spans.items()
            if any(reader.op_type != "Concat" for reader, _ in self.graph.readers.get(tensor, []))
        }
        self.pairs.join_alike(self._concatenated, others, HALF_A_BIT)

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Averages do not: they read the pair of their input where it has one, and none is made for them."""
        if node.name in self._excluded:
            return False
        if node.op_type in MOVES_ON_CPU:
            return True
        return node.op_type in ("Add", "Mul", "Concat") and len(self.graph.varying(node)) == len(node.input)

    def _possible_readers(self, tensor: str) -> list[Use]:
        readers = self.graph.readers.get(tensor, [])
        return [use for use in readers if use[0].name not in self._excluded and not fails_on_pairs(use[0])]

    def _pair_result(self, node: onnx.NodeProto) -> None:
        """A pair on what a weighted node makes; a Gemm or MatMul can also hand out float."""
        result = activated_output(self.graph, node)
        readers = self._possible_readers(result)
        if result in self.graph.outputs or not readers:
            return
        if node.op_type == "Conv":
            self.pairs.add(result, readers[0])


def fails_on_pairs(node: onnx.NodeProto) -> bool:
    """What ONNX Runtime 1.32 does not load between pairs: its integer pooling knows no dilations, and it turns the axes
    of a Resize around into what the cubic mode does not take."""
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") == b"cubic"
    return node.op_type == "AveragePool" and any(a.name == "dilations" for a in node.attribute)


def _never_negative(graph: OnnxGraph) -> set[str]:
    """The tensors that cannot hold a negative value, whatever the image."""
    known: set[str] = set()
    for node in graph.nodes:
        if node.op_type == "Clip":
            bound = node.input[1] if len(node.input) > 1 else ""
            positive = bound in graph.initializers and bool((graph.array(bound) >= 0).all())
        elif node.op_type in ("Add", "Mul", "Concat"):
            positive = all(name in known for name in node.input)
        else:
            positive = node.op_type in POSITIVE or (node.op_type in MOVES | AVERAGES and node.input[0] in known)
        if positive:
            known.update(node.output)
    return known
