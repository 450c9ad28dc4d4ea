"""Engines that are native code run in a child: its end is an error or a verdict, and not that of the process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.bundle.release import GOLDEN, REFERENCE, ReleasedEngine
from edgecnn.errors import BackendError, CrashError
from edgecnn.pipeline.install import self_test
from edgecnn.recipe.schema import BatchSettings
from edgecnn.remote.child import Child
from edgecnn.remote.engines import bench, bisect_engine, is_native, validate
from edgecnn.remote.engines import build as build_engine
from edgecnn.results.device import Device
from edgecnn.steps.build import build
from edgecnn.steps.reference import reference
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice

pytestmark = pytest.mark.onnx


@pytest.fixture
def plan(trt_on_disk: Any, tmp_path: Path) -> Path:
    """An INT8 plan, with the pictures `images.npz` and the predictions `reference.npz` beside it."""
    from tests.fakes.tiny import tiny_graph

    graph, rng = tmp_path / "model.int8.onnx", np.random.default_rng(0)
    content = tiny_graph("int8").SerializeToString()
    write_artifact(graph, lambda p: p.write_bytes(content), Sidecar(kind="graph", precision_requested="int8"))
    pictures = rng.normal(size=(12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=pictures, label=np.arange(12) % 5)
    reference(graph, tmp_path / "reference.npz", data=str(tmp_path / "images.npz"))
    return build(graph, tmp_path / "int8.plan", target="gpu", batch=BatchSettings(1, 2, 4))


def test_a_child_measures_what_this_process_would(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[int, int]] = []
    given: dict[str, Any] = {"data": str(plan.parent / "images.npz"), "threads": 1}
    assert is_native(plan)
    there = validate(
        plan, plan.parent / "reference.npz", plan.parent / "a.json", progress=lambda *n: counted.append(n), **given
    )
    assert counted[-1] == (12, 12)
    assert json.loads((plan.parent / "a.json").read_text())["agreement_pct"] == there.agreement_pct == 100
    timed = bench(plan, duration_s=0.05, warmup_ms=0.0)
    assert timed.measurements[0].latency.clock == "cuda events"
    assert timed.p50 == 1.25, "the fake's own: a child's start is in no latency"
    assert timed.device.gpu_name == "NVIDIA L4"
    monkeypatch.setattr("edgecnn.backends.trt.NATIVE", False)
    assert validate(plan, plan.parent / "reference.npz", **given) == there


def test_a_self_test_survives_its_engine(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a board, before a release serves: the plan runs in a process of its own, and its crash is a verdict."""
    (plan.parent / "images.npz").rename(plan.parent / GOLDEN)
    reference(plan.parent / "model.int8.onnx", plan.parent / REFERENCE, data=str(plan.parent / GOLDEN))
    row = ReleasedEngine(
        recipe="tiny",
        target="gpu",
        device_key="",
        engine=plan.name,
        name="int8",
        precision="int8",
        backend="trt",
        device=Device(),
        golden_n=12,
        sqnr_db_min=40.0,
    )
    passed = self_test(plan, plan.parent, row, 1)
    assert (passed.verdict, passed.golden_images_n, passed.top1_changed_n) == ("PASS", 12, 0)
    monkeypatch.setenv("FAKE_DIES", "SIGSEGV")
    died = self_test(plan, plan.parent, row, 1)
    assert died.verdict == "FAIL"
    assert next(died.failures()).startswith("the engine took its process down: SIGSEGV")


def test_a_child_looks_into_builds_of_an_engine(plan: Path, trt_on_disk: Any) -> None:
    """It has a TensorRT without the fault of the one that built the plan."""
    from tests.fakes.fake_tensorrt import injected

    with injected(trt_on_disk, "wrong /fc/Gemm"):
        build(plan.parent / "model.int8.onnx", plan, target="gpu", batch=BatchSettings(1, 2, 4))
    found = bisect_engine(plan, data=str(plan.parent / "images.npz"))
    assert (found.cause, found.method, found.builds, found.tensor) == ("fusion-or-tactic", "debug-tensors", 1, "")
    assert [d.differs for d in found.seen if d.tensor == "logits"] == [True, False]


