"""The rule on latencies on a recording of one engine on one machine, half of it beside other work: it is itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def benchmark(root: Path) -> Iterator[Any]:
    """The program that made the recording, and judges it."""
    spec = importlib.util.spec_from_file_location("latency_baseline", root / "benchmarks" / "latency_baseline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def parts(benchmark: Any, root: Path) -> Any:
    """The parts of the recording."""
    return benchmark.read_series(root / "benchmarks" / "results" / "latency_series.npz")


def test_an_engine_is_not_slower_than_itself(benchmark: Any, parts: Any) -> None:
    found = benchmark.judge_splits(parts, 1000)
    assert found.get("FAIL", 0) <= 5
    assert found["PASS"] > 200, "what is stable is judged"


def test_an_engine_that_is_slower_by_a_fifth_is_found(benchmark: Any, parts: Any) -> None:
    found = benchmark.judge_splits(parts, 300, slower=1.2)
    assert "PASS" not in found
    assert found["FAIL"] >= 0.9 * found["both_stable"] > 0
