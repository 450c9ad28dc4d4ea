"""Where Q/DQ pairs stand in a graph, for each target (NVIDIA's explicit quantization rules; ONNX Runtime's kernels).

Both styles put a pair on every input of every Conv, Gemm and MatMul, and differ around them:

`tensorrt`  nothing on the outputs of weighted nodes, which TensorRT fuses with what follows. A residual Add reads its
            identity branch as INT8 and takes the convolution's branch as it comes. Concat and AveragePool are INT8 on
            both sides or on neither, so a dense block that goes on through BatchNormalization stays whole.
            Nodes that only move data commute with a pair and read the one that is there.
`cpu`       ONNX Runtime makes an integer kernel of a node whose inputs and outputs all carry a pair of one type
            (uint8), and only when nothing reads the tensor beside its pair: weighted nodes have pairs on their outputs
            too (behind a Relu or Clip, which the pair makes redundant), and residual Adds, Concats, gates (SE, SiLU)
            and data movements join in when their result is quantised anyway.

Tensors whose values are only moved or concatenated form a group with one scale (for `cpu`, as far as all of them or
none can be negative).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import onnx

from edgecnn.errors import GraphError
from edgecnn.graph.onnx_graph import QUANTISED, View, attribute, view_of

Style = Literal["tensorrt", "cpu"]

# Nodes that move values without changing them (a padding of zeros is exact at any scale).
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Split", "Slice", "Identity", "Pad"}
)
# Of these, the ones that ONNX Runtime runs on 8-bit tensors.
MOVES_ON_CPU = MOVES - {"Pad", "Identity"}
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax"})
AFFINE = frozenset({"BatchNormalization", "Mul", "Add", "Sub", "Div", "Identity"})


@dataclass(frozen=True)
class Edge:
    """Input `index` of the node named `node` (names are unique in a prepared graph); "" is the graph's output."""

    node: str
    index: int


@dataclass(frozen=True)
class QuantizedTensor:
    """One Q/DQ pair on `tensor`, read by `edges`; all tensors of one `group` share one scale."""

    tensor: str
    edges: tuple[Edge, ...]
    group: str


@dataclass(frozen=True)
class QuantizedWeight:
    """An initialiser that is input `index` of `node`; `axis` is its channel axis, None for one scale."""

    initializer: str
    node: str
    index: int
    axis: int | None


@dataclass(frozen=True)
class Placement:
    """What is quantised, and between which nodes."""

    style: Style
    activations: tuple[QuantizedTensor, ...]
    weights: tuple[QuantizedWeight, ...]


def place(model: onnx.ModelProto, style: Style) -> Placement:
    """Where `model` is to be quantised for `style`; the model is not changed.

    Activations come in the order of the graph. Raises `GraphError` naming the node when the graph is quantised
    already, a node has no name of its own, or a weight is not an initialiser.
    """
    view = view_of(model)
    _check(view)
    placer: _Placer = _TensorRT(view) if style == "tensorrt" else _Cpu(view)
    for node in view.weighted():
        placer.pairs.add(node.input[0], (node, 0))
    for node in reversed(view.nodes):
        for tensor in view.outputs_of(node):
            placer.resolve(tensor)
        placer.decide(node)
    for tensor in view.inputs:
        placer.resolve(tensor)
    placer.pairs.join_moved(view)
    return Placement(style, placer.pairs.tensors(view), tuple(_weights(view)))


def _check(view: View) -> None:
    seen: set[str] = set()
    for node in view.nodes:
        if node.op_type in QUANTISED or node.op_type.startswith("QLinear"):
            raise GraphError(
                f"node {node.name or node.output[0]!r}: the graph is quantised already ({node.op_type})",
                "start from the FP32 graph",
            )
        if not node.name or node.name in seen:
            raise GraphError(
                f"the node that makes {node.output[0]!r} has no name of its own ({node.name!r})",
                "normalise the graph with `edgecnn import` first",
            )
        seen.add(node.name)


