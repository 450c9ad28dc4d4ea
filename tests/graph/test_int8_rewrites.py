"""Every rewrite on the way to INT8 or FP16 leaves what a graph computes alone, whatever the attributes of its nodes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecnn.data.dataset import Dataset
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.candidates import give_own_constants, insert_candidate, round_candidate
from edgecnn.graph.ptq.channel_ties import tie_channels
from edgecnn.graph.ptq.equalization import scale_channels
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.ptq.zero_point_folding import find_rectified
from edgecnn.graph.qdq.insert import insert_qdq
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.noise import dataset_of

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

SIZE, CHANNELS = 8, 4


def graph(text: str, opset: int = 19) -> onnx.ModelProto:
    """Lines `OUT = Op(IN, ..., key=value)` from `input` [batch, 4, 8, 8] to the last line's output.

    An input `w[..]` is a new random constant of that shape, `f[..]` and `i[..]` are vectors of floats and integers,
    `f(..)` is a scalar, `-` is left out; `w.name[..]` can be named again as `name`.
    """
    rng, nodes, held = np.random.default_rng(5), [], []
    for number, line in enumerate(part.strip() for part in text.strip().splitlines()):
        out, op, arguments = re.fullmatch(r"(\S+) = (\w+)\((.*)\)", line).groups()  # type: ignore[union-attr]
        names, attributes = [], {}
        for k, part in enumerate(re.findall(r"[^,\[(]+(?:[\[(][^\])]*[\])])?", arguments)):
            if "=" in part:
                key, value = part.strip().split("=")
                attributes[key] = eval(value, {})  # noqa: S307
                continue
            kind, name, shape = re.fullmatch(r"([wfi])?(?:\.(\w+))?([\[(].*)|.*", part.strip()).groups()  # type: ignore
            if shape is None:
                names.append("" if part.strip() == "-" else part.strip())
                continue
            name = name or f"constant{number}_{k}"
            values = [float(v) for v in shape[1:-1].split(",") if v]
            if kind == "w":
                spread = (2 / max(1.0, np.prod(values[1:]))) ** 0.5
                array = rng.normal(0, spread, [int(v) for v in values]).astype(np.float32)
            else:
                array = np.array(values, np.float32 if kind == "f" else np.int64)
                array = array.reshape(()) if shape[0] == "(" else array
            held.append(numpy_helper.from_array(array, name))
            names.append(name)
        nodes.append(helper.make_node(op, names, out.split(";"), f"{out}/{op}", **attributes))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", CHANNELS, SIZE, SIZE])
    made = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    whole = helper.make_graph(nodes, "small", [given], [made], held)
    return helper.make_model(whole, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def pictures(count: int = 24, seed: int = 3) -> Dataset:
    values = np.random.default_rng(seed).normal(0, 1, (count, CHANNELS, SIZE, SIZE)).astype(np.float32)
    return dataset_of(values)


def run(model: onnx.ModelProto, data: Dataset) -> np.ndarray:
    """As the operators are specified: nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    batch = np.stack([data.tensor(i) for i in range(len(data))])
    return np.asarray(session.run(None, {"input": batch})[0])


def sqnr_db(exact: np.ndarray, made: np.ndarray) -> float:
    assert exact.shape == made.shape
    return float(10 * np.log10(np.square(exact).sum() / max(np.square(exact - made).sum(), 1e-30)))


