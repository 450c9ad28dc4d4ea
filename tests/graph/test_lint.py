"""What a target refuses is found before the target sees it; what it takes is not complained of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.lint import PARSED, lint, require_clean
from edgecnn.machine.cpu import int8_guard
from edgecnn.targets import Target
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

ORIN = Target(
    name="orin-nx-16gb", kind="gpu", backend="trt", description="", source="", tensorrt_min="10.3", tensorrt_max="10.16"
)
CPU = Target(name="cpu", kind="cpu", backend="ort", description="", source="")

PLAIN = """
    c0 = Conv(input, out=8, k=3)
    r0 = Relu(c0)
    p0 = MaxPool(r0, kernel_shape=[2, 2], strides=[2, 2])
    f = Flatten(p0)
    logits = Gemm(f, rows=128)
"""


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def replace(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    initializer(model, name).CopyFrom(numpy_helper.from_array(array, name))


def quantised() -> onnx.ModelProto:
    """PLAIN with legal pairs on both inputs of its Conv and its Gemm."""
    model = build(PLAIN)
    graph = model.graph
    nodes = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            source, weight = node.input[0], node.input[1]
            array = numpy_helper.to_array(initializer(model, weight))
            step = np.abs(array).reshape(len(array), -1).max(axis=1).astype(np.float32) / 127
            codes = np.rint(array / step.reshape(-1, *[1] * (array.ndim - 1))).astype(np.int8)
            graph.initializer.remove(initializer(model, weight))
            made = {"s": np.float32(0.03), "z": np.int8(0), "w8": codes, "ws": step, "wz": np.zeros(len(step), np.int8)}
            n = node.name.split("/")[0]
            graph.initializer.extend(numpy_helper.from_array(v, f"{n}.{k}") for k, v in made.items())
            nodes += [
                helper.make_node("QuantizeLinear", [source, f"{n}.s", f"{n}.z"], [f"{n}.q"], f"{n}.Q"),
                helper.make_node("DequantizeLinear", [f"{n}.q", f"{n}.s", f"{n}.z"], [f"{n}.dq"], f"{n}.DQ"),
                helper.make_node("DequantizeLinear", [f"{n}.w8", f"{n}.ws", f"{n}.wz"], [f"{n}.w"], f"{n}.WDQ", axis=0),
            ]
            node.input[0], node.input[1] = f"{n}.dq", f"{n}.w"
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("tensorrt", ["10.3", "10.13.3", "11.4"])
@pytest.mark.parametrize("make", [lambda: build(PLAIN), quantised, lambda: to_fp16(quantised())[0]])
def test_legal_graphs_are_clean(make: Callable[[], onnx.ModelProto], tensorrt: str) -> None:
    assert lint(make(), ORIN, tensorrt) == []
    assert require_clean(make(), ORIN) == []


def unsigned(model: onnx.ModelProto) -> None:
    replace(model, "c0.z", np.uint8(0))


def asymmetric(model: onnx.ModelProto) -> None:
    replace(model, "c0.z", np.int8(3))


def negative_scale(model: onnx.ModelProto) -> None:
    steps = numpy_helper.to_array(initializer(model, "c0.ws")).copy()
    steps[2] = 0
    replace(model, "c0.ws", steps)


def computed_scale(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["c0.s"], ["c0.s2"], "c0.abs"))
    for node in model.graph.node:
        if node.name in ("c0.Q", "c0.DQ"):
            node.input[1] = "c0.s2"


def no_zero_point(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "c0.Q")
    del node.input[2]


def activation_per_channel(model: onnx.ModelProto) -> None:
    for name, dtype in (("c0.s", np.float32), ("c0.z", np.int8)):
        replace(model, name, np.full(4, 0.1 if dtype is np.float32 else 0, dtype))


def wrong_axis(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "logits.WDQ")
    node.attribute[0].i = 1
    replace(model, "logits.ws", np.full(128, 0.1, np.float32))
    replace(model, "logits.wz", np.zeros(128, np.int8))


def half_a_pair(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Conv").input[0] = "input"


def integer_bias(model: onnx.ModelProto) -> None:
    replace(model, "c0.bias", np.zeros(8, np.int32))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "c0.bs"))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    conv.input[2] = "c0.b"
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["c0.bias", "c0.bs"], ["c0.b"], "c0.BDQ"))


def frozen_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def free_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"


def baked_batch(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Flatten")
    node.op_type = "Reshape"
    node.input.append("to")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 128], np.int64), "to"))


def high_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def custom(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Relu").domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def integer_operator(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "NonZero"


def nan_weight(model: onnx.ModelProto) -> None:
    replace(model, "c0.bias", np.array([0, np.nan] * 4, np.float32))


def double(model: onnx.ModelProto) -> None:
    replace(model, "c0.bias", np.zeros(8, np.float64))


def dilated_pool(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "MaxPool").attribute.append(
        helper.make_attribute("dilations", [2, 1])
    )


FAULTS: list[tuple[Callable[[onnx.ModelProto], None], str, str]] = [
    (unsigned, "c0.Q", "uint8 instead of int8"),
    (asymmetric, "c0.DQ", "its zero point is not 0"),
    (negative_scale, "c0.WDQ", "not positive throughout"),
    (computed_scale, "c0.Q", "'c0.s2' is not a constant"),
    (no_zero_point, "c0.Q", "no zero point, which means uint8"),
    (activation_per_channel, "c0.Q", "a scale per channel on an activation"),
    (wrong_axis, "logits.WDQ", "scales along axis 1, not 0"),
    (half_a_pair, "c0/Conv", "a pair is missing on its activation"),
    (integer_bias, "c0.BDQ", "int32 instead of int8"),
    (free_height, "input", "its axis 2 is not fixed"),
    (baked_batch, "f/Flatten", "a batch of 2 is baked into this Reshape"),
    (high_opset, "graph", "opset 21; the parser of TensorRT 10.3 reads 9 to 20"),
    (custom, "r0/Relu", "com.example.Relu is no standard operator"),
    (integer_operator, "r0/Relu", "NonZero is not among the operators"),
    (nan_weight, "c0.bias", "4 values are NaN or infinite"),
    (double, "c0.bias", "float64"),
    (dilated_pool, "p0/MaxPool", "pooling with dilations"),
]


@pytest.mark.parametrize(("damage", "where", "what"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_every_fault_is_named(damage: Callable[[onnx.ModelProto], None], where: str, what: str) -> None:
    model = quantised()
    damage(model)
    found = lint(model, ORIN, "10.3")
    assert any(f.severity == "error" and f.where == where and what in f.what for f in found), found
    assert all(f.hint for f in found)
    with pytest.raises(GraphError, match="orin-nx-16gb would refuse this graph"):
        require_clean(model, ORIN)


def test_a_frozen_batch_is_served_as_it_is() -> None:
    model = quantised()
    frozen_batch(model)
    found = [f for f in lint(model, ORIN, "10.3") if f.where == "input"]
    assert [f.severity for f in found] == ["warning"]
    assert "its batch is frozen to 1: an engine of it serves 1 at a time" in found[0].what
    require_clean(model, ORIN)


def test_the_ceiling_is_that_of_the_version_named() -> None:
    model = build(PLAIN)
    model.opset_import[0].version = 21
    assert [f.where for f in lint(model, ORIN, "10.3")] == ["graph"]
    assert lint(model, ORIN, "10.9") == lint(model, ORIN, "10.16.1") == lint(model, ORIN, "11.4.0") == []
    model.opset_import[0].version = 8
    assert "reads 9 to" in lint(model, ORIN, "11.4")[0].what


def test_fp16_scales_need_their_opset() -> None:
    model, _ = to_fp16(quantised())
    model.opset_import[0].version = 17
    assert any("an FP16 scale at opset 17" in f.what for f in lint(model, ORIN))


def test_a_mixture_of_types_does_not_pass() -> None:
    model = build(PLAIN)
    replace(model, "c0.bias", np.zeros(8, np.float16))
    assert any("its types or shapes do not fit" in f.what for f in lint(model, ORIN))


def test_a_target_without_int8_or_fp16_says_so() -> None:
    old = Target(name="maxwell", kind="gpu", backend="trt", description="", source="", int8=False, fp16=False)
    assert [f.what for f in lint(quantised(), old)] == ["maxwell has no INT8"]
    assert [f.what for f in lint(to_fp16(build(PLAIN))[0], old)] == ["maxwell has no fast FP16"]


def test_control_flow_is_a_finding_not_a_crash() -> None:
    model = build(PLAIN)
    body = helper.make_graph([], "body", [], [])
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["d"], "branch", then_branch=body, else_branch=body))
    assert [f.where for f in lint(model, ORIN)] == ["graph"]


def test_the_cpu_has_its_own_rules() -> None:
    model = quantised()
    assert lint(model, CPU) == []
    asymmetric(model)
    assert lint(model, CPU) == []
    unsigned(model)
    for node in model.graph.node:
        if node.name == "c0.DQ":
            node.input[2] = "c0.z"
    found = lint(model, CPU)
    assert [f.severity for f in found] == ["warning"]
    assert "uint8 (c0.Q) and int8 (logits.Q)" in found[0].what
    custom(model)
    assert any("ONNX Runtime does not load it" in f.what for f in lint(model, CPU))


def test_the_list_of_operators_is_of_standard_ones() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert known >= PARSED
    assert len(PARSED) > 80


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse4_2 avx2 avx512f {}\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes {}\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "machine", "says"),
    [
        (X86.format("avx512_vnni"), "x86_64", None),
        (X86.format("avx_vnni"), "x86_64", None),
        (X86.format("amx_int8 amx_tile"), "AMD64", None),
        (X86.format(""), "x86_64", "no VNNI"),
        (X86.format("avx512_vnni_lookalike"), "x86_64", "no VNNI"),
        (ARM.format("asimddp"), "aarch64", None),
        (ARM.format("i8mm"), "arm64", None),
        (ARM.format("crc32"), "aarch64", "not fast"),
        ("model name : avx512_vnni\nflags : sse2\n", "x86_64", "no VNNI"),
        ("", "x86_64", "no VNNI"),
        ("", "riscv64", "riscv64"),
    ],
)
def test_the_cpu_guard(text: str, machine: str, says: str | None) -> None:
    said = int8_guard(text, machine)
    assert (said is None) if says is None else (said is not None and says in said)


def test_the_guard_reads_this_machine() -> None:
    said = int8_guard()
    assert said is None or "INT8" in said
