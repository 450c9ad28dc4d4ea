"""Precision obtained against requested, from inspector answers of both schemas (written, not recorded: see README)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, load_backend
from edgecnn.backends.trt.inspector import io_tensors, layers_from_inspector
from edgecnn.errors import BackendError
from edgecnn.gate.judge import judge
from edgecnn.gate.rules.precision import check_precision
from edgecnn.graph.onnx_graph import count_multiply_adds
from edgecnn.recipe.schema import BatchSettings, Tolerances
from edgecnn.results.engine import EngineFacts, EngineInfo
from edgecnn.results.layers import obtained_precision, share_facts, shares_of
from edgecnn.results.report import Measurement
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import engine_info
from edgecnn.steps.bench import engine_facts
from tests.fakes.graphs import build as build_small

pytestmark = pytest.mark.onnx

ANSWERS = Path(__file__).parent / "inspector"
CONV1, CONV2, FC = 16 * 3 * 9 * 32 * 32, 16 * 1 * 9 * 16 * 16, 16 * 10


def answer(name: str) -> str:
    return (ANSWERS / f"{name}.json").read_text()


def measured(folder: Path, name: str, requested: str, **more: Any) -> Measurement:
    """An engine of 1 MB with the layers of an inspector's answer, as its sidecar tells it."""
    layers, plan = layers_from_inspector(answer(name)), folder / f"{requested}.plan"
    sidecar = Sidecar(
        kind="engine",
        backend="trt",
        precision_requested=requested,
        precision_obtained=obtained_precision(layers),
        facts=share_facts(layers) | more,
    )
    write_artifact(plan, lambda p: p.write_bytes(bytes(1_000_000)) and None, sidecar)
    return Measurement(name=requested, engine=engine_info(plan, sidecar_of(plan)), facts=engine_facts(plan))


def judged(measurement: Measurement) -> tuple[str, str]:
    """Verdict and evidence on the precision, which is judged whatever the tolerances are."""
    (check,) = check_precision(measurement)
    assert (check.tolerance, check.limit) == ("precision_obtained", None)
    return check.verdict, check.evidence


@pytest.mark.parametrize("schema", ["10x", "11x"])
def test_both_schemas_give_the_same_layers(schema: str) -> None:
    layers = layers_from_inspector(answer(f"int8.{schema}"))
    assert [(x.role, x.precision) for x in layers] == [
        ("quantize", "fp32"),
        ("compute", "int8"),
        ("compute", "int8"),
        ("other", "fp16"),
        ("compute", "fp16"),
        ("free", "fp16"),
    ]
    assert [x.macs for x in layers if x.role == "compute"] == [CONV1, CONV2, FC]
    assert layers[1].nodes == ("/conv1/Conv", "/relu1/Relu")
    assert io_tensors(answer(f"int8.{schema}")) == ["input", "logits"]


def test_shares_of_layers_multiply_adds_and_time() -> None:
    layers = layers_from_inspector(answer("int8.10x"))
    times = dict(zip([x.name for x in layers], [0.1, 0.4, 0.2, 0.1, 0.2, 0.0], strict=True))
    shares = shares_of(layers, times)
    assert shares.int8_layers_pct == pytest.approx(200 / 3)
    assert shares.int8_macs_pct == pytest.approx(100 * (CONV1 + CONV2) / (CONV1 + CONV2 + FC))
    assert shares.int8_time_pct == pytest.approx(60)
    assert shares.fp16_time_pct == pytest.approx(30)
    assert shares.quantize_time_pct == pytest.approx(10)
    assert (shares.quantize_layers, shares.reformat_layers, shares.reformat_time_pct) == (1, 0, 0)
    assert obtained_precision(layers) == "int8"


def test_an_fp32_engine_can_not_pass_as_fp16_nor_as_int8(tmp_path: Path) -> None:
    for requested in ("fp16", "int8"):
        verdict, evidence = judged(measured(tmp_path, "fp32.10x", requested))
        assert verdict == "FAIL"
        assert f"{requested} was requested; 0.0 % of the engine's multiply-adds are {requested}: it is fp32" in evidence


def test_an_int8_engine_passes_unless_much_of_the_graph_s_share_was_lost(tmp_path: Path) -> None:
    outcome, evidence = judged(measured(tmp_path, "int8.11x", "int8", graph_int8_share_pct=100.0))
    assert outcome == "PASS", evidence
    halved = measured(tmp_path, "int8.11x", "int8", graph_int8_share_pct=100.0, int8_share_pct=60.0)
    outcome, evidence = judged(halved)
    assert (outcome, "of the graph's 100.0 %" in evidence) == ("FAIL", True)


@pytest.mark.parametrize("name", ["dynamic.10x", "names.10x"])
def test_what_the_layers_do_not_tell_cannot_pass(tmp_path: Path, name: str) -> None:
    outcome, evidence = judged(measured(tmp_path, name, "fp16"))
    assert (outcome, "do not tell" in evidence) == ("FAIL", True)


