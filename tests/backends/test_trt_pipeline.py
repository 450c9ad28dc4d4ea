"""A recipe with a GPU as its target, from training to the verdict, on the fake of every version."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import _cuda
from edgecnn.errors import DeviceError
from edgecnn.pipeline.device import bundle
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import BuildSettings, Recipe, Tolerances, settings_rows
from edgecnn.records import to_plain
from edgecnn.results.verdict import Verdict
from tests.backends.conftest import install
from tests.fakes.device_flow import recipe_report
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_onnxruntime import FakeRuntime

pytestmark = [pytest.mark.onnx, pytest.mark.torch, pytest.mark.usefixtures("short_blocks")]

IMPLICIT, WEAKLY = "int8-implicit", BuildSettings(weakly_typed=True)
QUICK = ("train.epochs=1", "bench.duration_s=0.1", "bench.warmup_ms=0", "batch.max=32")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The demo, shortened, for whatever GPU is here."""
    return load_recipe("lenet5-digits", ['targets=["gpu"]', *QUICK])


@pytest.fixture(scope="module")
def on_the_host(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything that a host makes."""
    folder = tmp_path_factory.mktemp("host")
    run_recipe(recipe, folder, lambda text: None, until="reference")
    return folder


def test_from_training_to_the_verdict(trt: Any, recipe: Recipe, on_the_host: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(on_the_host, folder)
    report = recipe_report(recipe, folder)
    assert report.device.gpu_name == "NVIDIA L4"
    assert report.device.tensorrt == trt.__version__
    rows = {row["name"]: row for row in to_plain(report.measurements)}
    assert list(rows) == ["fp32", "fp16", "int8"]
    for name, row in rows.items():
        assert row["precision_obtained"] == row["precision_requested"] == name
        assert row[f"{name}_share_pct"] == 100
        assert (row["mode"], row["clock"], row["streams"]) == ("pipelined", "cuda events", 1)
        assert row["enqueue_ms_p50"] > 0
        assert row.get("latency_ratio_mode") in (None, "pipelined")
        assert row["agreement_pct"] > 90
        assert row["graph"] is True
    judged = [c for c in report.verdict.checks if c.tolerance == "precision_obtained"]
    assert [c.verdict for c in judged] == ["PASS"] * 3


def test_a_second_run_does_nothing_and_another_tensorrt_builds_again(
    one_trt: Any, recipe: Recipe, on_the_host: Path, tmp_path: Path
) -> None:
    folder, said = tmp_path / "run", []
    shutil.copytree(on_the_host, folder)
    assert run_recipe(recipe, folder, said.append).done > 0
    assert run_recipe(recipe, folder, said.append).done == 0
    one_trt.__version__ = "10.16.2"
    again: list[str] = []
    assert run_recipe(recipe, folder, again.append, until="build").done == 3
    assert any("10.16.1.11" in line and "10.16.2" in line for line in again), again


def test_a_build_route_of_a_recipe_builds_its_precision_anew(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, on_the_host: Path, tmp_path: Path
) -> None:
    newest = install(monkeypatch, tmp_path, "11.4.0.106", FakeDevice())
    folder = tmp_path / "run"
    shutil.copytree(on_the_host, folder)

    def routes(*overrides: str) -> list[str]:
        before = len(newest._builds)
        ours = load_recipe("lenet5-digits", ['targets=["gpu"]', *QUICK, *overrides])
        run_recipe(ours, folder, lambda text: None, until="build")
        return [built["route"] for built in newest._builds[before:]]

    assert routes() == ["", "", ""]
    assert routes('build.routes.int8="-conv_lowering=off   -kgen:tiling=2"') == ["-conv_lowering=off -kgen:tiling=2"]
    assert read_sidecar(folder / "gpu" / "int8.plan").facts["build_route"] == "-conv_lowering=off -kgen:tiling=2"
    assert routes('build.routes.int8="-conv_lowering=off -kgen:tiling=2"') == []
    assert routes('build.routes.int8="-conv_lowering=off"') == ["-conv_lowering=off"]
    assert routes() == [""]


def test_an_engine_of_another_precision_fails_the_recipe(
    one_trt: Any,
    recipe: Recipe,
    on_the_host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even if it got past the builder's own refusal."""
    folder = tmp_path / "run"
    shutil.copytree(on_the_host, folder)
    monkeypatch.setattr("edgecnn.backends.trt.build._refuse_other_precision", lambda *_: None)
    one_trt._inject.add("fp32")
    outcome = run_recipe(recipe, folder, lambda text: None)
    assert outcome.exit_code == 1
    capsys.readouterr()
    junit, page, own = tmp_path / "junit.xml", tmp_path / "report.html", tmp_path / recipe.path.name
    own.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in settings_rows(recipe) if v is not None))
    assert cli.main(["gate", str(folder), "--recipe", str(own), "--junit", str(junit), "--github"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fp16 was requested; 0.0 % of the engine's multiply-adds are fp16: it is fp32" in said
    assert "precision_obtained" in junit.read_text()
    assert cli.main(["report", str(folder), "--recipe", str(own), "-o", str(page)]) == 0
    assert "fp16 was requested" in page.read_text()
    (report,) = outcome.reports
    judged = [c for c in report.verdict.checks if c.tolerance == "precision_obtained"]
    failed = {c.name for c in judged} - {c.name for c in judged if c.verdict == "PASS"}
    assert failed == {"fp16", "int8"}


def test_the_tolerances_of_an_orin_recipe_are_judged_on_an_orin(
    one_trt: Any, device: FakeDevice, recipe: Recipe, on_the_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fake board whose latencies are all alike: PASS, FAIL and INCONCLUSIVE, each by the tolerance that is so."""
    device.name, device.capability, device.integrated, device.total = "Orin", (8, 7), True, 32_000_000_000
    monkeypatch.setattr("edgecnn.backends.trt.library.board_name", lambda: "NVIDIA Jetson AGX Orin Developer Kit")
    shutil.copytree(on_the_host, tmp_path / "run")
    limits = load_recipe("mobilenet_v2-orin").tolerances

    def judged(tolerances: Tolerances) -> Verdict:
        ours = dataclasses.replace(recipe, targets=("agx-orin",), tolerances=tolerances)
        (report,) = run_recipe(ours, tmp_path / "run", lambda text: None).reports
        assert report.device.board.endswith("AGX Orin Developer Kit")
        return report.verdict

    rows = {check.tolerance: check for check in judged(limits).checks if check.name == "int8"}
    assert {"top1_drop_pp_max", "int8_share_pct_min", "latency_ratio_max", "latency_ms_p99_max"} <= rows.keys()
    assert rows["latency_ratio_max"].verdict == "FAIL", "INT8 is as fast as FP32 on the fake"
    [against_fp16] = [c for c in judged(Tolerances(int8_vs_fp16_ratio_max=0.5)).checks if c.limit == 0.5]
    assert (against_fp16.name, against_fp16.verdict) == ("int8", "FAIL"), "and as fast as FP16"
    assert " x fp16, 95 % interval" in against_fp16.evidence
    assert judged(dataclasses.replace(limits, latency_ratio_max=None, top1_drop_pp_max=0.1)).exit_code == 3
    assert judged(Tolerances(top1_drop_pp_max=20.0, int8_share_pct_min=limits.int8_share_pct_min)).exit_code == 0


def test_without_tensorrt_the_host_part_is_done_and_the_rest_is_named(
    recipe: Recipe, on_the_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = tmp_path / "the run"
    shutil.copytree(on_the_host, folder)
    outcome = run_recipe(recipe, folder, lambda text: None)
    assert outcome.done == 0
    (missing,) = outcome.elsewhere
    assert outcome.exit_code == 3
    assert "the package 'tensorrt', which is not installed here" in missing.why
    pack = ["edgecnn", "bundle", str(folder), "--for", "gpu", "-o", "lenet5-digits-gpu.tar"]
    assert shlex.split(missing.pack) == pack
    assert shlex.split(missing.command) == ["edgecnn", "run", "lenet5-digits-gpu.tar"]


def test_the_build_command(one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    source = graph("int8")
    options = ("--optimization-level", "4", "--workspace-mb", "512", "--hardware-compatibility", "ampere_plus")
    assert cli.main(["build", str(source), "--backend", "trt", "--max-batch", "4", *options]) == 0
    facts = read_sidecar(source.with_suffix(".plan")).facts
    assert facts["profiles"][0]["max"] == [4, 3, 8, 8]
    assert facts["optimization_level"] == 4
    assert facts["workspace_bytes"] == 512_000_000
    assert facts["hardware_compatibility"] == "ampere_plus"
    assert "slower than a plan for one GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "xavier-nx"], "not supported"),
        (["--target", "a100"], "8.0"),
        (["--hardware-compatibility", "amper"], "ampere_plus"),
        (["--optimization-level", "6"], "5"),
        (["-o", "x.onnx"], "x.onnx: does not end in .plan"),
    ],
)
def test_the_build_command_refuses(
    one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert cli.main(["build", str(graph()), "--backend", "trt", *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("error: ") == err.count("hint: ") == 1
    assert one_trt._builds == []


def test_each_step_alone_on_a_plan(
    one_trt: Any, on_the_host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """build, validate, bench, layers, inspect: as on a device that was given graph, sidecar and reference."""
    for name in ("model.fp16.onnx", "model.int8-tensorrt.onnx", "reference.npz"):
        for path in (on_the_host / name, on_the_host / f"{name}.json"):
            shutil.copy(path, tmp_path)
    plans = [tmp_path / "fp16.plan", tmp_path / "int8.plan"]
    for graph, plan in zip(("model.fp16.onnx", "model.int8-tensorrt.onnx"), plans, strict=True):
        made = cli.main(["build", str(tmp_path / graph), "--backend", "trt", "--target", "l4", "-o", str(plan)])
        assert made == 0
    fp16, int8 = map(str, plans)
    assert (
        run_json(capsys, "validate", int8, "--reference", str(tmp_path / "reference.npz"), "--data", "digits")["n"]
        == 540
    )
    bench = run_json(capsys, "bench", "--engine", fp16, "--vs", int8, "--duration", "0.02", "--warmup", "0")
    assert bench["measurements"][0]["clock"] == "cuda events"
    assert run_json(capsys, "layers", int8, "--times", "--queries", "2")["int8_macs_pct"] == 100
    assert run_json(capsys, "inspect", int8)["rebuild"].endswith(f"--backend trt --target l4 -o {int8}")
    plans[1].with_name("int8.plan.json").unlink()
    capsys.readouterr()
    assert cli.main(["bench", "--engine", int8, "--duration", "0.02"]) == 2
    assert "native code" in capsys.readouterr().err
    assert cli.main(["bench", "--engine", int8, "--duration", "0.02", "--trust"]) == 0


def test_doctor_names_the_gpu_and_tensorrt(one_trt: Any, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, "doctor")
    assert facts["gpu"] == "NVIDIA L4, compute capability 8.9, 24.0 of 24.0 GB free, CUDA 12.8, by cuda-bindings"
    assert facts["tensorrt"] == "10.16.1.11"
    one_trt.__version__ = "8.6.1"
    found = run_json(capsys, "doctor")["tensorrt"]
    assert found.startswith("none: TensorRT 8.6.1 is not supported; 10.3 to 11.x are; `edgecnn targets --jetpack`")


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_onnx_runtime_s_providers_are_targets(
    runtime: FakeRuntime, recipe: Recipe, on_the_host: Path, tmp_path: Path
) -> None:
    """INT8 is simulated by the CUDA provider, and compiled by TensorRT's, where nobody can read what became of it."""
    shutil.copytree(on_the_host, tmp_path / "run")
    judged = dataclasses.replace(recipe.tolerances, int8_share_pct_min=1.0, latency_ms_p99_max=1000.0)
    ours = dataclasses.replace(recipe, precisions=("int8",), targets=("ort-cuda", "ort-tensorrt"), tolerances=judged)
    outcome = run_recipe(ours, tmp_path / "run", lambda text: None)
    cuda, tensorrt = outcome.reports
    assert [report.device.provider for report in outcome.reports] == [runtime.offers[1], runtime.offers[0]]
    assert cuda.device.key != tensorrt.device.key
    assert [m.engine.simulated for m in cuda.measurements] == [True]
    assert [m.facts.cpu_nodes for m in cuda.measurements if m.facts] == [0]
    assert [m.engine.simulated for m in tensorrt.measurements] == [False]
    open_rules = {c.tolerance for c in tensorrt.verdict.checks if c.name == "int8" and c.verdict == "INCONCLUSIVE"}
    assert open_rules >= {"int8_share_pct_min", "precision_obtained", "latency_ms_p99_max"}
    assert run_recipe(ours, tmp_path / "run", lambda text: None).done == 0
    runtime.device.fail["cudaSetDevice"] = 100
    _cuda._load.cache_clear()
    absent = run_recipe(ours, tmp_path / "run", lambda text: None)
    assert absent.exit_code == 3
    assert "cudaErrorNoDevice" in absent.elsewhere[0].why


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11"])
def test_a_second_row_gated_alike(
    version: str, device: FakeDevice, recipe: Recipe, on_the_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, version, device)
    folder, said = tmp_path / "run", list[str]()
    shutil.copytree(on_the_host, folder)
    judged = dataclasses.replace(
        recipe, build=WEAKLY, tolerances=Tolerances(top1_drop_pp_max=30.0, int8_share_pct_min=90.0)
    )
    report = recipe_report(judged, folder)
    rows = {row["name"]: row for row in to_plain(report.measurements)}
    assert list(rows) == ["fp32", "fp16", "int8", IMPLICIT]
    assert rows[IMPLICIT]["scheme"] == "implicit"
    assert rows[IMPLICIT]["int8_share_pct"] == 100
    assert rows[IMPLICIT]["top1_drop_ci_pp"] is not None
    assert rows[IMPLICIT]["latency_ratio_ci"] is not None
    assert rows[IMPLICIT]["int8_vs_fp16_ratio"] is not None
    tolerances = {name: {c.tolerance for c in report.verdict.checks if c.name == name} for name in ("int8", IMPLICIT)}
    assert (
        tolerances["int8"] == tolerances[IMPLICIT] == {"precision_obtained", "top1_drop_pp_max", "int8_share_pct_min"}
    )
    assert any(note.startswith("int8 is recommended: both pass, neither is measurably faster") for note in report.notes)
    assert any(note.startswith(f"{IMPLICIT}: weakly typed: TensorRT chose") for note in report.notes)
    assert run_recipe(judged, folder, said.append).done == 0, said


def test_11_is_refused_before_anything_is_built(
    device: FakeDevice, recipe: Recipe, on_the_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install(monkeypatch, tmp_path, "11.4.0.106", device)
    shutil.copytree(on_the_host, tmp_path / "run")
    with pytest.raises(DeviceError, match="build.weakly_typed: TensorRT 11.4.0.106 has no implicit") as refused:
        run_recipe(dataclasses.replace(recipe, build=WEAKLY), tmp_path / "run", lambda text: None)
    assert "build.weakly_typed=false" in refused.value.hint
    assert trt._builds == []


def test_a_bundle_brings_the_ranges(
    one_trt: Any, recipe: Recipe, on_the_host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "run.tar"
    bundle(dataclasses.replace(recipe, build=WEAKLY), on_the_host, packed, target="gpu")
    with tarfile.open(packed) as tar:
        assert "model.calib.json" in tar.getnames()
    code = cli.main(["run", str(packed), "--out", str(tmp_path / "there"), "--json"])
    assert code in (0, 1, 3), capsys.readouterr().err
    assert (tmp_path / "there" / "gpu" / f"{IMPLICIT}.plan").is_file()