END = "\ng = GlobalAveragePool(last)\nlogits = Flatten(g)"
# What reads the rectified tensor `r` [8 channels], and whether the offset of `r` can be taken out of it.
READERS = {
    "1x1": ("last = Conv(r, w[6,8,1,1], w[6])", True),
    "no bias": ("last = Conv(r, w[6,8,1,1])", True),
    "3x3": ("last = Conv(r, w[6,8,3,3], w[6])", True),
    "padded": ("last = Conv(r, w[6,8,3,3], w[6], pads=[1;1;1;1])", False),
    "padded on one side": ("last = Conv(r, w[6,8,2,2], w[6], pads=[0;1;0;0])", False),
    "VALID": ("last = Conv(r, w[6,8,3,3], w[6], auto_pad='VALID')", True),
    "SAME_UPPER": ("last = Conv(r, w[6,8,2,2], w[6], auto_pad='SAME_UPPER')", False),
    "SAME_LOWER": ("last = Conv(r, w[6,8,2,2], w[6], auto_pad='SAME_LOWER')", False),
    "SAME that pads nothing": ("last = Conv(r, w[6,8,2,2], w[6], auto_pad='SAME_UPPER', strides=[2;2])", True),
    "SAME 1x1": ("last = Conv(r, w[6,8,1,1], w[6], auto_pad='SAME_UPPER')", True),
    "strides": ("last = Conv(r, w[6,8,3,3], w[6], strides=[2;1])", True),
    "dilations": ("last = Conv(r, w[6,8,3,2], w[6], dilations=[2;3])", True),
    "groups": ("last = Conv(r, w[6,4,3,3], w[6], group=2)", True),
    "depthwise": ("last = Conv(r, w[8,1,3,3], w[8], group=8)", True),
    "shared": ("q = Conv(r, w.W[8,8,1,1], w.B[8])\nq2 = Sigmoid(q)\nlast = Conv(q2, W, B)", True),
    "two readers": ("a = Conv(r, w[6,8,1,1], w[6])\nb = Conv(r, w[6,8,1,1], w[6])\nlast = Add(a, b)", True),
    "pooled": (
        "a = Conv(r, w[6,8,1,1], w[6])\nm = MaxPool(r, kernel_shape=[2;2], pads=[1;1;0;0])\n"
        "b = Conv(m, w[6,8,1,1], w[6])\nlast = Add(a, b)",
        True,
    ),
    "averaged": ("m = AveragePool(r, kernel_shape=[2;2])\nlast = Conv(m, w[6,8,1,1], w[6])", False),
}
# What makes `r` of `c`, and whether it ends at 0.
ACTIVATIONS = {
    "Relu": ("r = Relu(c)", True),
    "Relu6": ("r = Clip(c, f(0), f(1.5))", True),
    "no upper bound": ("r = Clip(c, f(0))", True),
    "no lower bound": ("r = Clip(c, -, f(1.5))", False),
    "no bounds": ("r = Clip(c)", False),
    "from above 0": ("r = Clip(c, f(0.5), f(2))", False),
    "from below 0": ("r = Clip(c, f(-1), f(2))", False),
    "up to 0": ("r = Clip(c, f(-1), f(0))", False),
    "Relu, then from above 0": ("q = Relu(c)\nr = Clip(q, f(0.5), f(2))", False),
    "Relu, then from below 0": ("q = Relu(c)\nr = Clip(q, f(-1), f(2))", True),
    "from below 0, then Relu": ("q = Clip(c, f(-1), f(1.5))\nr = Relu(q)", True),
    "no lower bound, then Relu": ("q = Clip(c, -, f(1.5))\nr = Relu(q)", True),
    "from above 0, then Relu": ("q = Clip(c, f(0.5))\nr = Relu(q)", False),
    "LeakyRelu": ("r = LeakyRelu(c, alpha=0.1)", False),
    "HardSigmoid": ("r = HardSigmoid(c, alpha=0.1, beta=0.3)", False),
}
GEMMS = {
    "transB": "last = Gemm({}, w[6,8], w[6], transB=1)",
    "plain": "last = Gemm({}, w[8,6], w[6])",
    "alpha": "last = Gemm({}, w[6,8], w[6], transB=1, alpha=0.25)",
    "beta": "last = Gemm({}, w[6,8], w[6], transB=1, beta=3.0)",
    "alpha and beta": "last = Gemm({}, w[8,6], w[6], alpha=-2.0, beta=0.1)",
    "beta 0": "last = Gemm({}, w[8,6], w[6], beta=0.0)",
    "no C": "last = Gemm({}, w[8,6])",
    "no C, alpha and beta": "last = Gemm({}, w[8,6], alpha=0.5, beta=2.0)",
    "C of [1]": "last = Gemm({}, w[6,8], f[0.7], transB=1, beta=2.0)",
    "C of []": "last = Gemm({}, w[6,8], f(0.7), transB=1, alpha=2.0)",
    "C of [1, N]": "last = Gemm({}, w[6,8], w[1,6], transB=1, beta=0.5)",
    "C of [1, 1]": "last = Gemm({}, w[6,8], w[1,1], transB=1)",
    "C computed": "d = Gemm({0}, w[8,6])\nlast = Gemm({0}, w[8,6], d, alpha=0.5, beta=3.0)",
    "shared": "d = Gemm({}, w.W[8,8], w.B[8], alpha=0.5)\nd2 = Sigmoid(d)\nlast = Gemm(d2, W, B, beta=2.0)",
    "transA": "t = Transpose({}, perm=[1;0])\nlast = Gemm(t, w[8,6], w[6], transA=1, alpha=0.5)",
    "MatMul and Add": "d = MatMul({}, w[8,6])\nlast = Add(d, w[6])",
}


