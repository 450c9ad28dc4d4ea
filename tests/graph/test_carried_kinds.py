"""Kinds of graphs that import lets through: every later step takes them, and says what of them is not INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.artifact.sidecar import verified_sidecar
from edgecnn.steps.calibrate import calibrate
from edgecnn.steps.import_ import import_onnx
from edgecnn.steps.quantize import quantize
from edgecnn.steps.reference import reference
from edgecnn.steps.validate import validate
from tests.fakes.foreign import (
    CHANNELS,
    CLASSES,
    CONSTANTS,
    NORM,
    PRODUCTS,
    SIDE,
    N,
    classifier,
    frozen_at_four,
    integers,
    shuffle_unit,
    weights,
)

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

Floats = np.typing.NDArray[np.float32]
ROWS = SIDE * SIDE
PLAIN = [N("Relu", ["c"], ["m"])]
FLAT: dict[str, Any] = {"to_rows": integers(0, CHANNELS, ROWS), "to_maps": integers(0, CHANNELS, SIDE, SIDE)}


class Kind(NamedTuple):
    """A graph, the multiply-adds in it that stay in float, and how the report names them."""

    model: onnx.ModelProto
    in_float: int = 0
    named: str = ""
    inside: int = 0  # further multiply-adds in INT8


def on_rows(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """`nodes` from q to q2, [N, 8, 64]."""
    middle = [N("Reshape", ["c", "to_rows"], ["q"]), *nodes, N("Relu", ["q2"], ["q3"])]
    return classifier([*middle, N("Reshape", ["q3", "to_maps"], ["m"])], **FLAT, **constants)


def attention() -> onnx.ModelProto:
    return on_rows(
        N("Transpose", ["q"], ["qt"], perm=[0, 2, 1]),
        N("MatMul", ["q", "qt"], ["scores"]),
        N("Softmax", ["scores"], ["shares"], axis=-1),
        N("MatMul", ["shares", "q"], ["q2"]),
    )


def class_token() -> onnx.ModelProto:
    """A row that is expanded to the batch by sizes behind a Where, as TorchScript writes it: no inference follows."""
    before = [
        N("Shape", ["q"], ["s"]),
        N("Gather", ["s", "zero"], ["count"], axis=0),
        N("Concat", ["count", "whole"], ["wanted"], axis=0),
        N("Equal", ["wanted", "minus"], ["is_open"]),
        N("Where", ["is_open", "ones", "wanted"], ["sizes"]),
        N("Expand", ["token", "sizes"], ["tokens"]),
        N("Concat", ["tokens", "q"], ["t"], axis=1),
        N("MatMul", ["t", "long"], ["u"]),
        N("Slice", ["u", "one", "nine", "one"], ["q2"]),
    ]
    sizes: dict[str, Any] = {"zero": integers(0), "one": integers(1), "nine": integers(9), "minus": np.int64(-1)}
    more: dict[str, Any] = {"whole": integers(1, ROWS), "ones": integers(1, 1, 1), "token": weights(1, 1, ROWS)}
    return on_rows(*before, long=weights(ROWS, ROWS), **sizes, **more)


def dynamic_convolution() -> onnx.ModelProto:
    """A depthwise convolution whose weights are computed of the image."""
    middle = [
        N("ReduceMean", ["c"], ["level"], axes=[0, 2, 3], keepdims=1),
        N("Reshape", ["level", "to_weight"], ["factor"]),
        N("Mul", ["depthwise", "factor"], ["made"]),
        N("Conv", ["c", "made"], ["m"], group=CHANNELS),
    ]
    constants: dict[str, Any] = {"to_weight": integers(CHANNELS, 1, 1, 1), "depthwise": weights(CHANNELS, 1, 1, 1)}
    return classifier(middle, given=(1, 3, SIDE, SIDE), **constants)


def transposed(group: int) -> onnx.ModelProto:
    middle = [
        N("ConvTranspose", ["c", "wt", "b1"], ["u"], strides=[2, 2], kernel_shape=[2, 2], group=group),
        N("MaxPool", ["u"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    return classifier(middle, wt=weights(CHANNELS, CHANNELS // group, 2, 2))


def normed_behind(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """BatchNormalization on [N, 8] behind `nodes` from f to h."""
    end = [*nodes, N("BatchNormalization", ["h", *NORM], ["hb"]), N("Relu", ["hb"], ["hr"])]
    end.append(N("Gemm", ["hr", "fc", "fb"], ["y"], transB=1))
    return classifier(PLAIN, end=end, fa=weights(CHANNELS, CHANNELS, seed=9), fab=weights(CHANNELS, seed=8))


def split(*outputs: str) -> onnx.ModelProto:
    middle = [N("Split", ["c", "sizes"], list(outputs), axis=1), N("Concat", ["a", "a"], ["m"], axis=1)]
    return classifier(middle, sizes=integers(4, 4))


def split_by_shape() -> onnx.ModelProto:
    middle = [
        N("Shape", ["c"], ["s"]),
        N("Gather", ["s", "one"], ["channels"], axis=0),
        N("Div", ["channels", "two"], ["half"]),
        N("Concat", ["half", "half"], ["sizes"], axis=0),
        N("Split", ["c", "sizes"], ["a", "b"], axis=1),
        N("Mul", ["a", "b"], ["ab"]),
        N("Concat", ["ab", "a"], ["m"], axis=1),
    ]
    return classifier(middle, one=integers(1), two=integers(2))


def standardized() -> onnx.ModelProto:
    """Weights standardized by a BatchNormalization in training mode, as NFNets of timm are exported."""
    middle = [
        N("Reshape", ["raw", "as_one"], ["flat"]),
        N("BatchNormalization", ["flat", *NORM], ["even", "m_", "v_"], training_mode=1, momentum=0.0),
        N("Reshape", ["even", "as_weight"], ["made"]),
        N("Conv", ["c", "made"], ["m"], pads=[1] * 4),
    ]
    sizes: dict[str, Any] = {
        "as_one": integers(1, CHANNELS, 9 * CHANNELS),
        "as_weight": integers(CHANNELS, CHANNELS, 3, 3),
    }
    return classifier(middle, raw=weights(CHANNELS, CHANNELS, 3, 3, seed=6), **sizes)


def unfolded_norm() -> onnx.ModelProto:
    """The result of the convolution is read beside its BatchNormalization, which cannot be folded then."""
    return classifier([N("BatchNormalization", ["c", *NORM], ["n1"]), N("Add", ["n1", "c"], ["m"])])


def activated_twice() -> onnx.ModelProto:
    """All that read the convolution could be fused into it, but not together."""
    return classifier(
        [
            N("BatchNormalization", ["c", *NORM], ["n1"]),
            N("Relu", ["c"], ["a"]),
            N("Clip", ["c", "zero", "six"], ["b"]),
            N("Sum", ["n1", "a", "b"], ["m"]),
        ],
        zero=np.float32(0),
        six=np.float32(6),
    )


def einsum(equation: str, *inputs: str, **constants: Any) -> onnx.ModelProto:
    return classifier([N("Einsum", list(inputs), ["m"], equation=equation)], opset=17, **constants)


def one_bias(*shape: int) -> onnx.ModelProto:
    return classifier(PLAIN, fb=np.full(shape, 0.25, np.float32))


TWO_BY_TWO: dict[str, Any] = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
MATRIX = CHANNELS * CHANNELS * ROWS
SQUARE: dict[str, Any] = {"square": weights(CHANNELS, CHANNELS, seed=1)}
KINDS: dict[str, Callable[[], Kind]] = {
    "shuffle": lambda: Kind(shuffle_unit(), inside=4 * 4 * ROWS),
    "matmul-left": lambda: Kind(on_rows(N("MatMul", ["square", "q"], ["q2"]), **SQUARE), MATRIX, "weight on the left"),
    "matmul-stack": lambda: Kind(
        classifier(
            [
                N("Reshape", ["c", "to_heads"], ["q"]),
                N("MatMul", ["q", "stack"], ["q2"]),
                N("Reshape", ["q2", "to_maps"], ["m"]),
            ],
            to_heads=integers(0, 2, 4, ROWS),
            stack=weights(2, ROWS, ROWS),
            to_maps=FLAT["to_maps"],
        ),
        inside=CHANNELS * ROWS * ROWS,
    ),
    "matmul-stack-of-one": lambda: Kind(
        on_rows(N("MatMul", ["q", "stack"], ["q2"]), stack=weights(1, ROWS, ROWS)), inside=CHANNELS * ROWS * ROWS
    ),
    "attention": lambda: Kind(attention(), 2 * MATRIX, "MatMul of two activations: 'matmul_0', 'matmul_1'"),
    "class-token": lambda: Kind(class_token(), inside=(CHANNELS + 1) * ROWS * ROWS),
    "weights-of-the-image": lambda: Kind(dynamic_convolution(), MATRIX // CHANNELS, "Conv of two activations"),
    "conv-transpose": lambda: Kind(transposed(1), CHANNELS * ROWS * 4 * CHANNELS, "ConvTranspose of weights"),
    "conv-transpose-of-groups": lambda: Kind(transposed(2), CHANNELS * ROWS * 2 * CHANNELS, "ConvTranspose of weights"),
    "norm-behind-gemm": lambda: Kind(
        normed_behind(N("Gemm", ["f", "fa", "fab"], ["h"], transB=1)), inside=CHANNELS * CHANNELS
    ),
    "norm-behind-matmul": lambda: Kind(
        normed_behind(N("MatMul", ["f", "fa"], ["h0"]), N("Add", ["h0", "fab"], ["h"])), inside=CHANNELS * CHANNELS
    ),
    "norm-unfolded": lambda: Kind(unfolded_norm()),
    "activated-twice": lambda: Kind(activated_twice()),
    "average-with-idle-dilations": lambda: Kind(
        classifier([N("AveragePool", ["c"], ["m"], **TWO_BY_TWO, dilations=[1, 1])], opset=19, ir=9)
    ),
    "conv1d": lambda: Kind(
        on_rows(N("Conv", ["q", "line"], ["q2"], pads=[1, 1]), line=weights(CHANNELS, CHANNELS, 3)), inside=3 * MATRIX
    ),
    "split-without-a-name": lambda: Kind(split("a", "")),
    "split-half-read": lambda: Kind(split("a", "b")),
    "split-by-shape": lambda: Kind(split_by_shape()),
    "bias-of-one": lambda: Kind(one_bias(1)),
    "bias-scalar": lambda: Kind(one_bias()),
    "frozen-at-four": lambda: Kind(frozen_at_four()),
    "parallel-edges": lambda: Kind(classifier([N("Mul", ["c", "c"], ["m"])])),
    "parallel-add": lambda: Kind(classifier([N("Relu", ["c"], ["a"]), N("Add", ["a", "a"], ["m"])])),
    "weight-standardized": lambda: Kind(standardized(), inside=9 * MATRIX),
    "einsum": lambda: Kind(einsum("bchw,cd->bdhw", "c", "square", **SQUARE), inside=MATRIX),
    "einsum-of-activations": lambda: Kind(
        einsum("bchw,bchv->bcwv", "c", "c"), CHANNELS * SIDE**3, "MatMul of two activations"
    ),
    "rms-normalization": lambda: Kind(
        classifier([N("RMSNormalization", ["c", "scale"], ["m"])], opset=23, ir=10, scale=1 + weights(SIDE) / 4)
    ),
    "celu": lambda: Kind(classifier([N("Celu", ["c"], ["m"])])),
    "mean-variance": lambda: Kind(classifier([N("MeanVarianceNormalization", ["c"], ["m"], axes=[1, 2, 3])])),
    "group-normalization-18": lambda: Kind(
        classifier(
            [N("GroupNormalization", ["c", "g2", "h2"], ["m"], num_groups=2)],
            opset=18,
            g2=np.array([1, 2], np.float32),
            h2=np.array([0.1, 0.2], np.float32),
        )
    ),
}


def run(model: onnx.ModelProto, images: Floats) -> Floats:
    """Logits of `images`, as many at a time as the graph takes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # it has no integer kernels with FP16 scales
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    given = session.get_inputs()[0]
    size = given.shape[0] if isinstance(given.shape[0], int) else len(images)
    parts = [images[k : k + size] for k in range(0, len(images), size)]
    return np.concatenate([session.run(None, {given.name: part})[0] for part in parts])


