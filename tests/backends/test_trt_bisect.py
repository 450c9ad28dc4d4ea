"""The first wrong layer of an engine: on strict fakes of TensorRT with and without debug tensors, and of RTX."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar, sidecar_path
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, _cuda, load_backend
from edgecnn.diagnose.engine_bisect import describe_divergence
from edgecnn.errors import ArtifactError, BackendError, MeasurementError, MissingPackageError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.divergence import EngineDivergence
from edgecnn.steps.engine_bisect import bisect_engine
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_tensorrt import injected
from tests.fakes.resnet50 import resnet50
from tests.fakes.tiny import tiny_graph

if TYPE_CHECKING:
    import onnx

pytestmark = pytest.mark.onnx
Graph = Callable[..., Path]
PAIR = ("flat/QuantizeLinear", "flat/DequantizeLinear")


@pytest.fixture
def data(tmp_path: Path) -> str:
    images = np.random.default_rng(0).normal(size=(9, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", input=images)
    return str(tmp_path / "images.npz")


def build(graph: Path, backend: str = "trt", least: int = 1) -> Path:
    plan = graph.with_suffix(".plan")
    options = BuildOptions("rtx" if backend == "trt-rtx" else "l4", BatchSettings(least, 2, 4))
    load_backend(backend).engine_from_onnx(graph, plan, options)
    return plan


def bisected(trt: Any, graph: Path, data: str, fault: str = "", backend: str = "trt", *more: str) -> EngineDivergence:
    """Of an engine that is built, and looked into, by a TensorRT with a fault."""
    with injected(trt, *([f"wrong {fault}"] if fault else []), *more):
        return bisect_engine(build(graph, backend), data=data)


def said(found: EngineDivergence) -> str:
    return "\n".join(describe_divergence(found))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_that_agrees_is_not_looked_into(
    one_trt: Any, device: FakeDevice, graph: Graph, data: str, precision: str
) -> None:
    before = device.live()
    found = bisected(one_trt, graph(precision), data)
    assert (found.cause, found.method, found.builds, found.node, found.n) == ("none", "none", 0, "", 8)
    assert "nothing to bisect" in said(found)
    assert len(one_trt._builds) == 1
    assert device.live() == before


@pytest.mark.parametrize(
    ("version", "precision", "node"),
    [
        ("10.3.0", "fp16", "/conv/Conv"),
        ("10.3.0", "int8", "/fc/Gemm"),
        ("10.16.1.11", "fp16", "/conv/Conv"),
        ("10.16.1.11", "int8", "/fc/Gemm"),
        ("11.4.0.106", "fp32", "/pool/GlobalAveragePool"),
    ],
)
def test_the_wrong_layer_is_named(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: FakeDevice,
    graph: Graph,
    data: str,
    version: str,
    precision: str,
    node: str,
) -> None:
    """By debug tensors in one build where TensorRT has them; a fused layer is told as what it is made of."""
    trt = install(monkeypatch, tmp_path, version, device)
    source, before = graph(precision), device.live()
    found = bisected(trt, source, data, node)
    assert found.cause == "layer"
    assert node in found.nodes
    assert found.output_sqnr_db is not None
    assert found.output_sqnr_db < found.output_explained_db
    if trt._numbers[:2] >= (10, 13):
        assert (found.method, found.builds) == ("debug-tensors", 1)
        assert set(found.nodes) <= {found.node, node, "/conv/Relu", "/Flatten", "cast_out", *PAIR}
    else:
        assert (found.method, found.nodes, found.node) == ("extra-outputs", (node,), node)
        assert found.builds <= 4
        assert [d.build for d in found.seen if d.build] == sorted(d.build for d in found.seen if d.build)
    assert f"{node}" in said(found)
    gc.collect()
    assert device.live() == before
    assert not device.races
    _cuda._load.cache_clear()


def test_one_wrong_layer_of_a_resnet50_within_8_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice
) -> None:
    trt = install(monkeypatch, tmp_path, "10.3.0", device)
    source, data = tmp_path / "resnet50.onnx", str(tmp_path / "images.npz")
    onnx.save(resnet50(), source)
    np.savez(data, input=np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32))
    found = bisected(trt, source, data, "layer3.4.conv2/Conv")
    assert (found.cause, found.method, found.nodes) == ("layer", "extra-outputs", ("layer3.4.conv2/Conv",))
    assert found.builds == len(trt._builds) - 1 <= 8
    _cuda._load.cache_clear()


def test_internal_names_tell_nothing(one_trt: Any, graph: Graph, data: str) -> None:
    """Myelin names tensors in its own way: then they are made outputs."""
    found = bisected(one_trt, graph("fp16"), data, "/conv/Conv", "trt", "internal names")
    assert (found.cause, found.method, found.nodes) == ("layer", "extra-outputs", ("/conv/Conv",))
    assert found.unknown_n > 0
    assert found.builds <= 5


def test_rtx_leaves_nothing_between_layers(fake_rtx: Any, graph: Graph, data: str) -> None:
    found = bisected(fake_rtx, graph("fp16"), data, "/pool/GlobalAveragePool", "trt-rtx")
    assert (found.backend, found.cause, found.method) == ("trt-rtx", "layer", "extra-outputs")
    assert found.nodes == ("/pool/GlobalAveragePool",)


@pytest.mark.parametrize(("version", "kind"), [("10.16.1.11", "plain"), ("10.3.0", "plain"), ("10.3.0", "fused")])
def test_a_debug_engine_that_agrees_blames_fusion_or_tactic(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: FakeDevice,
    graph: Graph,
    data: str,
    version: str,
    kind: str,
) -> None:
    trt = install(monkeypatch, tmp_path, version, device)
    found = bisected(trt, graph("fp16"), data, f"{kind} /conv/Conv")
    assert found.cause == "fusion-or-tactic"
    assert "fusion or tactic is the suspect" in said(found)
    assert (found.tensor == "conv") is (kind == "fused")
    assert (found.tensor == "") is (version == "10.16.1.11")
    _cuda._load.cache_clear()


def test_a_batch_that_the_engine_serves(one_trt: Any, graph: Graph, data: str) -> None:
    source = graph("fp32", batch=3)
    plan = source.with_suffix(".plan")
    with injected(one_trt, "wrong /fc/Gemm"):
        load_backend("trt").engine_from_onnx(source, plan, BuildOptions("l4", BatchSettings(3, 3, 3)))
        found = bisect_engine(plan, data=data)
    assert (found.n, found.cause, found.tensor) == (9, "layer", "logits")


def test_what_cannot_be_looked_into(one_trt: Any, graph: Graph, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = graph("fp32")
    with injected(one_trt, "wrong /fc/Gemm"):
        plan = build(source)
        with injected(one_trt, "build"), pytest.raises(BackendError, match="cannot build it"):
            bisect_engine(plan, data=data)
    content = source.read_bytes()
    source.write_bytes(tiny_graph("fp16").SerializeToString())
    with pytest.raises(ArtifactError, match="is not the graph that model.fp32.plan was built from") as other:
        bisect_engine(plan, data=data)
    assert "edgecnn build model.fp32.onnx" in other.value.hint
    source.unlink()
    with pytest.raises(ArtifactError, match=r"is not here: model\.fp32\.onnx"):
        bisect_engine(plan, data=data)
    source.write_bytes(content)
    known = sidecar_path(plan).read_text()
    weakly = json.loads(known)
    weakly["facts"]["weakly_typed"] = True
    sidecar_path(plan).write_text(json.dumps(weakly))
    with injected(one_trt, "wrong /fc/Gemm"), pytest.raises(BackendError, match="it was built weakly typed"):
        bisect_engine(plan, data=data)
    with pytest.raises(ArtifactError, match="not an engine"):
        bisect_engine(data, data=data)
    sidecar_path(plan).write_text(known)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackageError):
        bisect_engine(plan, data=data)


def test_a_kill_between_builds_leaves_nothing(one_trt: Any, graph: Graph, data: str, tmp_path: Path) -> None:
    """The search begins anew; what is beside the engine is as it was."""
    source = graph("fp16")
    with injected(one_trt, "wrong /conv/Conv", "internal names"):
        plan = build(source)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

        def interrupt(step: int) -> None:
            if len(one_trt._builds) == 3:
                raise KeyboardInterrupt

        one_trt._wait = lambda thread: (thread.join(), interrupt(0))
        with pytest.raises(KeyboardInterrupt):
            bisect_engine(plan, data=data)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        one_trt._wait = lambda thread: thread.join()
        assert bisect_engine(plan, data=data).nodes == ("/conv/Conv",)


def test_a_graph_that_is_wrong_itself(one_trt: Any, graph: Graph, data: str) -> None:
    source = graph("fp32", sidecar=False)
    model = onnx.load(source)
    bias = next(t for t in model.graph.initializer if t.name == "fc.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.inf, np.float32), "fc.bias"))
    write_artifact(source, lambda p: p.write_bytes(model.SerializeToString()) and None, Sidecar(kind="graph"))
    with pytest.raises(MeasurementError, match="the graph itself gives logits that are not finite"):
        bisect_engine(build(source), data=data)