def conv_net(activation: str, reader: str) -> str:
    return f"c = Conv(input, w[8,4,1,1], w[8])\n{activation}\n{reader}{END}".replace(";", ",")


def gemm_net(first: str, second: str) -> str:
    """Two Gemms, the form `first` before a Relu and `second` behind it."""
    renamed = {"last": "c", "W": "V", "B": "A", "d": "e", "d2": "e2", "t": "u"}
    made = re.sub(r"\b(last|W|B|d|d2|t)\b", lambda found: renamed[found[0]], first.format("v"))
    made = re.sub(r"w\[[\d,]+\]", lambda found: found[0].replace("6", "8"), made)
    head = f"p = Conv(input, w[8,4,1,1], w[8])\nh = GlobalAveragePool(p)\nv = Flatten(h)\n{made}\nr = Relu(c)\n"
    return (head + second.format("r") + "\nlogits = Identity(last)").replace(";", ",")


def check_folding(model: onnx.ModelProto) -> bool:
    """Offsets folded away give what zero points give, within one step of the tensor; whether `r` has one."""
    ready = give_own_constants(simplify_graph(model))
    data, unseen = pictures(), pictures(seed=4)
    assert sqnr_db(run(model, unseen), run(ready, unseen)) > 100
    placement = place(ready, "tensorrt")
    candidate = round_candidate(
        ready, placement, collect_from_model(ready, "", data).tensors, "minmax", False, offsets=True
    )
    direct = run(insert_qdq(ready, placement, candidate.scales, candidate.weights), unseen)
    folded = run(insert_candidate(candidate, placement), unseen)
    with_offset = [q for q in placement.activations if candidate.scales[q.scale_group].zero_point]
    index = OnnxGraph(ready)
    step = 1e-5
    for quantized in with_offset:
        for edge in quantized.edges:
            if (node := index.node[edge.node]).op_type in ("Conv", "Gemm"):
                weight = np.abs(candidate.weights[node.input[1]].dequantize())
                step += candidate.scales[quantized.scale_group].scale * float(weight.max())
    assert np.abs(direct - folded).max() <= step
    assert sqnr_db(run(model, unseen), folded) > 20
    return any(q.tensor == "r" for q in with_offset)


@pytest.mark.parametrize("name", READERS)
def test_offsets_are_taken_out_of_every_form_of_convolution(name: str) -> None:
    reader, possible = READERS[name]
    assert check_folding(graph(conv_net("r = Relu(c)", reader))) == possible


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("opset", [11, 19])
def test_only_what_ends_at_zero_is_a_relu(name: str, opset: int) -> None:
    activation, possible = ACTIVATIONS[name]
    assert check_folding(graph(conv_net(activation, READERS["1x1"][0]), opset)) == possible


@pytest.mark.parametrize("second", GEMMS)
@pytest.mark.parametrize("first", ["transB", "alpha", "beta", "no C", "C of [1]", "C computed", "shared", "transA"])
def test_offsets_pass_every_form_of_gemm(first: str, second: str) -> None:
    check_folding(graph(gemm_net(GEMMS[first], GEMMS[second])))


def test_tensors_of_one_scale_with_different_bounds_keep_theirs() -> None:
    """The scale reaches to the larger bound: its saturation is not the clipping of the smaller one."""
    text = "a = Conv(input, w[4,4,1,1], w[4])\nra = Clip(a, f(0), f(0.5))\nb = Conv(input, w[4,4,1,1], w[4])\n"
    text += "rb = Relu(b)\nr = Concat(ra, rb, axis=1)\nlast = Conv(r, w[6,8,1,1], w[6])" + END
    check_folding(graph(text))


def test_a_clip_with_computed_bounds_is_no_relu() -> None:
    text = "low = ReduceMax(input, keepdims=0)\nc = Conv(input, w[8,4,1,1], w[8])\nr = Clip(c, low)"
    model = simplify_graph(graph(f"{text}\nlast = Conv(r, w[6,8,1,1], w[6]){END}"))
    assert find_rectified(OnnxGraph(model), "r") is None


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
@pytest.mark.parametrize("method", ["mse", "auto"])
@pytest.mark.parametrize("form", GEMMS)
def test_every_form_of_gemm_is_quantised_as_what_it_is(form: str, method: str, scheme: str) -> None:
    model = graph(gemm_net(GEMMS["alpha and beta"], GEMMS[form]))
    ranges, unseen = collect_from_model(simplify_graph(model), "", pictures(48)), pictures(seed=4)
    made = quantize_int8(model, ranges, scheme, method=method, around="fp32", data=pictures(48)).model  # type: ignore[arg-type]
    assert sqnr_db(run(model, unseen), run(made, unseen)) > 25


