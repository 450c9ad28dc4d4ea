"""On a machine with an NVIDIA GPU: `make test-gpu`, with EDGECNN_REQUIRE_GPU=1 to fail rather than skip without it or
TensorRT.

Without that variable, what needs CUDA alone runs without TensorRT too. The numbers go to
build/gpu-results.json (EDGECNN_GPU_RESULTS).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.write import write_bytes
from edgecnn.backends import BuildOptions, _cuda, load_backend, open_engine
from edgecnn.backends._kernel import launch_one_kernel
from edgecnn.errors import DeviceError, EdgecnnError
from edgecnn.gate.rules.precision import check_precision
from edgecnn.machine.gpu import open_nvml
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import BatchSettings
from edgecnn.records import to_plain
from edgecnn.results.device import Device
from edgecnn.results.layers import mean_times, share_facts
from edgecnn.results.report import Measurement
from edgecnn.steps.bench import engine_facts
from tests.fakes.device_flow import (
    closeness,
    engines_of,
    find_trtexec,
    graphs_of,
    our_latency,
    recipe_report,
    speed_ups,
    trtexec_latency,
    ways_to_bench,
)
from tests.fakes.round_trip import round_trip
from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800), pytest.mark.torch]

LIMITS = {"warmup_ms": 200.0, "duration_s": 3.0}
TRTEXEC_RATIO_MAX = 1.03


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, Any]]:
    """What is measured; written at the end."""
    found: dict[str, Any] = {}
    yield found
    path = Path(os.environ.get("EDGECNN_GPU_RESULTS", "build/gpu-results.json"))
    if found:
        write_bytes(path, (json.dumps(found, indent=1) + "\n").encode())


@pytest.fixture(scope="session")
def cuda() -> Any:
    """The real CUDA seam, or a skip."""
    _cuda._load.cache_clear()
    try:
        return _cuda.load_cuda()
    except EdgecnnError as exc:
        pytest.skip(f"no GPU: {exc.message}")


def test_the_gpu_runs_a_kernel(cuda: Any) -> None:
    launch_one_kernel(cuda)


def test_clocks_are_read_where_the_gpu_is(cuda: Any) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    nvml = open_nvml(cuda.properties().pci_bus_id)
    assert nvml is not None
    assert nvml.read()["gpu_mhz"] > 0


@pytest.fixture(scope="session")
def tensorrt_device(cuda: Any, results: dict[str, Any]) -> Device:
    """The device under TensorRT; skips where TensorRT is not installed, fails where it is broken."""
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("the package tensorrt is not installed")
    found = load_backend("trt").device()
    results["device"] = to_plain(found)
    return found


def test_a_real_round_trip(cuda: Any) -> None:
    result, ms = round_trip(cuda)
    np.testing.assert_array_equal(result, np.arange(1 << 16).astype(np.uint8))
    assert 0 < ms < 1000


def test_what_the_gpu_is(cuda: Any, results: dict[str, Any]) -> None:
    gpu = cuda.properties()
    results["gpu"] = vars(gpu)
    free, total = cuda.memory_info()
    assert gpu.name
    assert float(gpu.compute_capability) >= 5
    assert 0 < free <= total
    assert abs(total / gpu.memory_bytes - 1) < 0.1


def test_memory_comes_back(cuda: Any) -> None:
    round_trip(cuda)
    before, _ = cuda.memory_info()
    for _ in range(500):
        round_trip(cuda)
    after, _ = cuda.memory_info()
    assert before - after < 64e6


def test_a_real_graph_replays_copies(cuda: Any) -> None:
    n, stream = 4096, cuda.create_stream()
    if not cuda.captures:
        with pytest.raises(DeviceError, match="cannot record CUDA graphs"):
            cuda.begin_capture(stream)
        return
    device = cuda.malloc(n)
    (there, source), (back, target) = cuda.malloc_pinned(n), cuda.malloc_pinned(n)
    cuda.begin_capture(stream)
    cuda.to_device(device, source, n, stream)
    cuda.to_host(target, device, n, stream)
    graph = cuda.end_capture(stream)
    for value in (1, 2, 3):
        source[:] = value
        cuda.launch_graph(graph, stream)
        cuda.synchronize_stream(stream)
        assert set(target) == {value}
    cuda.destroy_graph(graph)
    cuda.free(device)
    cuda.free_pinned(there)
    cuda.free_pinned(back)
    cuda.destroy_stream(stream)


def test_the_torch_reference_on_the_gpu(cuda: Any, results: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.reference import CudaReference, Reference

    torch.manual_seed(0)
    for name, shape in (("lenet5", (1, 32, 32)), ("resnet18", (3, 224, 224))):
        images = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
        network = build_model(name, 10)
        host = Reference(network, shape, 10).run(images)
        there = CudaReference(network, shape, 10)
        difference = float(np.abs(host - there.run(images)).max() / np.abs(host).max())
        timing = there.timed(images)
        results.setdefault("torch", []).append({"name": name, "difference": difference, **vars(timing)})
        assert difference < 1e-3
        assert timing.clock == "cuda events"
        assert 0 < timing.compute_ms < 1000


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_small_network_all_the_way(tensorrt_device: Any, tmp_path: Path, precision: str) -> None:
    graph, plan = tmp_path / f"tiny.{precision}.onnx", tmp_path / f"tiny.{precision}.plan"
    graph.write_bytes(tiny_graph(precision).SerializeToString())
    sidecar = load_backend("trt").engine_from_onnx(graph, plan, BuildOptions("gpu", BatchSettings(1, 2, 4)))
    (tmp_path / "inspector.json").write_text(json.dumps(sidecar.facts["layers"], indent=1))
    assert sidecar.precision_obtained == precision
    for batch in (1, 2, 4, 3):
        assert closeness(graph, plan, batch) > 0.99
    with load_backend("trt").open_engine(plan) as session:
        images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        plain = session.run(images)
        session.run(images)
        np.testing.assert_allclose(session.run(images), plain, rtol=1e-3, atol=1e-4)  # replayed as a graph
        assert session.info.graph, session.info.graph_fallback
        assert mean_times(session.layer_runs_ms(images, 10)).keys() <= {layer.name for layer in session.layers(2)}


def test_opening_an_engine_often_leaks_no_memory(tensorrt_device: Any, cuda: Any, tmp_path: Path) -> None:
    graph, plan = tmp_path / "tiny.onnx", tmp_path / "tiny.plan"
    graph.write_bytes(tiny_graph("fp16").SerializeToString())
    load_backend("trt").engine_from_onnx(graph, plan, BuildOptions("gpu", BatchSettings(1, 1, 1)))
    images = np.zeros((1, 3, 8, 8), np.float32)
    for turn in range(210):
        with open_engine(plan) as session:
            session.run(images)
            session.run(images)
        if turn == 9:
            before, _ = cuda.memory_info()
    after, _ = cuda.memory_info()
    assert before - after < 64e6


@pytest.fixture(scope="session")
def resnet(tensorrt_device: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, Path]]:
    """Graphs and engines of a ResNet-50 (random weights unless EDGECNN_GPU_WEIGHTS=default)."""
    folder = tmp_path_factory.mktemp("resnet50")
    graphs = graphs_of("resnet50", folder, os.environ.get("EDGECNN_GPU_WEIGHTS", "none"))
    return graphs, engines_of(graphs, BatchSettings(1, 8, 8))


def test_resnet50_keeps_its_logits_and_its_precision(resnet: Any, results: dict[str, Any]) -> None:
    graphs, plans = resnet
    for precision, least in (("fp32", 0.999), ("fp16", 0.99), ("int8", 0.97)):
        sidecar = read_sidecar(plans[precision])
        shares = share_facts(open_layers(plans[precision]))
        assert shares.items() <= sidecar.facts.items()
        measurement = Measurement(name=precision, engine=sidecar.engine, facts=engine_facts(plans[precision]))
        (judged,) = check_precision(measurement)
        cosine = closeness(graphs[precision], plans[precision], 2)
        size_mb = plans[precision].stat().st_size / 1e6
        results.setdefault("resnet50", []).append(
            {"name": precision, "cosine": cosine, "size_mb": size_mb, "precision": judged.evidence}
        )
        assert judged.verdict == "PASS", judged.evidence
        assert cosine > least


def open_layers(plan: Path) -> Any:
    with load_backend("trt").open_engine(plan) as session:
        return session.layers(1)


@pytest.mark.parametrize("batch", [1, 8])
def test_resnet50_is_faster_in_fp16_and_int8(resnet: Any, results: dict[str, Any], batch: int) -> None:
    found = speed_ups(resnet[1], batch, **LIMITS)
    results.setdefault("speed_ups", []).extend(found)
    if batch == 8:
        for row in found:
            assert row["latency_ratio_ci"][1] < 1, row


def test_resnet50_in_every_way_to_bench(resnet: Any, results: dict[str, Any]) -> None:
    rows = ways_to_bench(resnet[1]["fp16"], 8, **LIMITS)
    results["ways_to_bench"] = rows
    single, pipelined, no_copies, *_ = rows
    assert pipelined["throughput_images_per_s"] > 0.98 * single["throughput_images_per_s"]
    assert no_copies["latency_ms_p50"] < pipelined["latency_ms_p50"]


@pytest.mark.nvidia  # pip's TensorRT comes without trtexec: EDGECNN_REQUIRE_NVIDIA=1 insists on it
def test_resnet50_by_trtexec_and_by_us(resnet: Any, tensorrt_device: Device, results: dict[str, Any]) -> None:
    if find_trtexec() is None:
        pytest.skip("trtexec is neither on PATH nor where JetPack has it")
    major, shape = int(tensorrt_device.tensorrt.split(".")[0]), (1, 3, 224, 224)
    for precision, plan in resnet[1].items():
        ours, theirs = [], []
        for _ in range(3):  # in turn, so that a drifting clock meets both
            theirs.append(trtexec_latency(plan, shape, major, **LIMITS))
            ours.append(our_latency(plan, 1, **LIMITS))
        ratios = {
            key: float(np.median([o[key] for o in ours]) / np.median([t[key] for t in theirs])) for key in ours[0]
        }
        results.setdefault("trtexec", []).append({"name": precision, "ours": ours, "trtexec": theirs, "ratio": ratios})
        assert 1 / TRTEXEC_RATIO_MAX < ratios["latency_ms_p50"] < TRTEXEC_RATIO_MAX, ratios


def test_lenet5_digits_as_one_recipe(tensorrt_device: Any, results: dict[str, Any], tmp_path: Path) -> None:
    report = recipe_report(load_recipe("lenet5-digits", ['targets=["gpu"]']), tmp_path / "run")
    plain = to_plain(report)
    results["lenet5-digits"] = {k: plain[k] for k in ("measurements", "verdict", "device_key")}
    for row in report.measurements:
        assert row.engine.precision_obtained == row.engine.precision_requested == row.name
    assert report.verdict.exit_code in (0, 3), report.verdict
