"""A graph run stage by stage, with any of its quantizers on: what lies before a change is not run again.

A stage ends where one tensor alone leads on. Nothing is optimized in parts with quantizers, and before them, so that a
tensor has the same bits in whichever part it is made: one that differs in the last bit rounds to another code now and
then, and the logits by far more. Where no quantizer follows, the kernels of an engine are a fifth faster.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.backends._onnxruntime import Optimization, onnxruntime_errors, open_session
from edgecnn.graph.onnx_graph import PRODUCTS, OnnxGraph
from edgecnn.graph.ptq.subgraph import trace_back
from edgecnn.quantization import Placement, QuantizedWeights, QuantParams
from edgecnn.results.sensitivity import QuantizedPart

Array = npt.NDArray[Any]
PRODUCTS_A_STAGE = 4  # at least: a stage costs a session, and the tensors at its ends are held


@dataclass(frozen=True)
class Quantizer:
    """The weights of a node, or the pairs on the activations that it reads."""

    node: str
    part: QuantizedPart


@dataclass(frozen=True)
class Stage:
    """Nodes in order, from the one tensor that is read of what comes before to the one that is read of them."""

    nodes: tuple[onnx.NodeProto, ...]
    start: str
    end: str


class Part:
    """Nodes as a session of one thread, from the tensors `inputs` to `outputs`. Several threads may run it at once."""

    def __init__(self, model: onnx.ModelProto, optimization: Optimization) -> None:
        self.inputs = tuple(i.name for i in model.graph.input)
        self.outputs = tuple(o.name for o in model.graph.output)
        with onnxruntime_errors(f"the part of the graph that makes {self.outputs[-1]!r}"):
            self._session = open_session(model, threads=1, optimization=optimization)

    def run(self, values: Mapping[str, Array]) -> list[Array]:
        """The outputs for `values` of its inputs."""
        with onnxruntime_errors(f"the part of the graph that makes {self.outputs[-1]!r}", "failed while running it"):
            return list(self._session.run(self.outputs, {name: values[name] for name in self.inputs}))


class StagedGraph:
    """A prepared float graph with its quantizers: `scales` by group, `weights` by initializer, as `insert_qdq` takes
    them. `quantizers` and `stages` come in the order of the graph."""

    def __init__(
        self,
        model: onnx.ModelProto,
        placement: Placement,
        scales: Mapping[str, QuantParams],
        weights: Mapping[str, QuantizedWeights],
    ) -> None:
        self.index = OnnxGraph(model)
        self._scales, self._weights = scales, weights
        self._group = {q.tensor: q.scale_group for q in placement.activations}
        self._edges = {(e.node, e.index) for q in placement.activations for e in q.edges}
        self._weight = {w.node: w.index for w in placement.weights}
        reading = {node for node, _ in self._edges}
        made = [
            [Quantizer(node.name, "weights")] * (node.name in self._weight)
            + [Quantizer(node.name, "activation")] * (node.name in reading)
            for node in self.index.nodes
        ]
        self.quantizers = tuple(quantizer for of_node in made for quantizer in of_node)
        varying = _find_varying(self.index)
        self._fixed = [n for n in self.index.nodes if varying.isdisjoint(n.output)]
        self.stages = _find_stages(self.index, varying)

    def open(
        self,
        nodes: Iterable[onnx.NodeProto],
        on: Collection[Quantizer],
        outputs: Sequence[str],
        optimization: Optimization = "none",
    ) -> Part:
        """`nodes`, in order, with the quantizers `on`."""
        constants: dict[str, onnx.TensorProto] = {}
        made: list[onnx.NodeProto] = [*self._fixed]
        paired: set[str] = set()
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if Quantizer(node.name, "activation") in on:
                for k, name in enumerate(node.input):
                    if (node.name, k) in self._edges:
                        made += [] if name in paired else self._pair(name, constants)
                        paired.add(name)
                        copy.input[k] = f"{name}_dequantized"
            if Quantizer(node.name, "weights") in on:
                k = self._weight[node.name]
                name = copy.input[k] = f"{node.input[k]}_dequantized"
                constants[name] = numpy_helper.from_array(self._weights[node.input[k]].dequantize(), name)
            made.append(copy)
        produced = {o for n in made for o in n.output}
        read = dict.fromkeys(i for n in made for i in n.input if i)
        for name in read:
            if name in self.index.initializers:
                constants[name] = self.index.initializers[name]
        inputs = [name for name in read if name not in constants and name not in produced]
        graph = helper.make_graph(
            made, "part", [self._value(n) for n in inputs], [self._value(n) for n in outputs], list(constants.values())
        )
        model = self.index.model
        made_of = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        return Part(made_of, optimization)

    def behind(self, quantizer: Quantizer, stage: Stage) -> list[onnx.NodeProto]:
        """The nodes of `stage` that a quantizer in it changes."""
        changed: set[str] = set()
        found = []
        for node in stage.nodes:
            if node.name == quantizer.node or not changed.isdisjoint(node.input):
                changed.update(node.output)
                found.append(node)
        return found

    def read_from_before(self, nodes: Sequence[onnx.NodeProto]) -> dict[str, None]:
        """The tensors that vary with the image and are made before `nodes`, which read them."""
        produced = {o for n in (*nodes, *self._fixed) for o in n.output}
        read = dict.fromkeys(i for n in nodes for i in n.input if i)
        return {name: None for name in read if name not in produced and name not in self.index.initializers}

    def _pair(self, tensor: str, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
        params = self._scales[self._group[tensor]]
        scale, zero, codes = f"{tensor}_scale", f"{tensor}_zero_point", f"{tensor}_quantized"
        constants[scale] = numpy_helper.from_array(np.float32(params.scale), scale)
        constants[zero] = numpy_helper.from_array(np.array(params.zero_point, params.dtype), zero)
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, zero], [codes]),
            helper.make_node("DequantizeLinear", [codes, scale, zero], [f"{tensor}_dequantized"]),
        ]

    def _value(self, name: str) -> onnx.ValueInfoProto:
        kind = self.index.types.get(name) or onnx.TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, self.index.shapes.get(name))


def _find_varying(graph: OnnxGraph) -> set[str]:
    """The tensors that depend on the image."""
    varying = {graph.input}
    for node in graph.nodes:
        if not varying.isdisjoint(node.input):
            varying.update(o for o in node.output if o)
    return varying


def _find_stages(graph: OnnxGraph, varying: Collection[str]) -> tuple[Stage, ...]:
    used = trace_back(graph.producer, {graph.input}, graph.output)[1]
    nodes = [n for n in graph.nodes if any(o in used and o in varying for o in n.output)]
    last = {name: k for k, node in enumerate(nodes) for name in node.input}
    last[graph.output] = len(nodes)
    stages: list[Stage] = []
    live, start, first = {graph.input}, graph.input, 0
    for k, node in enumerate(nodes):
        live.update(o for o in node.output if o in last)
        live = {name for name in live if last.get(name, -1) > k}
        products = sum(n.op_type in PRODUCTS for n in nodes[first : k + 1])
        if k == len(nodes) - 1 or (len(live) == 1 and products >= PRODUCTS_A_STAGE):
            (end,) = live
            stages.append(Stage(tuple(nodes[first : k + 1]), start, end))
            start, first = end, k + 1
    return tuple(stages)