@pytest.mark.parametrize("ended", ["SIGSEGV", "SIGABRT"])
def test_an_engine_that_takes_its_process_down_is_an_error_with_the_signal(
    plan: Path, ended: str, monkeypatch: pytest.MonkeyPatch, edgecnn: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("FAKE_DIES", ended)
    with pytest.raises(CrashError, match=ended) as caught:
        validate(plan, plan.parent / "reference.npz", data=str(plan.parent / "images.npz"))
    assert caught.value.ended.startswith(ended)
    if ended == "SIGABRT":
        return
    for command in (
        ("bench", "--engine", plan, "--duration", 0.05),
        ("validate", plan, "--reference", plan.parent / "reference.npz", "--data", plan.parent / "images.npz"),
    ):
        code, out, err = edgecnn(*command)
        assert (code, out) == (2, "")
        assert "took the process that ran it down: SIGSEGV" in err
        assert [line.partition(":")[0] for line in err.splitlines() if line.startswith(("error", "hint"))] == [
            "error",
            "hint",
        ]


def test_a_builder_that_a_route_takes_down_is_an_error(
    trt_on_disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that takes it builds as this process would."""
    from tests.fakes.tiny import tiny_graph

    install(monkeypatch, tmp_path, "11.4.0.106", FakeDevice())
    monkeypatch.setattr("edgecnn.backends.trt.NATIVE", True)
    monkeypatch.setenv("FAKE_TENSORRT", "11.4.0.106")
    monkeypatch.setenv("FAKE_DIES_BUILDING_BY", "-kgen:tiling=0")
    graph, engine = tmp_path / "model.fp32.onnx", tmp_path / "x.plan"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    with pytest.raises(CrashError, match="SIGABRT"):
        build_engine(graph, engine, target="gpu", build_route="-kgen:tiling=0")
    assert not engine.exists()
    build_engine(graph, engine, target="gpu", batch=BatchSettings(1, 2, 4), build_route="-kgen:tiling=2")
    made = read_sidecar(engine)
    assert made.facts["build_route"] == "-kgen:tiling=2"
    assert [made.facts["profiles"][0][key][0] for key in ("min", "opt", "max")] == [1, 2, 4]


def test_errors_come_back_as_they_are(plan: Path) -> None:
    with Child() as child:
        with pytest.raises(BackendError, match="no backend 'xyz'") as caught:
            child.call("x", "facts", {"backend": "xyz"})
        assert type(caught.value) is BackendError
        assert child.call("x", "facts", {"backend": "trt"})["tools"] == {"tensorrt": "10.16.1.11"}


def test_a_bug_in_a_child_is_a_bug(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="its traceback stands above"), Child() as child:
        child.call("x", "facts", {"no_such": 1})
    assert "TypeError" in capfd.readouterr().err


def test_a_child_ends_with_its_parent() -> None:
    """Also where that one is killed."""
    program = (
        "import os, sys, time\n"
        "from edgecnn.remote.child import Child\n"
        "child = Child()\n"
        "child.call('x', 'facts', {'backend': 'ort'})\n"
        "print(child._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_what_is_no_native_code_stays_in_this_process(tmp_path: Path) -> None:
    from tests.fakes.tiny import tiny_graph

    graph = tmp_path / "m.onnx"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    assert not is_native(graph)
    assert not is_native(tmp_path / "m.safetensors", None)


def test_a_graph_that_a_provider_for_gpus_runs_is_native(plan: Path, tmp_path: Path) -> None:
    """Whichever of the two that a validation opens it is."""
    from tests.fakes.tiny import tiny_graph

    graph = tmp_path / "m.onnx"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    assert [is_native(graph, provider=p) for p in (None, "cpu", "cuda", "tensorrt", "rtx")] == [False] * 2 + [True] * 3
    assert is_native(graph, plan)
    assert not is_native(tmp_path / "absent.onnx", provider="cuda"), "the step says so"
    with pytest.raises(BackendError) as caught:
        bench(graph, provider="cuda", duration_s=0.05)
    assert "Process" not in str(caught.value)


@pytest.mark.parametrize("whom", ["the group", "the parent"])
def test_ctrl_c_ends_both_without_a_word_too_many(plan: Path, whom: str) -> None:
    command = [sys.executable, "-m", "edgecnn", "bench", "--engine", str(plan), "--duration", "60", "--warmup", "0"]
    parent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    child = _child_at_work(parent.pid)
    os.kill(-parent.pid if whom == "the group" else parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=20)
    said = [line for line in err.splitlines() if not line.endswith(" s left")]  # progress, on a slow machine
    assert (parent.returncode, out, said) == (130, "", ["interrupted"])
    assert not Path(f"/proc/{child}").exists()


def _child_at_work(parent: int) -> int:
    """The process that a process has started, once that computes."""
    for _ in range(400):
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13])) > 150:
                    return int(child)
        time.sleep(0.05)
    pytest.fail("no child")


def test_every_option_of_bench_reaches_the_child(plan: Path, edgecnn: Callable[..., tuple[int, str, str]]) -> None:
    graph, profiled = plan.with_name("model.int8.onnx"), plan.with_name("profiled.plan")
    assert (
        edgecnn("build", graph, "--target", "gpu", "--profile", "1:1:1", "--profile", "2:2:4", "-o", profiled)[0] == 0
    )
    where = plan.parent / "analysis"
    command = ("bench", "--engine", profiled, "--duration", 0.05, "--warmup", 0, "--batch", "1,4", "--json")
    code, out, err = edgecnn(
        *command, "--vs", plan, "--mode", "pipelined", "--streams", 2, "--no-transfers", "--throughput",
        "--export", where, "-o", plan.parent / "latency.json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    rows = found["measurements"]
    assert [(r["batch"], r["mode"], r["streams"], r["transfers"], r["clock"]) for r in rows] == [
        (n, "pipelined", 2, False, "host") for n in (1, 4)
    ]
    assert [r["profile"] for r in rows] == ["1 of 2, batch 1..1..1", "2 of 2, batch 2..2..4"]
    assert all(r["latency_reference"] == "int8" and r["load_s"] > 0 for r in rows)
    assert json.loads((plan.parent / "latency.json").read_text())["measurements"] == rows
    assert sorted(p.name for p in where.iterdir()) == [
        f"{kind}_profiled_batch{n}.json" for kind in ("layers", "profile") for n in (1, 4)
    ]
    for refused, words in (
        (("--batch", "5"), "the engine takes 1x3x8x8 or (2..4)x3x8x8"),
        (("--strict",), "a strict bench looks at a Jetson"),
        (("--mode", "single-shot", "--streams", "2"), "2 streams: single-shot"),
        (("--provider", "cuda"), "is an engine for"),
    ):
        code, out, err = edgecnn("bench", "--engine", profiled, *refused)
        assert (code, out) == (2, ""), err
        assert words in err
        assert err.count("error: ") == err.count("hint: ") == 1


def test_end_to_end_runs_in_a_child_too(
    trt_on_disk: Any, on_the_host: Path, tmp_path: Path, monkeypatch: Any, edgecnn: Callable[..., tuple[int, str, str]]
) -> None:
    made = tmp_path / "e.plan"
    assert edgecnn("build", on_the_host / "run" / "model.fp32.onnx", "--target", "gpu", "-o", made)[0] == 0
    command = ("bench", "--engine", made, "--end-to-end", "--data", on_the_host / "images", "--duration", 0.1)
    code, out, err = edgecnn(*command, "--warmup", 0, "--fps", 20, "--json", "-o", tmp_path / "e.json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["clock"], found["stream"]["fps"]) == ("events", 20)
    kept = json.loads((tmp_path / "e.json").read_text())
    assert {key: kept[key] for key in found} == found
    monkeypatch.setenv("FAKE_DIES", "SIGSEGV")
    code, out, err = edgecnn(*command)
    assert (code, out) == (2, "")
    assert "took the process that ran it down: SIGSEGV" in err


def test_what_an_interpreter_prints_while_it_starts_is_no_answer(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nos.write(1, b'\\xff\\xfe welcome\\n{\"result\": 1}\\n')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Child() as child:
        assert child.call("x", "facts", {"backend": "ort"})["tools"]


def test_a_child_that_dies_between_two_calls_is_told_once() -> None:
    """And is not silently another one, which holds nothing of what the first one held."""
    with Child() as child:
        child.call("x", "facts", {"backend": "ort"})
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()
        with pytest.raises(CrashError, match="e.plan: took the process that ran it down: SIGKILL"):
            child.call("e.plan", "query", {})
        assert child.call("x", "facts", {"backend": "ort"})["tools"]
