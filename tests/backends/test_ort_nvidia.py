"""The real onnxruntime-gpu and the real plugin of TensorRT-RTX, without a GPU: what they do silently is an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecnn.machine.gpu import driver_version
from edgecnn.records import parse_toml

pytestmark = [
    pytest.mark.onnx,
    pytest.mark.nvidia,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="this onnxruntime-gpu is for Python 3.11 and later"),
]

ROOT = Path(__file__).parents[2]
WITH_A_FAKE_GPU = """
import sys
from tests.fakes.fake_cuda import FakeDevice, driver_module, runtime_module
device = FakeDevice()
sys.modules["cuda.bindings.runtime"] = runtime_module(device)
sys.modules["cuda.bindings.driver"] = driver_module(device)
from edgecnn import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def build_with(graph: Any, tmp_path: Path) -> Any:
    """Build the small graph with `folder` before the installed packages; its exit code, its lines on standard error."""

    def build(folder: Path, provider: str, *python: str) -> tuple[int, list[str]]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))),
            "CUDA_VISIBLE_DEVICES": "",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        command = [sys.executable, *python, "build", str(graph("fp32")), "--provider", provider]
        command += ["-o", str(tmp_path / "e.onnx")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == ""
        assert not (tmp_path / "e.onnx").exists()
        return done.returncode, done.stderr.splitlines()

    return build


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_without_a_gpu_a_provider_for_one_is_refused(
    onnxruntime_gpu_folder: Path, build_with: Any, provider: str
) -> None:
    code, said = build_with(onnxruntime_gpu_folder, provider, "-m", "edgecnn")
    assert code == 2
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert "cuda" in said[0].lower()


@pytest.mark.skipif(bool(driver_version()), reason="a GPU is here: the provider may load")
def test_its_silent_fall_back_is_an_error_with_its_own_reason(onnxruntime_gpu_folder: Path, build_with: Any) -> None:
    code, said = build_with(onnxruntime_gpu_folder, "cuda", "-c", WITH_A_FAKE_GPU)
    assert code == 2
    assert re.search(
        r"CUDAExecutionProvider was asked for, and ONNX Runtime \S+ would compute on CPUExecutionProvider instead: "
        r"lib\S+\.so\S*: cannot open shared object file",
        said[0],
    )
    assert len(said) == 2, said


@pytest.mark.skipif(bool(driver_version()), reason="a GPU is here: the provider may load")
def test_a_tensorrt_of_another_major_is_refused_by_name(
    onnxruntime_gpu_folder: Path, build_with: Any, tmp_path: Path
) -> None:
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "tensorrt.py").write_text('__version__ = "11.4.0.106"\n')
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'newer')!r})\n" + WITH_A_FAKE_GPU
    code, said = build_with(onnxruntime_gpu_folder, "tensorrt", "-c", script)
    assert code == 2
    assert "loads libnvinfer.so.10, and here is TensorRT 11.4.0.106" in said[0]


def test_the_extra_brings_a_tensorrt_that_the_provider_loads(onnxruntime_gpu_folder: Path) -> None:
    library = onnxruntime_gpu_folder / "onnxruntime" / "capi" / "libonnxruntime_providers_tensorrt.so"
    needed = re.search(rb"libnvinfer\.so\.(\d+)", library.read_bytes())
    metadata: Any = parse_toml((ROOT / "pyproject.toml").read_text())
    (wanted,) = [w for w in metadata["project"]["optional-dependencies"]["gpu"] if w.startswith("tensorrt")]
    bounds = re.fullmatch(r"tensorrt>=(\d+)\.\d+,<(\d+)", wanted)
    assert needed
    assert bounds
    assert (int(bounds[1]), int(bounds[2])) == (int(needed[1]), int(needed[1]) + 1)


@pytest.mark.skipif(bool(driver_version()), reason="a GPU is here: the plugin may load")
def test_a_plugin_that_this_machine_cannot_load_is_refused(plugin_folder: Path, build_with: Any) -> None:
    code, said = build_with(plugin_folder, "rtx", "-c", WITH_A_FAKE_GPU)
    assert code == 2
    assert re.search(
        r"the plugin does not fit \(onnxruntime \S+ and onnxruntime-ep-\S+ \S+\): lib\S+: cannot open", said[0]
    )


def test_a_jetson_finds_no_wheel_of_it(tmp_path: Path) -> None:
    """What the documents say of the package index; a wheel that appears there is news."""
    where = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_35_aarch64", "--python-version", "3.10"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *where]
    command += ["-d", str(tmp_path), "onnxruntime-gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "connection" in done.stderr.lower():
        pytest.skip(f"pip reaches no package index: {done.stderr.strip()[-200:]}")
    assert done.returncode != 0
    assert "No matching distribution" in done.stderr
