"""The threads of steps: fixed by the caller, else lowered by the load for what makes; written down, compared never."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.stale import stale_reason
from edgecnn.backends import _onnxruntime
from edgecnn.errors import BackendError, MeasurementError
from edgecnn.machine import threads as machine
from edgecnn.machine.cpu import cpu_device
from edgecnn.recipe.schema import BenchSettings
from edgecnn.steps import bench as bench_module
from edgecnn.steps import calibrate, quantize
from edgecnn.steps._fresh import run_in_fresh_process
from edgecnn.steps.bench import bench, device_of
from edgecnn.steps.reference import reference
from edgecnn.steps.validate import validate
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

NET = """
    c = Conv(input, out=4, k=3)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    logits = Gemm(f, rows=4, out=10)
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(build(NET), tmp_path / "m.onnx")
    images = np.random.default_rng(0).standard_normal((20, 4, 8, 8), np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    return tmp_path / "m.onnx"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Of each session of ONNX Runtime that is opened: its threads, and whether they wait actively."""
    seen: list[tuple[int, bool]] = []
    runtime = _onnxruntime.load_onnxruntime()
    plain: Any = runtime.InferenceSession

    class Watched(plain):
        def __init__(self, source: Any, options: Any, **more: Any) -> None:
            key = "session.intra_op.allow_spinning"
            try:
                spins = options.get_session_config_entry(key) != "0"
            except RuntimeError:  # not set: ONNX Runtime's default
                spins = True
            seen.append((options.intra_op_num_threads, spins))
            super().__init__(source, options, **more)

    monkeypatch.setattr(runtime, "InferenceSession", Watched)
    return seen


def test_what_is_made_tells_its_threads_and_is_the_same_with_others(graph: Path) -> None:
    data, made = graph.with_name("images.npz"), {}
    for count in (1, 2):
        ranges = calibrate.calibrate(graph, graph.with_name(f"{count}.calib.json"), data=data, threads=count)
        int8 = quantize.quantize(
            graph, graph.with_name(f"{count}.int8.onnx"), precision="int8", ranges=ranges, data=data, threads=count
        )
        for path in (ranges, int8.path):
            sidecar = read_sidecar(path)
            assert sidecar.device == cpu_device(count)
            asked = dataclasses.replace(sidecar, device=None, tools={}, facts={})
            parents = (graph,) if path == ranges else (graph, ranges)
            assert stale_reason(path, asked, parents) is None
        made[count] = int8.path.read_bytes()
    assert made[1] == made[2]


def test_predictions_and_accuracies_tell_their_threads_and_are_fresh_with_others(graph: Path) -> None:
    data = graph.with_name("images.npz")
    for count in (1, 2):
        predicted = reference(graph, graph.with_name("r.npz"), data=data, threads=count)
        judged = graph.with_name("accuracy.json")
        validate(graph, predicted, judged, data=data, threads=count)
        for path, parents in ((predicted, (graph,)), (judged, (graph, predicted))):
            sidecar = read_sidecar(path)
            assert sidecar.device == cpu_device(count)
            asked = dataclasses.replace(sidecar, device=None, tools={}, facts={})
            assert stale_reason(path, asked, parents) is None


def test_the_load_lowers_what_makes_and_not_what_measures(
    graph: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[int, bool]]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr("edgecnn.machine.cpu.cpu_quota", lambda root: None)
    monkeypatch.setattr(machine, "other_load_cores", lambda before, after: 4.0)
    monkeypatch.setattr(machine, "LOAD_WINDOW_S", 0.0)
    made = quantize.quantize(graph, precision="int8", data=graph.with_name("images.npz"), images=20)
    assert made.sidecar.device == cpu_device(2)
    assert opened
    assert max(count for count, _ in opened) <= 2
    assert not any(spins for _, spins in opened)
    opened.clear()
    found = bench(graph, duration_s=0.02, warmup_ms=0)
    assert opened == [(4, True)]
    assert found.device.threads == device_of(graph, None).threads == 4


def test_the_quota_bounds_sessions(
    graph: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[int, bool]]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr("edgecnn.machine.cpu.cpu_quota", lambda root: 3.5)
    _onnxruntime.open_session(graph)
    _onnxruntime.open_session(graph, threads=5)
    assert opened == [(3, False), (5, False)]


def _refuse() -> None:
    raise MeasurementError("not so", "do it otherwise")


def test_work_in_a_fresh_process() -> None:
    assert run_in_fresh_process(os.getpid) != os.getpid()
    assert run_in_fresh_process(partial(os.getenv, "OMP_WAIT_POLICY")) == os.getenv("OMP_WAIT_POLICY")
    with pytest.raises(MeasurementError, match="not so") as told:
        run_in_fresh_process(_refuse)
    assert told.value.hint == "do it otherwise"
    with pytest.raises(BackendError, match="exit code 3"):
        run_in_fresh_process(partial(os._exit, 3))


def test_pytorch_that_was_loaded_to_make_something_is_measured_elsewhere(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(bench_module, "run_in_fresh_process", asked.append)
    monkeypatch.setattr(bench_module, "torch_is_passive", lambda: True)
    assert bench(graph, duration_s=0.02, warmup_ms=0).measurements, "a graph is none of its business"
    assert not asked
    checkpoint = graph.with_name("model.safetensors")
    checkpoint.touch()
    bench(checkpoint, versus=graph, batch=3, threads=2, mode="single-shot")
    bench_module.bench_all({"fp32": graph}, graph.with_name("latency.json"), checkpoint=checkpoint, threads=2)
    paths, output, sizes, settings, how = asked[0].args
    assert (paths, output, sizes, settings) == ([checkpoint, graph], None, (3,), BenchSettings(batch=3))
    assert (how.mode, how.threads, how.trust, how.trust_code) == ("single-shot", 2, False, False)
    assert asked[1].func is bench_module.bench_all
