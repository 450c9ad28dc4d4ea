"""What trtexec gets, and what its scripts do where they are run."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.artifact.calibration_cache import read_calibration_cache
from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.backends.trt.plan import read_plan_header
from edgecnn.bundle.served import Served, build_script, typed_options
from edgecnn.bundle.trtexec import STRONGLY_TYPED
from edgecnn.cli import main
from edgecnn.graph.calibration.file import implicit_scales, read_ranges
from edgecnn.recipe.load import load_recipe
from tests.bundle.conftest import Build

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    from edgecnn.errors import GraphError
    from edgecnn.graph.opset import lower_opset

pytestmark = pytest.mark.torch


def bundled(digits: Path, out: Path, *options: str) -> Path:
    assert main(["bundle", str(digits), "--for", "trtexec", "-o", str(out), *options]) == 0
    return out


def test_the_script_builds_the_strongly_typed_graph_under_the_stated_tensorrt_alone(
    digits: Path, tmp_path: Path, build: Build
) -> None:
    out = bundled(digits, tmp_path / "a b'$(x)")
    assert sha256_of(out / "model.onnx") == sha256_of(digits / "model.int8-tensorrt.onnx")
    code, asked, said = build(out / "build.sh", 101303)
    assert (code, asked) == (2, "")
    assert "is of TensorRT 101303, this is for 10.3" in said
    assert build(out / "build.sh", 100300, header=(10, 7, 0, 1))[0] == 2
    assert build(out / "build.sh", 100300, code=1)[0] == 1
    assert not (out / "model.plan").exists()
    code, asked, said = build(out / "build.sh", 100302)
    assert (code, said) == (0, "")
    assert "--onnx=model.onnx" in asked
    assert "--stronglyTyped" in asked
    assert "--minShapes=input:1x1x32x32 --optShapes=input:1x1x32x32 --maxShapes=input:64x1x32x32" in asked
    assert read_plan_header(out / "model.plan").tensorrt == "10.3.0.26"
    other = bytearray((out / "model.plan").read_bytes())
    other[25] = 13
    (out / "model.plan").write_bytes(other)
    code, asked, said = build(out / "build.sh", 100302)
    assert (code, asked) == (2, "")
    assert "model.plan was built by TensorRT 10.13, this is for 10.3" in said


def test_up_to_tensorrt_10_there_is_a_calibration_cache_of_that_very_version(
    digits: Path, tmp_path: Path, build: Build
) -> None:
    out = bundled(digits, tmp_path / "out", "--tensorrt", "10.7.0")
    code, asked, _ = build(out / "build-implicit.sh", 100700, header=(10, 7, 0, 23))
    assert code == 0
    assert "--onnx=model.fp32.onnx" in asked
    assert "--int8 --fp16 --calib=model.cache" in asked
    assert "--stronglyTyped" not in asked
    assert build(out / "build-implicit.sh", 100701)[0] == 2
    found = read_calibration_cache(out / "model.cache")
    ranges = read_ranges(digits / "model.calib.json")
    assert found.tensorrt == 100700
    assert found.scales == pytest.approx(implicit_scales(ranges, "mse"), rel=1e-6)
    eleven = bundled(digits, tmp_path / "eleven", "--tensorrt", "11.4")
    assert sorted(p.name for p in eleven.iterdir()) == ["README.txt", "build.sh", "model.onnx"]
    code, asked, _ = build(eleven / "build.sh", 110401, header=(11, 4, 1, 0))
    assert (code, "--stronglyTyped" in asked) == (0, False)


def test_the_build_route_of_the_recipe_is_in_the_script(tmp_path: Path) -> None:
    recipe = load_recipe(
        "lenet5-digits", ['targets=["gpu"]', 'build.routes.int8="-conv_lowering=off   -kgen:tiling=2"']
    )
    graph, sidecar = tmp_path / "g.onnx", Sidecar(kind="graph", facts={"input_shape": [1, 32, 32]})
    served = Served(recipe, "int8", graph, sidecar, graph, graph, "11.4")
    route = "--setBuildRoute=-conv_lowering=off -kgen:tiling=2"
    assert typed_options(served) == [route]
    assert shlex.quote(route) in build_script(served, typed_options(served), STRONGLY_TYPED, shapes=[])
    assert typed_options(replace(served, precision="fp16")) == []


def test_a_build_route_that_the_script_would_not_have_is_refused(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(digits, run)
    ask = ["bundle", str(run), "-o", str(out), "--for"]
    to_reference = ["run", str(run), "--threads", "1", "--until", "reference"]
    changes = ('targets=["cpu", "agx-orin"]', 'build.routes.int8="-conv_lowering=off"')
    assert main([*to_reference, *(word for change in changes for word in ("--set", change))]) == 0
    for server, *more in (["trtexec"], ["deepstream"], ["trtexec", "--tensorrt", "11.0"], ["trtexec", "--dla", "0"]):
        capsys.readouterr()
        assert main([*ask, server, *more]) == 2
        said = capsys.readouterr().err
        assert "build.routes.int8" in said
        assert ("--dla 0 takes none" if "--dla" in more else "build routes exist from TensorRT 11.1 on") in said
        assert not out.exists()
    assert main([*ask, "trtexec", "--precision", "fp16"]) == 0
    shutil.rmtree(out)
    assert main([*ask, "trtexec", "--tensorrt", "11.4"]) == 0
    assert "--setBuildRoute=-conv_lowering=off" in (out / "build.sh").read_text()
    shutil.rmtree(out)
    assert main([*to_reference, "--set", "build.routes={}"]) == 0
    assert main([*ask, "trtexec"]) == 0


def test_tensorrt_8_gets_the_float_graph_at_opset_17(digits: Path, tmp_path: Path, build: Build) -> None:
    out = bundled(digits, tmp_path / "out", "--tensorrt", "8.6.2")
    model = onnx.load(out / "model.onnx")
    assert [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] == [17]
    assert not any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node)
    images = np.random.default_rng(1).normal(size=(3, 1, 32, 32)).astype(np.float32)
    found, wanted = (
        onnxruntime.InferenceSession(str(path)).run(None, {"input": images})[0]
        for path in (out / "model.onnx", digits / "model.fp32.onnx")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    cache = read_calibration_cache(out / "model.cache")
    assert cache.tensorrt == 8602
    assert {node.input[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")} <= cache.scales.keys()
    code, asked, _ = build(out / "build.sh", 8602)
    assert code == 0
    assert "--saveEngine=model.plan.part" in asked
    assert "--int8 --fp16 --calib=model.cache" in asked
    assert build(out / "build.sh", 8601)[0] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tensorrt", "8.6"], "a calibration cache is of one patch version"),
        (["--tensorrt", "9.0"], "scripts are for TensorRT 8.5, 8.6 and from 10 on"),
        (["--tensorrt", "10"], "no version of TensorRT"),
        (["--tensorrt", "10.3; rm -rf x"], "no version of TensorRT"),
        (["--images", "files"], "a bundle for trtexec has no images"),
    ],
)
def test_what_is_refused_leaves_nothing(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["bundle", str(digits), "--for", "trtexec", "-o", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_touched(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("x")
    assert main(["bundle", str(digits), "--for", "trtexec", "-o", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["bundle", str(digits), "--for", "cpu", "--precision", "fp16", "-o", str(tmp_path / "x.tar")]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_an_operator_without_a_form_at_opset_17_is_refused() -> None:
    nodes = [helper.make_node("Gelu", ["input"], ["logits"], "gelu")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("input", "logits")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(GraphError, match="cannot be converted to opset 17"):
        lower_opset(model, "model.fp32.onnx")


def test_a_mistyped_server_is_named(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", str(digits), "--for", "tritn", "-o", str(tmp_path / "made")]) == 2
    assert "hint: did you mean 'triton' or 'trtexec'?" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
