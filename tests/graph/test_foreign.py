"""Graphs from elsewhere: what is normalised, what is said about it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecnn import cli
from edgecnn.artifact.sidecar import sha256_of, verified_sidecar
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ArtifactError, DataError, GraphError
from edgecnn.graph.importing.names import rename_tensor
from edgecnn.graph.importing.preprocessing import read_named_preprocessing
from edgecnn.steps.import_ import import_onnx

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

EIGHT = Preprocessing(resize=9, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)
_random = np.random.default_rng(3)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any],
    *,
    given: Sequence[int | str | None] = ("n", 3, 8, 8),
    made: Sequence[int | str | None] = ("n", 5),
    names: tuple[str, str] = ("x", "y"),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(
        list(nodes),
        "elsewhere",
        [helper.make_tensor_value_info(names[0], kind, list(given))],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, list(made))],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weights(*shape: int) -> Any:
    return _random.standard_normal(shape).astype(np.float32)


CONV = {"w": weights(5, 3, 3, 3)}
HEAD = [node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "y")]


def imported(model: onnx.ModelProto, tmp_path: Path, **arguments: Any) -> tuple[onnx.ModelProto, list[str]]:
    source, output = tmp_path / "elsewhere.onnx", tmp_path / "ours.onnx"
    onnx.save(model, source)
    sidecar = verified_sidecar(import_onnx(source, output, **arguments))
    assert sidecar.parents == {"elsewhere.onnx": sha256_of(source)}
    ours = onnx.load(output)
    onnx.checker.check_model(ours, full_check=True)
    assert (ours.ir_version, ours.opset_import[0].version) == (9, 19)
    assert (ours.graph.input[0].name, ours.graph.output[0].name) == ("input", "logits")
    assert all(n.name for n in ours.graph.node)
    return ours, sidecar.facts["changes"]


def named_labels(folder: Path, names: Iterable[str]) -> Path:
    path = folder / "labels.json"
    path.write_text(json.dumps(list(names)))
    return path


def logits(model: onnx.ModelProto, images: Any) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": images})[0]


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_names_opset_and_a_frozen_batch(tmp_path: Path) -> None:
    model = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV, given=(1, 3, 8, 8), made=(1, 5), opset=11)
    ours, changes = imported(model, tmp_path)
    assert dims(ours.graph.input[0]) == ["batch", 3, 8, 8]
    assert dims(ours.graph.output[0]) == ["batch", 5]
    assert logits(ours, weights(7, 3, 8, 8)).shape == (7, 5)
    said = " | ".join(changes)
    for expected in ("opset 11 -> 19", "'x' renamed to 'input'", "'y' renamed to 'logits'", "batch 1 made dynamic"):
        assert expected in said


def test_a_graph_that_keeps_the_contract_is_left_as_it_is(tmp_path: Path) -> None:
    first, _ = imported(graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV), tmp_path)
    onnx.save(first, tmp_path / "again.onnx")
    sidecar = verified_sidecar(import_onnx(tmp_path / "again.onnx", tmp_path / "twice.onnx"))
    assert sidecar.facts["changes"] == []
    assert onnx.load(tmp_path / "twice.onnx").graph == first.graph


@pytest.mark.parametrize(
    ("shape", "declared"),
    [([1, -1], 1), ([1, 5], 1), ([1, -1], "n"), ([2, -1], 2)],
    ids=["flatten", "fixed", "declared-dynamic-but-baked", "batch-2"],
)
def test_a_batch_baked_into_a_reshape_is_taken_out(tmp_path: Path, shape: list[int], declared: int | str) -> None:
    nodes = [node("Conv", ["x", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), node("Reshape", ["p", "s"], "y")]
    model = graph_of(nodes, {**CONV, "s": np.array(shape, np.int64)}, given=(declared, 3, 8, 8), made=(declared, 5))
    ours, changes = imported(model, tmp_path)
    assert any("out of 1 Reshape constants" in c for c in changes)
    images = weights(4, 3, 8, 8)
    together = logits(ours, images)
    assert np.allclose(together, np.concatenate([logits(ours, i[None]) for i in images]), atol=1e-6)


def test_a_channel_shuffle_with_a_baked_batch(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], "a"),
        node("Reshape", ["a", "five"], "b"),
        node("Transpose", ["b"], "d", perm=[0, 2, 1, 3, 4]),
        node("Constant", [], "four", value=numpy_helper.from_array(np.array([1, 6, 6, 6], np.int64))),
        node("Reshape", ["d", "four"], "c"),
        *HEAD,
    ]
    constants = {"w": weights(6, 3, 3, 3), "five": np.array([1, 2, 3, 6, 6], np.int64)}
    ours, changes = imported(graph_of(nodes, constants, given=(1, 3, 8, 8), made=(1, 6)), tmp_path)
    assert any("out of 2 Reshape constants" in c for c in changes)
    assert logits(ours, weights(3, 3, 8, 8)).shape == (3, 6)


def test_a_batch_that_cannot_be_freed_stays_and_that_is_said(tmp_path: Path) -> None:
    """The batch is merged into the channels: no constant can be changed to undo that."""
    merged = [
        node("Conv", ["x", "w"], "c"),
        node("Reshape", ["c", "s"], "r"),
        node("Expand", ["r", "e"], "t"),
        node("ReduceMean", ["t"], "y", axes=[0, 3], keepdims=0),
    ]
    constants = {**CONV, "s": np.array([5, 36], np.int64), "e": np.array([1, 1, 5, 36], np.int64)}
    ours, changes = imported(graph_of(merged, constants, given=(1, 3, 8, 8), made=(1, 5)), tmp_path)
    assert dims(ours.graph.input[0])[0] == 1
    assert any("stays frozen at 1" in c for c in changes)


def test_channels_last_with_and_without_the_transpose_of_tf2onnx(tmp_path: Path) -> None:
    after = [node("Conv", ["t", "w"], "c"), *HEAD]
    transposed = [node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]), *after]
    model = graph_of(transposed, CONV, given=("n", 8, 8, 3))
    ours, changes = imported(model, tmp_path)
    assert "Transpose" not in [n.op_type for n in ours.graph.node]
    assert any("the Transpose behind it removed" in c for c in changes)
    first = [node("Mul", ["x", "two"], "m"), node("Transpose", ["m"], "t", perm=[0, 3, 1, 2]), *after]
    ours, changes = imported(graph_of(first, {**CONV, "two": np.float32(2)}, given=("n", 8, 8, 3)), tmp_path)
    assert [n.op_type for n in ours.graph.node][:2] == ["Mul", "Conv"]
    assert any("the Transpose behind its arithmetic removed" in c for c in changes)
    bent = [node("Sigmoid", ["x"], "m"), *first[1:]]
    ours, changes = imported(graph_of(bent, CONV, given=("n", 8, 8, 3)), tmp_path)
    assert [n.op_type for n in ours.graph.node][:2] == ["Transpose", "Sigmoid"]
    assert any("a Transpose added" in c for c in changes)
    assert dims(ours.graph.input[0]) == ["batch", 3, 8, 8]


def test_the_end_becomes_logits_of_two_axes(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), node("Softmax", ["p"], "y", axis=1)]
    model = graph_of(nodes, CONV, made=("n", 5, 1, 1))
    ours, changes = imported(model, tmp_path)
    assert ours.graph.node[-1].op_type == "Flatten"
    said = " | ".join(changes)
    assert "Softmax" in said
    assert "a Flatten added" in said
    images = weights(2, 3, 8, 8)
    old = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})[0].reshape(2, 5)
    new = np.exp(logits(ours, images))
    assert np.allclose(new / new.sum(1, keepdims=True), old, atol=1e-6)


ONE = {"w": weights(1, 3, 3, 3)}


@pytest.mark.parametrize("behind", [False, True])
def test_the_sigmoid_behind_one_logit_is_taken_off(tmp_path: Path, behind: bool) -> None:
    end = [node("Sigmoid", ["p"], "s"), node("Flatten", ["s"], "y")]
    if not behind:
        end = [node("Flatten", ["p"], "s"), node("Sigmoid", ["s"], "y")]
    model = graph_of([node("Conv", ["x", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), *end], ONE, made=("n", 1))
    ours, changes = imported(model, tmp_path, labels=named_labels(tmp_path, ["good", "scratch"]))
    assert "Sigmoid" not in [n.op_type for n in ours.graph.node]
    assert "decided at 0" in " ".join(changes)
    images = weights(3, 3, 8, 8)
    old = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})[0]
    assert np.allclose(1 / (1 + np.exp(-logits(ours, images))), old, atol=1e-6)


@pytest.mark.parametrize("names", [("scratch",), ("a", "b", "c")])
def test_one_logit_takes_the_names_of_two_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    model = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], ONE, made=("n", 1))
    with pytest.raises(DataError, match=f"{len(names)} labels for the two classes that one logit decides between"):
        imported(model, tmp_path, labels=named_labels(tmp_path, names))


def one_value(*end: onnx.NodeProto, outputs: int = 1) -> onnx.ModelProto:
    """z [N, 3], and what `end` makes of it and of some constants."""
    nodes = [node("Conv", ["x", "w"], "c"), node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "z3")]
    constants = {
        "w": weights(3, 3, 3, 3), "mix": weights(3, outputs), "one": np.ones(1, np.float32), "first": np.array([0]),
        "second": np.array([1]), "half": np.full(1, 0.5, np.float32), "axes": np.array([1]),
    }  # fmt: skip
    nodes += [node("MatMul", ["z3", "mix"], "z"), *end]
    used = {name for n in nodes for name in n.input}
    return graph_of(nodes, {k: v for k, v in constants.items() if k in used}, made=("n", outputs))


OTHER_FORMS = {
    "hard sigmoid": [node("HardSigmoid", ["z"], "y")],
    "rounded": [node("Sigmoid", ["z"], "s"), node("Clip", ["s", "", ""], "y")],
    "odds": [node("Exp", ["z"], "y")],
    "softplus": [node("Neg", ["z"], "a"), node("Softplus", ["a"], "b"), node("Neg", ["b"], "y")],
    "by tanh": [node("Tanh", ["z"], "a"), node("Add", ["a", "one"], "b"), node("Mul", ["b", "half"], "y")],
    "hard sigmoid written out": [node("Add", ["z", "half"], "a"), node("Clip", ["a", "", ""], "y")],
    "one column of a softmax": [node("Softmax", ["z3"], "a", axis=1), node("Gather", ["a", "second"], "y", axis=1)],
    "sigmoid and constant node": [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(100))),
        node("Sigmoid", ["z"], "a"),
        node("Mul", ["k", "a"], "y"),
    ],
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_one_output_that_is_a_probability_in_another_form(tmp_path: Path, form: str) -> None:
    with pytest.raises(GraphError, match="one output that is a probability in another form") as caught:
        imported(one_value(*OTHER_FORMS[form]), tmp_path)
    assert "export the logit, or the plain sigmoid" in caught.value.hint


LOGITS = {
    "bias": [node("Add", ["z", "half"], "y")],
    "scaled": [node("Div", ["z", "half"], "a"), node("Neg", ["a"], "y")],
    "tanh": [node("Tanh", ["z"], "y")],
    "difference": [
        node("Gather", ["z3", "first"], "a", axis=1),
        node("Gather", ["z3", "second"], "b", axis=1),
        node("Sub", ["a", "b"], "y"),
    ],
    "swish": [node("Sigmoid", ["z"], "a"), node("Mul", ["z", "a"], "y")],
}


@pytest.mark.parametrize("form", LOGITS)
def test_one_logit_behind_arithmetic_stays_one(tmp_path: Path, form: str) -> None:
    ours, _ = imported(one_value(*LOGITS[form]), tmp_path)
    assert dims(ours.graph.output[0]) == ["batch", 1]


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid"])
def test_sigmoids_of_classes_that_are_joined_are_refused(tmp_path: Path, kind: str) -> None:
    parts = [node("Gather", ["z3", k], k + "z", axis=1) for k in ("first", "second")]
    parts += [node(kind, [k + "z"], k + "s") for k in ("first", "second")]
    with pytest.raises(GraphError, match="multi-label is not supported"):
        imported(one_value(*parts, node("Concat", ["firsts", "seconds"], "y", axis=1), outputs=2), tmp_path)


def test_both_probabilities_of_one_sigmoid_are_two_classes(tmp_path: Path) -> None:
    model = one_value(
        node("Sigmoid", ["z"], "s"), node("Sub", ["one", "s"], "t"), node("Concat", ["t", "s"], "y", axis=1)
    )
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    ours, _ = imported(model, tmp_path)
    assert dims(ours.graph.output[0]) == ["batch", 2]


def test_a_preprocessing_file_holds_it_alone_or_is_a_sidecar(tmp_path: Path) -> None:
    given = tmp_path / "p.json"
    whole = {"kind": "graph", "sha256": "", "schema": 1, "preprocessing": EIGHT.to_json(), "labels": ["a"]}
    for content in (EIGHT.to_json(), {"preprocessing": EIGHT.to_json()}, whole):
        given.write_text(json.dumps(content))
        assert read_named_preprocessing(str(given)) == EIGHT
    for content, words in (
        ({"preprocessing": EIGHT.to_json(), "channel_order": "BGR", "mode": 1}, "'channel_order', 'mode' beside"),
        ({"preprocessing": EIGHT.to_json(), "kind": "graph"}, "'kind' beside 'preprocessing'"),
        ({"preprocessing": None}, "its preprocessing is null"),
        ({"preprocessing": {}, **EIGHT.to_json()}, "'resize', 'crop'"),
        ({"preprocessing": [1]}, r"its preprocessing is \[1\]"),
        ({**whole, "preprocessing": None}, "its preprocessing is null"),
    ):
        given.write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            read_named_preprocessing(str(given))
    given.write_text(json.dumps({**whole, "channel_order": "BGR"}))
    with pytest.raises(ArtifactError, match="channel_order is not known"):
        read_named_preprocessing(str(given))


def test_a_key_twice_in_the_metadata_is_refused(tmp_path: Path) -> None:
    model = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV)
    text = json.dumps(EIGHT.to_json())
    helper.set_model_props(model, {"preprocessing": text[:-1] + ', "crop": 4}'})
    with pytest.raises(DataError, match="the key 'crop' stands twice"):
        imported(model, tmp_path)
    helper.set_model_props(model, {"preprocessing": "as usual"})
    imported(model, tmp_path)
    assert verified_sidecar(tmp_path / "ours.onnx").preprocessing is None


def test_renaming_reaches_inner_graphs_and_avoids_names_that_are_taken(tmp_path: Path) -> None:
    def branch(factor: str, name: str) -> onnx.GraphProto:
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node("Mul", ["x", factor], name)], name, [], [made])

    nodes = [  # images take both ways, which are the same: the If stays
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], "yes"),
        helper.make_node("If", ["yes"], ["input"], then_branch=branch("two", "b1"), else_branch=branch("three", "b2")),
        node("Conv", ["input", "logits"], "c"),
        *HEAD,
    ]
    constants = {"logits": CONV["w"], "zero": np.float32(0), "two": np.float32(2), "three": np.float32(2)}
    model = graph_of(nodes, constants)
    with pytest.raises(GraphError, match="If holds a graph of its own"):  # at once, not by a later step
        imported(model, tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images})[0]
    rename_tensor(model.graph, "x", "input")
    rename_tensor(model.graph, "y", "logits")
    assert len({i.name for i in model.graph.initializer}) == 4
    assert "logits" not in [i.name for i in model.graph.initializer]
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": images})[0]
    assert np.array_equal(after, before)


def test_initialisers_listed_as_inputs_and_local_functions(tmp_path: Path) -> None:
    model = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, CONV["w"].shape))
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], "b")], [helper.make_opsetid("", 17)]
    )
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node.insert(1, helper.make_node("Twice", ["c"], ["c2"], domain="local"))
    model.graph.node[2].input[0] = "c2"
    ours, changes = imported(model, tmp_path)
    assert [i.name for i in ours.graph.input] == ["input"]
    assert not ours.functions
    assert any("1 initializers" in c for c in changes)
    assert any("Twice" in c for c in changes)


def test_preprocessing_and_labels_given_or_read(tmp_path: Path) -> None:
    model = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV)
    helper.set_model_props(model, {"preprocessing": json.dumps(EIGHT.to_json())})
    imported(model, tmp_path)
    assert verified_sidecar(tmp_path / "ours.onnx").preprocessing == EIGHT.to_json()
    (tmp_path / "p.json").write_text(json.dumps(EIGHT.to_json()))
    assert read_named_preprocessing(str(tmp_path / "p.json")) == EIGHT
    assert read_named_preprocessing("half-224").crop == 224
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    imported(model, tmp_path, labels=tmp_path / "labels.txt")
    assert verified_sidecar(tmp_path / "ours.onnx").labels == list("abcde")
    with pytest.raises(DataError, match="1000 labels for 5 classes"):
        imported(model, tmp_path, labels="imagenet")
    with pytest.raises(DataError, match="makes 3x224x224, the graph takes 3x8x8"):
        imported(model, tmp_path, preprocess="half-224")
    with pytest.raises(DataError, match="no preprocessing"):
        read_named_preprocessing("half-242")
    sizes = graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV, given=("n", 3, "h", "w_"))
    with pytest.raises(GraphError, match="no fixed height and width"):
        imported(sizes, tmp_path)
    ours, _ = imported(sizes, tmp_path, preprocess=tmp_path / "p.json", labels=named_labels(tmp_path, "abcde"))
    assert dims(ours.graph.input[0]) == ["batch", 3, 8, 8]


def test_units_of_0_to_255_are_said_on_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV), tmp_path / "m.onnx")
    given, ours = tmp_path / "p.json", tmp_path / "ours.onnx"
    call = ["import", str(tmp_path / "m.onnx"), "--preprocess", str(given), "-o", str(ours)]
    given.write_text(json.dumps(EIGHT.to_json()))
    assert cli.main(call) == 0
    assert "warning" not in capsys.readouterr().err
    given.write_text(json.dumps(EIGHT.to_json() | {"mean": [123.675] * 3}))
    assert cli.main(call) == 0
    assert "warning: mean 123.675, 123.675, 123.675 counts in 0..255" in capsys.readouterr().err


def refused_models() -> dict[str, tuple[onnx.ModelProto, str]]:
    whole = [node("Conv", ["x", "w"], "c"), *HEAD]
    two = graph_of(whole, CONV)
    two.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 5, 1, 1]))
    quantised = [node("QuantizeLinear", ["x", "s"], "q"), node("DequantizeLinear", ["q", "s"], "d")]
    foreign = graph_of([helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], {})
    foreign.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    left = graph_of([node("StatefulPartitionedCall", ["k", "x"], "c"), *HEAD], {})  # with a constant that got lost
    left.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [7]))
    half = [node("Cast", ["x"], "h", to=TensorProto.FLOAT16), node("Conv", ["h", "w"], "c")]
    half += [node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "f"), node("Cast", ["f"], "y", to=1)]
    return {
        "two-outputs": (two, "outputs"),
        "uint8-input": (graph_of([node("Cast", ["x"], "y", to=1)], {}, kind=TensorProto.UINT8), "uint8"),
        "quantised": (
            graph_of([*quantised, node("Conv", ["d", "w"], "c"), *HEAD], {**CONV, "s": np.float32(0.1)}),
            "pairs stand around no Conv",
        ),
        "other-domain": (foreign, "com.microsoft"),
        "left-by-a-converter": (left, "operator StatefulPartitionedCall is not a standard ONNX operator"),
        "half": (graph_of(half, {"w": CONV["w"].astype(np.float16)}), "float16"),
        "no-channels": (graph_of(whole, CONV, given=("n", 8, 8, 8)), "neither NCHW nor NHWC"),
        "not-a-classifier": (graph_of([node("Conv", ["x", "w"], "y")], CONV, made=("n", 5, 6, 6)), "not .*classes"),
        "broken": (graph_of(whole, {"w": weights(5, 4, 3, 3)}), "ONNX Runtime cannot run it"),
        "multi-label": (
            graph_of([*whole[:-1], node("Flatten", ["p"], "f"), node("Sigmoid", ["f"], "y")], CONV),
            "multi-label is not supported",
        ),
        "one-axis": (
            graph_of([*whole[:-1], node("Squeeze", ["p", "a"], "y")], {**ONE, "a": np.array([1, 2, 3])}, made=("n",)),
            "not .*classes",
        ),
        "dead": (graph_of([*whole], {"w": CONV["w"] * 0}), "gives the same outputs"),
    }


@pytest.mark.parametrize("kind", refused_models())
def test_refused(tmp_path: Path, kind: str) -> None:
    model, message = refused_models()[kind]
    with pytest.raises(GraphError, match=message):
        imported(model, tmp_path)
    assert not (tmp_path / "ours.onnx").exists()


def test_command_says_what_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "net.onnx"
    onnx.save(graph_of([node("Conv", ["x", "w"], "c"), *HEAD], CONV), source)
    assert cli.main(["import", str(source), "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert row["preprocessing"] is None
    assert "--preprocess" in err
    assert all(change in err for change in row["changes"])
    assert cli.main(["import", str(source), "-o", str(source)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    content = source.read_bytes()
    for broken in (b"", content[: len(content) // 2], b"not a graph at all"):
        source.write_bytes(broken)
        assert cli.main(["import", str(source), "-o", str(tmp_path / "out2.onnx")]) == 2
        error, hint = capsys.readouterr().err.strip().splitlines()
        assert error.startswith("error: ")
        assert hint.startswith("hint: ")
    assert not (tmp_path / "out2.onnx").exists()


@pytest.mark.parametrize(
    ("name", "preset", "nodes"), [("mobilenet_v1_0.5_160", "half-160", 57), ("mobilenet_v2_1.0_224", "half-224", 100)]
)
def test_the_two_graphs_from_elsewhere(tmp_path: Path, shared: Path, name: str, preset: str, nodes: int) -> None:
    source = shared / "weights" / f"{name}_fp32.onnx"
    sidecar = verified_sidecar(import_onnx(source, tmp_path / "ours.onnx", preprocess=preset, labels="imagenet"))
    assert sidecar.facts["nodes"] == nodes
    assert sidecar.facts["batch"] is None
    assert sidecar.facts["max_difference"] < 1e-5
    assert sidecar.wnids is not None
    assert sidecar.wnids[0] == "n01440764"
