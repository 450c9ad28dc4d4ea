"""While a build runs: progress, Ctrl-C, and the timing cache."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import BuildOptions, load_backend
from edgecnn.backends.trt.progress import BuildProgress, Interruption, progress_monitor
from edgecnn.backends.trt.timing import merge_timing_cache
from edgecnn.errors import WriteError
from edgecnn.recipe.schema import BatchSettings
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_tensorrt import fake_tensorrt

pytestmark = pytest.mark.onnx

OPTIONS = BuildOptions(target="gpu", batch=BatchSettings(1, 2, 4))


def build(source: Path, plan: Path | None = None, **changes: Any) -> Path:
    plan = plan or source.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(source, plan, dataclasses.replace(OPTIONS, **changes))
    return plan


def cache_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "edgecnn" / "timing").glob("*.cache"))


def test_progress_is_plain_lines_where_there_is_no_terminal(
    trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    build(graph())
    captured = capsys.readouterr()
    assert "building: Building Engine" in captured.err.splitlines()
    assert captured.out == ""


def test_progress_is_a_bar_on_a_terminal(
    one_trt: Any, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")
    one_trt._on_step = lambda step: time.sleep(0.15)
    build(graph())
    assert "Timing kernels" in capsys.readouterr().err


def test_a_long_phase_says_so_now_and_then(
    one_trt: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgecnn.backends.trt.progress.SECONDS_BETWEEN_LINES", 0.0)
    progress = BuildProgress()
    monitor = progress_monitor(one_trt, progress, Interruption())
    monitor.phase_start("Timing", None, 7)
    assert monitor.step_complete("Timing", 2) is True
    assert monitor.step_complete("unknown", 0) is True
    assert "building: Timing 3/7" in capsys.readouterr().err


def test_no_exception_leaves_a_callback(one_trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In C++ it would end the process."""
    monitor = progress_monitor(one_trt, BuildProgress(), Interruption())
    monkeypatch.setattr(sys, "stderr", None)
    monitor.phase_start("Timing", None, 1)
    assert monitor.step_complete("Timing", 0) is True


def test_ctrl_c_cancels_the_build_and_leaves_nothing(trt: Any, graph: Callable[..., Path], tmp_path: Path) -> None:
    source, steps = graph(), []

    def press(step: int) -> None:
        steps.append(step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    trt._on_step = press
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(source)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.glob("*.plan*"))
    assert not list(tmp_path.glob(".*"))
    trt._on_step = None
    assert build(source).exists()


def test_ctrl_c_is_seen_while_the_main_thread_is_in_c(one_trt: Any, graph: Callable[..., Path]) -> None:
    """There Python's own handler can not run before the builder returns; the builder must hear of it all the same."""
    reader, writer = os.pipe()

    def wait_in_c(thread: threading.Thread) -> None:
        ender = threading.Thread(target=lambda: (thread.join(), os.write(writer, b".")))
        ender.start()
        ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1)  # no bytecode runs here until then
        ender.join()

    def press(step: int) -> None:
        if step == 0:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    one_trt._wait, one_trt._on_step = wait_in_c, press
    with pytest.raises(KeyboardInterrupt):
        build(graph())
    assert one_trt._builds == []  # it gave up, and did not build to the end first
    os.close(reader)
    os.close(writer)


def test_an_interrupted_build_is_exit_code_130(
    one_trt: Any, graph: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = graph()
    one_trt._on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 0 else time.sleep(0.05)
    assert cli.main(["build", str(source), "--backend", "trt"]) == 130
    assert capsys.readouterr().err.splitlines().count("interrupted") == 1
    assert not source.with_suffix(".plan").exists()


def test_a_build_in_another_thread_leaves_signals_alone(one_trt: Any, graph: Callable[..., Path]) -> None:
    source, made = graph(), []
    thread = threading.Thread(target=lambda: made.append(build(source)))
    thread.start()
    thread.join()
    assert made[0].exists()


def test_the_timing_cache_is_kept_per_tensorrt_gpu_and_driver(
    trt: Any, graph: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = read_sidecar(build(graph("fp32")))
    (path,) = cache_files(tmp_path)
    assert path.name.startswith(f"{trt.__version__}_NVIDIA_L4_8.9_") or "-NVIDIA_L4-8.9-" in path.name
    assert first.facts["timing_cache"] == {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert ": new" in capsys.readouterr().err
    one = len(json.loads(path.read_bytes())["entries"])
    build(graph("int8"))
    assert ": new" not in capsys.readouterr().err
    assert len(json.loads(path.read_bytes())["entries"]) > one


def test_another_gpu_has_another_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Any) -> None:
    source = graph()
    for name in ("NVIDIA L4", "NVIDIA L40S"):
        install(monkeypatch, tmp_path, "10.3.0", FakeDevice(name))
        build(source)
    install(monkeypatch, tmp_path, "11.4.0.106", FakeDevice())
    build(source)
    assert len(cache_files(tmp_path)) == 3


def test_what_others_added_meanwhile_is_kept(one_trt: Any, graph: Callable[..., Path], tmp_path: Path) -> None:
    build(graph())
    (path,) = cache_files(tmp_path)
    other = json.dumps({"trt": one_trt.__version__, "entries": ["added meanwhile"]}).encode()
    one_trt._on_step = lambda step: path.write_bytes(other)
    build(graph("int8"))
    entries = json.loads(path.read_bytes())["entries"]
    assert "added meanwhile" in entries
    assert any("conv" in e for e in entries)


@pytest.mark.parametrize("content", [b"garbage", b'{"trt": "9.9.9", "entries": []}'])
def test_a_cache_that_tensorrt_does_not_take_is_left_out_and_made_anew(
    trt: Any, graph: Callable[..., Path], tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.cache"
    path.write_bytes(content)
    build(graph(), timing_cache=path)
    assert "does not take it" in capsys.readouterr().err
    assert json.loads(path.read_bytes())["trt"] == trt.__version__


def test_a_folder_is_no_timing_cache_and_nothing_is_built(
    one_trt: Any, graph: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "caches").mkdir()
    with pytest.raises(WriteError, match="caches: the timing cache cannot be written: it is a folder"):
        build(graph(), timing_cache=tmp_path / "caches")
    assert one_trt._builds == []


def _merge_one(path: str, number: int) -> None:
    module = fake_tensorrt("10.3.0", FakeDevice())
    config = module.IBuilderConfig()
    cache = module.ITimingCache(module.__version__, {f"kernel {number}"})
    config.set_timing_cache(cache, False)
    time.sleep(0.01 * (number % 3))
    merge_timing_cache(config, Path(path))


def test_builders_that_end_together_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared.cache"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_merge_one, args=(str(path), n)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 6
    assert json.loads(path.read_bytes())["entries"] == [f"kernel {n}" for n in range(6)]


def test_a_terminated_build_is_exit_code_143(
    one_trt: Any, graph: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, before = graph(), signal.getsignal(signal.SIGTERM)
    one_trt._on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 0 else time.sleep(0.05)
    assert cli.main(["build", str(source), "--backend", "trt"]) == 143
    assert capsys.readouterr().err.splitlines().count("terminated") == 1
    assert not list(tmp_path.rglob("*.plan*"))
    assert not list(tmp_path.rglob(".*edgecnn-*"))
    assert signal.getsignal(signal.SIGTERM) is before