def _weights(view: View) -> Iterator[QuantizedWeight]:
    for node in view.weighted():
        name = node.input[1]
        if name not in view.initializers:
            raise GraphError(
                f"node {node.name!r}: the weight {name!r} of this {node.op_type} is not an initialiser",
                "normalise the graph with `edgecnn import`, or export it with its weights folded to constants",
            )
        per_row = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0) == 1)
        rank = len(view.initializers[name].dims)
        yield QuantizedWeight(name, node.name, 1, 0 if per_row else rank - 1)


_Use = tuple[onnx.NodeProto, int]


class _Pairs:
    """The pairs decided so far: tensor -> the reading (node, input) pairs, and which tensors share a scale."""

    def __init__(self) -> None:
        self._uses: dict[str, list[_Use]] = {}
        self._leader: dict[str, str] = {}

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._uses

    def add(self, tensor: str, use: _Use) -> None:
        uses = self._uses.setdefault(tensor, [])
        if not self.has(tensor, use):
            uses.append(use)

    def has(self, tensor: str, use: _Use) -> bool:
        return any(n is use[0] and i == use[1] for n, i in self._uses.get(tensor, ()))

    def join(self, first: str, second: str) -> None:
        self._leader[self._lead(first)] = self._lead(second)

    def join_moved(self, view: View) -> None:
        """One scale for a pair and the pairs that its values reach by data movement alone."""
        for tensor in self._uses:
            above = tensor
            while (node := view.producer.get(above)) is not None and node.op_type in MOVES:
                above = node.input[0]
                if self.has(above, (node, 0)):
                    self.join(tensor, above)
                    break

    def tensors(self, view: View) -> tuple[QuantizedTensor, ...]:
        made = itertools.chain(view.inputs, (name for node in view.nodes for name in node.output))
        rank = {id(node): k for k, node in enumerate(view.nodes)}
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


class _Placer(Protocol):
    """One style's rules. Nodes are visited from the last to the first, so that all readers of a tensor are settled
    (`decide`) before the tensor itself is (`resolve`)."""

    pairs: _Pairs

    def resolve(self, tensor: str) -> None:
        """Settle which further readers of `tensor` take its pair."""

    def decide(self, node: onnx.NodeProto) -> None:
        """Settle whether `node` reads its inputs as INT8."""


class _TensorRT:
    def __init__(self, view: View) -> None:
        self.view, self.pairs = view, _Pairs()
        self._depth = _weighted_depth(view)
        self._read_by_weighted = {node.input[0] for node in view.weighted()}

    def resolve(self, tensor: str) -> None:
        readers = self.view.readers.get(tensor, [])
        for node, index in readers:
            if node.op_type == "Add" and self._identity_of(node) == index:
                paired = tensor in self.pairs or tensor in self._read_by_weighted
                if paired or (self._convolved_sum(node) and self._flows(_activated(self.view, node))):
                    self.pairs.add(tensor, (node, index))
        if tensor not in self.pairs:
            return
        for node, index in readers:
            if (node.op_type == "AveragePool" or node.op_type in MOVES) and index == 0 and self._all_flow(node):
                self.pairs.add(tensor, (node, index))

    def decide(self, node: onnx.NodeProto) -> None:
        if node.op_type != "Concat" or not self._flows(node.output[0]):
            return
        if len(self.view.varying(node)) < len(node.input):
            return
        for reader in self.view.readers[node.output[0]]:
            self.pairs.add(node.output[0], reader)
        for index, tensor in enumerate(node.input):
            self.pairs.add(tensor, (node, index))
            self.pairs.join(tensor, node.output[0])

    def _flows(self, tensor: str) -> bool:
        """Whether everything that reads `tensor` reads it as INT8, at once or behind data movements."""
        if tensor in self.view.outputs or tensor not in self.view.readers:
            return False
        return all(
            self.pairs.has(tensor, (node, index)) or (node.op_type in MOVES and index == 0 and self._all_flow(node))
            for node, index in self.view.readers[tensor]
        )

    def _all_flow(self, node: onnx.NodeProto) -> bool:
        return all(self._flows(out) for out in self.view.outputs_of(node))

    def _convolved_sum(self, node: onnx.NodeProto) -> bool:
        return any(self._convolved(tensor) for tensor in node.input)

    def _convolved(self, tensor: str) -> bool:
        """Whether `tensor` is a weighted node's result that TensorRT can fuse with its one reader."""
        while len(self.view.readers.get(tensor, [])) == 1 and (node := self.view.producer.get(tensor)) is not None:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                return True
            if node.op_type not in AFFINE or len(self.view.varying(node)) != 1:
                return False
            tensor = self.view.varying(node)[0][1]
        return False

    def _identity_of(self, node: onnx.NodeProto) -> int | None:
        """Which input of a residual Add is the identity (or the projection) branch; None when it has none."""
        if len(self.view.varying(node)) != 2 or node.input[0] == node.input[1]:
            return None
        first, second = (self._convolved(tensor) for tensor in node.input)
        if first and second:
            return 0 if self._depth[node.input[0]] < self._depth[node.input[1]] else 1
        if first or second:
            return 1 if first else 0
        shared = [i for i, tensor in enumerate(node.input) if tensor in self._read_by_weighted]
        return shared[0] if len(shared) == 1 else None


