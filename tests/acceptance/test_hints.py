"""Refusals of import, quantize and validate: what their hints say is done, word by word, and then the command works."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.channel_pictures import (
    PREPROCESSING,
    RED,
    SIDE,
    Result,
    class_model,
    level,
    save_color,
    write_json,
)

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
CLASSES = ("ash", "birch", "cedar", "elm")
FOREIGN = re.compile(
    r"\.(?:cc|h|hpp|cpp):\d+|Assertion|\[ONNXRuntimeError\]|\[[VIWEF]:onnxruntime|\w::\w|is a bug|Warning:"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgecnn: Command) -> Path:
    """The current folder: pictures in `data`, `p.json`, `ours.onnx` with its `reference.npz`."""
    monkeypatch.chdir(tmp_path)
    for k in range(12):
        save_color(Path("data") / CLASSES[k % 4] / f"{k}.png", (level(k % 4, 4), 9, 9))
    write_json(Path("p.json"), PREPROCESSING)
    Path("labels.txt").write_text("\n".join(CLASSES))
    onnx.save(class_model(4, RED), "plain.onnx")
    named = ("--preprocess", "p.json", "--labels", "labels.txt")
    assert edgecnn("import", "plain.onnx", *named, "-o", "ours.onnx").code == 0
    assert edgecnn("reference", "ours.onnx", "--data", "data", "-o", "reference.npz").code == 0
    return tmp_path


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(kind, inputs.split(), outputs.split(), None, **attributes)
    return made


def with_end(*nodes: onnx.NodeProto, outputs: dict[str, int] | None = None) -> onnx.ModelProto:
    """The graph of four classes with `nodes` behind its logits; `outputs` are its outputs with their types."""
    model = class_model(4, RED)
    model.graph.node.extend(nodes)
    if outputs:
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(n, kind, None) for n, kind in outputs.items())
    return model


def with_input(kind: int, shape: list[Any], *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """The graph of four classes behind `nodes`, which make `x` of another input."""
    model = class_model(4, RED)
    graph = model.graph
    graph.node[0].input[0] = "x" if nodes else "input"
    for made in reversed(nodes):
        graph.node.insert(0, made)
    graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, shape))
    return model


def half() -> onnx.ModelProto:
    model = with_input(TensorProto.FLOAT16, ["batch", 3, SIDE, SIDE])
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def quantized() -> onnx.ModelProto:
    scale: dict[str, Any] = {"s": np.array(1 / 255, np.float32), "z": np.array(0, np.uint8)}
    pair = (node("QuantizeLinear", "input s z", "q"), node("DequantizeLinear", "q s z", "x"))
    model = with_input(TensorProto.FLOAT, ["batch", 3, SIDE, SIDE], *pair)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in scale.items())
    return model


def told(text: str) -> onnx.ModelProto:
    model = class_model(4, RED)
    helper.set_model_props(model, {"preprocessing": text})
    return model


def unnamed() -> onnx.ModelProto:
    """Nodes without names, initializers among the inputs, an old opset: as model zoos have them."""
    model = class_model(4, RED)
    for made in model.graph.node:
        made.name = ""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.opset_import[0].version, model.ir_version = 9, 3
    return model


PIXELS = (
    node("Cast", "input", "f0", to=TensorProto.FLOAT),
    node("Transpose", "f0", "x", perm=[0, 3, 1, 2]),
)
IMPORT = "import t.onnx --preprocess p.json --labels labels.txt -o made.onnx"
INT8 = "quantize ours.onnx --precision int8 --method minmax -o made.onnx"
VALIDATE = "validate ours.onnx --reference reference.npz --data data"
CASES: dict[str, tuple[onnx.ModelProto | None, str]] = {
    "FP16": (half(), IMPORT),
    "two outputs": (with_end(node("Relu", "logits", "aux"), outputs={"logits": 1, "aux": 1}), IMPORT),
    "a decision": (with_end(node("ArgMax", "logits", "k", axis=1), outputs={"k": 7}), IMPORT),
    "a loss": (
        with_end(node("LogSoftmax", "logits", "q", axis=1), node("Neg", "q", "prob"), outputs={"prob": 1}),
        IMPORT,
    ),
    "a size that is not fixed": (with_input(1, ["batch", 3, "h", "w"]), "import t.onnx -o made.onnx"),
    "pixels of unknown resizing": (with_input(2, ["batch", SIDE, SIDE, 3], *PIXELS), "import t.onnx -o made.onnx"),
    "pixels that are asked for": (class_model(4, RED), "import t.onnx --input uint8-nhwc -o made.onnx"),
    "quantized": (quantized(), IMPORT),
    "metadata that is no JSON": (told("{resize: 8"), "import t.onnx -o made.onnx"),
    "a preset of another size": (class_model(4, RED), "import t.onnx --preprocess half-224 -o made.onnx"),
    "an option misspelt": (class_model(4, RED), "import t.onnx --preprocess imagenet-225 -o made.onnx"),
    "INT8 without images": (None, INT8),
    "nothing left for INT8": (None, f"{INT8} --data data --exclude *"),
    "nodes without names": (unnamed(), "quantize t.onnx --precision int8 --method minmax --data data -o made.onnx"),
    "no reference": (None, "validate ours.onnx --reference absent.npz --data data"),
    "a preprocessing that nothing tells": (
        class_model(4, RED),
        "validate plain.onnx --reference plain.onnx --data data",
    ),
    "no corners": (None, f"{VALIDATE} --tta ten-crop"),
    "a foreign graph of two outputs": (
        with_end(node("Relu", "logits", "aux"), outputs={"logits": 1, "aux": 1}),
        "validate t.onnx --reference reference.npz --data data",
    ),
    "a foreign graph in FP16": (half(), "validate t.onnx --reference reference.npz --data data"),
    "another reference": (None, "validate ours.onnx --reference ours.onnx.json --data data"),
}
MEANT = {  # what a user puts for a placeholder
    "SOURCE": "ours.onnx", "REFERENCE.npz": "reference.npz", "D": "data", "F": "r.npz", "FILE": "t.onnx",
    "X.calib.json": "x.calib.json", "P.json": "own.json",
}  # fmt: skip
VALUES = {"--preprocess": "p.json", "--data": "data", "--ranges": "x.calib.json"}  # of an option that stands alone


def followed(hint: str, command: list[str]) -> list[list[str]]:
    """The commands that a hint makes of a refused one, in the order in which a user types them."""
    if content := re.search(r"\{.*\}", hint):
        Path(MEANT["P.json"]).write_text(content[0])
        hint = hint.replace(content[0], "")
    if named := re.search(r"did you mean '([^']+)'", hint):
        wrong = next(k for k, word in enumerate(command) if word not in ("import",) and word[:6] == named[1][:6])
        return [[*command[:wrong], named[1], *command[wrong + 1 :]]]
    if typed := re.search(r"`edgecnn ([^`]+)`", hint):
        words = [MEANT.get(word, word) for word in shlex.split(typed[1])]
        if words[0] == "export":
            words = shlex.split(re.findall(r"`edgecnn ([^`]+)`", hint)[1])
        words = [w for k, word in enumerate(words) for w in with_value(word, words[k + 1 : k + 2])]
        if words[0] == "import" and not any(word.endswith(".onnx") for word in words):
            words += [command[1], "-o", "followed.onnx", *known_to_import(words)]
            return [words, ["followed.onnx" if word == command[1] else word for word in command]]
        made = words[words.index("-o") + 1] if "-o" in words else ""
        absent = command[command.index("--reference") + 1] if made.endswith(".npz") else ""
        return [words, [made if word == absent else word for word in command]] if made else [words]
    if left_out := re.search(r"leave (--[\w-]+) out", hint):
        k = command.index(left_out[1])
        return [[*command[:k], *command[k + 2 :]]]
    option = re.search(r"(--[\w-]+)(?: ([\w./-]+))?", hint)
    assert option, f"nothing to follow in: {hint}"
    value = MEANT.get(option[2] or "", option[2] or "")
    value = value if value not in ("takes", "with", "in", "or", "and") else ""
    given = list(command)
    if option[1] in given:
        k = given.index(option[1])
        del given[k : k + 2]
    if "--precision" in hint:  # another precision needs none of the options of INT8
        given = [word for word in given if word not in ("--exclude", "*", "--method", "minmax")]
    if option[1] == "--ranges":  # "give --ranges X.calib.json, --data, or both"
        option, value = re.search(r"(--data)", hint), "data"
        assert option
    extra = [value] if value else [VALUES[option[1]]] if option[1] in VALUES else []
    return [[*given, option[1], *extra]]


def with_value(word: str, behind: list[str]) -> list[str]:
    alone = word in VALUES and (not behind or behind[0].startswith("-"))
    return [word, VALUES[word]] if alone else [word]


def known_to_import(words: list[str]) -> list[str]:
    """What a user who has an answer adds to an import that says nothing of preprocessing and labels."""
    return ["--labels", "labels.txt", *([] if "--preprocess" in words else ["--preprocess", "p.json"])]


@pytest.mark.parametrize("case", CASES)
def test_a_hint_that_is_followed_helps(edgecnn: Command, place: Path, case: str) -> None:
    model, line = CASES[case]
    if model is not None:
        onnx.save(model, "t.onnx")
    command = line.split()
    result = edgecnn(*command)
    result.refused()
    for _ in range(3):  # a way out may lead to another question
        assert not FOREIGN.search(result.said), result.said
        hint = result.err.split("hint: ")[1].strip()
        for typed in (lines := followed(hint, command)):
            result = edgecnn(*typed)
            if result.code == 2:
                command = typed
                break
        if result.code == 0:
            break
        result.refused()
    assert result.code == 0, f"{lines}\n{result.said}"
    if Path("made.onnx").exists():
        assert json.loads(Path("made.onnx.json").read_text())["kind"] == "graph"


def broken(*nodes: onnx.NodeProto, opset: int = 19, ir_version: int = 9, **arrays: Any) -> onnx.ModelProto:
    """The graph of four classes behind `nodes` that make `x` of the input, which nothing has checked."""
    model = with_input(TensorProto.FLOAT, ["batch", 3, SIDE, SIDE], *nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items())
    model.opset_import[0].version, model.ir_version = opset, ir_version
    return model


KERNEL = np.ones((3, 4, 3, 3), np.float32)
BROKEN = {
    "channels": broken(node("Conv", "input k", "x"), k=KERNEL),
    "operator": broken(node("Foo", "input", "x")),
    "dangling": broken(node("Relu", "nothing", "x")),
    "reshape": broken(node("Reshape", "input a", "y"), node("Reshape", "y b", "x"), a=[-1, 5, 7], b=[-1, 3, 8, 8]),
    "cycle": broken(node("Add", "input y", "x"), node("Relu", "x", "y")),
    "strides": broken(node("Conv", "input k", "x", strides=[0, 0]), k=KERNEL[:, :3]),
    "axis": broken(node("Softmax", "input", "x", axis=9)),
    "window": broken(node("AveragePool", "input", "x", kernel_shape=[9, 9])),
    "concat": broken(node("MaxPool", "input", "m", kernel_shape=[2, 2]), node("Concat", "input m", "x", axis=1)),
    "opset 99": broken(node("Relu", "input", "x"), opset=99),
    "IR 99": broken(node("Relu", "input", "x"), ir_version=99),
    "opset 6": broken(node("Dropout", "input", "x", is_test=0), opset=6, ir_version=3),
    "opset 8": broken(node("Foo", "input", "x"), opset=8, ir_version=3),
    "linear": broken(node("GridSample", "input g", "x", mode="linear"), opset=20, g=np.zeros((1, 8, 8, 2), np.float32)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_runtimes_say_of_a_broken_graph_is_told_without_their_code(
    edgecnn: Command, place: Path, kind: str
) -> None:
    onnx.save(BROKEN[kind], "t.onnx")
    np.savez("a.npz", input=np.random.default_rng(0).random((4, 3, SIDE, SIDE), np.float32))
    for line in (
        IMPORT,
        "quantize t.onnx --precision int8 --method minmax --data a.npz -o made.onnx",
        "validate t.onnx --reference reference.npz --data data",
    ):
        result = edgecnn(*line.split())
        result.refused("t.onnx" if line.startswith(("import", "validate")) else "")
        assert not FOREIGN.search(result.said), result.said
        assert not Path("made.onnx").exists()
