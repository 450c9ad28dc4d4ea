"""What a DLA does not take of a graph, and the scales that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.targets import dla_mismatch, targets

if TYPE_CHECKING:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgecnn.graph.dla import dla_scales, find_dla_gaps
    from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx


def one_node(kind: str, shape: tuple[int, ...] = (1, 4, 16, 16), **attributes: Any) -> onnx.ModelProto:
    weights = []
    inputs = ["input"]
    if kind in ("Conv", "ConvTranspose"):
        window = attributes.pop("window", (3, 3))
        inputs.append("w")
        groups = attributes.get("group", 1)
        weights = [numpy_helper.from_array(np.ones((4, 4 // groups, *window), np.float32), "w")]
    elif kind == "Clip":
        for name in ("low", "high"):
            inputs.append(name)
            weights.append(numpy_helper.from_array(np.array(attributes.pop(name), np.float32), name))
    elif kind in ("Concat", "MatMul"):
        inputs.append("input")
    node = helper.make_node(kind, inputs, ["logits"], "it", **attributes)
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(
        [node], "g", ends, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [
        ("Conv", {"window": (3, 3), "pads": [1] * 4}, ""),
        ("Conv", {"window": (3, 3), "strides": [9, 9]}, "stride 9, and the DLA takes 1 to 8"),
        ("Conv", {"window": (33, 1), "pads": [32, 0, 32, 0]}, "kernel 33"),
        ("Conv", {"window": (1, 1), "pads": [1] * 4}, "its padding is as large as its kernel"),
        ("Conv", {"window": (3, 3), "dilations": [33, 33], "shape": (1, 4, 99, 99)}, "dilation 33"),
        ("Conv", {"window": (3,), "shape": (1, 4, 16)}, "1 spatial axes"),
        ("Conv", {"window": (1, 1), "shape": (1, 4, 8193, 1)}, "a side of 8193"),
        ("Conv", {"window": (1, 1), "shape": (4097, 4, 1, 1)}, "a batch of 4097"),
        ("ConvTranspose", {"window": (2, 2), "strides": [2, 2]}, ""),
        ("ConvTranspose", {"window": (3, 3), "pads": [1] * 4}, "padding 1, and the DLA takes 0"),
        ("MaxPool", {"kernel_shape": [8, 8]}, ""),
        ("MaxPool", {"kernel_shape": [9, 9]}, "kernel 9, and the DLA takes 1 to 8"),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [17, 17]}, "stride 17"),
        ("Clip", {"low": 0.0, "high": 6.0}, ""),
        ("Clip", {"low": -1.0, "high": 1.0}, "bounds -1 and 1"),
        ("LRN", {"size": 5}, ""),
        ("LRN", {"size": 4}, "a window of 4"),
        ("Concat", {"axis": 1}, ""),
        ("Concat", {"axis": 3}, "not along the channels"),
        ("MatMul", {}, "its second factor is not constant"),
        ("GlobalAveragePool", {}, "not among the operators"),
        ("HardSwish", {}, "not among the operators"),
    ],
)
def test_one_layer(kind: str, attributes: dict[str, Any], said: str) -> None:
    *gaps, count = find_dla_gaps(one_node(kind, **attributes), "10.3")
    assert [f.where for f in gaps] == (["it"] if said else [])
    assert said in "".join(f.what for f in gaps)
    assert count.what.startswith(f"{int(bool(said))} of 1 layers run on the GPU")


def test_what_a_later_release_takes_too() -> None:
    model = one_node("Pow")
    model.graph.node[0].input.append("input")
    assert ["Pow" in f.what for f in find_dla_gaps(model, "10.7")[:-1]] == [True]
    assert "0 of 1 layers" in find_dla_gaps(model, "11.4.1")[-1].what


def test_a_network_with_the_parts_that_are_left() -> None:
    """Conv and Relu, the global pooling between them and the classifier, which is a part of its own."""
    batch, pool, count = find_dla_gaps(tiny_graph("fp32"), "10.3")
    assert "its batch is not fixed" in batch.what
    assert (pool.where, count.what) == (
        "/pool/GlobalAveragePool",
        "1 of 5 layers run on the GPU; the others are 2 parts of the network or more",
    )


@pytest.mark.parametrize(
    ("precision", "release", "said"),
    [
        ("int8", "10.3", "Q/DQ pairs"),
        ("int8", "11.4.1", ""),
        ("fp32", "11.4.1", "it is float32"),
        ("fp16", "11.4.1", ""),
    ],
)
def test_what_each_release_takes_as_a_whole(precision: str, release: str, said: str) -> None:
    of_graph = [f.what for f in find_dla_gaps(tiny_graph(precision, 1), release)[:-1] if f.where == "graph"]
    assert len(of_graph) == bool(said)
    assert said in "".join(of_graph)


def test_scales_of_pools_and_concats_are_one_and_none_is_invented() -> None:
    nodes = [
        helper.make_node("Relu", ["input"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2]),
        helper.make_node("Concat", ["b", "b2"], ["c"], axis=1),
        helper.make_node("Sigmoid", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["logits"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4, 4]) for name in ("input", "b2", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:2], ends[2:]))
    found, lacking = dla_scales(model, {"a": 0.01, "b": 0.008, "b2": 0.03, "c": 0.02, "zero": 0.0})
    assert found == dict.fromkeys(("input", "a", "b", "b2", "c"), 0.03)
    assert lacking == ["d", "logits"]


@pytest.mark.parametrize(
    ("target", "release", "core", "said"),
    [
        ("agx-orin", "10.3.0", 1, None),
        ("orin-nx-8gb", "10.7", 0, None),
        ("agx-orin", "11.4.1", 0, None),
        ("orin-nx-8gb", "10.3", 1, "there is no core 1"),
        ("orin-nano", "10.3", 0, "has no DLA"),
        ("thor", "10.13", 0, "has no DLA"),
        ("rtx-40", "10.3", 0, "has no DLA"),
        ("cpu", "10.3", 0, "has no DLA"),
        ("gpu", "10.3", 0, "name the device"),
        ("agx-orin", "10.8", 0, "builds for no DLA"),
        ("agx-orin", "11.4", 0, "builds for no DLA"),
        ("agx-orin", "8.6.2", 0, "builds for no DLA"),
        ("orin-nx-16gb", "11.4.1", 0, "AGX Orin alone"),
    ],
)
def test_where_there_is_a_dla(target: str, release: str, core: int, said: str | None) -> None:
    found = dla_mismatch(targets()[target], release, core)
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")
