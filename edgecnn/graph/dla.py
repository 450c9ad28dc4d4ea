"""What NVIDIA's DLA leaves to the GPU of a graph, from the graph alone.

Sources: "DLA Supported Layers and Restrictions" of TensorRT's documentation, and for operators the table of
NVIDIA/Deep-Learning-Accelerator-SW (operators/README.md, Orin by TensorRT). What is listed does not run on the DLA;
what is not listed may still be left to the GPU by the compiler, which alone knows its memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import onnx
from onnx import TensorProto

from edgecnn.graph.onnx_graph import OnnxGraph, attribute, clip_bounds, flat_graph, infer_shapes
from edgecnn.results.finding import Finding
from edgecnn.targets import FIRST_TYPED_DLA, version_tuple

LARGEST_BATCH, LARGEST_DIM, LOADABLES = 4096, 8192, 16
_NATIVE = (
    "Abs Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose Cos Equal Gemm LRN LeakyRelu MatMul Max "
    "MaxPool Mul PRelu Relu Reshape Flatten Resize Sigmoid Slice Softmax Sub Sum Tanh Transpose"
)
_NOTHING = "Cast Constant ConstantOfShape DequantizeLinear Dropout Identity QuantizeLinear Shape"
NATIVE, NOTHING = frozenset(_NATIVE.split()), frozenset(_NOTHING.split())
TYPED_NATIVE = NATIVE | {"Div", "Greater", "Less", "Min", "Pow"}  # of TensorRT 11.4's table
FALLS_BACK = "it runs on the GPU (--allowGPUFallback), with a copy there and back"


def find_dla_gaps(model: onnx.ModelProto, tensorrt: str) -> list[Finding]:
    """One warning for each node that the DLA does not take, and for what keeps the graph from it as a whole; the last
    one counts them. Raises `GraphError` for a graph that is none."""
    graph, shapes = flat_graph(model), infer_shapes(model)
    found = [Finding("warning", "graph", what, hint) for what, hint in _of_the_graph(model, graph, tensorrt)]
    native = TYPED_NATIVE if version_tuple(tensorrt) >= FIRST_TYPED_DLA else NATIVE
    gaps = {id(node): why for node in graph.nodes if (why := _why_not(graph, node, shapes, native))}
    found += [
        Finding("warning", node.name or node.op_type, f"{node.op_type}: {gaps[id(node)]}", FALLS_BACK)
        for node in graph.nodes
        if id(node) in gaps
    ]
    layers = [node for node in graph.nodes if node.op_type not in NOTHING and not _is_constant(graph, node)]
    regions = _count_regions(graph, [node for node in layers if id(node) not in gaps])
    what = f"{len(gaps)} of {len(layers)} layers run on the GPU; the others are {regions} parts of the network or more"
    over = f", and one DLA core holds {LOADABLES}" if regions > LOADABLES else ""
    return [*found, Finding("warning", "graph", what + over, "each part is one loadable; fewer copies are faster")]


def _of_the_graph(model: onnx.ModelProto, graph: OnnxGraph, tensorrt: str) -> Iterator[tuple[str, str]]:
    typed = version_tuple(tensorrt) >= FIRST_TYPED_DLA
    if not typed and any(node.op_type == "QuantizeLinear" for node in graph.nodes):
        yield (
            "it has Q/DQ pairs, and the DLA of TensorRT 10.7 and earlier takes a calibration cache alone",
            "take the float32 graph with its cache: edgecnn bundle RUN --for trtexec --dla 0",
        )
    floats = {t.data_type for t in graph.initializers.values() if len(t.dims) > 1}
    if typed and floats == {TensorProto.FLOAT} and not any(n.op_type == "QuantizeLinear" for n in graph.nodes):
        yield (
            f"it is float32, TensorRT {tensorrt} keeps the types of the graph, and the DLA computes FP16 and INT8",
            "take the FP16 or the INT8 graph",
        )
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in graph.inputs and dims and not dims[0].HasField("dim_value"):
            yield (
                "its batch is not fixed, and the DLA takes static shapes",
                "build it for one size: --minShapes, --optShapes and --maxShapes alike",
            )


def _why_not(
    graph: OnnxGraph, node: onnx.NodeProto, shapes: Mapping[str, tuple[int | None, ...]], native: Set[str]
) -> str:
    if node.op_type in NOTHING or _is_constant(graph, node):
        return ""
    if node.op_type not in native or node.domain not in ("", "ai.onnx"):
        return "not among the operators that TensorRT gives to a DLA"
    sizes = [shapes.get(name) or () for name in (*node.input, *node.output) if name and not graph.is_constant(name)]
    if (large := max((n for shape in sizes for n in shape[1:] if n), default=0)) > LARGEST_DIM:
        return f"a side of {large}, and the DLA takes up to {LARGEST_DIM}"
    if (batch := max((shape[0] or 0 for shape in sizes if shape), default=0)) > LARGEST_BATCH:
        return f"a batch of {batch}, and the DLA takes up to {LARGEST_BATCH}"
    return "; ".join(_beyond(graph, node, shapes))


def _beyond(graph: OnnxGraph, node: onnx.NodeProto, shapes: Mapping[str, tuple[int | None, ...]]) -> Iterator[str]:
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
        yield from _window(graph, node)
    elif kind == "Clip":
        low, high = clip_bounds(graph, node)
        if low != 0 or not 1 <= high <= 127:
            yield f"bounds {low:g} and {high:g}, and the DLA clips to 0 and 1 to 127"
    elif kind == "LRN" and (size := attribute(node, "size", 0)) not in (3, 5, 7, 9):
        yield f"a window of {size}, and the DLA has 3, 5, 7 and 9"
    elif kind == "Concat" and attribute(node, "axis", 1) not in (1, 1 - len(shapes.get(node.output[0]) or (0,) * 4)):
        yield "not along the channels"
    elif kind in ("MatMul", "Gemm") and not graph.is_constant(node.input[1]):
        yield "its second factor is not constant"


def _window(graph: OnnxGraph, node: onnx.NodeProto) -> Iterator[str]:
    weight = graph.initializers.get(node.input[1]) if len(node.input) > 1 else None
    kernel = _numbers(node, "kernel_shape") or list(weight.dims[2:] if weight is not None else ())
    pads, strides, dilations = (_numbers(node, name) for name in ("pads", "strides", "dilations"))
    group = attribute(node, "group", 1)
    if len(kernel) != 2:
        yield f"{len(kernel)} spatial axes, and the DLA has 2"
        return
    pooling = node.op_type in ("MaxPool", "AveragePool")
    limits = [
        ("kernel", kernel, (1, 8 if pooling else 32)),
        ("padding", pads, (0, 7 if pooling else 31 if node.op_type == "Conv" else 0)),
        ("stride", strides, (1, 16 if pooling else 8 if node.op_type == "Conv" else 32)),
        ("dilation", dilations, (1, 32 if node.op_type == "Conv" else 1)),
        ("groups", [group], (1, LARGEST_DIM if node.op_type == "Conv" else 1)),
    ]
    for what, values, (low, high) in limits:
        if beyond := [n for n in values if not low <= n <= high]:
            yield f"{what} {max(beyond)}, and the DLA takes {f'{low} to {high}' if low < high else low}"
    if node.op_type == "Conv" and any(pad >= size for pad, size in zip(pads, kernel * 2, strict=False)):
        yield "its padding is as large as its kernel"


def _numbers(node: onnx.NodeProto, name: str) -> list[int]:
    return [int(value) for a in node.attribute if a.name == name for value in a.ints]


def _is_constant(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    return all(graph.is_constant(name) for name in node.input if name)


def _count_regions(graph: OnnxGraph, layers: list[onnx.NodeProto]) -> int:
    """How many parts the layers are when those that pass a tensor on to each other are one."""
    part = {id(node): k for k, node in enumerate(layers)}
    for node in layers:
        for name in graph.outputs_of(node):
            for reader, _ in graph.readers.get(name, []):
                if id(reader) in part and part[id(reader)] != part[id(node)]:
                    old, new = part[id(reader)], part[id(node)]
                    part = {key: new if value == old else value for key, value in part.items()}
    return len(set(part.values()))


def dla_scales(model: onnx.ModelProto, scales: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """The scales of a calibration cache as a DLA takes them, and the activations that have none: those run in FP16.

    The inputs and the output of a pooling and of a Concat have one scale, the largest; a layer in front of a Relu has
    that of the Relu, into which it is fused, and what only moves values that of what it moves.
    """
    graph = flat_graph(model)
    known = {name: scale for name, scale in scales.items() if scale}
    alike = [node for node in graph.nodes if node.op_type in ("MaxPool", "AveragePool", "Concat")]
    changed = True
    while changed:
        changed = False
        for node in alike:
            names = [name for name in (*node.input, node.output[0]) if name and not graph.is_constant(name)]
            largest = max((known[name] for name in names if name in known), default=0.0)
            for name in names:
                if largest and known.get(name) != largest:
                    known[name], changed = largest, True
    for node in reversed(graph.nodes):
        if node.op_type in ("Relu", "Clip") and node.input[0] not in known and node.output[0] in known:
            known[node.input[0]] = known[node.output[0]]
    for node in graph.nodes:
        if node.op_type in ("Reshape", "Flatten", "Identity", "Dropout", "Transpose") and node.input[0] in known:
            known.setdefault(node.output[0], known[node.input[0]])
    made = [name for node in graph.nodes if not _is_constant(graph, node) for name in node.output if name]
    return known, [name for name in dict.fromkeys([*graph.inputs, *made]) if name not in known]