RECONSTRUCTED = {
    **{name: conv_net("r = Relu(c)", READERS[name][0]) for name in READERS},
    "channels last": "t = Transpose(input, perm=[0,2,3,1])\nc = MatMul(t, w[4,8])\nr = Relu(c)\nd = MatMul(r, w[8,6])\n"
    "last = Transpose(d, perm=[0,3,1,2])" + END,
    "one axis": "t = Reshape(input, i[0,4,64])\nc = Conv(t, w[8,4,3], w[8], pads=[1,1])\nr = Relu(c)\n"
    "last = Conv(r, w[6,8,5], w[6], strides=[2], auto_pad='SAME_UPPER')" + END,
    "three axes": "t = Reshape(input, i[0,4,4,4,4])\nc = Conv(t, w[8,4,3,3,3], w[8])\nr = Relu(c)\n"
    "last = Conv(r, w[6,8,1,1,1], w[6])" + END,
    "a stack of matrices": "c = MatMul(input, w[4,8,8])\nr = Relu(c)\nlast = Conv(r, w[6,4,1,1], w[6])" + END,
}


@pytest.mark.parametrize("form", RECONSTRUCTED)
def test_auto_makes_up_for_every_form_of_layer(form: str) -> None:
    model, unseen = graph(RECONSTRUCTED[form]), pictures(seed=4)
    ranges = collect_from_model(simplify_graph(model), "", pictures(64))
    quantized = quantize_int8(model, ranges, "tensorrt", around="fp32", data=pictures(64))
    made, report = quantized.model, quantized.report
    reached = sqnr_db(run(model, unseen), run(made, unseen))
    assert reached > 27
    assert {s.name for s in report.candidates} >= {"least squared error", "with offsets"}
    assert min(s.sqnr_db for s in report.candidates) > 15


def test_padding_by_unknown_sizes_is_refused_before_the_work() -> None:
    text = "s = ReduceMax(input, keepdims=0)\nn = Cast(s, to=7)\nz = Max(n, i(0))\nu = Add(z, i(4))\n"
    text += "e = Unsqueeze(u, i[0])\n"
    text += "k = Slice(input, i[0], e, i[2])\nc = Conv(k, w[8,4,3,3], w[8], auto_pad='SAME_UPPER', strides=[2,2])\n"
    model = graph(f"{text}r = Relu(c)\nlast = Conv(r, w[6,8,3,3], w[6], auto_pad='SAME_UPPER', strides=[2,2]){END}")
    ranges = collect_from_model(simplify_graph(model), "", pictures())
    with pytest.raises(GraphError, match="shapes around this Conv cannot be inferred"):
        quantize_int8(model, ranges, "tensorrt", data=pictures())


