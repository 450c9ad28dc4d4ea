"""Any float CNN graph -> the form that ranges, placement and quantization work on.

Constants folded, BatchNormalization folded into Conv, Gemm without alpha and beta and with one bias per output, opset
19, and every node with a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import checker, helper, numpy_helper, shape_inference, version_converter

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import IR_VERSION, OPSET
from edgecnn.errors import GraphError
from edgecnn.graph.load import bytes_of, onnx_errors, require_float_classifier
from edgecnn.graph.measured_shapes import write_measured_shapes
from edgecnn.graph.onnx_graph import OnnxGraph, attribute, copy_model, opset_of
from edgecnn.graph.shape_arithmetic import READS_SHAPE, fold_shape_arithmetic

_LARGE_BYTES = 1 << 16
_FOLDED = {"BatchNormalization", "Add", "Sub", "Mul", "Div"}  # with constants, into the layer before them
IMPORT_IT = "`edgecnn import` makes a foreign graph fit, or says what is wrong with it"
_VANISHING = {"Identity", "Dropout", "Cast"}


def simplify_graph(model: onnx.ModelProto, *, features: bool = False) -> onnx.ModelProto:
    """A copy of `model` in the form described above, equal in what it computes; with `features` it may have several
    outputs. Raises `GraphError`."""
    require_float_classifier(model, features=features)
    if any(node.op_type in READS_SHAPE for node in model.graph.node):
        model = copy_model(model)
        fold_shape_arithmetic(model)
    aside = _find_weights_left_alone(model)
    bare = _set_aside(model, aside)
    with onnx_errors("the graph", f"cannot be converted to opset {OPSET}", IMPORT_IT):
        raised = version_converter.convert_version(bare, OPSET) if opset_of(bare) < OPSET else bare
    simple = _fold_constants(raised)
    used = {n.domain for n in simple.graph.node}
    kept = [o for o in simple.opset_import if o.domain in used | {"", "ai.onnx"}]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    simple.ir_version = max(simple.ir_version, IR_VERSION)
    _drop_identities(simple.graph)
    _name_nodes(simple.graph)
    with onnx_errors("the simplified graph", "is not valid", IMPORT_IT):
        inferred = shape_inference.infer_shapes(simple)
        checker.check_model(inferred)
    _put_back(inferred.graph, aside)
    _fold_gemm_factors(inferred.graph)
    _drop_idle_dilations(inferred.graph)
    write_measured_shapes(inferred)
    _drop_leading_ones(inferred)
    return inferred


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic level: constants, BatchNormalization into Conv, no-ops; standard operators come out."""
    with scratch_folder() as scratch:
        made = scratch / "simple.onnx"
        with onnxruntime_errors("the graph", "cannot read it", IMPORT_IT, GraphError):
            open_session(model, threads=1, optimization="basic", optimized=made)
        return onnx.load(made)


