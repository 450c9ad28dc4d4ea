"""Parts of a graph run between tensors that are kept on disk and one that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from edgecnn.graph.calibration.collect import run_session
from edgecnn.graph.qdq.codes import Scale
from edgecnn.graph.simplify import GraphIndex, session_options

Array = npt.NDArray[np.float32]

SUFFIX = "_dequantized"


@dataclass
class Store:
    """Tensors of all images on disk, in batches: as floats, or as the codes of a scale."""

    folder: Path
    kind: dict[str, Scale | None] = field(default_factory=dict)
    _number: dict[str, int] = field(default_factory=dict)

    def put(self, tensor: str, batch: int, value: Array, scale: Scale | None = None) -> None:
        """Keep one batch of `tensor`; floats as FP16 where they fit."""
        self.kind[tensor] = scale
        number = self._number.setdefault(tensor, len(self._number))
        if scale is not None:
            first, last = (0, 255) if scale.unsigned else (-128, 127)
            codes = np.clip(np.rint(value / np.float32(scale.scale)) + scale.zero, first, last)
            np.save(self.folder / f"{number}-{batch}.npy", codes.astype(np.uint8 if scale.unsigned else np.int8))
        else:
            np.save(self.folder / f"{number}-{batch}.npy", value)

    def get(self, tensor: str, batch: int) -> Array:
        """One batch back, as floats."""
        held = np.load(self.folder / f"{self._number[tensor]}-{batch}.npy")
        scale = self.kind[tensor]
        if scale is None:
            return np.asarray(held, np.float32)
        return np.asarray((held.astype(np.float32) - np.float32(scale.zero)) * np.float32(scale.scale))

    def drop(self, tensor: str) -> None:
        """Free the disk space of `tensor`."""
        for path in self.folder.glob(f"{self._number[tensor]}-*.npy"):
            path.unlink()
        del self.kind[tensor]


class Segment:
    """The part of a graph between tensors that are known and one that is wanted, as a session."""

    def __init__(
        self,
        index: GraphIndex,
        nodes: Sequence[onnx.NodeProto],
        constants: Mapping[str, npt.NDArray[Any]],
        known: set[str],
        target: str,
    ) -> None:
        maker = {o: n for n in nodes for o in n.output if o}
        self.inputs, used = reached(maker, index, known, target)
        self.target = target
        self.session = None
        if target in known:
            return
        ordered = _ordered(maker, used, known)
        held = {i for n in ordered for i in n.input if i in constants or i in index.initializer}
        graph = helper.make_graph(
            ordered,
            "segment",
            [_value(index, name) for name in self.inputs],
            [helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.asarray(constants[n]), n) if n in constants else index.initializer[n]
                for n in sorted(held)
            ],
        )
        made = helper.make_model(graph, opset_imports=index.model.opset_import, ir_version=index.model.ir_version)
        self.session = onnxruntime.InferenceSession(
            made.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )

    def run(self, store: Store, batch: int) -> Array:
        """The wanted tensor of one batch."""
        if self.session is None:
            return store.get(self.target, batch)
        return run_session(self.session, {i: store.get(i, batch) for i in self.inputs})[0]


def reached(
    maker: Mapping[str, onnx.NodeProto], index: GraphIndex, known: set[str], target: str
) -> tuple[list[str], set[str]]:
    """(the known tensors that `target` is computed from, the tensors computed on the way)."""
    inputs: dict[str, None] = {}
    used: set[str] = set()
    pending = [target]
    while pending:
        name = pending.pop()
        if name in known:
            inputs[name] = None
        elif name in maker and name not in used:
            used.add(name)
            pending += [i for i in maker[name].input if i]
    return list(inputs), used


def _ordered(maker: Mapping[str, onnx.NodeProto], used: set[str], known: set[str]) -> list[onnx.NodeProto]:
    done: set[str] = set()
    ordered: list[onnx.NodeProto] = []
    for first in sorted(used):
        stack = [first]
        while stack:
            name = stack[-1]
            node = maker[name]
            waiting = [i for i in node.input if i in used and i not in known and i not in done]
            if name in done or not waiting:
                stack.pop()
                if name not in done:
                    done.update(node.output)
                    ordered.append(node)
            else:
                stack += waiting
    return ordered


def _value(index: GraphIndex, name: str) -> onnx.ValueInfoProto:
    shape = list(index.shape[name.removesuffix(SUFFIX)])
    dims = [f"axis{k}" if d is None or k == 0 else d for k, d in enumerate(shape)]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
