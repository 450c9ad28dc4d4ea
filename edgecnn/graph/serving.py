"""The serving contract in a graph: pixels in, probabilities or the best classes out.

What the input needs stands in front of the first layer: the mean as a Sub, since convolutions pad with zeros, which
mean the mean of a normalized image; the deviation in the weights of the first convolutions. It is part of what is
calibrated and quantized, the body. Around the body stand, always in float32, the ends: Cast and Transpose of a uint8
NHWC input (the Cast first: TensorRT refuses a Transpose of uint8), Softmax (of one logit Sigmoid) and TopK.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import (
    INPUT,
    OUTPUT,
    PROBABILITIES,
    TOP_CLASSES,
    TOP_K,
    TOP_PROBABILITIES,
    ServingContract,
)
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.importing.names import free_name, replace_tensor
from edgecnn.graph.load import load_graph
from edgecnn.graph.onnx_graph import OnnxGraph, attribute

if TYPE_CHECKING:
    from edgecnn.session import Array

LARGEST_DIFFERENCE = 1e-5  # between a folded graph and the plain one: of max |logit|, or of a probability
PROVEN_BATCHES = (1, 2)
_RAN = "the graph of this serving contract"


def fold_contract(model: onnx.ModelProto, contract: ServingContract, preprocessing: Preprocessing | None) -> None:
    """Make the plain float32 graph `model` take and give what `contract` says, proven equal in ONNX Runtime.

    Raises `GraphError` where it is not equal, `DataError` for pixels whose preprocessing is not known, and for top-k of
    one output.
    """
    if contract.is_plain:
        return
    if contract.output == "top-k" and contract.classes == 1:
        raise DataError("a top-k output of one logit, which decides between two classes", "take probabilities")
    if contract.input != "normalised" and preprocessing is None:
        raise DataError(
            f"input {contract.input}: how its images are normalised is not known", "say it with --preprocess"
        )
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    if contract.input != "normalised":
        assert preprocessing is not None
        fold_normalization(model, preprocessing)
    add_ends(model, contract)
    _prove(plain, model, contract, preprocessing)


def fold_file(path: Path, contract: ServingContract, preprocessing: Preprocessing | None) -> None:
    """`fold_contract` of the graph in `path`, which is written again."""
    model = load_graph(path)
    fold_contract(model, contract, preprocessing)
    onnx.save(model, str(path))


def fold_normalization(model: onnx.ModelProto, preprocessing: Preprocessing) -> None:
    """Let a graph of normalized images take the pixels' values, 0 to 255.

    (x / 255 - mean) / std = (x - 255 mean) / (255 std): the division goes into the weights of the layers that read the
    input where all of them are convolutions, else it stays a Mul.
    """
    graph, index = model.graph, OnnxGraph(model)
    name = index.input
    factor = 1 / (255 * np.array(preprocessing.std, np.float64))
    readers = list(index.readers.get(name, []))
    centered = free_name(graph, "pixels_centered")
    nodes = [_by_channel(graph, "Sub", name, centered, 255 * np.array(preprocessing.mean, np.float64))]
    if all(node.op_type == "Conv" and k == 0 and node.input[1] in index.initializers for node, k in readers):
        for node, _ in readers:
            _scale_weights(graph, index, node, factor)
    else:
        nodes.append(_by_channel(graph, "Mul", centered, free_name(graph, "pixels_scaled"), factor))
    for node, k in readers:
        node.input[k] = nodes[-1].output[0]
    rest = list(graph.node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*nodes, *rest])


def add_ends(model: onnx.ModelProto, contract: ServingContract) -> onnx.ModelProto:
    """Put the ends around a body, in place: of normalized or raw NCHW images to logits."""
    graph = model.graph
    if contract.input == "uint8-nhwc":
        batch, channels, height, width = graph.input[0].type.tensor_type.shape.dim
        inner, cast = free_name(graph, f"{INPUT}_nchw"), free_name(graph, f"{INPUT}_float")
        replace_tensor(graph, INPUT, inner)
        ends = [
            helper.make_node("Cast", [INPUT], [cast], cast, to=TensorProto.FLOAT),
            helper.make_node("Transpose", [cast], [inner], inner, perm=[0, 3, 1, 2]),
        ]
        rest = list(graph.node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend([*ends, *rest])
        _declare(graph.input[0], TensorProto.UINT8, [batch, height, width, channels])
    if contract.output != "logits":
        _add_decision(graph, contract)
    return model


def body_of(model: onnx.ModelProto, contract: ServingContract) -> onnx.ModelProto:
    """The graph without its ends, in place: float32 NCHW to logits; raises `GraphError` where it has others."""
    graph, index = model.graph, OnnxGraph(model)
    removed: list[onnx.NodeProto] = []
    if contract.input == "uint8-nhwc":
        cast = _only(index, INPUT, "Cast")
        transpose = _only(index, cast.output[0], "Transpose")
        if attribute(transpose, "perm", (0, 0, 0, 0)) != (0, 3, 1, 2):
            raise _other_ends("its Transpose has another order of axes")
        removed += [cast, transpose]
        batch, height, width, channels = graph.input[0].type.tensor_type.shape.dim
        _declare(graph.input[0], TensorProto.FLOAT, [batch, channels, height, width])
    if contract.output != "logits":
        last = index.producer.get(PROBABILITIES)
        if last is None or last.op_type not in ("Softmax", "Sigmoid") or last.input[0] != OUTPUT:
            raise _other_ends(f"it has no Softmax from {OUTPUT!r} to {PROBABILITIES!r}")
        removed += [last, *(n for name in (TOP_PROBABILITIES, TOP_CLASSES) if (n := index.producer.get(name)))]
        batch_dim = graph.output[0].type.tensor_type.shape.dim[0]
        classes = contract.classes or None
        del graph.output[:]
        graph.output.append(onnx.ValueInfoProto(name=OUTPUT))
        _declare(graph.output[0], TensorProto.FLOAT, [batch_dim, classes])
    gone = {id(node) for node in removed}
    kept = [node for node in graph.node if id(node) not in gone]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    _drop_unread(graph, removed)
    if contract.input == "uint8-nhwc":
        replace_tensor(graph, removed[1].output[0], INPUT)
    return model


def contract_of(path: Path) -> ServingContract:
    """The serving contract of the graph `path` by its sidecar; the plain one where it has none, or gives features."""
    known = sidecar_path(path).exists() and not gives_features(path)
    return read_sidecar(path).contract if known else ServingContract()


def gives_features(path: Path) -> bool:
    """Whether the graph `path` gives features in place of logits, by its sidecar."""
    return sidecar_path(path).exists() and bool(read_sidecar(path).features)


def load_body(path: Path) -> onnx.ModelProto:
    """`load_graph` without the ends of the graph's serving contract: what is calibrated, quantized and compared."""
    model, contract = load_graph(path), contract_of(path)
    return model if contract.is_plain else body_of(model, contract)