def signal_to_noise_db(exact: Floats, found: Floats) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum()))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, input=np.random.default_rng(5).standard_normal((8, 3, SIDE, SIDE)).astype(np.float32))
    return path


@pytest.mark.parametrize("name", KINDS)
def test_carried_through_every_precision(tmp_path: Path, archive: Path, name: str) -> None:
    kind = KINDS[name]()
    images = np.load(archive)["input"]
    source = tmp_path / "theirs.onnx"
    onnx.save(kind.model, source)
    ours = import_onnx(source, tmp_path / "ours.onnx")
    runs = onnx.ModelProto.FromString(kind.model.SerializeToString())
    for node in runs.graph.node:
        node.output[:] = [output or "unread" for output in node.output]  # ONNX Runtime's process ends at such a Split
    expected = run(runs, images)
    assert np.abs(run(onnx.load(ours), images) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert verified_sidecar(ours).facts["warnings"] == []

    half = quantize(ours, tmp_path / "half.onnx", precision="fp16")
    assert signal_to_noise_db(expected, run(onnx.load(half.path), images)) > 45
    ranges = calibrate(ours, tmp_path / "r.calib.json", data=str(archive), threads=1)
    total = PRODUCTS + kind.inside + kind.in_float
    for scheme in ("tensorrt", "ort-cpu"):
        made = quantize(
            ours, tmp_path / "int8.onnx", precision="int8", scheme=scheme, ranges=ranges, method="minmax", threads=1
        )
        assert made.report is not None
        assert made.report.int8_share_pct == pytest.approx(100 * (1 - kind.in_float / total), abs=0.006)
        assert (kind.named in " | ".join(made.report.left_out)) if kind.named else not made.report.left_out
        assert made.report.weighted_nodes == sum(
            n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for n in onnx.load(made.path).graph.node
        )
        assert signal_to_noise_db(expected, run(onnx.load(made.path), images)) > 20


def test_a_graph_that_standardizes_its_weights_is_measured_as_it_is(tmp_path: Path) -> None:
    """A BatchNormalization in training mode that no image reaches."""
    images = np.random.default_rng(8).standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)
    theirs, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    onnx.save(standardized(), theirs)
    import_onnx(theirs, ours)
    np.savez(tmp_path / "images.npz", input=images, labels=run(standardized(), images).argmax(1))
    predictions = reference(ours, tmp_path / "reference.npz", data=str(tmp_path / "images.npz"))
    assert validate(theirs, predictions, data=str(tmp_path / "images.npz")).agreement_pct == 100


