"""A recipe whose engines are built several times, and engines that take their process down, on the fake TensorRT."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.run_folder import read_target_run
from edgecnn.artifact.sidecar import read_sidecar, sha256_of
from edgecnn.backends.trt.plan import describe_plan
from edgecnn.errors import CrashError
from edgecnn.pipeline.run import Outcome, run_recipe
from edgecnn.recipe.load import load_recipe
from edgecnn.remote import engines
from edgecnn.results.verdict import Check
from edgecnn.steps import StepName

pytestmark = pytest.mark.onnx

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(on_the_host: Path, tmp_path: Path, short_blocks: None) -> Path:
    """Recipe, images and run folder, which may be changed."""
    shutil.copy(on_the_host / "tiny.toml", tmp_path)
    return shutil.copytree(on_the_host / "run", tmp_path / "run")


def run(folder: Path, *changes: str, until: StepName = "report") -> Outcome:
    recipe = load_recipe(str(folder.parent / "tiny.toml"), changes)
    return run_recipe(recipe, folder, lambda text: None, until=until, threads=1)


def checks(outcome: Outcome, name: str) -> dict[str, Check]:
    (report,) = outcome.reports
    return {check.tolerance: check for check in report.verdict.checks if check.name == name}


@pytest.fixture
def varying(trt_on_disk: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds of which each has other kernels than the one before: 1.0, 1.2, 1.1 times as slow, engine by engine."""
    monkeypatch.setattr("edgecnn.backends.trt.NATIVE", False)
    build = trt_on_disk.Builder.build_serialized_network

    def another(self: Any, network: Any, config: Any) -> Any:
        trt_on_disk._fastest = (0, 2, 1)[len(trt_on_disk._builds) // 2 % 3]
        return build(self, network, config)

    monkeypatch.setattr(trt_on_disk.Builder, "build_serialized_network", another)
    return trt_on_disk


def test_the_median_is_kept_and_the_worst_is_judged(varying: Any, folder: Path, edgecnn: Call) -> None:
    outcome = run(folder, "build.rebuilds=3")
    (report,) = outcome.reports
    for measured in report.measurements:
        assert measured.rebuilds is not None
        assert measured.latency is not None
        each = measured.rebuilds.rebuilds_latency_ms_p50
        assert each == pytest.approx((1.25, 1.45, 1.35))
        assert measured.rebuilds.rebuild_kept == 3
        assert measured.latency.latency_ms_p50 == each[2]
        kept, third = (
            folder / "gpu" / f"{measured.name}.plan",
            folder / "gpu" / "builds" / "3" / f"{measured.name}.plan",
        )
        assert sha256_of(kept) == sha256_of(third)
        assert read_sidecar(kept).facts["rebuild"] == 3
        lock = f"{measured.name}.engine.lock"
        assert kept.with_name(lock).read_bytes() == third.with_name(lock).read_bytes()
        assert (
            f"{measured.name}: 3 builds, p50 1.25, 1.45, 1.35 ms: kept is build 3, the median; judged by the worst"
            in (folder / "gpu" / "report.md").read_text()
        )
    said: list[str] = []
    recipe = load_recipe(str(folder.parent / "tiny.toml"), ["build.rebuilds=3"])
    assert run_recipe(recipe, folder, said.append, threads=1).done == 0, said
    assert edgecnn("gate", folder, "--record")[0] in (0, 3)  # by the recipe that it carries
    (baseline,) = (folder.parent / "baselines" / "tiny").glob("*l4*.json")
    rows = json.loads(baseline.read_text())["engines"]
    assert rows["int8"]["latency_ms_p50"] == pytest.approx(1.35)
    assert rows["int8"]["latency_ms_p50_band"] == pytest.approx([1.25, 1.45])


def test_a_build_beyond_the_limit_fails_though_the_median_is_within(varying: Any, folder: Path) -> None:
    outcome = run(folder, "build.rebuilds=3", "tolerances.latency_ms_p99_max=1.4", "bench.duration_s=0.8")
    judged = checks(outcome, "int8")["latency_ms_p99_max"]
    assert (judged.verdict, outcome.exit_code) == ("FAIL", 1)
    assert "build 2, the worst of 3" in judged.evidence


def test_one_build_again_is_another_run(varying: Any, folder: Path) -> None:
    run(folder, "build.rebuilds=2")
    outcome = run(folder)
    assert outcome.reports[0].measurements[0].rebuilds is None
    assert "build.rebuilds" not in read_sidecar(folder / "gpu" / "int8.plan").fields
    assert not any("the worst of" in check.evidence for check in outcome.reports[0].verdict.checks)


@pytest.mark.parametrize("times", ["0", "-1", "1.5"])
def test_fewer_builds_than_one_are_refused(times: str, edgecnn: Call, tmp_path: Path) -> None:
    for command in (("--rebuilds", times), ("--set", f"build.rebuilds={times}")):
        code, _, err = edgecnn("run", "lenet5-digits", "--out", tmp_path / "x", "--dry-run", *command)
        assert code == 2
        assert "error: " in err


def test_an_engine_that_takes_its_process_down_fails_and_the_others_are_measured(
    trt_on_disk: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, edgecnn: Call
) -> None:
    monkeypatch.setenv("FAKE_DIES", "SIGSEGV")
    monkeypatch.setenv("FAKE_DIES_OF", "QuantizeLinear")
    outcome = run(folder)
    assert outcome.exit_code == 1
    check = checks(outcome, "int8")["runs"]
    assert check.verdict == "FAIL"
    assert check.evidence.startswith("it took the process that ran it down in validate: SIGSEGV")
    (report,) = outcome.reports
    rows = {m.name: m for m in report.measurements}
    assert rows["int8"].latency is None
    assert rows["int8"].accuracy is None
    assert rows["fp32"].latency is not None
    assert rows["fp32"].accuracy is not None
    assert "runs" not in checks(outcome, "fp32")
    assert edgecnn("gate", folder)[0] == 1
    assert edgecnn("report", folder, "-o", folder.parent / "report.html")[0] == 0
    monkeypatch.delenv("FAKE_DIES")
    again = run(folder)
    assert "runs" not in checks(again, "int8")
    assert not read_target_run(folder / "gpu").crashes


def test_which_engine_crashes_when_all_are_timed_in_turn_is_found(
    varying: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was validated, and then something changed: a driver, or what else the GPU does."""
    bench_all, asked = engines.bench_all, []

    def crashing(running: Any, *arguments: Any, **settings: Any) -> Any:
        asked.append(sorted(running))
        if "int8" in running:
            raise CrashError("engines", "SIGABRT (aborted)")
        return bench_all(running, *arguments, **settings)

    monkeypatch.setattr(engines, "bench_all", crashing)
    outcome = run(folder)
    assert asked == [["fp32", "int8"], ["fp32"], ["int8"], ["fp32"]]
    assert checks(outcome, "int8")["runs"].evidence.startswith("it took the process that ran it down in bench: SIGABRT")
    rows = {m.name: m for m in outcome.reports[0].measurements}
    assert rows["int8"].latency is None
    assert rows["int8"].accuracy is not None
    assert rows["fp32"].latency is not None
    monkeypatch.setattr(engines, "bench_all", bench_all)
    assert "runs" not in checks(run(folder), "int8")


def test_nothing_is_left_of_an_engine_that_runs_in_no_build_any_more(
    varying: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, edgecnn: Call
) -> None:
    """Built anew, by another TensorRT say, and then each build crashes."""
    run(folder, "build.rebuilds=2")
    assert (folder / "gpu" / "int8.plan").exists()
    validate = engines.validate

    def crashing(engine: Any, *arguments: Any, **settings: Any) -> Any:
        if Path(engine).name == "int8.plan":
            raise CrashError(str(engine), "SIGSEGV (segmentation fault)")
        return validate(engine, *arguments, **settings)

    monkeypatch.setattr(engines, "validate", crashing)
    outcome = run(folder, "build.rebuilds=2", "batch.max=4")
    assert outcome.exit_code == 1
    assert "SIGSEGV" in checks(outcome, "int8")["runs"].evidence
    rows = {m.name: m for m in outcome.reports[0].measurements}
    assert rows["int8"].latency is rows["int8"].accuracy is None
    assert rows["fp32"].rebuilds is not None
    assert sorted(p.name for p in (folder / "gpu").glob("int8*")) == ["int8.crash.json"]
    assert edgecnn("gate", folder)[0] == 1
    monkeypatch.setattr(engines, "validate", validate)
    again = run(folder, "build.rebuilds=2", "batch.max=4")
    assert "runs" not in checks(again, "int8")
    assert {m.name: m.rebuilds is not None for m in again.reports[0].measurements} == {"fp32": True, "int8": True}


def test_implicit_int8_is_built_several_times_too(varying: Any, folder: Path) -> None:
    changes = ("build.rebuilds=2", "build.weakly_typed=true", "batch.max=8", "batch.profiles=[[1, 1, 1], [4, 8, 8]]")
    run(folder, *changes)
    kept = folder / "gpu" / "int8-implicit.plan"
    assert {"../model.fp32.onnx", "../model.calib.json"} <= read_sidecar(kept).parents.keys()
    again = shlex.split(str(describe_plan(kept)["rebuild"]))
    assert again[again.index("--profile") :] == [
        "--profile", "1:1:1", "--profile", "4:8:8", "--weakly-typed", "--ranges", str(folder / "model.calib.json"),
        "-o", str(kept),
    ]  # fmt: skip
    assert run(folder, *changes).done == 0


def test_int8_is_held_against_fp16_whichever_stands_first(varying: Any, folder: Path) -> None:
    """Without PyTorch one engine is what the others are compared with."""
    outcome = run(folder, 'precisions=["int8", "fp16"]', "tolerances.int8_vs_fp16_ratio_max=1.5")
    assert outcome.reports[0].reference == "fp16"
    found = checks(outcome, "int8")["int8_vs_fp16_ratio_max"]
    assert (found.value, found.verdict) == (pytest.approx(1.0), "PASS")
