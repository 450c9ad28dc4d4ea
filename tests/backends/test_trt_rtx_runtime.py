"""TensorRT-RTX where a plan runs: compiled for the GPU, kept, replayed by itself; on a strict fake of its bindings, the
names of which are held against NVIDIA's own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import sidecar_path
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.errors import ArtifactError, BackendError, EdgecnnError, MissingPackageError
from edgecnn.measure.latency import measure_latency
from edgecnn.recipe.schema import BatchSettings
from edgecnn.session import PipelinedSession, PipelineOptions
from tests.backends.conftest import TENSORRT_RTX
from tests.fakes.fake_cuda import COMPUTE_MS, COPY_MS, FakeDevice
from tests.fakes.fake_tensorrt import ACTIVATION_BYTES, COMPILE_S, injected

pytestmark = pytest.mark.onnx

API = Path(__file__).parent / "api" / "rtx" / f"{TENSORRT_RTX}.json"


@pytest.fixture
def plan(fake_rtx: Any, graph: Callable[..., Path]) -> Path:
    source = graph("fp16")
    path = source.with_suffix(".rtx.plan")
    load_backend("trt-rtx").engine_from_onnx(source, path, BuildOptions("rtx", BatchSettings(1, 2, 4)))
    return path


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32)


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "edgecnn" / "runtime").glob("*"))


def test_the_whole_way(fake_rtx: Any, device: FakeDevice, plan: Path) -> None:
    before = device.live()
    with open_engine(plan) as session:
        results = [session.run(images(n)) for n in (1, 2, 1, 2, 4, 1)]
        np.testing.assert_array_equal(results[0], results[2])
        assert [len(r) for r in results] == [1, 2, 1, 2, 4, 1]
        info = session.info
        assert (info.graph, info.graph_fallback) == (True, "")
        assert device.live()["executables"] == 0, "it records graphs itself"
        assert [len(b) for b in device.memory.values() if len(b) % ACTIVATION_BYTES == 0] == [ACTIVATION_BYTES * 4]
    assert device.live() == before
    assert {kind: len(live) for kind, live in fake_rtx._live.items() if live} == {}


def test_what_was_compiled_is_kept_for_the_next_start(
    fake_rtx: Any, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_engine(plan) as session:
        session.run(images(2))
    assert fake_rtx._compiled == ["fallback", "(2, 3, 8, 8)"]
    (cache,) = kept(tmp_path)
    assert cache.name.startswith(f"{TENSORRT_RTX}_NVIDIA_L4_8.9_12.8_")
    assert f"runtime cache {cache}: new" in capsys.readouterr().err
    written = cache.stat().st_mtime_ns
    with open_engine(plan) as session:
        session.run(images(2))
        assert session.info.jit_ms < 1000 * COMPILE_S
    assert len(fake_rtx._compiled) == 2, "nothing was compiled again"
    assert cache.stat().st_mtime_ns == written
    assert f"runtime cache {cache}: 0 kB" in capsys.readouterr().err
    with open_engine(plan) as session:
        session.run(images(4))  # another shape
    assert fake_rtx._compiled[2:] == ["(4, 3, 8, 8)"]
    assert cache.stat().st_mtime_ns > written


@pytest.mark.parametrize("content", [b"garbage", json.dumps([["1.6.0.1", "NVIDIA L4"], []]).encode()])
def test_a_cache_that_is_not_taken_is_left_out_and_said(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    with open_engine(plan) as session:
        session.run(images(1))
    (cache,) = kept(tmp_path)
    good = cache.read_bytes()
    cache.write_bytes(content)
    with open_engine(plan) as session:
        session.run(images(1))
    assert "TensorRT-RTX does not take it; it is left out and made anew" in capsys.readouterr().err
    assert cache.read_bytes() == good


def test_a_cache_that_cannot_be_written_ends_nothing(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache" / "edgecnn").mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache" / "edgecnn" / "runtime").write_text("a file where the folder should be")
    with open_engine(plan) as session:
        assert session.run(images(1)).shape == (1, 5)
    assert "the plan is compiled again at the next start" in capsys.readouterr().err


def test_two_plans_that_are_open_at_once_keep_what_is_theirs(
    fake_rtx: Any, plan: Path, tmp_path: Path, graph: Callable[..., Path]
) -> None:
    other = plan.with_name("other.rtx.plan")
    load_backend("trt-rtx").engine_from_onnx(graph("fp32"), other, BuildOptions("rtx", BatchSettings(1, 2, 4)))
    for _ in range(2):
        with open_engine(plan) as one, open_engine(other) as two:
            one.run(images(1))
            two.run(images(1))
    assert len(kept(tmp_path)) == 2
    assert len(fake_rtx._compiled) == 4


def test_compiling_is_in_no_latency(plan: Path) -> None:
    """Not even without a warm-up: the first query is already compiled."""
    with open_engine(plan) as session:
        overlapping = measure_latency("x", session, images(2), warmup_ms=0, duration_s=0)
        assert overlapping.latency_ms_max < 1000 * COMPILE_S
        assert overlapping.graph
        found = measure_latency("x", session, images(2), warmup_ms=0, duration_s=0, mode="single-shot")
        assert found.latency_ms_max == COPY_MS + COMPUTE_MS + COPY_MS
        assert found.jit_ms is not None
        assert found.jit_ms >= 2 * 1000 * COMPILE_S
        assert found.graph
        before = session.info.jit_ms
        session.run(images(2))
        assert session.info.jit_ms == before


def test_bench_says_how_long_compiling_took(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--engine", str(plan), "--duration", "0.01", "--warmup", "0"]
    assert cli.main(arguments) == 0
    assert "compiled for this GPU in " in capsys.readouterr().err
    assert cli.main([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["measurements"]
    assert row["jit_ms"] > 0
    assert row["latency_ms_max"] < 1000 * COMPILE_S


def test_an_engine_that_it_cannot_record_is_a_stated_fallback(fake_rtx: Any, plan: Path) -> None:
    with open_engine(plan) as session, injected(fake_rtx, "capture"):
        session.run(images(2))
        session.run(images(2))
        assert (session.info.graph, session.info.graph_fallback) == (False, "TensorRT-RTX cannot record this engine")


def test_layers_are_timed_without_a_graph(plan: Path) -> None:
    with load_backend("trt-rtx").open_engine(plan) as session:
        assert session.layer_runs_ms(images(2), queries=1)


def test_a_plan_needs_the_tensorrt_of_its_flavor(
    one_trt: Any, fake_rtx: Any, plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it is called: the first four bytes say whose it is."""
    renamed = plan.rename(plan.with_name("model.plan"))
    sidecar_path(plan).rename(sidecar_path(renamed))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match="running TensorRT-RTX engines needs the package 'tensorrt_rtx'"):
        open_engine(renamed)
    assert cli.main(["bench", "--engine", str(renamed)]) == 2
    said = capsys.readouterr().err
    assert "edgecnn[rtx]" in said
    assert "Traceback" not in said
    assert not one_trt._live.get("ICudaEngine")


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda c: c[:20], ArtifactError, "a plan cut off after 20 bytes"),
        (lambda c: c[: len(c) // 2], ArtifactError, "is not the one its sidecar promises"),
        (lambda c: b"xtrt" + c[4:], ArtifactError, "not a TensorRT plan: it starts with b'xtrt'"),
        (lambda c: b"ftrt" + c[4:], ArtifactError, "is not the one its sidecar promises"),
        (lambda c: c[:4] + b"\1" + c[5:], ArtifactError, "plan serialisation version 1"),
        (lambda c: b"", ArtifactError, "the file is empty"),
    ],
    ids=["header cut", "cut", "wrong magic", "the other flavor's magic", "format", "empty"],
)
def test_a_damaged_plan_is_refused_before_it_is_loaded(
    fake_rtx: Any,
    plan: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
    kind: type[EdgecnnError],
    words: str,
) -> None:
    plan.write_bytes(damage(plan.read_bytes()))
    for trust in (False, True):
        with pytest.raises(kind, match=words):
            load_backend("trt-rtx").open_engine(plan, trust=trust)
    assert cli.main(["bench", "--engine", str(plan)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not fake_rtx._live.get("ICudaEngine")


def test_a_plan_of_another_release_is_refused_before_it_is_loaded(fake_rtx: Any, plan: Path) -> None:
    fake_rtx.__version__ = "1.6.0.1"
    with pytest.raises(BackendError, match=rf"built by TensorRT-RTX {TENSORRT_RTX} .*; here are 1\.6\.0\.1") as caught:
        open_engine(plan)
    assert "--backend trt-rtx" in caught.value.hint
    assert not fake_rtx._live.get("ICudaEngine")
    fake_rtx.__version__ = "1.3.0"
    with pytest.raises(BackendError, match=r"TensorRT-RTX 1\.3\.0 is not supported; 1\.4 to 1\.x are"):
        open_engine(plan)


@pytest.mark.nvidia
def test_the_names_are_nvidia_s_own(tensorrt_rtx: Path) -> None:
    """The snapshot that the fake and the scan of our source go by, against the module itself."""
    trt: Any = importlib.import_module("tensorrt_rtx")
    api = json.loads(API.read_text())
    assert api["version"] == trt.__version__
    checked = 0
    for name, content in api["classes"].items():
        members = {**content.get("methods", {}), **content.get("properties", {}), **content.get("enum", {})}
        assert [m for m in members if not hasattr(getattr(trt, name), m)] == [], name
        checked += len(members)
    assert checked > 1000


@pytest.mark.nvidia
def test_the_real_bindings_take_our_calls(tensorrt_rtx: Path) -> None:
    probe = [sys.executable, str(Path(__file__).with_name("rtx_probe.py"))]
    environment = {**os.environ, "PYTHONPATH": str(tensorrt_rtx)}
    ran = subprocess.run(probe, capture_output=True, text=True, env=environment, timeout=50)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


def test_pipelined_queries_have_blocks_graphs_and_results_of_their_own(
    fake_rtx: Any, device: FakeDevice, graph: Callable[..., Path]
) -> None:
    source = graph("fp16")
    path = source.with_suffix(".rtx.plan")
    batches = BatchSettings(1, 1, 4, ((1, 1, 1), (2, 2, 4)))
    load_backend("trt-rtx").engine_from_onnx(source, path, BuildOptions("rtx", batches))
    before = device.live()
    with open_engine(path) as session:
        assert isinstance(session, PipelinedSession)
        for n, profile in ((1, "1 of 2, batch 1..1..1"), (4, "2 of 2, batch 2..2..4")):
            expected = session.run(images(n))
            opened = device.live()
            jit_ms = session.info.jit_ms
            for options in (PipelineOptions(2), PipelineOptions(2, transfers=False), PipelineOptions(timed=False)):
                with session.pipeline(images(n), options) as pipeline:
                    queries = [query for _ in range(5) for query in pipeline.turn()] + pipeline.drain()
                    assert len(queries) == 5 * options.streams
                    assert (pipeline.info.graph, pipeline.info.graph_fallback) == (True, "")
                    assert pipeline.info.profile == profile
                    assert pipeline.info.jit_ms is not None
                    assert jit_ms is not None
                    assert pipeline.info.jit_ms > jit_ms
                    for result in pipeline.results():
                        np.testing.assert_array_equal(result["logits"], expected)
                assert device.live() == opened
    assert device.live() == before
    assert {kind: len(live) for kind, live in fake_rtx._live.items() if live} == {}