# What stands between two convolutions: `a` [8 channels] in, `b` out, and the columns of the second convolution.
BETWEEN = {
    "Relu": ("b = Relu(a)", 8),
    "PRelu": ("b = PRelu(a, w[8,1,1])", 8),
    "LeakyRelu": ("b = LeakyRelu(a, alpha=-0.5)", 8),
    "HardSwish": ("b = HardSwish(a)", 8),
    "HardSigmoid": ("b = HardSigmoid(a, alpha=0.3, beta=0.4)", 8),
    "Elu": ("b = Elu(a)", 8),
    "Clip from above 0": ("b = Clip(a, f(0.2))", 8),
    "Clip up to 0": ("b = Clip(a, -, f(0))", 8),
    "Clip at 0 alone": ("b = Clip(a, f(0))", 8),
    "Clip without bounds": ("b = Clip(a)", 8),
    "LRN": ("b = LRN(a, size=3, alpha=0.5, beta=0.75)", 8),
    "InstanceNormalization": ("b = InstanceNormalization(a, w[8], w[8], epsilon=0.1)", 8),
    "BatchNormalization": (
        "q = Relu(a)\n"
        "b = BatchNormalization(q, w[8], w[8], w[8], f[1,2,.1,.2,3,4,5,6], epsilon=0.5)", 8),
    "average over padding": ("b = AveragePool(a, kernel_shape=[3;3], pads=[1;1;1;1], count_include_pad=1)", 8),
    "average without padding": ("b = AveragePool(a, kernel_shape=[3;3], pads=[1;1;1;1], count_include_pad=0)", 8),
    "ceil_mode": ("b = MaxPool(a, kernel_shape=[3;3], strides=[2;2], ceil_mode=1)", 8),
    "pool of five axes": ("p = Reshape(a, i[0,2,4,8,8])\nq = GlobalAveragePool(p)\nb = Reshape(q, i[0,2,1,1])", 2),
    "normalised over five axes": (
        "p = Reshape(a, i[0,2,4,8,8])\nq = BatchNormalization(p, w[2], w[2], w[2], f[1,2])\n"
        "b = Reshape(q, i[0,8,8,8])", 8),
    "Pad": ("b = Pad(a, i[0,1,1,0,0,2,0,1])", 11),
    "Pad with 3": ("b = Pad(a, i[0,0,1,1,0,0,1,1], f(3))", 8),
    "Pad by reflection": ("b = Pad(a, i[0,0,1,1,0,0,1,1], mode='reflect')", 8),
    "Resize": ("b = Resize(a, -, f[1,1,2,2], mode='linear')", 8),
    "Concat": ("q = Relu(a)\nb = Concat(a, q, axis=1)", 16),
    "Concat behind": ("q = Relu(a)\nb = Concat(a, q, axis=-1)", 8),
    "Concat of the batch": ("q = Relu(a)\nb2 = Concat(a, q, axis=0)\nb;b3 = Split(b2, axis=0, num_outputs=2)", 8),
    "Split": ("b;b2 = Split(a, i[3,5], axis=1)", 3),
    "Slice backwards": ("b = Slice(a, i[-1], i[-8], i[1], i[-2])", 4),
    "Slice from behind": ("b = Slice(a, i[2], i[-1], i[-3])", 5),
    "Transpose": ("b = Transpose(a, perm=[0;1;3;2])", 8),
    "Transpose of channels": ("b = Transpose(a, perm=[0;2;1;3])", 8),
    "Transpose of the batch": ("p = Transpose(a, perm=[1;0;2;3])\nq = Relu(p)\nb = Transpose(q, perm=[1;0;2;3])", 8),
    "Transpose without perm": ("p = Transpose(a)\nb = Transpose(p)", 8),
    "Flatten 2": ("p = Flatten(a, axis=2)\nq = MatMul(p, w[64,64])\nb = Reshape(q, i[-1,8,8,8])", 8),
    "Flatten 3": ("p = Flatten(a, axis=3)\nq = Gemm(p, w[8,8], w[8])\nb = Reshape(q, i[-1,8,8,8])", 8),
    "Reshape into the batch": (
        "p = Reshape(a, i[-1,64])\nq = Gemm(p, w[64,64], w[64])\n"
        "b = Reshape(q, i[-1,8,8,8])", 8),
    "Reshape with allowzero": ("p = Reshape(a, i[-1,8,64], allowzero=1)\nb = Reshape(p, i[0,0,8,8])", 8),
    "mean over columns": ("p = ReduceMean(a, i[2,3])\nb = Mul(p, a)", 8),
    "mean of channels": (
        "p = ReduceMean(a, i[1,2], keepdims=0)\nq = Gemm(p, w[8,8], w[8])\n"
        "b = Reshape(q, i[0,8,1,1])", 8),
    "mean of [N, C, L]": ("p = Reshape(a, i[0,8,64])\nq = ReduceMean(p, i[-2])\nb = Reshape(q, i[0,1,8,8])", 1),
    "mean behind": (
        "p = ReduceMean(a, i[-1,-2], keepdims=0)\nq = Gemm(p, w[8,8], w[8])\n"
        "b = Reshape(q, i[0,8,1,1])", 8),
    "sum of unequal ranks": (
        "p = GlobalAveragePool(input)\nq = Conv(p, w[8,4,1,1])\nf = ReduceMean(q, i[0])\n"
        "s = Reshape(f, i[1,8])\nb = Add(a, s)", 8),
    "sum of channels and columns": (
        "p = ReduceMax(input, i[2,3])\nq = Conv(p, w[8,4,1,1], w[8])\nm = ReduceMean(q, i[0])\nf = Reshape(m, i[1,8])\n"
        "r2 = Relu(f)\nb = Add(a, r2)", 8),
    "product": ("q = Sigmoid(a)\nb = Mul(a, q)", 8),
    "square": ("b = Mul(a, a)", 8),
    "times a negative constant": ("p = Relu(a)\nq = Mul(p, f(-2))\nb = LeakyRelu(q, alpha=0.5)", 8),
    "times a constant per channel": ("p = Relu(a)\nb = Mul(p, w[8,1,1])", 8),
    "plus a constant": ("p = Relu(a)\nq = Add(p, f(-0.5))\nb = Relu(q)", 8),
    "difference": ("q = Relu(a)\nb = Sub(a, q)", 8),
    "largest": ("b = Max(a, f(0.3))", 8),
    "power": ("q = Abs(a)\nb = Pow(q, f(2))", 8),
    "Softmax": ("b = Softmax(a, axis=1)", 8),
    "DepthToSpace": ("b = DepthToSpace(a, blocksize=2)", 2),
    "Gather": ("b = Gather(a, i[3,1,0], axis=1)", 3),
    "Expand": ("p = GlobalAveragePool(a)\nb = Expand(p, i[1,8,3,3])", 8),
    "ConvTranspose": ("b = ConvTranspose(a, w[8,8,2,2], w[8])", 8),
}  # fmt: skip