def _find_weights_left_alone(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The large weights that no simplification touches: those of layers with nothing behind that folds into them.

    ONNX Runtime, inference and the checker would each copy them several times, and need their shapes alone.
    """
    graph = OnnxGraph(model)
    readers, varying = graph.readers, set(graph.inputs)
    for node in graph.nodes:
        if not varying.isdisjoint(node.input):
            varying.update(node.output)

    def is_alone(node: onnx.NodeProto, k: int) -> bool:
        plain = k == 1 and node.op_type in ("Conv", "Gemm") and node.input[0] in varying
        behind = [n for n, _ in readers.get(node.output[0], ())] if plain else []
        return plain and not any(
            n.op_type in _VANISHING or (n.op_type in _FOLDED and not varying.issuperset(n.input)) for n in behind
        )

    inputs = {i.name for i in model.graph.input}
    return {
        name: tensor
        for name, tensor in graph.initializers.items()
        if name not in inputs
        and name in readers
        and all(is_alone(n, k) for n, k in readers[name])
        and _LARGE_BYTES <= len(tensor.raw_data) == bytes_of(tensor)
    }


def _set_aside(model: onnx.ModelProto, aside: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of `model` in which these initializers are inputs of their type and shape."""
    bare = copy_model(model, without=aside)
    for name, tensor in aside.items():
        bare.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return bare


def _put_back(graph: onnx.GraphProto, aside: Mapping[str, onnx.TensorProto]) -> None:
    inputs = [i for i in graph.input if i.name not in aside]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(aside.values())


def _fold_gemm_factors(graph: onnx.GraphProto) -> None:
    """alpha and beta of every Gemm into its constants, and a constant C of any shape as one bias per output.

    Whoever looks at a layer after this sees Y = A B + C, as NVIDIA's and ONNX Runtime's integer kernels compute it. A
    factor whose operand is computed, or a C with rows of its own for each image, stays as it is.
    """
    held = {i.name: i for i in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Gemm"]:
        factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
        if node.input[1] in held and (alpha := factors.get("alpha", 1.0)) != 1.0:
            value = numpy_helper.to_array(held[node.input[1]]) * np.float32(alpha)
            _give_own(graph, held, node, 1, value)
            factors.pop("alpha")
        if len(node.input) > 2 and node.input[2] in held and node.input[1] in held:
            outputs = held[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1]
            value = numpy_helper.to_array(held[node.input[2]]) * np.float32(factors.pop("beta", 1.0))
            if value.size in (1, outputs) and (value.shape or (1,))[-1] == value.size:
                _give_own(graph, held, node, 2, np.broadcast_to(value.reshape(-1), (outputs,)))
            elif attribute(node, "beta", 1.0) != 1.0:
                _give_own(graph, held, node, 2, value)
        elif len(node.input) < 3 or not node.input[2]:
            factors.pop("beta", None)
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta") or a.name in factors]
        del node.attribute[:]
        node.attribute.extend(kept)


def _drop_idle_dilations(graph: onnx.GraphProto) -> None:
    """Dilations of 1 of an AveragePool, which ONNX Runtime's integer kernel does not know."""
    for node in graph.node:
        for attr in [a for a in node.attribute if a.name == "dilations" and set(a.ints) == {1}]:
            if node.op_type == "AveragePool":
                node.attribute.remove(attr)


def _drop_leading_ones(model: onnx.ModelProto) -> None:
    """A MatMul's weight [1, K, N] as [K, N], where what it multiplies has as many axes anyway."""
    index = OnnxGraph(model)

    def is_product(node: onnx.NodeProto, k: int, axes: int) -> bool:
        return node.op_type == "MatMul" and k == 1 and len(index.shapes.get(node.input[0], ())) >= axes

    for name, tensor in index.initializers.items():
        readers, axes = index.readers.get(name, []), len(tensor.dims)
        if axes > 2 and set(tensor.dims[:-2]) == {1} and all(is_product(n, k, axes) for n, k in readers):
            del tensor.dims[:-2]


def _give_own(
    graph: onnx.GraphProto,
    held: dict[str, onnx.TensorProto],
    node: onnx.NodeProto,
    k: int,
    value: npt.NDArray[np.float32],
) -> None:
    """`value` as the constant that input `k` of `node` reads, unless it is that already."""
    old = held[node.input[k]]
    if list(old.dims) == list(value.shape) and np.array_equal(numpy_helper.to_array(old), value):
        return
    readers = sum(name == old.name for n in graph.node for name in n.input)
    made = numpy_helper.from_array(np.ascontiguousarray(value), f"{node.name}_{old.name}" if readers > 1 else old.name)
    if readers > 1:
        graph.initializer.append(made)
        held[made.name] = graph.initializer[-1]
        node.input[k] = made.name
    else:
        old.CopyFrom(made)


def _drop_identities(graph: onnx.GraphProto) -> None:
    outputs = {o.name for o in graph.output}
    read = {name for node in graph.node for name in node.input} | outputs
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [source.get(i, i) for i in node.input]
        vanishes = node.op_type in ("Identity", "Dropout") and not read.intersection(node.output[1:])
        if vanishes and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for node in graph.node:
        base = node.name or f"{node.op_type}_{node.output[0]}"
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        node.name = name