class _Cpu:
    def __init__(self, view: View) -> None:
        self.view, self.pairs = view, _Pairs()
        self._positive = _never_negative(view)
        for node in view.weighted():
            self._pair_result(node)

    def resolve(self, tensor: str) -> None:
        """All or none: ONNX Runtime fuses only when every reader of a tensor reads its pair."""
        if tensor in self.pairs:
            for reader in self.view.readers[tensor]:
                self.pairs.add(tensor, reader)

    def decide(self, node: onnx.NodeProto) -> None:
        if not self._joins(node):
            return
        moves = node.op_type in MOVES_ON_CPU
        results = self.view.outputs_of(node) if moves else [_activated(self.view, node)]
        if not all(out in self.pairs for out in results):
            return
        for index, tensor in enumerate(node.input[:1] if moves else node.input):
            self.pairs.add(tensor, (node, index))
            # A scale shared with values below zero would keep a Relu from dropping out of its convolution.
            if node.op_type == "Concat" and (tensor in self._positive) == (results[0] in self._positive):
                self.pairs.join(tensor, results[0])

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Averages do not: they read the pair of their input where it has one, and none is made for them."""
        if node.op_type in MOVES_ON_CPU:
            return True
        return node.op_type in ("Add", "Mul", "Concat") and len(self.view.varying(node)) == len(node.input)

    def _pair_result(self, node: onnx.NodeProto) -> None:
        """A pair on what a weighted node makes; a Gemm or MatMul can also hand out float."""
        result = _activated(self.view, node)
        readers = self.view.readers.get(result, [])
        if result in self.view.outputs or not readers:
            return
        if node.op_type == "Conv":
            self.pairs.add(result, readers[0])


def _activated(view: View, node: onnx.NodeProto) -> str:
    """The tensor that `node` makes, behind the Relu or Clip that alone reads it."""
    result = str(node.output[0])
    readers = view.readers.get(result, [])
    if result not in view.outputs and len(readers) == 1 and readers[0][0].op_type in ("Relu", "Clip"):
        return str(readers[0][0].output[0])
    return result


def _never_negative(view: View) -> set[str]:
    """The tensors that cannot hold a negative value, whatever the image."""
    known: set[str] = set()
    for node in view.nodes:
        if node.op_type == "Clip":
            bound = view.initializers.get(node.input[1]) if len(node.input) > 1 else None
            positive = bound is not None and bool((onnx.numpy_helper.to_array(bound) >= 0).all())
        elif node.op_type in ("Add", "Mul", "Concat"):
            positive = all(name in known for name in node.input)
        else:
            positive = node.op_type in POSITIVE or (node.op_type in MOVES | AVERAGES and node.input[0] in known)
        if positive:
            known.update(node.output)
    return known


def _weighted_depth(view: View) -> dict[str, int]:
    """The largest number of weighted nodes on a way from the input to each tensor."""
    depth: dict[str, int] = {}
    for node in view.nodes:
        below = max((depth.get(name, 0) for name in node.input), default=0)
        step = 1 if node.op_type in ("Conv", "Gemm", "MatMul") else 0
        depth.update((name, below + step) for name in node.output)
    return depth
