"""ONNX Runtime's CUDA provider on a real GPU: `make test-gpu`. It needs onnxruntime-gpu, and no TensorRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import tool_versions
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import EdgecnnError
from edgecnn.recipe.schema import BatchSettings
from tests.fakes.device_flow import closeness, noise
from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.gpu, pytest.mark.onnx]


@pytest.fixture(autouse=True)
def _provider() -> None:
    """Skips where onnxruntime-gpu or a GPU is missing, fails where one of them is broken."""
    if not tool_versions("onnxruntime-gpu"):
        pytest.skip("the package onnxruntime-gpu is not installed")
    try:
        load_cuda()
    except EdgecnnError as exc:
        pytest.skip(f"no GPU: {exc.message}")
    assert load_backend("ort-cuda").why_not() == ""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_small_network_has_the_logits_of_its_graph(tmp_path: Path, precision: str, capfd: Any) -> None:
    graph, engine = tmp_path / f"tiny.{precision}.onnx", tmp_path / f"tiny.{precision}.cuda.onnx"
    graph.write_bytes(tiny_graph(precision).SerializeToString())
    sidecar = load_backend("ort-cuda").engine_from_onnx(graph, engine, BuildOptions("ort-cuda", BatchSettings(1, 2, 4)))
    assert sidecar.facts["cpu_nodes"] == 0
    for batch in (1, 2, 4, 3):
        assert closeness(graph, engine, batch) > 0.99
    with open_engine(engine) as session:
        timing = session.timed(noise((2, 3, 8, 8)))
        assert timing.clock == "cuda events"
        assert 0 < timing.compute_ms < 100
        assert session.info.simulated == (
            "INT8 in float: the CUDA provider has no integer convolutions" if precision == "int8" else ""
        )
    assert capfd.readouterr().err == "", "a library wrote to the terminal"


def test_opening_an_engine_often_leaks_no_memory(tmp_path: Path) -> None:
    graph, engine = tmp_path / "tiny.onnx", tmp_path / "tiny.cuda.onnx"
    graph.write_bytes(tiny_graph("fp16").SerializeToString())
    load_backend("ort-cuda").engine_from_onnx(graph, engine, BuildOptions("ort-cuda", BatchSettings(1, 1, 1)))
    free = []
    for _ in range(40):
        with open_engine(engine) as session:
            session.run(noise((1, 3, 8, 8)))
        free.append(load_cuda().memory_info()[0])
    assert free[9] - free[-1] < 64e6
