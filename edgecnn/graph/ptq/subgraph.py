"""Parts of a graph run between tensors that are kept on disk and one that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session, run_session
from edgecnn.graph.onnx_graph import OnnxGraph

Array = npt.NDArray[Any]

CODES, SUFFIX = "_codes", "_dequantized"  # of a pair's codes, and of what they stand for
HALF, WIDENED = "_in_fp16", "_from_fp16"  # of what is kept in half the space, and of what is read of it


@dataclass
class ActivationCache:
    """Tensors of all images on disk, in batches, of the type that they are given in: `types[tensor]`.

    As bare bytes: `np.load` parses a header by `ast.literal_eval`, which fails in Python 3.11 where two threads do so
    at once ("AST constructor recursion depth mismatch").
    """

    folder: Path
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)
    _number: dict[str, int] = field(default_factory=dict)
    _shape: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    def put(self, tensor: str, batch: int, value: Array) -> None:
        """Keep one batch of `tensor`."""
        self.types[tensor] = value.dtype
        number = self._number.setdefault(tensor, len(self._number))
        self._shape[tensor, batch] = value.shape
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        (self.folder / f"{number}-{batch}").write_bytes(flat.data)  # of a full disk `tofile` does not say that it is

    def get(self, tensor: str, batch: int) -> Array:
        """One batch back."""
        flat = np.fromfile(self.folder / f"{self._number[tensor]}-{batch}", self.types[tensor])
        return flat.reshape(self._shape[tensor, batch])

    def drop(self, tensor: str) -> None:
        """Free the disk space of `tensor`."""
        for path in self.folder.glob(f"{self._number[tensor]}-*"):
            path.unlink()
        del self.types[tensor]


class Subgraph:
    """The part of a graph between tensors that are known, with their types, and one that is wanted, as a session."""

    def __init__(
        self,
        graph: OnnxGraph,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, Array],
        known: Mapping[str, np.dtype[Any]],
        target: str,
        target_type: npt.DTypeLike,
    ) -> None:
        producer = {o: n for n in nodes for o in n.output if o}
        self.inputs, used = trace_back(producer, set(known), target)
        self.target = target
        self.session = None
        if target in known:
            return
        ordered = _order_nodes(producer, used, set(known))
        held = {i for n in ordered for i in n.input if i in constants or i in graph.initializers}
        part = helper.make_graph(
            ordered,
            "segment",
            [_value(graph, name, known[name]) for name in self.inputs],
            [helper.make_tensor_value_info(target, helper.np_dtype_to_tensor_dtype(np.dtype(target_type)), None)],
            [
                numpy_helper.from_array(np.asarray(constants[n]), n) if n in constants else graph.initializers[n]
                for n in sorted(held)
            ],
        )
        made = helper.make_model(part, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
        with onnxruntime_errors(f"the part of the graph that makes {target!r}"):
            self.session = open_session(made, config={"session.disable_quant_qdq": "1"})  # sums and means stay floats

    def run(self, cache: ActivationCache, batch: int) -> Array:
        """The wanted tensor of one batch."""
        if self.session is None:
            return cache.get(self.target, batch)
        return run_session(self.session, {i: cache.get(i, batch) for i in self.inputs})[0]


def trace_back(producer: Mapping[str, onnx.NodeProto], known: set[str], target: str) -> tuple[list[str], set[str]]:
    """(the known tensors that `target` is computed from, the tensors computed on the way)."""
    inputs: dict[str, None] = {}
    used: set[str] = set()
    pending = [target]
    while pending:
        name = pending.pop()
        if name in known:
            inputs[name] = None
        elif name in producer and name not in used:
            used.add(name)
            pending += [i for i in producer[name].input if i]
    return list(inputs), used


def _order_nodes(producer: Mapping[str, onnx.NodeProto], used: set[str], known: set[str]) -> list[onnx.NodeProto]:
    done: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    for first in sorted(used):
        stack = [first]
        while stack:
            name = stack[-1]
            node = producer[name]
            waiting = [i for i in node.input if i in used and i not in known and i not in done]
            if name in done or not waiting:
                stack.pop()
                if name not in done:
                    done.update(node.output)
                    ordered.append(node)
            else:
                stack += waiting
    return ordered


def _value(graph: OnnxGraph, name: str, kind: np.dtype[Any]) -> onnx.ValueInfoProto:
    shape = list(graph.shapes[name.removesuffix(CODES).removesuffix(HALF)])
    dims = [f"axis{k}" if d is None or k == 0 else d for k, d in enumerate(shape)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), dims)