@pytest.mark.parametrize("name", ["shuffle", "frozen-at-four", "class-token", "norm-unfolded"])
def test_auto_takes_it_too(tmp_path: Path, name: str) -> None:
    """16 images, the fewest that it reconstructs with."""
    images = np.random.default_rng(6).standard_normal((22, 3, SIDE, SIDE)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    model = KINDS[name]().model
    onnx.save(model, tmp_path / "theirs.onnx")
    ours = import_onnx(tmp_path / "theirs.onnx", tmp_path / "ours.onnx")
    made = quantize(
        ours, tmp_path / "int8.onnx", precision="int8", data=str(tmp_path / "images.npz"), method="auto", threads=1
    )
    assert made.report is not None
    assert len(made.report.candidates) >= 3
    assert all(row.sqnr_db > 15 for row in made.report.candidates)
    assert signal_to_noise_db(run(model, images[:20]), run(onnx.load(made.path), images[:20])) > 20


@pytest.mark.parametrize(
    "middle",
    [
        N("AveragePool", ["c"], ["m"], kernel_shape=[2, 2], dilations=[2, 2], pads=[1] * 4),
        N("Resize", ["c", "", "same"], ["m"], mode="cubic", coordinate_transformation_mode="asymmetric"),
    ],
    ids=["average-with-dilations", "cubic"],
)
def test_what_integer_kernels_lack_reads_float(tmp_path: Path, archive: Path, middle: onnx.NodeProto) -> None:
    """The Conv in front of it hands out float then, and counts as such."""
    model = classifier([middle], opset=19, ir=9, same=np.array([1, 1, 1.0001, 1], np.float32))
    onnx.save(model, tmp_path / "theirs.onnx")
    ours = import_onnx(tmp_path / "theirs.onnx", tmp_path / "ours.onnx")
    made = quantize(
        ours, tmp_path / "i.onnx", precision="int8", scheme="ort-cpu", data=str(archive), method="minmax", threads=1
    )
    assert made.report is not None
    assert (made.report.integer_kernels, made.report.weighted_nodes) == (2, 3)
    first = CHANNELS * 27 * SIDE**2
    assert made.report.int8_share_pct == pytest.approx(100 * (1 - first / PRODUCTS), abs=0.006)
    images = np.load(archive)["input"]
    assert signal_to_noise_db(run(model, images), run(onnx.load(made.path), images)) > 20


def test_a_graph_without_weights_is_refused_for_int8_alone(tmp_path: Path, archive: Path) -> None:
    """All that multiplies is ConvTranspose."""
    model = classifier(PLAIN)
    del model.graph.node[:]
    model.graph.node.extend(
        [N("ConvTranspose", ["x", "wt"], ["c"], kernel_shape=[1, 1]), N("GlobalAveragePool", ["c"], ["p"])]
    )
    model.graph.node.append(N("Flatten", ["p"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(weights(3, CLASSES, 1, 1), "wt"))
    onnx.save(model, tmp_path / "theirs.onnx")
    ours = import_onnx(tmp_path / "theirs.onnx", tmp_path / "ours.onnx")
    assert quantize(ours, tmp_path / "half.onnx", precision="fp16").sidecar.precision_obtained == "fp16"
    ranges = calibrate(ours, tmp_path / "r.calib.json", data=str(archive), threads=1)
    with pytest.raises(Exception, match="can be INT8"):
        quantize(ours, tmp_path / "int8.onnx", precision="int8", ranges=ranges, method="minmax")


def test_calibration_sees_all_rows_of_a_tensor_without_a_batch_axis(tmp_path: Path) -> None:
    """[N * positions, C], as converters write a product on maps: the largest value stands in the last image's last."""
    middle = [
        N("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        N("Reshape", ["t", "to_table"], ["q"]),
        N("MatMul", ["q", "square"], ["q2"]),
        N("Reshape", ["q2", "to_last"], ["back"]),
        N("Transpose", ["back"], ["m"], perm=[0, 3, 1, 2]),
    ]
    constants: dict[str, Any] = {
        "to_table": integers(-1, CHANNELS),
        "to_last": integers(-1, SIDE, SIDE, CHANNELS),
        **SQUARE,
    }
    onnx.save(classifier(middle, **constants), tmp_path / "theirs.onnx")
    ours = import_onnx(tmp_path / "theirs.onnx", tmp_path / "ours.onnx")
    images = np.random.default_rng(7).standard_normal((6, 3, SIDE, SIDE)).astype(np.float32)
    images[-1, :, -1, -1] = 20
    np.savez(tmp_path / "images.npz", input=images)
    from edgecnn.data.open import open_dataset
    from edgecnn.graph.calibration.collect import collect_ranges

    seen = collect_ranges(ours, open_dataset(str(tmp_path / "images.npz"), None, "train"), threads=1).tensors
    watched = onnx.load(ours)
    watched.graph.output.append(onnx.ValueInfoProto(name="q"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options)
    (table,) = session.run(["q"], {"input": images})
    assert seen["q"].largest == pytest.approx(float(np.abs(table).max()), rel=1e-3)
    assert seen["q"].images == 6
    assert CONSTANTS["w1"].shape[0] == table.shape[1]
