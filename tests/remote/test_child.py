"""Engines that are native code run in a child: its end is an error or a verdict, and not that of the process."""

from __future__ import annotations

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

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.errors import BackendError, CrashError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.remote.child import Child
from edgecnn.remote.engines import bench, is_native, validate
from edgecnn.steps.build import build
from edgecnn.steps.reference import reference

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
