"""Where Q/DQ pairs stand in a graph, for each scheme: the walk that both share, and the pairs that it decides on.

Both schemes put a pair on every input of every Conv, Gemm and MatMul that is not excluded; what they do around these is
in `tensorrt.py` and `ort_cpu.py`. Tensors whose values are only moved or concatenated form a scale group (for
`ort-cpu`, as far as all of them or none can be negative and their ranges are alike).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx

from edgecnn.errors import GraphError
from edgecnn.graph.onnx_graph import QDQ, OnnxGraph, attribute, flat_graph
from edgecnn.graph.qdq.ort_cpu import OrtCpuPlacer
from edgecnn.graph.qdq.pairs import Placer
from edgecnn.graph.qdq.tensorrt import TensorRtPlacer
from edgecnn.quantization import Placement, QuantizedWeight
from edgecnn.results.engine import Scheme


def place(
    model: onnx.ModelProto,
    scheme: Scheme,
    excluded: Collection[str] = (),
    *,
    pools: bool = False,
    spans: Mapping[str, float] | None = None,
) -> Placement:
    """Where `model` is to be quantized under `scheme`, but for the nodes `excluded`; the model is not changed. With
    `pools` TensorRT's global average pools read INT8 too where INT8 reads what they make. `spans` are the widths of the
    calibrated ranges, for `ort-cpu`: whether the inputs of a Concat share a scale depends on them.

    Activations come in the order of the graph. Raises `GraphError` naming the node when the graph is quantized
    already, a node has no name of its own, or a weight is not an initializer.
    """
    graph = flat_graph(model)
    _check(graph)
    out = frozenset(excluded)
    placer: Placer = TensorRtPlacer(graph, out, pools) if scheme == "tensorrt" else OrtCpuPlacer(graph, out, spans)
    weighted = [node for node in graph.weighted() if node.name not in out]
    for node in weighted:
        placer.pairs.add(node.input[0], (node, 0))
    for node in reversed(graph.nodes):
        for tensor in graph.outputs_of(node):
            placer.resolve(tensor)
        placer.decide(node)
    for tensor in graph.inputs:
        placer.resolve(tensor)
    placer.join_scales()
    return Placement(scheme, placer.pairs.tensors(graph), tuple(_weights(graph, weighted)), out)


def _check(graph: OnnxGraph) -> None:
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op_type in QDQ or node.op_type.startswith("QLinear"):
            raise GraphError(
                f"node {node.name or node.output[0]!r}: the graph is quantized already ({node.op_type})",
                "start from the FP32 graph",
            )
        if not node.name or node.name in seen:
            raise GraphError(
                f"the node that makes {node.output[0]!r} has no name of its own ({node.name!r})",
                "normalize the graph with `edgecnn import` first",
            )
        seen.add(node.name)


def _weights(graph: OnnxGraph, weighted: Iterable[onnx.NodeProto]) -> Iterator[QuantizedWeight]:
    for node in weighted:
        name = node.input[1]
        if name not in graph.initializers:
            raise GraphError(
                f"node {node.name!r}: the weight {name!r} of this {node.op_type} is not an initializer",
                "normalize the graph with `edgecnn import`, or export it with its weights folded to constants",
            )
        per_row = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0) == 1)
        rank = len(graph.initializers[name].dims)
        yield QuantizedWeight(name, node.name, 1, 0 if per_row else rank - 1)
