"""Weakly typed builds with implicit INT8, on the strict fakes: TensorRT 10 alone has them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.backends import open_engine
from edgecnn.backends.trt.implicit import cache_version
from edgecnn.backends.trt.plan import describe_plan
from edgecnn.errors import ArtifactError, BackendError, GraphError, RecipeError
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.file import implicit_scales, read_ranges, write_ranges
from edgecnn.results.layers import layers_from_json, shares_of
from edgecnn.steps.build import build
from tests.backends.conftest import install
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.noise import images

pytestmark = pytest.mark.onnx

Graph = Callable[..., Path]
OLD = ("10.3.0", "10.16.1.11")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """What TensorRT 8.6 would have written for the small graph."""
    path = tmp_path / "CalibrationTable"
    names = ("input", "conv", "relu", "pool", "flat", "logits")
    path.write_text("TRT-8602-EntropyCalibration2\n" + "".join(f"{name}: 3c010204\n" for name in names))
    return path


def weak(graph: Path, ranges: Path, **more: Any) -> Path:
    return build(graph, target="gpu", weakly_typed=True, ranges=ranges, **more)


@pytest.mark.parametrize("version", OLD)
def test_the_float32_graph_and_a_cache_make_an_int8_engine(
    version: str, device: FakeDevice, graph: Graph, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of whatever version the cache was: its text is written anew for the TensorRT that builds."""
    trt = install(monkeypatch, tmp_path, version, device)
    plan = weak(graph("fp32"), cache)
    assert trt._builds[-1]["flags"] - {"EDITABLE_TIMING_CACHE"} == {"INT8", "FP16"}
    made = read_sidecar(plan)
    assert (made.precision_requested, made.precision_obtained, made.scheme) == ("int8", "int8", "implicit")
    assert set(made.parents) == {"model.fp32.onnx", "CalibrationTable"}
    assert made.facts["weakly_typed"] is True
    assert any("for each layer by speed" in note for note in made.facts["notes"])
    assert shares_of(layers_from_json(made.facts["layers"])).int8_macs_pct == 100
    rebuild = shlex.split(str(describe_plan(plan)["rebuild"]))
    assert rebuild[rebuild.index("--weakly-typed") :] == ["--weakly-typed", "--ranges", str(cache), "-o", str(plan)]
    with open_engine(plan) as session:
        assert session.run(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 5)


def test_our_ranges_serve_as_well(one_trt: Any, graph: Graph, tmp_path: Path) -> None:
    """Calibration does not see what is fused with an activation function: that gets the scale of what it becomes."""
    source, ranges = graph("fp32"), tmp_path / "model.calib.json"
    write_ranges(collect_ranges(source, images(5, (3, 8, 8))), ranges, Sidecar(kind=""))
    known = implicit_scales(read_ranges(ranges), "mse")
    assert "conv" not in known
    seen = []
    unwatched = one_trt.IBuilderConfig.set_flag

    def watched(config: Any, flag: Any) -> None:
        seen.append(config)
        unwatched(config, flag)

    one_trt.IBuilderConfig.set_flag = watched
    made = read_sidecar(weak(source, ranges))
    assert made.precision_obtained == "int8"
    table = dict(
        line.split(": ") for line in seen[0].int8_calibrator.read_calibration_cache().decode().splitlines()[1:]
    )
    assert table["conv"] == table["relu"]
    assert set(table) == {*known, "conv"}
    other = weak(source, ranges, method="minmax", output=tmp_path / "other.plan")
    assert read_sidecar(other).sha256 == made.sha256, "the fake's plan does not depend on scales"


