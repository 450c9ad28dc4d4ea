"""Einsum as Transpose, ReduceSum, Reshape and MatMul: what TensorRT fuses and INT8 exists for."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.importing.names import free_name
from edgecnn.graph.onnx_graph import Shape, attribute, infer_shapes, node_label


def write_einsums(model: onnx.ModelProto) -> list[str]:
    """Write every Einsum of `model` in other operators, in place; raises `GraphError` for one with a label twice in one
    tensor, or sizes that are not known."""
    count = 0
    while (node := next((n for n in model.graph.node if n.op_type == "Einsum" and n.domain == ""), None)) is not None:
        shapes = infer_shapes(model)
        terms, right = _read_equation(node, shapes)
        if len(terms) > 2:
            written = _take_pair(model.graph, node, terms, right)
        else:
            writer = _Writer(model.graph, node, terms, right, shapes)
            writer.write()
            written, count = writer.made, count + 1
        kept = [made for other in model.graph.node for made in (written if other is node else [other])]
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return [f"{count} Einsum written as Transpose, Reshape and MatMul"] if count else []


def _read_equation(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> tuple[list[str], str]:
    """The labels of each input and of the output; an ellipsis as labels of its own."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        alone = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        right = "".join(["..."] * ("..." in left) + alone)
    hidden = [
        max(len(shapes.get(name, ())) - len(term) + 3, 0) if "..." in term else 0
        for name, term in zip(node.input, terms, strict=True)
    ]
    unused = [c for c in string.ascii_letters if c not in equation][: max(hidden)]
    terms = [
        term.replace("...", "".join(unused[len(unused) - count :])) for term, count in zip(terms, hidden, strict=True)
    ]
    right = right.replace("...", "".join(unused))
    if any(len(set(term)) < len(term) for term in [*terms, right]):
        raise GraphError(
            f"node {node_label(node)}: the Einsum {equation!r} takes a diagonal",
            "export the network with torch.matmul, or with sums written out",
        )
    return terms, right


def _take_pair(graph: onnx.GraphProto, node: onnx.NodeProto, terms: Sequence[str], right: str) -> list[onnx.NodeProto]:
    """The first tensor with the next one that shares a label with it, and their product with what is left."""
    k = next((k for k, term in enumerate(terms) if k and set(term) & set(terms[0])), 1)
    others = [other for other in range(1, len(terms)) if other != k]
    needed = {*right, *"".join(terms[other] for other in others)}
    pair = "".join(dict.fromkeys(c for c in terms[0] + terms[k] if c in needed))
    product = free_name(graph, f"{node.output[0]}_pair")
    first = f"{terms[0]},{terms[k]}->{pair}"
    rest = f"{','.join([pair, *(terms[other] for other in others)])}->{right}"
    name = node.name or node.output[0]
    return [
        helper.make_node("Einsum", [node.input[0], node.input[k]], [product], f"{name}_{len(terms)}", equation=first),
        helper.make_node(
            "Einsum", [product, *(node.input[other] for other in others)], list(node.output), name, equation=rest
        ),
    ]


class _Writer:
    """The nodes in place of one Einsum of one or two tensors with the labels `terms`."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        node: onnx.NodeProto,
        terms: Sequence[str],
        right: str,
        shapes: Mapping[str, Shape],
    ) -> None:
        self.graph, self.node, self.made = graph, node, list[onnx.NodeProto]()
        self.stem = node.name or node.output[0]
        self.terms, self.right = terms, right
        self.sizes: dict[str, int | None] = {}
        for name, term in zip(node.input, terms, strict=True):
            known = shapes.get(name, (None,) * len(term))
            for label, size in zip(term, known, strict=True):
                self.sizes[label] = size if self.sizes.get(label) is None else self.sizes[label]

    def write(self) -> None:
        """first [batch, rows, inner] x second [batch, inner, columns], back to the order that the equation asks for; a
        Mul where nothing is summed."""
        first, *others = self.node.input
        term, *rest = self.terms
        if not others:
            first, term = self._sum_out(first, term, self.right)
            self._turn(first, term, self.right, self.node.output[0])
            return
        second, other = self._sum_out(others[0], rest[0], self.right + term)
        first, term = self._sum_out(first, term, self.right + rest[0])
        inner = [c for c in term if c in other and c not in self.right]
        if not inner:  # nothing is summed
            factors = [self._spread(first, term), self._spread(second, other)]
            self._add("Mul", factors, self.node.output[0])
            return
        batch = [c for c in term if c in other and c in self.right]
        rows, columns = ([c for c in t if c not in inner and c not in batch] for t in (term, other))
        batch.sort(key=self.right.index)
        a = self._grouped(first, term, batch, [rows, inner])
        b = self._grouped(second, other, batch, [inner, columns])
        product = self._add("MatMul", [a, b])
        order = [*batch, *rows, *columns]
        if len(rows) != 1 or len(columns) != 1:
            product = self._reshape(product, order)
        self._turn(product, "".join(order), self.right, self.node.output[0])

    def _sum_out(self, name: str, term: str, needed: str) -> tuple[str, str]:
        """Without the labels that nothing else has."""
        gone = [k for k, c in enumerate(term) if c not in needed]
        if not gone:
            return name, term
        axes = self._constant(gone, "axes")
        return self._add("ReduceSum", [name, axes], keepdims=0), "".join(c for c in term if c in needed)

    def _spread(self, name: str, term: str) -> str:
        """The axes in the order of the output, with those of size 1 that the tensor lacks."""
        turned = self._turn(name, term, "".join(c for c in self.right if c in term))
        lacking = [k for k, c in enumerate(self.right) if c not in term]
        return self._add("Unsqueeze", [turned, self._constant(lacking, "axes")]) if lacking else turned

    def _grouped(self, name: str, term: str, batch: Sequence[str], groups: Sequence[Sequence[str]]) -> str:
        """[batch..., group, group] of a tensor with axes `term`."""
        order = [*batch, *(c for group in groups for c in group)]
        turned = self._turn(name, term, "".join(order))
        if all(len(group) == 1 for group in groups):
            return turned
        return self._reshape(turned, batch, groups)

    def _turn(self, name: str, term: str, wanted: str, output: str = "") -> str:
        if term == wanted:
            return self._add("Identity", [name], output) if output else name
        return self._add("Transpose", [name], output, perm=[term.index(c) for c in wanted])

    def _reshape(self, name: str, single: Sequence[str], groups: Sequence[Sequence[str]] = ()) -> str:
        sizes = [self.sizes[c] for c in single]
        for group in groups:
            known = [self.sizes[c] for c in group]
            sizes.append(None if None in known else math.prod(size for size in known if size is not None))
        if sizes.count(None) > 1:
            raise GraphError(
                f"node {node_label(self.node)}: the sizes around this Einsum are not known",
                "export the network with a fixed height and width (only the batch may be dynamic)",
            )
        return self._add("Reshape", [name, self._constant([-1 if s is None else s for s in sizes], "sizes")])

    def _add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        output = output or free_name(self.graph, f"{self.stem}_{kind.lower()}_{len(self.made)}")
        self.made.append(helper.make_node(kind, list(inputs), [output], f"{self.stem}_{len(self.made)}", **attributes))
        return output

    def _constant(self, values: Sequence[int], what: str) -> str:
        name = free_name(self.graph, f"{self.stem}_{what}_{len(self.made)}")
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name
