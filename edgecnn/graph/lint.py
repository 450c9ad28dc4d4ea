"""What a target will refuse in a graph, said before anyone copies a file to a device.

Sources for TensorRT: the operator tables of its ONNX parser (operators.md of 9.2, 10.0 and 10.15), NVIDIA's
"Explicit quantization" page, NvInfer.h. A finding is an error when the build fails or the engine is not what was
asked for, a warning when it works but not as one would think.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgecnn.errors import BackendError, GraphError
from edgecnn.graph.onnx_graph import OnnxGraph, attribute, flat_graph, opset_of, type_name, without_weights
from edgecnn.graph.qdq.verify import find_dequantized, require_loads
from edgecnn.results.finding import Finding
from edgecnn.targets import Target

# The newest opset that the parser of a TensorRT reads, from that version on.
PARSER_OPSETS = (((10, 0), 20), ((10, 9), 22), ((10, 13), 24))
OLDEST_OPSET = 9
FP16_SCALES_OPSET = 19

# Operators of classifiers that every parser from 10.3 on takes.
_PARSED = (
    "Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant ConstantOfShape "
    "Conv ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand Flatten "
    "Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual "
    "GridSample HardSigmoid HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less "
    "LessOrEqual Log LogSoftmax LpNormalization LpPool LRN MatMul Max MaxPool Mean Min Mod Mul Neg Not Or Pad Pow "
    "PRelu QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
    "ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape "
    "Shrink Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh "
    "ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor"
)
PARSED = frozenset(_PARSED.split())


def lint(model: onnx.ModelProto, target: Target, tensorrt: str = "") -> list[Finding]:
    """What `target` refuses in `model`, errors first. `tensorrt` is the version there; without it the oldest one
    that is supported on the target is taken."""
    try:
        graph = flat_graph(model)
    except GraphError as exc:
        return [Finding("error", "graph", exc.message, exc.hint)]
    if lacking := list(_arities(model, graph)):
        return lacking
    if target.kind == "cpu":
        rules: list[Callable[[], Iterator[Finding]]] = [
            lambda: _ends(model),
            lambda: _batch(model, graph),
            lambda: _integer_kernel_types(graph),
            lambda: _values(graph),
            lambda: _loads(model),
        ]
    else:
        version = tensorrt or target.tensorrt_min or "10.3"
        rules = [
            lambda: _ends(model),
            lambda: _sparse(model),
            lambda: _opset(model, version),
            lambda: _batch(model, graph),
            lambda: _operators(model, graph),
            lambda: _pairs(model, graph),
            lambda: _doubles(graph),
            lambda: _values(graph),
            lambda: _precisions(graph, target),
            lambda: _types(model, graph),
        ]
    found = [finding for rule in rules for finding in rule()]
    return sorted(found, key=lambda finding: finding.severity)


def require_clean(model: onnx.ModelProto, target: Target, tensorrt: str = "") -> list[Finding]:
    """The warnings of `lint`; raises `GraphError` with the first error, and how many there are."""
    found = lint(model, target, tensorrt)
    errors = [f for f in found if f.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        raise GraphError(
            f"{target.name} would refuse this graph: {errors[0].where}: {errors[0].what}{more}", errors[0].hint
        )
    return found


def _opset(model: onnx.ModelProto, tensorrt: str) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in tensorrt.split(".")[:2])
    newest = next((opset for since, opset in reversed(PARSER_OPSETS) if numbers >= since), PARSER_OPSETS[0][1])
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not OLDEST_OPSET <= entry.version <= newest:
            yield Finding(
                "error",
                "graph",
                f"opset {entry.version}; the parser of TensorRT {tensorrt} reads {OLDEST_OPSET} to {newest}",
                "export at opset 19",
            )


def _arities(model: onnx.ModelProto, graph: OnnxGraph) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, max(opset_of(model), OLDEST_OPSET))
        except onnx.defs.SchemaError:  # no such operator: `_operators` says it
            continue
        for what, least, given in (("input", schema.min_input, node.input), ("output", schema.min_output, node.output)):
            if len(given) < least or (least and not any(given)):
                found = f"{node.op_type} has {len([name for name in given if name])} {what}s of {least}"
                yield Finding("error", node.name, found, "the file is damaged: export it again")


def _ends(model: onnx.ModelProto) -> Iterator[Finding]:
    if not model.graph.node or not model.graph.output:
        what = "output" if model.graph.node else "node"
        yield Finding("error", "graph", f"it has no {what}", "the file is damaged: export it again")


def _sparse(model: onnx.ModelProto) -> Iterator[Finding]:
    for sparse in model.graph.sparse_initializer:
        yield Finding(
            "error",
            sparse.values.name,
            "these weights are stored as a sparse tensor, which no parser of TensorRT reads",
            "store them as an ordinary initializer, zeros included",
        )


def _batch(model: onnx.ModelProto, graph: OnnxGraph) -> Iterator[Finding]:
    dynamic = True
    for value in model.graph.input:
        if value.name not in graph.inputs:
            continue
        dims = value.type.tensor_type.shape.dim
        fixed = [d.HasField("dim_value") for d in dims]
        if fixed and fixed[0]:
            dynamic = False
            size = dims[0].dim_value
            what = f"its batch is frozen to {size}: an engine of it serves {size} at a time, no more and no fewer"
            yield Finding("warning", value.name, what, "export with a dynamic batch axis")
        for axis, known in enumerate(fixed[1:], start=1):
            if not known:
                yield Finding("error", value.name, f"its axis {axis} is not fixed", "fix channels, height and width")
    for node in graph.nodes:
        shape = graph.initializers.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if shape is not None and not graph.is_constant(node.input[0]) and dynamic:
            first = int(numpy_helper.to_array(shape).reshape(-1)[0]) if shape.dims and shape.dims[0] else 0
            if first > 0:
                yield Finding(
                    "error", node.name, f"a batch of {first} is baked into this Reshape", "write it as x.flatten(1)"
                )


def _operators(model: onnx.ModelProto, graph: OnnxGraph) -> Iterator[Finding]:
    functions = {(function.domain, function.name) for function in model.functions}
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            what, hint = f"{node.domain}.{node.op_type} is no standard operator", "a plugin would be needed"
            if (node.domain, node.op_type) in functions:
                hint = "`edgecnn import` writes the file's own functions out as the operators within"
            yield Finding("error", node.name, what, hint)
        elif node.op_type not in PARSED:
            yield Finding(
                "error",
                node.name,
                f"{node.op_type} is not among the operators that every TensorRT from 10.3 on parses",
                "export the network with other operators, for INT8 as Q/DQ pairs",
            )
        elif node.op_type in ("MaxPool", "AveragePool"):
            if len([o for o in node.output if o]) > 1:
                yield Finding("error", node.name, "MaxPool's Indices are not supported", "do not read the indices")
            if any(a.name == "dilations" and any(d != 1 for d in a.ints) for a in node.attribute):
                yield Finding("error", node.name, "pooling with dilations is not supported", "use a plain pooling")


def _pairs(model: onnx.ModelProto, graph: OnnxGraph) -> Iterator[Finding]:
    opset = opset_of(model)
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 2:
            continue
        scale = graph.initializers.get(node.input[1])
        if scale is None:
            yield Finding("error", node.name, f"its scale {node.input[1]!r} is not a constant", "quantize with edgecnn")
            continue
        steps = numpy_helper.to_array(scale).astype(np.float64)
        if not np.isfinite(steps).all() or (steps <= 0).any():
            yield Finding("error", node.name, "its scale is not positive throughout", "calibrate again")
        if scale.data_type == TensorProto.FLOAT16 and opset < FP16_SCALES_OPSET:
            yield Finding(
                "error", node.name, f"an FP16 scale at opset {opset}", "export at opset 19: the first with them"
            )
        yield from _zero_point(graph, node)
        if steps.size > 1:
            yield from _axis(graph, node)
    for node in (node for node in graph.weighted() if node.domain in ("", "ai.onnx")):
        sides = [find_dequantized(graph, tensor) is not None for tensor in node.input[:2]]
        if sides[0] != sides[1]:
            missing = "weight" if sides[0] else "activation"
            yield Finding(
                "error",
                node.name,
                f"only one input is INT8: a pair is missing on its {missing}",
                "quantize both or none",
            )


def _zero_point(graph: OnnxGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        codes = graph.initializers.get(node.input[0])
        if node.op_type == "QuantizeLinear":
            yield Finding(
                "error",
                node.name,
                "no zero point, which means uint8",
                "quantize the float32 graph with --scheme tensorrt",
            )
        elif codes is not None and codes.data_type != TensorProto.INT8:
            kind = type_name(codes.data_type)
            yield Finding(
                "error", node.name, f"{kind} instead of int8", "quantize the float32 graph with --scheme tensorrt"
            )
        return
    zero = graph.initializers.get(name)
    if zero is None:
        yield Finding(
            "error",
            node.name,
            f"its zero point {name!r} is not a constant",
            "quantize the float32 graph with --scheme tensorrt",
        )
    elif zero.data_type != TensorProto.INT8:
        kind = type_name(zero.data_type)
        yield Finding(
            "error", node.name, f"{kind} instead of int8", "quantize the float32 graph with --scheme tensorrt"
        )
    elif numpy_helper.to_array(zero).any():
        yield Finding(
            "error",
            node.name,
            "asymmetric: its zero point is not 0",
            "quantize the float32 graph with --scheme tensorrt",
        )


def _axis(graph: OnnxGraph, node: onnx.NodeProto) -> Iterator[Finding]:
    """A scale per channel stands on weights alone, along their output channels."""
    source = node.input[0]
    made_by = graph.producer.get(source)
    if made_by is not None and made_by.op_type == "QuantizeLinear":
        source = made_by.input[0]
    weight = graph.initializers.get(source)
    if weight is None:
        yield Finding("error", node.name, "a scale per channel on an activation", "use one scale per activation")
        return
    axis = attribute(node, "axis", 1)
    for reader, index in graph.readers.get(node.output[0], []):
        if reader.op_type == "Conv" or (reader.op_type == "Gemm" and attribute(reader, "transB", 0)):
            wanted = 0
        elif reader.op_type in ("Gemm", "MatMul"):
            wanted = len(weight.dims) - 1
        else:
            continue
        if index == 1 and axis % len(weight.dims) != wanted:
            yield Finding("error", node.name, f"scales along axis {axis}, not {wanted}", "one scale per output channel")


def _doubles(graph: OnnxGraph) -> Iterator[Finding]:
    for tensor in graph.initializers.values():
        if tensor.data_type == TensorProto.DOUBLE:
            yield Finding("error", tensor.name, "float64, which TensorRT cuts down to float32", "export in float32")


def _values(graph: OnnxGraph) -> Iterator[Finding]:
    bounds = {n.input[i] for n in graph.nodes if n.op_type in ("Clip", "Pad") for i in range(1, len(n.input))}
    for tensor in graph.initializers.values():
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16) and tensor.name not in bounds:
            bad = int((~np.isfinite(numpy_helper.to_array(tensor))).sum())
            if bad:
                yield Finding("error", tensor.name, f"{bad} values are NaN or infinite", "train or convert again")


def _precisions(graph: OnnxGraph, target: Target) -> Iterator[Finding]:
    if not target.int8 and (node := next((n for n in graph.nodes if n.op_type == "QuantizeLinear"), None)) is not None:
        yield Finding("error", node.name, f"{target.name} has no INT8", "take the FP16 graph")
    halves = (t for t in graph.initializers.values() if t.data_type == TensorProto.FLOAT16)
    if not target.fp16 and (tensor := next(halves, None)) is not None:
        yield Finding("error", tensor.name, f"{target.name} has no fast FP16", "take the FP32 graph")


def _types(model: onnx.ModelProto, graph: OnnxGraph) -> Iterator[Finding]:
    """A strongly typed network takes the types as they are: they must fit."""
    if any(node.domain not in ("", "ai.onnx") for node in graph.nodes):
        return
    try:
        onnx.shape_inference.infer_shapes(without_weights(model), check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as exc:  # ValueError: of sizes that no tensor has
        yield Finding("error", "graph", f"its types or shapes do not fit: {_first_line(exc)}", "export it again")


def _integer_kernel_types(graph: OnnxGraph) -> Iterator[Finding]:
    """ONNX Runtime fuses a node into an integer kernel only when its pairs have one type."""
    kinds: dict[str, str] = {}
    for node in graph.nodes:
        zero = (
            graph.initializers.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        )
        if zero is not None:
            kinds.setdefault(type_name(zero.data_type), node.name)
    if len(kinds) > 1:
        names = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
        yield Finding(
            "warning", "graph", f"activations are {names}: not all kernels will be integer", "use --scheme ort-cpu"
        )


def _loads(model: onnx.ModelProto) -> Iterator[Finding]:
    try:
        require_loads(model)
    except BackendError as exc:
        yield Finding("error", "graph", exc.message, exc.hint)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
