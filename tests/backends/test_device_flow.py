"""The flow of the GPU tests on the fakes, so that it is known to run before there is a GPU; and trtexec's terms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.recipe.schema import BatchSettings
from tests.fakes.device_flow import (
    closeness,
    engines_of,
    find_trtexec,
    graphs_of,
    medians_of_times,
    our_latency,
    speed_ups,
    trtexec_command,
    ways_to_bench,
)

pytestmark = [pytest.mark.onnx, pytest.mark.torch]


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Graphs of LeNet-5 in each precision."""
    return graphs_of("lenet5", tmp_path_factory.mktemp("lenet5"), images=8)


def test_three_precisions_of_a_network_of_the_zoo(lenet: dict[str, Path], trt: Any, tmp_path: Path) -> None:
    graphs = {p: Path(shutil.copy(graph, tmp_path)) for p, graph in lenet.items()}
    for graph in lenet.values():
        shutil.copy(sidecar_path(graph), tmp_path)
    plans = engines_of(graphs, BatchSettings(1, 2, 8))
    for precision, plan in plans.items():
        assert read_sidecar(plan).precision_obtained == precision
        assert closeness(graphs[precision], plan, 2) > 0.9999
    rows = speed_ups(plans, 2, warmup_ms=0.0, duration_s=0.0)
    assert [row["name"] for row in rows] == ["fp16", "int8"]
    assert our_latency(plans["fp32"], 1, 0.0, 0.0)["compute_ms_p50"] == 1.0
    rows = ways_to_bench(plans["fp16"], 2, 0.0, 0.0)
    assert [(row["mode"], row["transfers"], row["streams"], row["clock"]) for row in rows] == [
        ("single-shot", True, 1, "cuda events"),
        ("pipelined", True, 1, "cuda events"),
        ("pipelined", False, 1, "cuda events"),
        ("pipelined", True, 2, "cuda events"),
        ("pipelined", True, 1, "host"),
    ]


@pytest.mark.parametrize(
    ("major", "flags", "absent"),
    [
        (10, {"--useCudaGraph", "--useSpinWait"}, "--includeDataTransfers"),
        (11, {"--includeDataTransfers"}, "--useCudaGraph"),
    ],
)
def test_trtexec_runs_on_the_same_terms_in_every_version(major: int, flags: set[str], absent: str) -> None:
    made = trtexec_command("trtexec", Path("a.plan"), (1, 3, 8, 8), major, Path("t.json"), 200.0, 3.0)
    assert flags <= set(made)
    assert absent not in made
    assert {"--shapes=input:1x3x8x8", "--warmUp=200", "--duration=3", "--exportTimes=t.json"} <= set(made)


def test_trtexec_is_found_where_jetpack_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"/usr/src/tensorrt/bin": "/usr/src/tensorrt/bin/trtexec"}
    monkeypatch.setattr(shutil, "which", lambda name, path="": here.get(path) if name == "trtexec" else None)
    assert find_trtexec() == "/usr/src/tensorrt/bin/trtexec"
    here[""] = "/usr/bin/trtexec"
    assert find_trtexec() == "/usr/bin/trtexec"


def test_medians_of_trtexec_s_times() -> None:
    records = [{"latencyMs": x, "computeMs": x / 2, "h2dMs": 0.0, "d2hMs": 0.0} for x in (3.0, 1.0, 2.0)]
    assert medians_of_times(records) == {"latency_ms_p50": 2.0, "compute_ms_p50": 1.0}
