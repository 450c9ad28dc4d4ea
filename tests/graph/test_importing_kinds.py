"""Each kind of foreign graph: imported, equal to the original in ONNX Runtime, and carried to FP16 and INT8."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

from edgecnn.artifact.sidecar import verified_sidecar
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.steps.calibrate import calibrate
from edgecnn.steps.import_ import import_onnx
from edgecnn.steps.quantize import quantize

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

SIDE, CLASSES = 8, 5
N = helper.make_node
PLAIN = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
MEAN, STD = (np.array(v, np.float32) for v in (PLAIN.mean, PLAIN.std))


def weights(*shape: int, seed: int = 0) -> Any:
    made = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return (made / np.sqrt(max(shape[1:] or (1,)))).astype(np.float32)


CONSTANTS = {
    "w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 8, 3, 3), "b2": weights(8),
    "fc": weights(CLASSES, 8), "fb": weights(CLASSES), "gamma": 1 + weights(8, seed=2) / 4, "beta": weights(8, seed=3),
}  # fmt: skip


class Case(NamedTuple):
    """A graph, what import is told, and what it says."""

    model: onnx.ModelProto
    said: str
    arguments: dict[str, Any] = {}  # noqa: RUF012
    reads: str = "logits"  # what the original gives: logits, softmax or log-softmax or sigmoid of them
    tolerance: float = 1e-4


def network(
    front: Sequence[onnx.NodeProto] = (),
    middle: Sequence[onnx.NodeProto] = (N("Relu", ["c1"], ["m"]),),
    end: Sequence[onnx.NodeProto] = (),
    *,
    source: str = "x",
    pool: str = "GlobalAveragePool",
    result: str = "z",
    given: Any = ("n", 3, SIDE, SIDE),
    made: Any = ("n", CLASSES),
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    ir: int = 8,
    listed: bool = False,
    **more: Any,
) -> onnx.ModelProto:
    """front -> Conv -> middle (c1 to m) -> Conv, pool, Gemm (z) -> end."""
    nodes = [*front, N("Conv", [source, "w1", "b1"], ["c1"], pads=[1] * 4), *middle]
    nodes += [N("Conv", ["m", "w2", "b2"], ["c2"], pads=[1] * 4), N("Relu", ["c2"], ["r"]), N(pool, ["r"], ["p"])]
    nodes += [N("Flatten", ["p"], ["f"]), N("Gemm", ["f", "fc", "fb"], ["z"], transB=1), *end]
    used = {name for n in nodes for name in n.input}
    held = {k: v for k, v in {**CONSTANTS, **more}.items() if k in used}
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in held.items()]
    inputs = [helper.make_tensor_value_info("x", kind, list(given))]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors if listed]
    outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, list(made))]
    graph = helper.make_graph(nodes, "elsewhere", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def with_outputs(model: onnx.ModelProto, *more: tuple[str, int, list[Any]], first: bool = False) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(*m) for m in more]
    kept = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([*values, *kept] if first else [*kept, *values])
    return model


def halved(kind: Any, ends: bool) -> onnx.ModelProto:
    """The network in FP16, BF16 or double; with float32 ends by casts."""
    front = [N("Cast", ["x"], ["h"], to=kind)] if ends else []
    end = [N("Cast", ["z"], ["y"], to=TensorProto.FLOAT)] if ends else []
    model = network(front, end=end, source="h" if ends else "x", result="y" if ends else "z")
    for tensor in model.graph.initializer:
        made = helper.make_tensor(
            tensor.name, kind, tensor.dims, numpy_helper.to_array(tensor).ravel().astype(np.float64)
        )
        tensor.CopyFrom(made)
    if not ends:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = kind
    return model


def stored_in(kind: Any) -> onnx.ModelProto:
    model = network()
    casts = []
    for tensor in model.graph.initializer:
        value, name = numpy_helper.to_array(tensor).astype(kind), tensor.name
        tensor.CopyFrom(numpy_helper.from_array(value, f"{name}_h"))
        casts.append(N("Cast", [f"{name}_h"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def frozen_at_4() -> onnx.ModelProto:
    """The batch is written into an Expand: no Reshape constant frees it."""
    middle = [N("Expand", ["one", "whole"], ["e"]), N("Mul", ["c1", "e"], ["m"])]
    constants: dict[str, Any] = {"one": np.ones(1, np.float32), "whole": np.array([4, 8, SIDE, SIDE])}
    return network(middle=middle, given=(4, 3, SIDE, SIDE), made=(4, CLASSES), **constants)


def group_normalization(opset: int = 21) -> onnx.ModelProto:
    node = N("GroupNormalization", ["c1", "gamma", "beta"], ["m"], num_groups=4, epsilon=1e-3)
    return network(middle=[node], opset=opset, ir=10)


def pixels(front: Sequence[onnx.NodeProto], last: bool, **constants: Any) -> Case:
    given = ("n", SIDE, SIDE, 3) if last else ("n", 3, SIDE, SIDE)
    model = network(front, source="t", given=given, kind=TensorProto.UINT8, **constants)
    return Case(model, "taken as the normalization", {"preprocess": PLAIN})


TO_FLOAT = N("Cast", ["x"], ["a"], to=1)
TURN: dict[str, Any] = {"perm": [0, 3, 1, 2]}
ENDS: dict[str, Any] = {"made": ("n", CLASSES), "result": "y"}
KINDS: dict[str, Callable[[], Case]] = {
    "ir3-opset7": lambda: Case(network(opset=7, ir=3, listed=True), "6 initializers no longer declared"),
    "ir3-opset8": lambda: Case(network(opset=8, ir=3, listed=True), "opset 8 -> 19"),
    "ir3-opset9": lambda: Case(network(opset=9, ir=3, listed=True), "IR version 3 -> 9"),
    "opset20-plain": lambda: Case(network(opset=20, ir=9), "opset 20 -> 19"),
    "opset23-plain": lambda: Case(network(opset=23, ir=10), "opset 23 -> 19"),
    "opset20-gelu": lambda: Case(network(middle=[N("Gelu", ["c1"], ["m"])], opset=20, ir=9), "Gelu of opset 20"),
    "opset20-gelu-tanh": lambda: Case(
        network(middle=[N("Gelu", ["c1"], ["m"], approximate="tanh")], opset=20, ir=9), "Gelu of opset 20"
    ),
    "opset21-groupnorm": lambda: Case(group_normalization(), "GroupNormalization of opset 21"),
    "opset22-globalmaxpool": lambda: Case(network(pool="GlobalMaxPool", opset=22, ir=10), "opset 22 -> 19"),
    "opset24-swish": lambda: Case(network(middle=[N("Swish", ["c1"], ["m"])], opset=24, ir=10), "Swish of opset 24"),
    "batch-minus-1": lambda: Case(network(given=(-1, 3, SIDE, SIDE), made=(-1, CLASSES)), "written as -1"),
    "batch-0": lambda: Case(network(given=(0, 3, SIDE, SIDE), made=(0, CLASSES)), "taken as dynamic"),
    "half-weights": lambda: Case(stored_in(np.float16), "6 weights stored in another width"),
    "uint8-nhwc": lambda: pixels(
        [TO_FLOAT, N("Transpose", ["a"], ["b"], **TURN), N("Sub", ["b", "mu"], ["c"]), N("Div", ["c", "s"], ["t"])],
        True,
        mu=255 * MEAN.reshape(1, 3, 1, 1),
        s=255 * STD.reshape(3, 1, 1),
    ),
    "uint8-nhwc-last": lambda: pixels(
        [
            TO_FLOAT,
            N("Div", ["a", "u"], ["b"]),
            N("Sub", ["b", "mu"], ["c"]),
            N("Mul", ["c", "s"], ["d"]),
            N("Transpose", ["d"], ["t"], **TURN),
        ],
        True,
        u=np.float32(255),
        mu=MEAN,
        s=1 / STD,
    ),
    "uint8-nchw": lambda: pixels(
        [TO_FLOAT, N("Div", ["a", "s"], ["b"]), N("Add", ["mu", "b"], ["t"])],
        False,
        s=255 * STD.reshape(3, 1, 1),
        mu=(-MEAN / STD).reshape(3, 1, 1),
    ),
    "float-nhwc-arithmetic": lambda: Case(
        network(
            [N("Sub", ["x", "mu"], ["a"]), N("Transpose", ["a"], ["t"], **TURN)],
            source="t",
            given=("n", SIDE, SIDE, 3),
            mu=MEAN,
        ),
        "the constants turned",
    ),
    "softmax": lambda: Case(network(end=[N("Softmax", ["z"], ["y"], axis=1)], **ENDS), "the Softmax", {}, "softmax"),
    "softmax-saturated": lambda: Case(
        network(end=[N("Mul", ["z", "k"], ["q"]), N("Softmax", ["q"], ["y"], axis=1)], **ENDS, k=np.float32(1e4)),
        "the Softmax",
        {},
        "softmax",
    ),
    "softmax-identity": lambda: Case(
        network(end=[N("Softmax", ["z"], ["q"], axis=-1), N("Identity", ["q"], ["y"])], **ENDS),
        "the Softmax",
        {},
        "softmax",
    ),
    "log-softmax": lambda: Case(
        network(end=[N("LogSoftmax", ["z"], ["y"], axis=1)], **ENDS), "the LogSoftmax", {}, "log-softmax"
    ),
    "log-of-softmax": lambda: Case(
        network(end=[N("Softmax", ["z"], ["q"], axis=1), N("Log", ["q"], ["y"])], **ENDS),
        "Softmax and the Log",
        {},
        "log-softmax",
    ),
    "sigmoid": lambda: Case(
        network(end=[N("Sigmoid", ["z"], ["y"])], result="y", made=("n", 1), fc=weights(1, 8), fb=weights(1)),
        "decided at 0",
        {},
        "sigmoid",
    ),
    "two-outputs": lambda: Case(
        with_outputs(network(), ("f", 1, ["n", 8]), first=True), "taken as the output", {"output_name": "z"}
    ),
    "loss-beside": lambda: Case(with_loss(network()), "input 'target' dropped", {"output_name": "z"}),
    "argmax": lambda: Case(
        with_outputs(network(end=[N("ArgMax", ["z"], ["k"], axis=1)]), ("k", TensorProto.INT64, ["n", 1]), first=True),
        "taken as the output",
        {"output_name": "z"},
    ),
    "squeeze-without-axes": lambda: Case(squeezed(), "1 Squeezes without axes got theirs"),
    "nodes-of-one-name": lambda: Case(named_alike(), "nodes named"),
    "unread-input": lambda: Case(unread_input(), "input 'target' dropped"),
    "nodes-out-of-order": lambda: Case(backwards(network()), "nodes put in the order"),
    "dead-nodes": lambda: Case(
        network(end=[N("NonZero", ["z"], ["k"]), N("Shape", ["k"], ["unread"])]), "2 nodes removed"
    ),
    "frozen-at-4": lambda: Case(frozen_at_4(), "stays frozen at 4"),
    "float16": lambda: Case(halved(TensorProto.FLOAT16, False), "float16 lifted", {"to_float32": True}, "logits", 2e-2),
    "float16-inside": lambda: Case(
        halved(TensorProto.FLOAT16, True), "float16 lifted", {"to_float32": True}, "logits", 2e-2
    ),
    "bfloat16-inside": lambda: Case(
        halved(TensorProto.BFLOAT16, True), "bfloat16 lifted", {"to_float32": True}, "logits", 1e-1
    ),
    "double": lambda: Case(halved(TensorProto.DOUBLE, False), "double lifted", {"to_float32": True}),
    "half-between-casts": lambda: Case(
        between_casts(TensorProto.FLOAT16), "float16 lifted", {"to_float32": True}, "logits", 2e-2
    ),
    "double-weights": lambda: Case(stored_in(np.float64), "6 weights stored in another width"),
}


def squeezed() -> onnx.ModelProto:
    model = network()
    node = next(n for n in model.graph.node if n.op_type == "Flatten")
    node.CopyFrom(N("Squeeze", ["p"], ["f"]))
    return model


def named_alike() -> onnx.ModelProto:
    model = network()
    for node in model.graph.node:
        node.name = "layer"
    return model


def backwards(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_loss(model: onnx.ModelProto) -> onnx.ModelProto:
    """As it is exported with the loss of its training, which reads the classes."""
    model.graph.node.append(N("SoftmaxCrossEntropyLoss", ["z", "target"], ["loss"]))
    model.graph.input.append(helper.make_tensor_value_info("target", TensorProto.INT64, ["n"]))
    return with_outputs(model, ("loss", 1, []))


def unread_input() -> onnx.ModelProto:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("target", TensorProto.INT64, ["n"]))
    return model


def run(model: onnx.ModelProto, outputs: list[str] | None, **feeds: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(outputs, feeds)[0]


def read_as(kind: str, logits: Any) -> Any:
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    made = logits - logits.max(1, keepdims=True)
    log = made - np.log(np.exp(made).sum(1, keepdims=True))
    return {"logits": logits, "log-softmax": log, "softmax": np.exp(log)}[kind]


def brought_in(case: Case, folder: Path) -> Path:
    onnx.save(case.model, folder / "elsewhere.onnx")
    (folder / "p.json").write_text(json.dumps(case.arguments.get("preprocess", PLAIN).to_json()))
    arguments = {**case.arguments, "preprocess": folder / "p.json"}
    return import_onnx(folder / "elsewhere.onnx", folder / "ours.onnx", **arguments)


def compare(case: Case, ours: Path) -> None:
    """Both in ONNX Runtime on the same four images."""
    shots = np.random.default_rng(5).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    images = np.stack([PLAIN.normalize(s) for s in shots])
    given = case.model.graph.input[0].type.tensor_type
    dims = [d.dim_value for d in given.shape.dim]
    is_pixels = given.elem_type == TensorProto.UINT8
    theirs = shots.transpose(0, 3, 1, 2) if is_pixels else images
    theirs = theirs.transpose(0, 2, 3, 1) if dims[3] == 3 else theirs
    mine = shots if is_pixels else images
    name = case.arguments.get("output_name")
    dtype = helper.tensor_dtype_to_np_dtype(given.elem_type)
    feeds = {"x": np.ascontiguousarray(theirs, dtype)}
    feeds |= {"target": np.zeros(4, np.int64)} if any(i.name == "target" for i in case.model.graph.input) else {}
    made = read_as(case.reads, run(onnx.load(ours), ["logits"], input=mine))
    wide = {TensorProto.BFLOAT16, TensorProto.DOUBLE}  # ONNX Runtime has no kernels of them for a CPU
    if any(i.data_type in wide for i in case.model.graph.initializer):
        found = ReferenceEvaluator(case.model).run(None, feeds)[0]
    else:
        for k, node in enumerate(case.model.graph.node):
            node.name = str(k)  # ONNX Runtime refuses two of one name
        if given.shape.dim[0].HasField("dim_value") and given.shape.dim[0].dim_value == 0:
            for value in (case.model.graph.input[0], case.model.graph.output[0]):
                value.type.tensor_type.shape.dim[0].Clear()  # and images for none
        found = run(case.model, [name] if name else None, **feeds)
    expected = np.asarray(found).astype(np.float32).reshape(made.shape)
    finite = np.isfinite(expected)  # the log of a saturated probability is not
    assert finite.any()
    assert np.abs(made - expected)[finite].max() <= case.tolerance * max(1, np.abs(expected[finite]).max())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "train" / "a").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for k in range(8):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / "train" / "a" / f"{k}.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_goes_through(tmp_path: Path, pictures: Path, kind: str) -> None:
    case = KINDS[kind]()
    ours = brought_in(case, tmp_path)
    changes = verified_sidecar(ours).facts["changes"]
    assert case.said in " | ".join(changes)
    compare(case, ours)
    assert quantize(ours, tmp_path / "half.onnx", precision="fp16").sidecar.precision_obtained == "fp16"
    ranges = calibrate(ours, tmp_path / "r.calib.json", data=str(pictures), threads=1)
    made = quantize(ours, tmp_path / "int8.onnx", precision="int8", ranges=ranges, method="minmax")
    assert made.report is not None
    assert made.report.int8_share_pct > 50


def test_a_frozen_batch_is_calibrated_as_a_dynamic_one(tmp_path: Path) -> None:
    """Seven images, so that the last batch of four is filled up, which must not count."""
    images = np.random.default_rng(2).standard_normal((7, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=images)
    data = open_dataset(str(tmp_path / "x.npz"), None, "train")
    found = []
    for model in (frozen_at_4(), network(middle=[N("Identity", ["c1"], ["m"])])):
        onnx.save(model, tmp_path / "elsewhere.onnx")
        ours = import_onnx(tmp_path / "elsewhere.onnx", tmp_path / "ours.onnx")
        found.append(collect_ranges(ours, data).tensors)
    for name in ("input", "logits", "r"):
        assert np.array_equal(found[0][name].positive, found[1][name].positive)
        assert found[0][name].images == found[1][name].images == 7
    onnx.save(frozen_at_4(), tmp_path / "elsewhere.onnx")
    frozen = import_onnx(tmp_path / "elsewhere.onnx", tmp_path / "ours.onnx")
    with pytest.raises(GraphError, match="frozen at 4, asked for are 8"):
        collect_ranges(frozen, data, batch=8)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "argmax": (
        lambda: with_kind(network(end=[N("ArgMax", ["z"], ["y"], axis=1)], **ENDS), TensorProto.INT64),
        "decided already, by ArgMax",
        "--output-name z",
    ),
    "top-k": (
        lambda: with_outputs(
            network(end=[N("TopK", ["z", "five"], ["v", "y"], axis=1)], result="v", five=np.array([5])),
            ("y", TensorProto.INT64, ["n", 5]),
        ),
        "has 2 outputs: 'v', 'y'",
        "--output-name z",
    ),
    "two-outputs": (
        lambda: with_outputs(network(), ("f", 1, ["n", 8])),
        "has 2 outputs",
        "--output-name z, or --output-name f",
    ),
    "negative-log": (
        lambda: network(end=[N("LogSoftmax", ["z"], ["q"]), N("Neg", ["q"], ["y"])], **ENDS),
        "its smallest value wins",
        "--output-name z",
    ),
    "softmax-of-one-axis": (
        lambda: network(
            end=[
                N("Unsqueeze", ["z", "two"], ["u"]),
                N("Softmax", ["u"], ["s"], axis=2),
                N("Squeeze", ["s", "two"], ["y"]),
            ],
            **ENDS,
            two=np.array([2]),
        ),
        "makes no probabilities of the classes",
        "--output-name u",
    ),
    "float16": (lambda: halved(TensorProto.FLOAT16, False), "input 'x' is float16", "--to-float32"),
    "float16-inside": (lambda: halved(TensorProto.FLOAT16, True), "is float16", "--to-float32"),
    "float16-between-casts": (
        lambda: between_casts(TensorProto.FLOAT16),
        "node 'there' makes is float16",
        "--to-float32",
    ),
    "double-between-casts": (lambda: between_casts(TensorProto.DOUBLE), "node 'there' makes is double", "--to-float32"),
    "cycle": (
        lambda: network(middle=[N("Add", ["c1", "q"], ["m"], "there"), N("Relu", ["m"], ["q"], "back")]),
        "'there' -> 'back' -> 'there'",
        "export",
    ),
    "newest-opset": (lambda: network(opset=99, ir=10), "opset 99", "export it at opset 19"),
    "weights-that-are-nan": (lambda: network(b2=np.full(8, np.nan, np.float32)), "NaN or infinite", "a weight"),
    "new-operator": (
        lambda: network(middle=[N("TensorScatter", ["c1", "c1"], ["m"])], opset=24, ir=10),
        "TensorScatter of opset 24",
        "export it at opset 19",
    ),
}


def between_casts(kind: int) -> onnx.ModelProto:
    """As mixed precision in training leaves it: no weight and no end is of that width."""
    middle = [N("Cast", ["c1"], ["a"], "there", to=kind), N("Relu", ["a"], ["b"], "inside")]
    return network(middle=[*middle, N("Cast", ["b"], ["m"], "back", to=TensorProto.FLOAT)])


def with_kind(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    model.graph.output[0].type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_a_hint_that_helps(tmp_path: Path, kind: str) -> None:
    make, message, hint = REFUSED[kind]
    source, ours = tmp_path / "elsewhere.onnx", tmp_path / "ours.onnx"
    onnx.save(make(), source)
    with pytest.raises(GraphError, match=re.escape(message)) as caught:
        import_onnx(source, ours)
    assert hint in caught.value.hint
    assert not ours.exists()
    if "--to-float32" in hint:
        import_onnx(source, ours, to_float32=True)
    elif "--output-name" in hint and "axis" not in kind:
        import_onnx(source, ours, output_name=hint.split()[1].strip(","))


def test_a_name_that_the_graph_has_not(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "elsewhere.onnx")
    with pytest.raises(GraphError, match="no tensor of the graph is called 'logits'") as caught:
        import_onnx(tmp_path / "elsewhere.onnx", tmp_path / "ours.onnx", output_name="logits")
    assert "it has the outputs z" in caught.value.hint


def test_pixels_need_to_be_prepared_as_the_graph_does(tmp_path: Path) -> None:
    onnx.save(KINDS["uint8-nhwc"]().model, tmp_path / "elsewhere.onnx")
    given, ours = tmp_path / "p.json", tmp_path / "ours.onnx"
    with pytest.raises(DataError, match="how pictures are resized is not known") as caught:
        import_onnx(tmp_path / "elsewhere.onnx", ours)
    given.write_text(caught.value.hint[caught.value.hint.index("{") :])
    made = verified_sidecar(import_onnx(tmp_path / "elsewhere.onnx", ours, preprocess=given))
    assert (made.contract.input, made.contract.output) == ("uint8-nhwc", "logits")
    assert made.preprocessing is not None
    assert np.allclose(made.preprocessing["mean"], PLAIN.mean, atol=1e-6)
    given.write_text(json.dumps(PLAIN.to_json() | {"mean": [0.485, 0.456, 0.406]}))
    with pytest.raises(DataError, match="normalizes pixels itself, otherwise than the preprocessing says"):
        import_onnx(tmp_path / "elsewhere.onnx", ours, preprocess=given)
    given.write_text(json.dumps(PLAIN.to_json() | {"mean": [0, 0, 0], "std": [1 / 255] * 3}))
    plain = verified_sidecar(import_onnx(tmp_path / "elsewhere.onnx", ours, preprocess=given, takes="normalised"))
    assert plain.contract.is_plain
    assert plain.preprocessing == made.preprocessing