def test_what_each_layer_got_is_read_back(one_trt: Any, graph: Graph, cache: Path) -> None:
    one_trt._inject.add("mixed")
    made = read_sidecar(weak(graph("fp32"), cache))
    shares = shares_of(layers_from_json(made.facts["layers"]))
    assert 0 < (shares.int8_macs_pct or 0) < 100
    assert shares.fp16_macs_pct == pytest.approx(100 - (shares.int8_macs_pct or 0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.replace("flat: 3c010204\n", ""),
            "1 of 2 tensors of model.fp32.onnx have no scale above 0 in it: 'flat'",
        ),
        (lambda t: t.replace("flat: 3c010204\n", "flat: 0\n"), "'flat' (read by /fc/Gemm)"),
        (lambda t: "TRT-8602-EntropyCalibration2\nx: 3c010204\n", "of another graph: it has 'x'"),
        (lambda t: t.replace("relu: 3c010204", "relu: 3c01020g"), "line 4"),
        (lambda t: t.replace("TRT-", "TF-"), "first line"),
    ],
)
def test_a_cache_that_does_not_fit_builds_nothing(
    one_trt: Any, graph: Graph, cache: Path, change: Callable[[str], str], says: str
) -> None:
    cache.write_text(change(cache.read_text()))
    source = graph("fp32")
    with pytest.raises(ArtifactError) as refused:
        weak(source, cache)
    assert says in refused.value.message.replace(f"{source.parent}/", "")
    assert one_trt._builds == []
    assert not source.with_suffix(".plan").exists()


def test_11_is_refused_in_words_before_anything_is_built(
    device: FakeDevice, graph: Graph, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt = install(monkeypatch, tmp_path, "11.4.0.106", device)
    with pytest.raises(BackendError, match=r"TensorRT 11\.4\.0\.106 has no implicit quantization.* 10\.x was the last"):
        weak(graph("fp32"), cache)
    assert trt._builds == []
    assert trt._logger is None, "not even a builder was made"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_with_a_precision_of_its_own_is_refused(
    one_trt: Any, graph: Graph, cache: Path, precision: str
) -> None:
    with pytest.raises(GraphError, match=f"takes the float32 graph, this one is {precision}"):
        weak(graph(precision), cache)
    assert one_trt._builds == []


@pytest.mark.parametrize(
    ("arguments", "says", "kind"),
    [
        ({"weakly_typed": True}, "needs the ranges", RecipeError),
        ({"ranges": "model.calib.json"}, "ranges are of a weakly typed build", RecipeError),
        (
            {"weakly_typed": True, "ranges": "CalibrationTable", "target": "cpu"},
            "target cpu is built by CPU",
            BackendError,
        ),
        (
            {"weakly_typed": True, "ranges": "CalibrationTable", "backend": "trt-rtx"},
            "rtx is built by TensorRT-RTX",
            BackendError,
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    one_trt: Any,
    graph: Graph,
    cache: Path,
    arguments: dict[str, Any],
    says: str,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(cache.parent)
    with pytest.raises(kind) as refused:
        build(graph("fp32"), **{"target": "", **arguments})
    assert says in str(refused.value)


def test_the_command(one_trt: Any, graph: Graph, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = graph("fp32")
    call = ["build", str(source), "--target", "gpu", "--weakly-typed"]
    assert cli.main(call) == 2
    assert "--ranges" in capsys.readouterr().err
    assert cli.main([*call, "--ranges", str(cache)]) == 0
    assert "for each layer by speed" in capsys.readouterr().err


def test_constants_need_no_scale(one_trt: Any, graph: Graph, cache: Path) -> None:
    """What a Gemm multiplies from the left may be one: its values are known."""
    import onnx
    from onnx import helper, numpy_helper

    source = graph("fp32", sidecar=False)
    model = onnx.load(source)
    turn = numpy_helper.from_array(np.eye(8, dtype=np.float32))
    nodes = {node.name: node for node in model.graph.node}
    nodes["/pool/GlobalAveragePool"].input[0] = "turned"
    at = list(model.graph.node).index(nodes["/pool/GlobalAveragePool"])
    model.graph.node.insert(at, helper.make_node("MatMul", ["turn", "relu"], ["turned"], "/turn/MatMul"))
    model.graph.node.insert(at, helper.make_node("Constant", [], ["turn"], "/turn/Constant", value=turn))
    onnx.save(model, source)
    assert read_sidecar(weak(source, cache)).scheme == "implicit"


def test_how_a_cache_names_its_version() -> None:
    assert [cache_version(v) for v in ("10.3.0", "10.3.0.26", "10.13.3.9")] == [100300, 100300, 101303]