def _by_channel(
    graph: onnx.GraphProto, operator: str, source: str, target: str, values: np.typing.NDArray[np.float64]
) -> onnx.NodeProto:
    constant = free_name(graph, f"{target}_by")
    graph.initializer.append(numpy_helper.from_array(values.astype(np.float32).reshape(1, -1, 1, 1), constant))
    return helper.make_node(operator, [source, constant], [target], target)


def _scale_weights(
    graph: onnx.GraphProto, index: OnnxGraph, node: onnx.NodeProto, factor: np.typing.NDArray[np.float64]
) -> None:
    """The weights [M, C / groups, kH, kW] of a convolution of the input, times the factor of the channel that each
    reads."""
    old = node.input[1]
    weights = index.array(old).astype(np.float64)
    outputs, per_group = weights.shape[:2]
    group = np.arange(outputs) * attribute(node, "group", 1) // outputs
    channel = group[:, None] * per_group + np.arange(per_group)[None]
    scaled = (weights * factor[channel].reshape(outputs, per_group, 1, 1)).astype(np.float32)
    readers = sum(name == old for n in graph.node for name in n.input)
    name = free_name(graph, f"{old}_of_pixels") if readers > 1 else old
    made = numpy_helper.from_array(scaled, name)
    if readers > 1:
        graph.initializer.append(made)
        node.input[1] = name
    else:
        index.initializers[old].CopyFrom(made)


def _add_decision(graph: onnx.GraphProto, contract: ServingContract) -> None:
    dims = graph.output[0].type.tensor_type.shape.dim
    batch, classes = dims[0], dims[1].dim_value or contract.classes
    softmax = helper.make_node("Softmax", [OUTPUT], [PROBABILITIES], PROBABILITIES, axis=1)
    sigmoid = helper.make_node("Sigmoid", [OUTPUT], [PROBABILITIES], PROBABILITIES)
    graph.node.append(sigmoid if classes == 1 else softmax)
    del graph.output[:]
    if contract.output == "probabilities":
        graph.output.append(onnx.ValueInfoProto(name=PROBABILITIES))
        _declare(graph.output[0], TensorProto.FLOAT, [batch, classes])
        return
    k, count, numbers = min(TOP_K, classes), free_name(graph, "top_k"), free_name(graph, f"{TOP_CLASSES}_int64")
    graph.initializer.append(numpy_helper.from_array(np.array([k], np.int64), count))
    graph.node.extend(
        [
            helper.make_node("TopK", [PROBABILITIES, count], [TOP_PROBABILITIES, numbers], TOP_PROBABILITIES, axis=1),
            helper.make_node("Cast", [numbers], [TOP_CLASSES], TOP_CLASSES, to=TensorProto.INT32),
        ]
    )
    for name, kind in ((TOP_PROBABILITIES, TensorProto.FLOAT), (TOP_CLASSES, TensorProto.INT32)):
        graph.output.append(onnx.ValueInfoProto(name=name))
        _declare(graph.output[-1], kind, [batch, k])


