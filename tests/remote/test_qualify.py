"""May I upgrade: one run under two TensorRTs, on fakes of two versions, and under two Pythons on a processor."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.measure import comparison
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.load import load_recipe
from edgecnn.version import __version__

pytestmark = pytest.mark.onnx

Call = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


def other_python(path: Path, *options: str, site: str = "", **environment: str) -> Path:
    """This interpreter as another environment."""
    known = {"PYTHONPATH": os.pathsep.join(filter(None, [site, str(ROOT)])), **environment}
    lines = [f"export {name}={value!r}" for name, value in known.items()]
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec {sys.executable} {" ".join(options)} "$@"', ""]))
    path.chmod(0o755)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., Path]:
    """`other(FAKE_TENSORRT="10.3.0")` is an interpreter that has that TensorRT."""
    from tests.fakes.on_disk import SITE

    return lambda **environment: other_python(tmp_path / "python", site=str(SITE), **environment)


@pytest.fixture
def measured(trt_on_disk: Any, on_the_host: Path, tmp_path: Path, short_blocks: None, monkeypatch: Any) -> Path:
    """A run of the INT8 engine, measured under TensorRT 10.16."""
    folder = shutil.copytree(on_the_host / "run", tmp_path / "run")
    recipe = load_recipe(str(on_the_host / "tiny.toml"), ['precisions=["int8"]'])
    with monkeypatch.context() as patch:
        patch.setattr("edgecnn.backends.trt.NATIVE", False)
        run_recipe(recipe, folder, lambda text: None, threads=1)
    return folder


def test_a_newer_tensorrt_that_does_the_same(
    measured: Path, other: Callable[..., Path], edgecnn: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    buses: list[str] = []
    read_clocks = comparison.clock_reader
    monkeypatch.setattr(comparison, "clock_reader", lambda bus: buses.append(bus) or read_clocks(bus))
    before = {p: p.read_bytes() for p in measured.rglob("*") if p.is_file()}
    code, out, err = edgecnn("qualify", measured, "--python", other(FAKE_TENSORRT="11.4.0.106"), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["verdict"] == "PASS"
    assert [found[side]["tools"] for side in ("before", "after")] == [
        {"tensorrt": "10.16.1.11"},
        {"tensorrt": "11.4.0.106"},
    ]
    (row,) = found["measurements"]
    assert (row["agreement_pct"], row["top1_lost"], row["top1_gained"], row["n"]) == (100, 0, 0, 40)
    assert row["latency_ratio"] == pytest.approx(1.0), "timed in the processes, to the clock of their devices"
    assert buses == ["0000:41:00.0"], "the clocks of the GPU that computes there are read here"
    assert row["latency_reference"] == "tensorrt 10.16.1.11"
    judged = {check["tolerance"]: check["verdict"] for check in found["checks"]}
    assert {"precision_obtained", "top1_drop_pp_max", "agreement_pct_min", "latency_ratio_max"} <= judged.keys()
    assert {p: p.read_bytes() for p in measured.rglob("*") if p.is_file()} == before, "nothing of the run is changed"


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"FAKE_WRONG": "1"}, {"top1_drop_pp_max", "agreement_pct_min"}),
        ({"FAKE_KERNEL": "5"}, {"latency_ratio_max"}),
        ({"FAKE_DIES": "SIGSEGV"}, {"runs"}),
    ],
)
def test_one_that_loses_is_slower_or_crashes(
    measured: Path, other: Callable[..., Path], edgecnn: Call, changes: dict[str, str], failed: set[str]
) -> None:
    code, out, err = edgecnn("qualify", measured, "--python", other(FAKE_TENSORRT="10.3.0", **changes), "--json")
    assert code == 1, err
    checks = json.loads(out)["checks"]
    assert {check["tolerance"] for check in checks if check["verdict"] == "FAIL"} == failed
    if "FAKE_DIES" in changes:
        assert "in predict: SIGSEGV" in next(c["evidence"] for c in checks if c["tolerance"] == "runs")


def test_on_a_terminal_and_where_it_cannot_be_told(measured: Path, other: Callable[..., Path], edgecnn: Call) -> None:
    """A margin that so few images cannot show to be kept."""
    recipe = measured / "tiny.toml"
    own = measured.parent / "own.toml"
    own.write_text(recipe.read_text().replace("top1_drop_pp_max = 10", "top1_drop_pp_max = 1"))
    code, out, err = edgecnn("qualify", measured / "gpu", "--python", other(FAKE_TENSORRT="10.3.0"), "--recipe", own)
    assert code == 3, err
    assert "tensorrt 10.3.0 against tensorrt 10.16.1.11" in out
    assert out.splitlines()[-1].endswith("1 of 4 checks inconclusive: int8 top1_drop_pp_max")


def test_an_engine_that_answers_with_an_error_fails(measured: Path, tmp_path: Path, edgecnn: Call) -> None:
    from tests.fakes.on_disk import SITE

    site = tmp_path / "refusing"
    site.mkdir()
    lines = ["import sys", "from tests.fakes.on_disk import tensorrt", "found = sys.modules[__name__] = tensorrt()"]
    lines += ["found.IExecutionContext.execute_async_v3 = lambda context, stream: False", ""]
    (site / "tensorrt.py").write_text("\n".join(lines))
    python = other_python(tmp_path / "python", site=os.pathsep.join([str(site), str(SITE)]), FAKE_TENSORRT="10.3.0")
    code, out, err = edgecnn("qualify", measured, "--python", python, "--json")
    assert code == 1, err
    (check,) = (c for c in json.loads(out)["checks"] if c["tolerance"] == "runs")
    assert check["verdict"] == "FAIL"
    assert check["evidence"].startswith("it cannot be run: tensorrt 10.3.0: ")


def lacks_edgecnn(path: Path) -> Path:
    return other_python(path, "-I", "-S")


def lacks_tensorrt(path: Path) -> Path:
    return other_python(path)


def lacks_what_edgecnn_needs(path: Path) -> Path:
    return other_python(path, "-S")


def has_another_edgecnn(path: Path) -> Path:
    package = path.with_name("site") / "edgecnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "version.py").write_text("__version__ = '0.0.1'")
    return other_python(path, site=str(package.parent))


def crashes(path: Path) -> Path:
    path.write_text("#!/bin/sh\nkill -SEGV $$\n")
    path.chmod(0o755)
    return path


def crashes_with_tensorrt(path: Path) -> Path:
    site = path.with_name("site")
    site.mkdir()
    (site / "tensorrt.py").write_text("import os, signal\nsignal.signal(6, signal.SIG_DFL)\nos.abort()\n")
    return other_python(path, site=str(site))


def is_another_program(path: Path) -> Path:
    return Path("/bin/true")


def is_no_program(path: Path) -> Path:
    path.write_text("no program")
    path.chmod(0o755)
    return path


def is_not_there(path: Path) -> Path:
    return path


def is_a_folder(path: Path) -> Path:
    return path.parent


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (is_not_there, "cannot be started: No such file"),
        (is_a_folder, "cannot be started: Permission denied"),
        (is_no_program, "cannot be started: Exec format error"),
        (is_another_program, f"has edgecnn (none), this is {__version__}"),
        (lacks_edgecnn, "No module named 'edgecnn'"),
        (lacks_what_edgecnn_needs, "edgecnn cannot be imported there: ModuleNotFoundError"),
        (has_another_edgecnn, f"has edgecnn 0.0.1, this is {__version__}"),
        (crashes, "it ended with -11"),
        (lacks_tensorrt, "needs the package 'tensorrt'"),
        (crashes_with_tensorrt, "SIGABRT"),
    ],
)
def test_an_interpreter_that_is_none(
    measured: Path, tmp_path: Path, edgecnn: Call, make: Callable[[Path], Path], words: str
) -> None:
    python = make(tmp_path / "python")
    code, out, err = edgecnn("qualify", measured, "--python", python)
    assert (code, out) == (2, "")
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert words in line
    assert str(python) in line
    assert [line for line in err.splitlines() if line.startswith("hint: ")]
    assert not list(measured.glob(".qualify-*"))


def test_another_device_is_refused(measured: Path, other: Callable[..., Path], edgecnn: Call) -> None:
    code, _, err = edgecnn("qualify", measured, "--python", other(FAKE_TENSORRT="10.3.0", FAKE_GPU="NVIDIA-L40S"))
    assert code == 2
    assert "runs on gpu_name NVIDIA-L40S" in err


def test_on_a_processor(on_the_host: Path, tmp_path: Path, short_blocks: None, edgecnn: Call) -> None:
    folder = shutil.copytree(on_the_host / "run", tmp_path / "run")
    recipe = load_recipe(str(on_the_host / "tiny.toml"), ['precisions=["fp32"]', 'targets=["cpu"]'])
    run_recipe(recipe, folder, lambda text: None, threads=1)
    code, out, err = edgecnn("qualify", folder, "--python", other_python(tmp_path / "python"), "--threads", 1, "--json")
    found = json.loads(out)
    assert code in (0, 1, 3), err
    checks = {check["tolerance"]: check["verdict"] for check in found["checks"]}
    assert checks["top1_drop_pp_max"] == checks["agreement_pct_min"] == "PASS"
    assert found["measurements"][0]["latency_ratio"] > 0


@pytest.fixture
def implicit(
    trt_on_disk: Any, on_the_host: Path, tmp_path: Path, short_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run of INT8 by TensorRT 10.16's own means too, with two profiles."""
    folder = shutil.copytree(on_the_host / "run", tmp_path / "run")
    changes = ['precisions=["int8"]', "build.weakly_typed=true", "batch.max=8", "batch.profiles=[[1, 1, 1], [4, 8, 8]]"]
    recipe = load_recipe(str(on_the_host / "tiny.toml"), changes)
    with monkeypatch.context() as patch:
        patch.setattr("edgecnn.backends.trt.NATIVE", False)
        run_recipe(recipe, folder, lambda text: None, threads=1)
    return folder


