"""FP16 as it is stored, on a runtime that computes in FP32.

ONNX Runtime's CPU provider has next to no FP16 kernels: it puts a Cast on either side of a node and then takes every
pair of Casts between two nodes out again, so that nothing in between is ever rounded, overflows or underflows. Casts
that stand in the graph stay where they are.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

from edgecnn.errors import BackendError

# Nodes whose results are among the FP16 numbers that they were given: there is nothing to round.
_EXACT_NAMES = (
    "Abs Clip Concat DepthToSpace Dropout Expand Flatten Gather GlobalMaxPool Identity Max MaxPool Min Neg Pad Relu "
    "Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where"
)
_EXACT = frozenset(_EXACT_NAMES.split())
# Rounding may as well wait until behind these (they are monotonic, their bounds FP16): so they stay fusible.
_COMMUTING = frozenset({"Relu", "Clip"})
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def rounded_to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every FP16 tensor computed in FP32 and rounded to FP16 by a Cast; `model` when it has none.

    What leaves FP16 becomes infinite, what is too small 0, as in `onnx.reference`; sums inside one node are those of
    FP32. Tensors keep their names and types. Raises `BackendError` for a tensor whose type cannot be inferred.
    """
    half = _half_tensors(model)
    if not half:
        return model
    writer = _Writer(model, half)
    for node in model.graph.node:
        writer.add(node)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(writer.nodes)
    return made


def _half_tensors(model: onnx.ModelProto) -> set[str]:
    """The names of all FP16 tensors."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.graph.name = "types"
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and not tensor.external_data:
            bare.graph.initializer.append(tensor)  # sizes and axes: without them inference ends at a Resize
        elif tensor.name not in given:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except onnx.shape_inference.InferenceError:
        return set()  # a graph that is wrong: ONNX Runtime says how
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.output, *graph.input, *graph.value_info)}
    half = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}
    for node in model.graph.node if half else ():
        for name in node.output:
            if name and name not in kinds:
                raise BackendError(
                    f"node {node.name or name!r}: the type of {name!r} cannot be inferred, and whether it is FP16",
                    "export the network with standard operators",
                )
    return half


class _Writer:
    """Writes the nodes again: FP32 versions of FP16 tensors between them, and the Casts that round."""

    def __init__(self, model: onnx.ModelProto, half: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._half = half
        self._outputs = {o.name for o in model.graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self._wide: dict[str, str] = {}  # the FP32 version by the name of the FP16 tensor
        self._unrounded: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        """Add `node` in FP32, and a Cast for each of its results that is to be rounded."""
        if not _computes(node) or self._half.isdisjoint(node.input):
            self.nodes.append(node)
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [self._read(name) for name in node.input]
        self.nodes.append(copy)
        exact = node.op_type in _EXACT and self._unrounded.isdisjoint(node.input)
        for k, name in enumerate(node.output):
            if name in self._half:
                copy.output[k] = f"{name}/fp32"
                self._round(name, copy.output[k], exact)

    def _round(self, name: str, computed: str, exact: bool) -> None:
        readers = self._readers.get(name, [])
        if name not in self._outputs and len(readers) == 1 and readers[0].op_type in _COMMUTING:
            self._wide[name] = computed
            if not exact:
                self._unrounded.add(name)
            return
        if exact:
            self._wide[name] = computed
        if not exact or name in self._outputs or not all(map(_computes, readers)):
            self._cast(computed, name, TensorProto.FLOAT16)

    def _read(self, name: str) -> str:
        """The FP32 tensor with the values of `name`."""
        if name not in self._half:
            return name
        if name not in self._wide:
            self._wide[name] = f"{name}/rounded"
            self._cast(name, self._wide[name], TensorProto.FLOAT)
        return self._wide[name]

    def _cast(self, source: str, target: str, kind: Any) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], f"{target}/cast", to=kind))


def _computes(node: onnx.NodeProto) -> bool:
    """Whether a node can be given FP32 in place of FP16."""
    return node.op_type != "Cast" and all(a.type not in _SUBGRAPHS for a in node.attribute)