@pytest.mark.parametrize("mapped", ["inconclusive", "pass", "fail"])
def test_no_recipe_lets_the_gate_pass_an_engine_of_another_precision(tmp_path: Path, mapped: Any) -> None:
    tolerances = Tolerances(size_mb_max=100, inconclusive=mapped)
    for name in ("fp32.10x", "names.10x"):
        verdict = judge(tolerances, [measured(tmp_path, name, "fp16")])
        assert verdict.verdict == "FAIL"
        assert [c.tolerance for c in verdict.checks if c.verdict == "FAIL"] == ["precision_obtained"]
    assert judge(tolerances, [measured(tmp_path, "int8.10x", "int8")]).verdict == "PASS"


def test_the_gate_fails_below_the_recipe_s_share(tmp_path: Path) -> None:
    found = measured(tmp_path, "int8.10x", "int8")
    assert found.facts is not None
    share = found.facts.int8_share_pct
    assert share is not None
    assert judge(Tolerances(int8_share_pct_min=share), [found]).verdict == "PASS"
    assert judge(Tolerances(int8_share_pct_min=share + 0.01), [found]).verdict == "FAIL"


def test_an_engine_whose_layers_were_not_read_is_not_judged() -> None:
    engine = EngineInfo(backend="ort", precision_requested="int8", precision_obtained="int8")
    for facts in (None, EngineFacts(size_mb=1.0)):
        assert [*check_precision(Measurement(name="int8", engine=engine, facts=facts))] == []


def test_a_fused_block_counts_by_the_nodes_that_the_network_names() -> None:
    weighing = {"/conv1/Conv": CONV1, "/fc/Gemm": FC}
    layers = layers_from_inspector(answer("fused.10x"), weighing)
    assert [(x.role, x.macs) for x in layers] == [("compute", CONV1 + FC), ("other", None)]
    assert share_facts(layers)["shares_by"] == "macs"
    assert obtained_precision(layers) == "fp16"
    assert share_facts(layers_from_inspector(answer("fused.10x")))["shares_by"] is None


def test_a_share_of_a_part_of_the_multiply_adds_is_none() -> None:
    """It would flatter: then layers are counted."""
    layers = layers_from_inspector(answer("fused.10x"), {"/conv1/Conv": CONV1, "/fc/Gemm": None})
    assert share_facts(layers)["shares_by"] == "layers"
    assert shares_of(layers).fp16_macs_pct is None


def test_a_node_counts_once() -> None:
    """One whose work is spread over two kernels is named by both."""
    twice = json.loads(answer("fused.10x"))
    twice["Layers"][1]["Metadata"] = "[ONNX Layer: /conv1/Conv]"
    layers = layers_from_inspector(json.dumps(twice), {"/conv1/Conv": CONV1, "/fc/Gemm": FC})
    assert sum(x.macs or 0 for x in layers) == CONV1 + FC
    both = layers_from_inspector(answer("int8.10x"), {"/conv1/Conv": CONV1, "/relu1/Relu": 5})
    assert [x.macs for x in both if x.role == "compute"] == [CONV1 + 5, CONV2, FC]


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"Nodes": []}'])
def test_what_is_no_inspector_answer_is_an_error(text: str) -> None:
    with pytest.raises(BackendError, match="not understood"):
        layers_from_inspector(text)


def test_the_layer_table(one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    source = graph("int8")
    plan = source.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(source, plan, BuildOptions("gpu", BatchSettings(1, 2, 4)))
    capsys.readouterr()
    assert cli.main(["layers", str(plan), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["time_ms"] for row in table["layers"]] == [None] * len(table["layers"])
    assert table["int8_macs_pct"] == 100
    assert cli.main(["layers", str(plan), "--times", "--queries", "3", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert sum(row["time_pct"] for row in table["layers"]) == pytest.approx(100)
    assert table["int8_time_pct"] > 0
    assert cli.main(["layers", str(plan), "--times"]) == 0
    assert "time_pct" in capsys.readouterr().out


def test_inspect_prints_header_device_profiles_and_shares(
    one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = graph("int8")
    plan = source.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(source, plan, BuildOptions("gpu", BatchSettings(1, 2, 4)))
    capsys.readouterr()
    assert cli.main(["inspect", str(plan), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["built_by_tensorrt"] == "10.16.1.11"
    assert facts["device"]["gpu_name"] == "NVIDIA L4"
    assert facts["profiles"] == [{"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}]
    assert facts["int8_macs_pct"] == 100
    assert facts["rebuild"].startswith(f"edgecnn build {source} --backend trt")


def test_multiply_adds_by_node_are_those_of_the_graph(trt: Any, tmp_path: Path) -> None:
    """From TensorRT's network and from the ONNX graph, by two ways: strides, groups, padding, Gemm."""
    model = build_small(
        """
        a = Conv(input, out=8, k=3, stride=2)
        b = Conv(a, out=8, k=3, group=8)
        c = Conv(b, out=12, k=1, group=4)
        p = GlobalAveragePool(c)
        f = Flatten(p)
        logits = Gemm(f, out=10)
        """,
        size=9,
    )
    path, plan = tmp_path / "small.onnx", tmp_path / "small.plan"
    path.write_bytes(model.SerializeToString())
    sidecar = load_backend("trt").engine_from_onnx(path, plan, BuildOptions("gpu", BatchSettings(1, 2, 4)))
    by_output = count_multiply_adds(model)
    expected = {n.name: by_output[n.output[0]] for n in model.graph.node if n.output[0] in by_output}
    assert sidecar.facts["macs_by_node"] == expected
    assert len(expected) == 4
