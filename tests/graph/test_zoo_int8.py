"""Every network of the zoo as FP16 and INT8 graphs, on real images."""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgecnn.backends.ort.session import OrtSession
from edgecnn.machine.cpu import int8_guard
from edgecnn.measure.comparison import compare_latency
from edgecnn.zoo import cards

pytestmark = pytest.mark.onnx

SAMPLE = ("lenet5", "squeezenet1_1", "mobilenet_v1_x0_25", "shufflenet_v2_x0_5")


@pytest.fixture(scope="module")
def benchmark(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_int8", root / "benchmarks" / "zoo_int8.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(row: dict[str, Any]) -> None:
    """Placement complete, legal for TensorRT 10.3 and 11.4, near FP32; the runs themselves are in the benchmark."""
    name = row["name"]
    assert row["findings"] == [], name
    assert row["int8_share_pct"] == 100.0, name
    assert row["pairs"] > 0, name
    assert row["integer_kernels"] == row["kernels"], name
    assert row["fp16_kept_float32"] == 0, name
    assert row["fp16_sqnr_db"] > 30, name
    assert row["int8_sqnr_db"] >= 10, name
    assert row["cpu_sqnr_db"] >= 10, name


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_zoo(name: str, benchmark: ModuleType, shared: Path, tmp_path: Path) -> None:
    check(benchmark.measure_network(name, tmp_path, shared))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_zoo(root: Path, shared: Path, tmp_path: Path) -> None:
    """As a user runs it, in a process of its own: 25 minutes on two cores, counted in CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(root / "benchmarks" / "zoo_int8.py"), "--shared", str(shared), "--jobs", "2"]
    subprocess.run([*command, "--rows", str(tmp_path / "rows.jsonl")], cwd=root, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(cards())
    for row in rows:
        check(row)
        assert row["peak_mb"] < 8000, row["name"]  # two at a time, on 16 GB
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert max(row["cpu_s"] for row in rows) < spent < 2 * 25 * 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_integer_kernels_are_worth_it(benchmark: ModuleType, shared: Path, tmp_path: Path) -> None:
    """ResNet-50, one image: at most 0.7 of the FP32 latency, interleaved, where the CPU has the instructions."""
    said = int8_guard()
    if said is not None:
        pytest.skip(said)
    row = benchmark.measure_network("resnet50", tmp_path, shared)  # leaves fp32.onnx and, last, the CPU's graph
    batch = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    with OrtSession(tmp_path / "fp32.onnx", 1) as float32, OrtSession(tmp_path / "graph.onnx", 1) as int8:
        sessions = {"fp32": float32, "int8": int8}
        ratio = compare_latency(sessions, batch, warmup_ms=500, duration_s=5)["int8"]
    assert row["integer_kernels"] == 54
    assert ratio.latency_ratio <= 0.7
    assert ratio.latency_ratio_ci[1] <= 0.7
