"""Any float CNN graph -> the form that ranges, placement and quantisation work on.

Constants folded, BatchNormalization folded into Conv, Gemm without alpha and beta and with one bias per output, opset
19, and every node with a name of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import checker, helper, numpy_helper, shape_inference, version_converter

from edgecnn.backends._training_mode import require_inference
from edgecnn.errors import GraphError

OPSET = 19  # the first with FP16 scales in Q/DQ; TensorRT 10.3 reads up to 20
LARGEST_BYTES = 2**31 - 1  # of a protobuf message

_LARGE_BYTES = 1 << 16
_FOLDED = {"BatchNormalization", "Add", "Sub", "Mul", "Div"}  # with constants, into the layer before them
_VANISHING = {"Identity", "Dropout", "Cast"}
_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def load_graph(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path` with its external data; raises `GraphError` when it is missing, damaged or over 2 GB."""
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as exc:
        raise GraphError(f"{path}: no such file", "check the path, or export the graph first") from exc
    except Exception as exc:
        raise GraphError(f"{path}: not an ONNX graph ({exc})", "the file is damaged: export it again") from exc
    external = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    for initializer in external:
        location = next((e.value for e in initializer.external_data if e.key == "location"), "")
        if not (path.parent / location).is_file():
            raise GraphError(
                f"{path}: the weights of {initializer.name!r} are in {location!r}, which is not beside it",
                "copy that file along with the graph, or export with the weights inside",
            )
    total = sum(_bytes_of(i) for i in model.graph.initializer)
    if total > LARGEST_BYTES:
        raise GraphError(
            f"{path}: {total / 2**30:.1f} GiB of weights, more than the 2 GiB that one ONNX file can hold",
            "use a smaller variant of the network",
        )
    if external:
        onnx.load_external_data_for_model(model, str(path.parent))
    return model


