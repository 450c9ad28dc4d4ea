"""Graphs with the nodes that other exporters write: imported, carried to FP16 and INT8, and right in each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.channel_pictures import Result, sidecar, write_json
from tests.acceptance.nets import PREPROCESSING, SIZE, Floats, Net, normalized, pictures, write_npz

if TYPE_CHECKING:
    import onnxruntime

pytestmark = pytest.mark.torch

Command = Callable[..., Result]


def small_net() -> Net:
    net = Net()
    x = net.relu(net.batch_norm("bn", net.conv("c1", "input", (3, 8), group=1), 8))
    net.head(net.relu(net.conv("c2", x, (8, 8), group=8)))
    return net


def rewired(nodes: list[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]


def as_paddle(net: Net) -> onnx.ModelProto:
    """paddle2onnx: every weight a Constant node, a batch of -1, Conv and its bias apart, opset 13."""
    arrays, nodes = dict(net.arrays), [onnx.NodeProto.FromString(n.SerializeToString()) for n in net.nodes]
    bias = arrays.pop("c1.bias").reshape(1, -1, 1, 1)
    conv = next(n for n in nodes if n.name == "c1")
    del conv.input[2:]
    rewired(nodes, "c1", "p2o.add")
    arrays["conv_bias"] = bias
    nodes.insert(nodes.index(conv) + 1, helper.make_node("Add", ["c1", "conv_bias"], ["p2o.add"], "p2o.pd_op.add.0"))
    constants = [
        helper.make_node("Constant", [], [name], f"p2o.{name}", value=numpy_helper.from_array(value, name))
        for name, value in arrays.items()
    ]
    graph = helper.make_graph(
        [*constants, *nodes],
        "paddle",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [-1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [-1, 6])],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def as_keras(net: Net) -> onnx.ModelProto:
    """tf2onnx: channels last, Transposes around the network, a mean over axes in place of a pooling, MatMul and Add in
    place of a Gemm, a Softmax, `unk__` for the batch, opset 15."""
    arrays, nodes = dict(net.arrays), [onnx.NodeProto.FromString(n.SerializeToString()) for n in net.nodes]
    rewired(nodes, "input", "nchw")
    kept = [n for n in nodes if n.name not in ("pooled", "features", "logits")]
    arrays["dense"] = arrays.pop("logits.weight").T.copy()
    tail = [
        helper.make_node("Transpose", ["c2.relu"], ["nhwc"], "Transpose__40", perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["nhwc"], ["mean"], "model/pool/Mean", axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "dense"], ["matmul"], "model/predictions/MatMul"),
        helper.make_node("Add", ["matmul", "logits.bias"], ["biased"], "model/predictions/BiasAdd"),
        helper.make_node("Softmax", ["biased"], ["predictions"], "model/predictions/Softmax"),
    ]
    front = helper.make_node("Transpose", ["input"], ["nchw"], "model/Conv2D__6", perm=[0, 3, 1, 2])
    graph = helper.make_graph(
        [front, *kept, *tail],
        "keras",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["unk__50", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["unk__51", 6])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 15)])


def as_zoo(net: Net) -> onnx.ModelProto:
    """An old model zoo's file: IR version 3, opset 8, initializers among the inputs, a batch of 1, a Dropout, a Reshape
    to [1, features]."""
    model = net.model("logits", [1, 6])
    graph = model.graph
    features = next(n for n in graph.node if n.name == "features")
    features.CopyFrom(helper.make_node("Reshape", ["pooled", "shape"], ["features"], ""))
    graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "shape"))
    rewired(list(graph.node), "features", "dropped")
    place = next(k for k, n in enumerate(graph.node) if "features" in n.output)
    graph.node.insert(place + 1, helper.make_node("Dropout", ["features"], ["dropped", "mask"], "", ratio=0.5))
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for tensor in graph.initializer:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.opset_import[0].version, model.ir_version = 8, 3
    return model


ORIGINS: dict[str, Callable[[Net], onnx.ModelProto]] = {"paddle": as_paddle, "keras": as_keras, "zoo": as_zoo}


def answers(path: Path, images: Floats) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": images})[0].argmax(1)


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_graph_of_another_exporter_goes_through(edgecnn: Command, tmp_path: Path, origin: str) -> None:
    net = small_net()
    onnx.save(ORIGINS[origin](net), str(tmp_path / "s.onnx"))
    preprocess = write_json(tmp_path / "p.json", PREPROCESSING)
    graph = tmp_path / "x.onnx"
    result = edgecnn("import", tmp_path / "s.onnx", "--preprocess", preprocess, "-o", graph)
    assert result.code == 0, result.said
    facts = sidecar(graph)["facts"]
    assert facts["batch"] is None
    assert facts["input_shape"] == [3, SIZE, SIZE]
    assert facts["params"] == sum(value.size for value in net.arrays.values())
    pixels, labels = pictures(60)
    images = normalized(pixels)
    right = (answers(graph, images) == labels).mean()
    assert right > 0.8
    write_npz(tmp_path / "a.npz", images[:24])
    calibrated = ("--method", "minmax", "--data", tmp_path / "a.npz", "--images", 24)
    for k, form in enumerate(("fp16", "tensorrt", "ort-cpu")):
        made = tmp_path / f"q{k}.onnx"
        asked = ("--precision", "fp16") if form == "fp16" else ("--precision", "int8", "--scheme", form, *calibrated)
        result = edgecnn("quantize", graph, *asked, "-o", made)
        assert result.code == 0, result.said
        assert (answers(made, images) == labels).mean() > right - 0.1