def _declare(
    value: onnx.ValueInfoProto, kind: int, dims: Sequence[onnx.TensorShapeProto.Dimension | int | None]
) -> None:
    """Type and shape of an input or output."""
    made = helper.make_tensor_value_info(
        value.name, kind, [d if isinstance(d, int) or d is None else d.dim_param or d.dim_value or None for d in dims]
    )
    value.CopyFrom(made)


def _only(index: OnnxGraph, tensor: str, operator: str) -> onnx.NodeProto:
    readers = index.readers.get(tensor, [])
    if len(readers) != 1 or readers[0][0].op_type != operator:
        raise _other_ends(f"not a {operator} alone reads {tensor!r}")
    return readers[0][0]


def _other_ends(why: str) -> GraphError:
    return GraphError(
        f"the graph has not the ends of the serving contract that its sidecar names: {why}",
        "the file was changed, or is another than the sidecar describes: export it again",
    )


def _drop_unread(graph: onnx.GraphProto, removed: Sequence[onnx.NodeProto]) -> None:
    read = {name for node in graph.node for name in node.input}
    gone = {name for node in removed for name in node.input} - read
    for k in reversed(range(len(graph.initializer))):
        if graph.initializer[k].name in gone:
            del graph.initializer[k]


def _prove(
    plain: onnx.ModelProto, made: onnx.ModelProto, contract: ServingContract, preprocessing: Preprocessing | None
) -> None:
    """Run both on seeded pixels, or on seeded noise where they are normalized before; raises `GraphError`."""
    ours, theirs = _probe(plain, contract, preprocessing)
    batch = made.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for count in (batch,) if batch else PROVEN_BATCHES:
        with onnxruntime_errors(_RAN, error=GraphError):
            (expected,) = open_session(plain).run([OUTPUT], {INPUT: np.resize(theirs, (count, *theirs.shape[1:]))})
            found = open_session(made).run(None, {INPUT: np.resize(ours, (count, *ours.shape[1:]))})
        difference = _difference(found, expected, contract)
        if not difference <= LARGEST_DIFFERENCE:
            raise GraphError(
                f"{_RAN} differs from the plain one by {difference:.1e} at batch {count}, "
                f"allowed {LARGEST_DIFFERENCE:.0e}",
                "take --input normalised and --output logits, and report this network",
            )


def _probe(
    plain: onnx.ModelProto, contract: ServingContract, preprocessing: Preprocessing | None
) -> tuple[Array, Array]:
    """Two images as the graph of the contract takes them, and as the plain one does."""
    _, channels, height, width = (d.dim_value for d in plain.graph.input[0].type.tensor_type.shape.dim)
    rng = np.random.default_rng(0)
    if contract.input == "normalised":
        noise = rng.standard_normal((2, channels, height, width), np.float32)
        return noise, noise
    assert preprocessing is not None
    pixels = rng.integers(0, 256, (2, height, width, channels), np.uint8)
    both = [np.stack([preprocessing.arrange(p, form) for p in pixels]) for form in (contract.input, "normalised")]
    return both[0], both[1]


def _difference(found: Sequence[Array], logits: Array, contract: ServingContract) -> float:
    """The largest difference: of logits as a share of their largest, of probabilities as it is. Infinite where top-k
    names a class that is not as probable as it says."""
    if contract.output == "logits":
        return float(np.abs(found[0] - logits).max() / max(float(np.abs(logits).max()), 1e-30))
    from edgecnn.session import class_probabilities

    expected = class_probabilities(logits, 0.0)[:, -logits.shape[1] :]
    if contract.output == "probabilities":
        return float(np.abs(found[0] - expected).max())
    best = -np.sort(-expected, axis=1)[:, : found[0].shape[1]]
    named = np.take_along_axis(expected, found[1].astype(np.int64), axis=1)
    distinct = all(len(set(row)) == len(row) for row in found[1].tolist())
    return max(float(np.abs(found[0] - best).max()), float(np.abs(named - best).max())) if distinct else np.inf
