"""FP16 graphs under ONNX Runtime's CPU provider: every FP16 tensor is rounded, as `onnx.reference` does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgecnn.backends import open_engine
from edgecnn.backends._half import rounded_to_fp16
from edgecnn.diagnose.stages import first_parting
from edgecnn.errors import BackendError
from edgecnn.gate.judge import judge
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.recipe.schema import Tolerances
from edgecnn.records import record_from_mapping
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.engine import EngineInfo
from edgecnn.results.report import Measurement
from tests.cli.conftest import edgecnn  # noqa: F401
from tests.fakes.graphs import build
from tests.fakes.noise import NET
from tests.fakes.noise import images as noise

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

# Without sums over many values: what is rounded is the same everywhere, bit for bit.
CHAINS = {
    "products": "a = Mul(input, by=3.1)\nb = Mul(a, by=0.7)\nc = Add(b, by=0.01)\nlogits = Mul(c, by=1.3)",
    "overflow": "a = Mul(input, by=40000.0)\nlogits = Mul(a, by=0.001)",
    "underflow": "a = Mul(input, by=1e-4)\nb = Mul(a, by=1e-3)\nlogits = Mul(b, by=10000.0)",
    "rounding waits": "a = Mul(input, by=0.3)\nb = Relu(a)\nc = Mul(b, by=0.7)\nd = Clip(c)\nlogits = Mul(d, by=1.7)",
    "branches": """
        a = Mul(input, by=1.7)
        b = Relu(a)
        c = Add(a, b)
        d = Concat(b, c, axis=1)
        e = MaxPool(d, kernel_shape=[2, 2])
        logits = Mul(e, by=0.9)
    """,
}


def images(n: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (n, 4, 8, 8)).astype(np.float32)


def run(model: onnx.ModelProto, batch: np.ndarray, level: int = 99) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": batch})[0])


def reference(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(model).run(None, {"input": batch})[0])


def engine(model: onnx.ModelProto, batch: np.ndarray, folder: Path) -> np.ndarray:
    onnx.save(model, folder / "m.onnx")
    with open_engine(folder / "m.onnx", 1) as session:
        return session.run(batch)


@pytest.mark.parametrize("level", [0, 99], ids=["as it is", "optimised"])
@pytest.mark.parametrize("chain", CHAINS)
def test_every_tensor_is_rounded_bit_for_bit(chain: str, level: int) -> None:
    made = to_fp16(build(CHAINS[chain]))[0]
    x = images()
    wanted = reference(made, x)
    assert not np.array_equal(run(made, x), wanted), "or ONNX Runtime would not need this"
    np.testing.assert_array_equal(run(rounded_to_fp16(made), x, level), wanted)


def test_a_network_is_that_of_the_reference_but_for_the_order_of_its_sums(tmp_path: Path) -> None:
    made = to_fp16(build(NET))[0]
    x = images(8)
    found, wanted = engine(made, x, tmp_path), reference(made, x)
    np.testing.assert_allclose(found, wanted, atol=2e-3 * float(np.abs(wanted).max()))
    assert (found.astype(np.float16) == found).all()


def test_an_int8_graph_around_fp16_is_that_of_the_reference(tmp_path: Path) -> None:
    model = build(NET)
    onnx.save(model, tmp_path / "net.onnx")
    ranges = collect_ranges(tmp_path / "net.onnx", noise(64))
    made = quantize_int8(model, ranges, "tensorrt", method="mse", around="fp16").model
    x = images(8)
    found, wanted = engine(made, x, tmp_path), reference(made, x)
    assert 10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()) > 35  # a code at a tie may differ


def test_inputs_outputs_and_names_stay_what_they_are() -> None:
    made = to_fp16(build("a = Mul(input, by=3.0)\nb = Relu(a)\nlogits = Mul(b, by=0.3)"))[0]
    made.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT16, None) for n in ("a", "b"))
    found = rounded_to_fp16(made)
    assert [v.name for v in found.graph.output] == ["logits", "a", "b"]
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = ReferenceEvaluator(made).run(None, {"input": images()})
    for ours, theirs in zip(session.run(None, {"input": images()}), wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_a_graph_without_fp16_is_left_alone() -> None:
    model = build(NET)
    assert rounded_to_fp16(model) is model


def test_an_unknown_operator_beside_fp16_is_refused() -> None:
    made = to_fp16(build("a = Relu(input)\nlogits = Relu(a)"))[0]
    made.graph.node.append(helper.make_node("Own", ["a"], ["b"], "own", domain="com.example"))
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(BackendError, match="node 'own': the type of 'b' cannot be inferred"):
        rounded_to_fp16(made)


def test_a_resize_to_computed_sizes_is_rounded() -> None:
    """As GhostNetV2 enlarges its gates: the batch of the map, then a constant size."""
    N = helper.make_node
    nodes = [
        N("Cast", ["input"], ["h"], "h", to=TensorProto.FLOAT16),
        N("Shape", ["h"], ["whole"], "whole"),
        N("Slice", ["whole", "zero", "two", "zero"], ["count"], "count"),
        N("Concat", ["count", "sizes"], ["wanted"], "wanted", axis=0),
        N("Resize", ["h", "", "", "wanted"], ["r"], "r", mode="nearest"),
        N("Cast", ["r"], ["logits"], "out", to=TensorProto.FLOAT),
    ]
    held = {"zero": [0], "two": [2], "sizes": [4, 4]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [len(v)], v) for name, v in held.items()]
    given, made = (helper.make_tensor_value_info(name, 1, ["n", 3, s, s]) for name, s in (("input", 2), ("logits", 4)))
    graph = helper.make_graph(nodes, "resize", [given], [made], constants)
    model = rounded_to_fp16(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)]))
    image = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32)
    expected = image.astype(np.float16).astype(np.float32).repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(run(model, image), expected)


def test_external_weights_are_found(tmp_path: Path) -> None:
    made = to_fp16(build(NET))[0]
    x = images()
    wanted = engine(made, x, tmp_path)
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    with open_engine(tmp_path / "m.onnx", 1) as session:
        np.testing.assert_array_equal(session.run(x), wanted)


def test_an_overflow_fails_the_gate(tmp_path: Path, edgecnn: Callable[..., Any]) -> None:  # noqa: F811
    """Scaled up beyond 65 504 and down again: the same predictions in FP32, none in FP16."""
    model = build("u = Mul(input, by=60000.0)\nd = Mul(u, by=2e-5)\np = GlobalAveragePool(d)\nlogits = Flatten(p)")
    onnx.save(model, tmp_path / "m.onnx")
    onnx.save(to_fp16(model)[0], tmp_path / "h.onnx")
    pictures = 3 * np.random.default_rng(0).normal(0, 1, (64, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=pictures, label=run(model, pictures).argmax(1))
    call = ("validate", tmp_path / "h.onnx", "--reference", tmp_path / "m.onnx", "--data", tmp_path / "x.npz")
    done = edgecnn(*call, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["nan_count"] == 64
    assert (found["top1_pct"], found["agreement_pct"]) == (0, 0)
    assert "not finite (NaN or infinite) on 64 of 64 images" in " ".join(edgecnn(*call).out.split())
    accuracy = record_from_mapping(Accuracy, found, "validate --json", "")
    engine = EngineInfo(backend="ort", precision_requested="fp16")
    verdict = judge(Tolerances(agreement_pct_min=50), [Measurement(name="h", engine=engine, accuracy=accuracy)])
    assert verdict.verdict == "FAIL"
    assert "nan_count_max" in {c.tolerance for c in verdict.checks if c.verdict == "FAIL"}


def test_an_overflow_is_blamed_on_the_node_that_makes_it(tmp_path: Path) -> None:
    model = build("u = Mul(input, by=60000.0)\nd = Mul(u, by=2e-5)\np = GlobalAveragePool(d)\nlogits = Flatten(p)")
    onnx.save(model, tmp_path / "m.onnx")
    onnx.save(to_fp16(model)[0], tmp_path / "h.onnx")
    with np.errstate(all="ignore"):
        found = first_parting(tmp_path / "m.onnx", tmp_path / "h.onnx", 3 * images())
    assert found is not None
    assert (found.tensor, found.sqnr_db) == ("u", None)


def test_candidates_are_judged_as_they_will_be_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With FP16 around INT8: the figure that `quantize` prints is of the graph that it writes."""
    from edgecnn.graph.ptq import judging as auto

    model = build(NET)
    onnx.save(model, tmp_path / "net.onnx")
    ranges = collect_ranges(tmp_path / "net.onnx", noise(64))
    judged: list[onnx.ModelProto] = []
    logits_of = auto.compute_logits
    monkeypatch.setattr(auto, "compute_logits", lambda m, *words: judged.append(m) or logits_of(m, *words))
    report = quantize_int8(model, ranges, "tensorrt", method="auto", around="fp16", data=noise(64)).report
    kinds = [any(n.op_type == "Cast" and n.attribute[0].i == TensorProto.FLOAT16 for n in m.graph.node) for m in judged]
    assert all(kinds)
    assert len(kinds) >= len(report.candidates) >= 3


def test_bench_says_that_its_speed_is_simulated(tmp_path: Path, edgecnn: Callable[..., Any]) -> None:  # noqa: F811
    for name, model in (("m", build(NET)), ("h", to_fp16(build(NET))[0])):
        onnx.save(model, tmp_path / f"{name}.onnx")
    call = ("bench", "--duration", 0.05, "--warmup", 0, "--engine")
    said = edgecnn(*call, tmp_path / "h.onnx")
    assert "a simulation (FP16 tensors rounded from FP32): its speed says nothing" in said.err
    assert "simulation" not in edgecnn(*call, tmp_path / "m.onnx").err