def test_implicit_int8_and_several_profiles_are_built_as_the_run_builds_them(
    implicit: Path, other: Callable[..., Path], edgecnn: Call
) -> None:
    code, out, err = edgecnn("qualify", implicit, "--python", other(FAKE_TENSORRT="10.3.0"), "--json")
    assert code in (0, 1, 3), err
    rows = {row["name"]: row for row in json.loads(out)["measurements"]}
    assert {name: (row["scheme"], row["precision_obtained"]) for name, row in rows.items()} == {
        "int8": ("tensorrt", "int8"),
        "int8-implicit": ("implicit", "int8"),
    }
    assert all(row["n"] == 40 and row["latency_ratio"] for row in rows.values())


def test_implicit_int8_fails_where_tensorrt_has_it_no_more(
    implicit: Path, other: Callable[..., Path], edgecnn: Call
) -> None:
    code, out, err = edgecnn("qualify", implicit, "--python", other(FAKE_TENSORRT="11.4.0.106"), "--json")
    assert code == 1, err
    checks = {(c["name"], c["tolerance"]): c for c in json.loads(out)["checks"]}
    assert checks["int8-implicit", "runs"]["verdict"] == "FAIL"
    assert "11.4.0.106" in checks["int8-implicit", "runs"]["evidence"]
    assert ("int8", "runs") not in checks