def require_float_classifier(model: onnx.ModelProto) -> None:
    """Raise `GraphError` unless `model` maps one float32 NCHW input to logits in standard, unquantised operators, as
    for inference."""
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise GraphError(
            f"the graph has inputs {[i.name for i in inputs]} and outputs {[o.name for o in model.graph.output]}",
            "a classifier with one input and one output is needed",
        )
    tensor = inputs[0].type.tensor_type
    rank = len(tensor.shape.dim) if tensor.HasField("shape") else 0
    if tensor.elem_type != onnx.TensorProto.FLOAT or rank != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        raise GraphError(
            f"input {inputs[0].name!r} is {kind} of rank {rank}, not float32 NCHW",
            "export the network with a float32 input [batch, channels, height, width]",
        )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(
                f"node {node_label(node)}: operator {node.domain}.{node.op_type} is not a standard ONNX operator",
                "export the network with standard operators alone",
            )
        if node.op_type in _QUANTISED:
            raise GraphError(f"node {node_label(node)}: the graph is already quantised", "give the float32 graph")
    require_inference(model)


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in the form described above, equal in what it computes; raises `GraphError`."""
    require_float_classifier(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    try:
        raised = version_converter.convert_version(model, OPSET) if opset < OPSET else model
        aside = _left_alone(raised.graph)
        simple = _constants_folded(_set_aside(raised, aside))
    except Exception as exc:
        raise GraphError(f"the graph cannot be read by ONNX Runtime: {exc}", "check it with onnx.checker") from exc
    used = {n.domain for n in simple.graph.node}
    kept = [o for o in simple.opset_import if o.domain in used | {"", "ai.onnx"}]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    simple.ir_version = max(simple.ir_version, 9)
    _drop_identities(simple.graph)
    _name_nodes(simple.graph)
    inferred = shape_inference.infer_shapes(simple)
    checker.check_model(inferred)
    _put_back(inferred.graph, aside)
    _plain_gemms(inferred.graph)
    return inferred


def copied(model: onnx.ModelProto, without: Container[str] = ()) -> onnx.ModelProto:
    """A copy of `model` but for the initialisers named in `without`, which are not copied even once."""
    made = onnx.ModelProto()
    for message, copy in ((model, made), (model.graph, made.graph)):
        for field, value in message.ListFields():
            if field.name == "initializer":
                made.graph.initializer.extend(i for i in value if i.name not in without)
            elif isinstance(value, (str, int)):
                setattr(copy, field.name, value)
            elif field.name != "graph":
                getattr(copy, field.name).extend(value)
    return made


def node_label(node: onnx.NodeProto) -> str:
    """How messages call a node: its name, or the tensor it makes."""
    return repr(node.name or (node.output[0] if node.output else node.op_type))


class GraphIndex:
    """Who makes and who reads each tensor of a graph; arrays of the initialisers; ranks and types of the tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = list(graph.node)
        self.node = {n.name: n for n in graph.node}
        self.maker = {o: n for n in graph.node for o in n.output if o}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for n in graph.node:
            for k, name in enumerate(n.input):
                if name:
                    self.readers.setdefault(name, []).append((n, k))
        self.initializer = {i.name: i for i in graph.initializer}
        self.input = next(i.name for i in graph.input if i.name not in self.initializer)
        self.output = graph.output[0].name
        infos = [*graph.value_info, *graph.input, *graph.output]
        self.type = {v.name: v.type.tensor_type.elem_type for v in infos}
        self.shape = {v.name: _shape(v) for v in infos if v.type.tensor_type.HasField("shape")}
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """The value of initialiser `name`."""
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self.initializer[name])
        return self._arrays[name]

    def is_activation(self, name: str) -> bool:
        """Whether `name` is a float tensor that depends on the input and has a batch axis."""
        return (
            name not in self.initializer
            and self.type.get(name) == onnx.TensorProto.FLOAT
            and len(self.shape.get(name, ())) >= 2
        )


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of an attribute of `node`, or `default`."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def clip_bounds(index: GraphIndex, node: onnx.NodeProto) -> tuple[float, float]:
    """(low, high) of a Relu, or of a Clip with constant bounds; infinite where there is none, NaN where computed."""
    bounds = [0.0 if node.op_type == "Relu" else -np.inf, np.inf]
    for k, name in enumerate(node.input[1:3]):
        if name:
            bounds[k] = float(index.array(name).reshape(-1)[0]) if name in index.initializer else np.nan
    return bounds[0], bounds[1]


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Session options with errors only, and `threads` threads (None: ONNX Runtime's choice) that wait without spinning.

    Spinning threads take the cores that the statistics between two runs need, and stall on a busy machine.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _constants_folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic level: constants, BatchNormalization into Conv, no-ops; standard operators come out."""
    options = session_options(1)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "simple.onnx"
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(made)


def _left_alone(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The large weights that no simplification touches: those of layers with nothing behind that folds into them.

    ONNX Runtime, inference and the checker would each copy them several times, and need their shapes alone.
    """
    constants = {i.name for i in graph.initializer}
    varying = {i.name for i in graph.input} - constants
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
        for k, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, k))

    def is_alone(node: onnx.NodeProto, k: int) -> bool:
        plain = k == 1 and node.op_type in ("Conv", "Gemm") and node.input[0] in varying
        behind = [n for n, _ in readers.get(node.output[0], ())] if plain else []
        return plain and not any(
            n.op_type in _VANISHING or (n.op_type in _FOLDED and not varying.issuperset(n.input)) for n in behind
        )

    inputs = {i.name for i in graph.input}
    return {
        i.name: i
        for i in graph.initializer
        if i.name not in inputs
        and readers.get(i.name)
        and all(is_alone(n, k) for n, k in readers[i.name])
        and _LARGE_BYTES <= len(i.raw_data) == _bytes_of(i)
    }


def _set_aside(model: onnx.ModelProto, aside: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of `model` in which these initialisers are inputs of their type and shape."""
    bare = copied(model, without=aside)
    for name, tensor in aside.items():
        bare.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return bare


def _put_back(graph: onnx.GraphProto, aside: Mapping[str, onnx.TensorProto]) -> None:
    inputs = [i for i in graph.input if i.name not in aside]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(aside.values())


def _plain_gemms(graph: onnx.GraphProto) -> None:
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


def _shape(info: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    dims = info.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)


def _bytes_of(initializer: onnx.TensorProto) -> int:
    size = int(np.prod(initializer.dims, dtype=np.int64)) if initializer.dims else 1
    return size * int(helper.tensor_dtype_to_np_dtype(initializer.data_type).itemsize)
