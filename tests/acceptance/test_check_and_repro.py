"""`edgecnn check` and `edgecnn repro` on files as they come: whole, damaged, foreign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.acceptance.channel_pictures import Result
from tests.acceptance.nets import Net

pytestmark = pytest.mark.onnx

Cli = Callable[..., Result]
Change = Callable[[onnx.ModelProto], object]


def net() -> onnx.ModelProto:
    made = Net(seed=3)
    x = made.relu(made.conv("c1", "input", (3, 8), strides=[2, 2]))
    return made.model(made.node("Flatten", "logits", made.node("GlobalAveragePool", "pooled", x)), ["batch", 8])


def no_values(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b""


def unknown_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def negative_size(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -1


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def nothing(model: onnx.ModelProto) -> None:
    model.Clear()


def no_inputs_of_a_node(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def no_scale(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "QuantizeLinear"


def sparse_weights(model: onnx.ModelProto) -> None:
    bias = model.graph.initializer[1]
    assert bias.name == "c1.bias"
    sparse = model.graph.sparse_initializer.add(dims=bias.dims)
    sparse.values.CopyFrom(bias)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(bias.dims[0])))
    del model.graph.initializer[1]


def name_that_is_no_text(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString().replace(b"GlobalAveragePool", b"GlobalAv\x8cragePool")


DAMAGES: list[tuple[Change, str]] = [
    (no_values, "c1.weight"),
    (unknown_type, "c1.weight"),
    (negative_size, "c1.weight"),
    (no_nodes, "node"),
    (no_outputs, "output"),
    (nothing, "node"),
    (no_inputs_of_a_node, "Conv"),
    (no_scale, "QuantizeLinear"),
    (sparse_weights, "c1.bias"),
    (name_that_is_no_text, "UTF-8"),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_a_damaged_graph_is_refused_by_our_rules_with_a_hint(
    damage: Change, named: str, edgecnn: Cli, tmp_path: Path
) -> None:
    model, path = net(), tmp_path / "net.onnx"
    content = damage(model)
    path.write_bytes(content if isinstance(content, bytes) else model.SerializeToString())
    found = edgecnn("check", path, "--json")
    assert found.code == 2, found.said
    said = json.loads(found.out)
    ours = [f for f in said["findings"] if any("our rules" in source for source in f["sources"])]
    assert said["refused"] is True
    assert named in " ".join(f["where"] + " " + f["what"] for f in ours), ours
    assert all(f["hint"] for f in ours)
    assert edgecnn("inspect", path).code in (0, 2)


def test_a_whole_graph_is_taken_and_who_was_not_asked_is_said(edgecnn: Cli, tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "net.onnx")
    found = edgecnn("check", tmp_path / "net.onnx", "--json")
    said = json.loads(found.out)
    assert (found.code, said["refused"], said["findings"]) == (0, False, [])
    assert {f"our rules for TensorRT {release}" for release in ("10.3", "10.13", "10.16", "11.4")} <= set(said["asked"])
    assert all(": " in reason for reason in said["not_asked"])


def test_operators_of_others_are_named_whatever_they_are_called(edgecnn: Cli, tmp_path: Path) -> None:
    model = net()
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "acme", "MatMul"  # of one input
    onnx.save(model, tmp_path / "net.onnx")
    found = edgecnn("check", tmp_path / "net.onnx")
    assert found.code == 2
    assert "acme.MatMul" in found.out


def test_a_function_of_the_file_leads_to_what_writes_it_out(edgecnn: Cli, tmp_path: Path) -> None:
    model = net()
    relu = [helper.make_node("Relu", ["X"], ["Y"])]
    model.functions.append(helper.make_function("local", "Act", ["X"], ["Y"], relu, [helper.make_opsetid("", 19)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].domain, model.graph.node[1].op_type = "local", "Act"
    onnx.save(model, tmp_path / "net.onnx")
    found = edgecnn("check", tmp_path / "net.onnx")
    assert found.code == 2
    assert "edgecnn import" in found.out
    assert edgecnn("import", tmp_path / "net.onnx", "-o", tmp_path / "whole.onnx").code == 0
    assert edgecnn("check", tmp_path / "whole.onnx").code == 0


def test_check_and_repro_name_what_is_not_there(edgecnn: Cli, tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "net.onnx")
    for command in ("check", "repro"):
        edgecnn(command, tmp_path / "no.onnx").refused("no.onnx")
        edgecnn(command, tmp_path).refused(str(tmp_path))
    edgecnn("check", tmp_path / "net.onnx", "--target", "orin-mega").refused("orin-mega")
    edgecnn("repro", tmp_path / "net.onnx", "--backend", "ort").refused("ort")
    (tmp_path / "net.repro").mkdir()
    edgecnn("repro", tmp_path / "net.onnx").refused("net.repro")