def between(name: str) -> onnx.ModelProto:
    middle, columns = BETWEEN[name]
    text = f"a = Conv(input, w[8,4,1,1], w[8])\n{middle}\nlast = Conv(b, w[6,{columns},1,1], w[6]){END}"
    return graph("\n".join(re.sub(r"(?<=\d);(?=\d)", ",", line) for line in text.splitlines()))


@pytest.mark.parametrize("name", BETWEEN)
def test_channels_are_scaled_only_where_nothing_notices(name: str) -> None:
    """Every channel that is free gets a factor of its own, not only those that a placement would ask for."""
    model, data = between(name), pictures(8)
    ready = give_own_constants(simplify_graph(model))
    assert sqnr_db(run(model, data), run(ready, data)) > 90
    index = OnnxGraph(ready)
    channels = tie_channels(index)
    rng = np.random.default_rng(1)
    free = {channels.root(i) for i in range(len(channels.parent))} - channels.pinned_roots()
    made = scale_channels(ready, index, channels, {root: float(rng.uniform(0.1, 1)) for root in sorted(free)})
    assert sqnr_db(run(model, data), run(made, data)) > 90


def test_scaling_is_not_merely_refused() -> None:
    scalable = ("Relu", "LeakyRelu", "Clip at 0 alone", "Concat", "Split", "Transpose", "mean behind", "Pad")
    for name in scalable:
        channels = tie_channels(OnnxGraph(give_own_constants(simplify_graph(between(name)))))
        assert set(channels.roots("a")) - channels.pinned_roots(), name


@pytest.mark.parametrize("name", BETWEEN)
def test_fp16_and_int8_compute_what_the_float_graph_does(name: str) -> None:
    model, unseen = between(name), pictures(seed=4)
    ranges = collect_from_model(simplify_graph(model), "", pictures())
    exact = run(model, unseen)
    half, _ = to_fp16(model, ranges)
    assert sqnr_db(exact, run_simplified(half, unseen)) > 40
    for scheme in ("tensorrt", "ort-cpu"):
        made = quantize_int8(model, ranges, scheme, method="auto", around="fp32").model  # type: ignore[arg-type]
        assert sqnr_db(exact, run(made, unseen)) > 18, scheme


def run_simplified(model: onnx.ModelProto, data: Dataset) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": np.stack([data.tensor(i) for i in range(len(data))])})[0])


@pytest.mark.parametrize("rank", [2, 3])
def test_a_batch_normalisation_of_any_rank_stays_itself_in_fp16(rank: int, tmp_path: Path) -> None:
    shape = "i[-1,8]" if rank == 2 else "i[0,8,1]"
    text = f"a = Conv(input, w[8,4,8,8], w[8])\nr = Relu(a)\nq = Reshape(r, {shape})\nq2 = Sigmoid(q)\n"
    text += "n = BatchNormalization(q2, w[8], w[8], w[8], f[1,2,3,4,5,6,7,8])\nlogits = Reshape(n, i[-1,8])"
    model, data = graph(text), pictures(8)
    assert sqnr_db(run(model, data), run_simplified(to_fp16(model)[0], data)) > 50
