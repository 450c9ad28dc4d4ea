"""Layers that a build for a DLA leaves to the GPU: counted, named, and never passed without a report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgecnn.artifact.run_folder import DLA_LOG, read_target_run
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.errors import MeasurementError, RecipeError
from edgecnn.gate.judge import judge
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Tolerances
from edgecnn.records import to_plain
from edgecnn.results.device import Device
from edgecnn.results.dla import DlaBuild
from edgecnn.results.engine import EngineInfo
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.steps.gate import gate
from tests.fakes.measurements import latency, measurement

BUILD = DlaBuild(
    dla_core=0,
    dla_tensorrt="100300",
    dla_precision="int8",
    dla_graph_sha256="",
    dla_parts=2,
    dla_gpu_layers=tuple(f"POOLING: p{k}" for k in range(7)),
)


@pytest.mark.parametrize(
    ("build", "limit", "verdict", "said"),
    [
        (BUILD, 7, "PASS", "2 parts on the DLA, 7 layers left to the GPU: POOLING: p0, "),
        (BUILD, 6, "FAIL", "POOLING: p4 and 2 more; accuracy and speed beside this are the GPU's"),
        (replace(BUILD, dla_gpu_layers=()), 0, "PASS", "0 layers left to the GPU; accuracy"),
        (replace(BUILD, dla_parts=0), 100, "FAIL", "0 parts on the DLA"),
        (replace(BUILD, dla_gpu_layers=("P" * 9999,)), 1, "PASS", f"GPU: {'P' * 100}...; accuracy"),
    ],
)
def test_the_count_is_held_against_the_limit(build: DlaBuild, limit: int, verdict: str, said: str) -> None:
    rows = [measurement("fp32"), measurement("fp16"), measurement("int8", dla=build)]
    (check,) = judge(Tolerances(dla_gpu_layers_max=limit), rows).checks
    assert (check.name, check.verdict, check.value) == ("int8", verdict, len(build.dla_gpu_layers))
    assert said in check.evidence


def test_without_a_report_no_recipe_lets_it_pass() -> None:
    for mapped in ("inconclusive", "pass"):
        tolerances = Tolerances(dla_gpu_layers_max=99, inconclusive=mapped)  # type: ignore[arg-type]
        verdict = judge(tolerances, [measurement("fp16"), measurement("int8")])
        assert (verdict.verdict, verdict.exit_code) == ("INCONCLUSIVE", 3)
        assert "no build for a DLA was reported" in verdict.checks[0].evidence


def laid_out(root: Path, *names: str) -> Path:
    """A run's graphs, and the latencies of its engines on an AGX Orin."""
    folder = root / "run" / "agx-orin"
    folder.mkdir(parents=True)
    (folder.parent / "model.fp32.onnx").write_bytes(b"the graph")
    rows = tuple(
        LatencyRow(
            latency=latency(name),
            engine=EngineInfo(backend="trt", precision_requested=name.partition("-")[0], target="agx-orin",
                              scheme="implicit" if "-" in name else ""),
        )
        for name in names
    )  # fmt: skip
    found = LatencyFile(device=Device(gpu_name="Orin", board="AGX Orin"), reference=None, measurements=rows)
    (folder / "latency.json").write_text(json.dumps(to_plain(found)))
    return folder


def write_log(path: Path, sha256: str, precision: str = "int8") -> None:
    command = "trtexec --onnx=model.onnx --useDLACore=0 --allowGPUFallback"
    lines = [
        f"&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # {command}",
        "[I] [TRT] ---------- Layers Running on DLA ----------",
        "[I] [TRT] [DlaLayer] {ForeignNode[/conv1/Conv]}",
        "[I] [TRT] ---------- Layers Running on GPU ----------",
        "[I] [TRT] [GpuLayer] POOLING: /pool/GlobalAveragePool",
        f"&&&& PASSED TensorRT.trtexec [TensorRT v100300] # {command}",
        f"edgecnn: precision {precision}",
        f"edgecnn: graph {sha256}",
    ]
    path.write_text("\n".join(lines) + "\n")


def test_a_log_beside_the_engines_is_judged_and_a_verdict_is_made_of_it(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "fp32", "fp16", "int8", "int8-implicit")
    recipe = load_recipe("lenet5-digits")
    recipe = replace(recipe, targets=("agx-orin",), tolerances=Tolerances(dla_gpu_layers_max=0))
    outcomes = []
    for log in (False, True):
        if log:
            write_log(folder / DLA_LOG.replace("*", "int8"), sha256_of(folder.parent / "model.fp32.onnx"))
        verdict = gate(read_target_run(folder), recipe, against_baseline=False)
        outcomes += [(c.name, c.verdict) for c in verdict.checks if c.tolerance == "dla_gpu_layers_max"]
    assert outcomes == [("all", "INCONCLUSIVE"), ("int8", "FAIL")]
    parents = json.loads((folder / "verdict.json").read_text())["provenance"]["parents"]
    assert parents["int8.dla.log"] == sha256_of(folder / "int8.dla.log")


def test_a_log_of_another_graph_or_of_no_engine_is_refused(tmp_path: Path) -> None:
    folder = laid_out(tmp_path, "fp32", "int8")
    own = sha256_of(folder.parent / "model.fp32.onnx")
    write_log(folder / "a.dla.log", "0" * 64)
    with pytest.raises(MeasurementError, match="of another graph than those of this run"):
        read_target_run(folder)
    write_log(folder / "a.dla.log", own, "fp16")
    with pytest.raises(MeasurementError, match="in fp16: 0 engines were measured"):
        _ = read_target_run(folder).measurements
    for name in "ab":
        write_log(folder / f"{name}.dla.log", own)
    with pytest.raises(MeasurementError, match=re.escape("b.dla.log: a build for a DLA in int8: another log")):
        _ = read_target_run(folder).measurements


def test_a_recipe_for_what_has_no_dla_is_refused() -> None:
    for target in ("cpu", "thor", "orin-nano", "rtx-40", "gpu"):
        with pytest.raises(RecipeError, match=f"dla_gpu_layers_max: target '{target}' has no DLA that is known"):
            load_recipe("lenet5-digits", [f'targets=["{target}"]', "tolerances.dla_gpu_layers_max=1"])
    overrides = ['targets=["agx-orin"]', 'precisions=["fp32"]', "tolerances.dla_gpu_layers_max=1"]
    with pytest.raises(RecipeError, match="a DLA computes FP16 and INT8"):
        load_recipe("lenet5-digits", overrides)
