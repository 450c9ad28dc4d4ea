"""What trtexec gets for a DLA core, and what the script says of where the layers run.

The lines of TensorRT's report are as public build logs of Orin and Xavier have them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgecnn.artifact.calibration_cache import read_calibration_cache
from edgecnn.artifact.dla_log import read_dla_log
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.cli import main
from edgecnn.errors import DeviceError, EdgecnnError, RecipeError
from edgecnn.pipeline.serving import bundle_for_serving
from edgecnn.recipe.load import load_recipe
from tests.bundle.conftest import Build

pytestmark = pytest.mark.torch

REPORT = """[I] [TRT] ---------- Layers Running on DLA ----------
[I] [TRT] [DlaLayer] {ForeignNode[/conv1/Conv.../relu4/Relu]}
[I] [TRT] ---------- Layers Running on GPU ----------
[I] [TRT] [GpuLayer] POOLING: /pool/GlobalAveragePool
"""


def bundled(digits: Path, out: Path, target: str, precision: str = "int8", tensorrt: str = "", dla: int = 0) -> Path:
    recipe = dataclasses.replace(load_recipe("lenet5-digits"), targets=(target,))
    bundle_for_serving(recipe, digits, out, "trtexec", precision=precision, tensorrt=tensorrt, dla=dla)  # type: ignore[arg-type]
    return out


def test_up_to_10_7_the_float_graph_with_its_cache(digits: Path, tmp_path: Path, build: Build) -> None:
    out = bundled(digits, tmp_path / "out", "agx-orin", dla=1, tensorrt="10.3.0")
    assert sha256_of(out / "model.onnx") == sha256_of(digits / "model.fp32.onnx")
    cache = read_calibration_cache(out / "model.cache")
    assert cache.tensorrt == 100300
    code, asked, said = build(out / "build-dla.sh", 100300)
    assert (code, asked.split()[0]) == (2, "--onnx=model.onnx")
    assert "no layer runs on the DLA" in said
    assert "--int8 --fp16 --calib=model.cache --useDLACore=1 --allowGPUFallback" in asked
    assert "--minShapes=input:1x1x32x32 --optShapes=input:1x1x32x32 --maxShapes=input:1x1x32x32" in asked
    assert "--stronglyTyped" not in asked
    assert not (out / "model.dla1.plan").exists()
    assert build(out / "build-dla.sh", 100301)[0] == 2, "a cache is of one patch version"
    assert "Nobody has run this on a DLA yet" in (out / "README.txt").read_text()


def test_the_script_counts_what_is_left_to_the_gpu(
    digits: Path, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bundled(digits, tmp_path / "out", "orin-nx-8gb", "fp16")
    passed = "&&&& PASSED TensorRT.trtexec [TensorRT v100300] # trtexec --onnx=model.onnx"
    lines = "".join(f'echo "{line}"\n' for line in (*REPORT.splitlines(), passed))
    from tests.bundle import conftest

    monkeypatch.setattr(conftest, "TRTEXEC", conftest.TRTEXEC.replace("exit CODE", lines + "exit CODE"))
    code, asked, said = build(out / "build-dla.sh", 100300)
    assert (code, said) == (0, "")
    assert "--fp16 --useDLACore=0 --allowGPUFallback" in asked
    assert "--int8" not in asked
    assert (out / "model.dla0.plan").exists()
    reported = read_dla_log(out / "build.log")
    assert (reported.dla_core, reported.dla_precision, reported.dla_parts) == (0, "fp16", 1)
    assert reported.dla_gpu_layers == ("POOLING: /pool/GlobalAveragePool",)
    assert reported.dla_graph_sha256 == sha256_of(digits / "model.fp32.onnx")
    assert "copy build.log to runs/NAME/TARGET/fp16.dla.log" in (out / "README.txt").read_text()
    with (out / "model.onnx").open("ab") as graph:
        graph.write(b"more")
    assert "model.onnx is not what the bundle had" in build(out / "build-dla.sh", 100300)[2]


def test_from_11_4_1_the_typed_graph(digits: Path, tmp_path: Path, build: Build) -> None:
    out = bundled(digits, tmp_path / "out", "agx-orin", tensorrt="11.4.1")
    assert sha256_of(out / "model.onnx") == sha256_of(digits / "model.int8-tensorrt.onnx")
    assert not (out / "model.cache").exists()
    asked = build(out / "build-dla.sh", 110401, header=(11, 4, 1, 0))[1]
    assert "--useDLACore=0 --allowGPUFallback" in asked
    for option in ("--int8", "--fp16", "--calib", "--stronglyTyped"):
        assert option not in asked


@pytest.mark.parametrize(
    ("target", "precision", "tensorrt", "error", "said"),
    [
        ("orin-nano", "int8", "10.3.0", DeviceError, "orin-nano has no DLA"),
        ("rtx-40", "int8", "10.3.0", DeviceError, "rtx-40 has no DLA"),
        ("agx-orin", "int8", "10.13", DeviceError, "10.3 to 10.7 do"),
        ("agx-orin", "fp32", "10.3.0", RecipeError, "a DLA computes FP16 and INT8"),
    ],
)
def test_what_has_none_is_refused_and_leaves_nothing(
    digits: Path, tmp_path: Path, target: str, precision: str, tensorrt: str, error: type[EdgecnnError], said: str
) -> None:
    with pytest.raises(error, match=said):
        bundled(digits, tmp_path / "out", target, precision, tensorrt)
    assert list(tmp_path.iterdir()) == []


def test_only_trtexec_has_it(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--for", "triton"], ["--for", "cpu"], ["--for", "trtexec"]):
        assert main(["bundle", str(digits), *options, "--dla", "0", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for line in ("--dla 0 for triton", "--precision, --tensorrt and --dla are of what serves", "target cpu has no DLA"):
        assert line in said


def test_check_lists_it_and_refuses_a_device_without(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = str(digits / "model.fp32.onnx")
    assert main(["check", graph, "--target", "agx-orin", "--dla"]) == 0
    said = capsys.readouterr().out
    for line in ("layers run on the GPU", "it is float32, TensorRT 11.4.1", "the DLA in TensorRT 10.3 to 10.7"):
        assert line in said
    assert main(["check", graph, "--target", "orin-nano", "--dla"]) == 2
    assert "target orin-nano has no DLA" in capsys.readouterr().err
