"""The CUDA seam: on the counting fake through both bindings, and with the real cuda-bindings."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.backends import _cuda, load_backend
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import BackendError, DeviceError, MissingPackageError
from edgecnn.records import parse_toml
from tests.backends.conftest import CUDA_PYTHON
from tests.fakes.fake_cuda import FakeDevice, pycuda_module, runtime_module
from tests.fakes.round_trip import round_trip

pytestmark = pytest.mark.onnx

BINDINGS = ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, device: FakeDevice) -> Iterator[Any]:
    """`installed("cuda.cudart")` leaves just these bindings to be found."""

    def install(*names: str) -> None:
        for name in BINDINGS:
            make = pycuda_module if name == "pycuda.driver" else runtime_module
            monkeypatch.setitem(sys.modules, name, make(device) if name in names else None)
        _cuda._load.cache_clear()

    monkeypatch.delenv("EDGECNN_CUDA", raising=False)
    yield install
    _cuda._load.cache_clear()


@pytest.mark.parametrize(
    ("present", "wanted", "name"),
    [
        (["cuda.bindings.runtime"], "", "cuda-bindings"),
        (["cuda.cudart"], "", "cuda-bindings"),
        (["pycuda.driver"], "", "pycuda"),
        (list(BINDINGS), "", "cuda-bindings"),
        (list(BINDINGS), "pycuda", "pycuda"),
        (list(BINDINGS), "cuda-bindings", "cuda-bindings"),
    ],
)
def test_the_binding_that_is_installed_is_used(
    installed: Any, monkeypatch: pytest.MonkeyPatch, present: list[str], wanted: str, name: str
) -> None:
    installed(*present)
    monkeypatch.setenv("EDGECNN_CUDA", wanted)
    assert load_cuda().name == name


@pytest.mark.parametrize(
    ("present", "wanted", "words"),
    [
        ([], "", "needs the package 'cuda-bindings'"),
        (["cuda.bindings.runtime"], "pycuda", "needs the package 'pycuda'"),
        (["pycuda.driver"], "cuda-bindings", "needs the package 'cuda-bindings'"),
    ],
)
def test_a_missing_binding_is_named(
    installed: Any, monkeypatch: pytest.MonkeyPatch, present: list[str], wanted: str, words: str
) -> None:
    installed(*present)
    monkeypatch.setenv("EDGECNN_CUDA", wanted)
    with pytest.raises(MissingPackageError, match=words) as caught:
        load_cuda()
    assert ("edgecnn[pycuda]" in caught.value.hint) == (wanted == "pycuda")


def test_an_unknown_binding_is_refused(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(*BINDINGS)
    monkeypatch.setenv("EDGECNN_CUDA", "cupy")
    with pytest.raises(BackendError, match="EDGECNN_CUDA=cupy: no such binding"):
        load_cuda()


@pytest.mark.parametrize("binding", ["cuda.bindings.runtime", "pycuda.driver"])
def test_a_round_trip_leaves_nothing(installed: Any, device: FakeDevice, binding: str) -> None:
    installed(binding)
    for _ in range(20):
        result, ms = round_trip(load_cuda())
        np.testing.assert_array_equal(result, np.arange(1 << 16).astype(np.uint8))
        assert ms > 0
    gc.collect()
    assert set(device.live().values()) == {0}


@pytest.mark.parametrize("binding", ["cuda.bindings.runtime", "pycuda.driver"])
def test_properties_and_memory(installed: Any, device: FakeDevice, binding: str) -> None:
    installed(binding)
    cuda = load_cuda()
    gpu = cuda.properties()
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == ("NVIDIA L4", "8.9", 24_000_000_000)
    assert (gpu.multiprocessors, gpu.integrated, gpu.cuda) == (58, False, "12.8")
    assert cuda.memory_info() == (device.total, device.total)


@pytest.mark.parametrize(
    ("call", "code", "words", "hint"),
    [
        ("cudaMalloc", 2, r"cudaMalloc failed: cudaErrorMemoryAllocation \(2\): out of memory", "free device memory"),
        ("cudaSetDevice", 100, "cudaErrorNoDevice", "NVIDIA GPU and its driver"),
        ("cudaStreamSynchronize", 700, r"cudaStreamSynchronize failed: cudaErrorIllegalAddress \(700\)", "sticky"),
    ],
)
def test_every_error_names_the_call_and_the_code(
    installed: Any, device: FakeDevice, call: str, code: int, words: str, hint: str
) -> None:
    installed("cuda.bindings.runtime")
    device.fail[call] = code
    with pytest.raises(DeviceError, match=words) as caught:
        round_trip(load_cuda())
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("driver", "board", "words", "hint"),
    [
        (
            12060,
            "NVIDIA Jetson AGX Orin",
            "the driver is for CUDA 12.6, cuda-bindings 13.5.0 for a newer one",
            "pip uninstall cuda-bindings; pip install 'edgecnn[jetson]'",
        ),
        (13000, "NVIDIA Jetson AGX Thor", "the driver is for CUDA 13.0", "pip install 'edgecnn[jetson7]'"),
        (12080, "", "the driver is for CUDA 12.8", "pip install 'cuda-bindings==12.*'"),
        (11040, "", "the driver is for CUDA 11.4", "CUDA 12 is the oldest"),
        (0, "", "there is no driver", "NVIDIA GPU and its driver"),
    ],
)
def test_bindings_that_are_too_new_name_the_driver_themselves_and_the_line_to_install(
    installed: Any, device: FakeDevice, monkeypatch: pytest.MonkeyPatch, driver: int, board: str, words: str, hint: str
) -> None:
    installed("cuda.bindings.runtime")
    device.fail["cudaSetDevice"], device.driver_cuda = 35, driver
    monkeypatch.setattr(_cuda, "board_name", lambda: board)
    monkeypatch.setattr(_cuda, "tool_versions", lambda *names: {"cuda-bindings": "13.5.0"})
    with pytest.raises(DeviceError, match=r"cudaSetDevice failed: cudaErrorInsufficientDriver \(35\)") as caught:
        load_cuda()
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_pycuda_is_tried_when_the_bindings_do_not_fit_and_doctor_says_so(
    installed: Any, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(*BINDINGS)
    device.fail["cudaSetDevice"] = 35
    cuda = load_cuda()
    assert (cuda.name, "the driver is for CUDA 12.8" in cuda.note) == ("pycuda", True)
    assert (
        "by pycuda (cudaSetDevice failed: cudaErrorInsufficientDriver (35)"
        in load_backend("trt").machine_facts()["gpu"]
    )
    _cuda._load.cache_clear()
    monkeypatch.setenv("EDGECNN_CUDA", "cuda-bindings")
    with pytest.raises(DeviceError, match="InsufficientDriver"):
        load_cuda()


def test_when_neither_fits_the_bindings_error_is_the_one_that_is_told(installed: Any, device: FakeDevice) -> None:
    installed(*BINDINGS)
    device.fail |= {"cudaSetDevice": 35, "cuInit": 100}
    with pytest.raises(DeviceError, match="InsufficientDriver"):
        load_cuda()
    assert "none: cudaSetDevice failed" in (fact := load_backend("trt").machine_facts()["gpu"])
    assert "pip install" in fact


def test_pycuda_without_libcuda_is_a_refusal_and_its_warning_is_not_heard(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the real one does: a warning, then an ImportError."""
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    lines = (
        "import warnings",
        "warnings.warn('the headers do not match')",
        "raise ImportError('libcuda.so.1: not found')",
    )
    (tmp_path / "pycuda" / "driver.py").write_text("\n".join(lines))
    installed()
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    monkeypatch.delitem(sys.modules, "pycuda", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DeviceError, match=r"pycuda cannot load CUDA: libcuda.so.1: not found"):
        load_cuda()
    for name in ("pycuda", "pycuda.driver"):
        sys.modules.pop(name, None)


def test_a_binding_that_cannot_load_libcuda_is_a_refusal(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python 12.6 raises where newer ones answer with a code."""
    installed("cuda.cudart")

    def set_device(index: int) -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(sys.modules["cuda.cudart"], "cudaSetDevice", set_device)
    with pytest.raises(DeviceError, match=r"cudaSetDevice failed: Failed to dlopen libcuda.so.1") as caught:
        load_cuda()
    assert "NVIDIA GPU and its driver" in caught.value.hint


@pytest.mark.parametrize(
    ("call", "code", "words"), [("cuMemAlloc", 2, "out of memory"), ("cuStreamSynchronize", 7, "cu")]
)
def test_pycuda_s_errors_become_ours(installed: Any, device: FakeDevice, call: str, code: int, words: str) -> None:
    installed("pycuda.driver")
    device.fail[call] = code
    with pytest.raises(DeviceError, match=f"{call} failed: .*{words}" if words != "cu" else call):
        round_trip(load_cuda())


def test_freeing_twice_is_an_error(installed: Any) -> None:
    installed("cuda.bindings.runtime")
    cuda = load_cuda()
    address = cuda.malloc(16)
    cuda.free(address)
    with pytest.raises(DeviceError, match="cudaFree failed: cudaErrorInvalidValue"):
        cuda.free(address)


@pytest.fixture(params=["installed", CUDA_PYTHON])
def real_bindings(request: pytest.FixtureRequest) -> dict[str, str]:
    """An environment in which the real bindings are found and no GPU is shown: those that are installed, and those that
    `[jetson]` brings to JetPack 6."""
    environment = {k: v for k, v in os.environ.items() if k != "EDGECNN_CUDA"} | {"CUDA_VISIBLE_DEVICES": ""}
    if request.param == "installed":
        pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
        return environment
    folder = request.getfixturevalue("cuda_python_folder")
    return environment | {"PYTHONPATH": os.pathsep.join((str(folder), str(Path(__file__).parents[2])))}


@pytest.mark.nvidia
def test_the_real_bindings_have_every_call_that_is_used(real_bindings: dict[str, str]) -> None:
    """Names and numbers of arguments; the fake's answers are as long as theirs."""
    command = [sys.executable, "-m", "tests.backends.cuda_probe"]
    done = subprocess.run(command, env=real_bindings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.nvidia
@pytest.mark.parametrize(
    ("extra", "python", "package", "major"),
    [("jetson", "3.10", "cuda-python", 12), ("jetson7", "3.12", "cuda-bindings", 13)],
)
def test_an_extra_brings_to_its_jetpack_bindings_that_the_driver_takes(
    extra: str, python: str, package: str, major: int
) -> None:
    """As pip resolves it there: aarch64, the Python of that JetPack, wheels alone."""
    metadata: Any = parse_toml((Path(__file__).parents[2] / "pyproject.toml").read_text())
    wanted = metadata["project"]["optional-dependencies"][extra]
    where = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux2014_aarch64", "--python-version", python]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    command += ["--only-binary=:all:", "--target", "nowhere", *where, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode and "connection" in done.stderr.lower():
        pytest.skip(f"pip reaches no package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    found = {row["metadata"]["name"]: row["metadata"]["version"] for row in json.loads(done.stdout)["install"]}
    assert found[package].startswith(f"{major}.")


REFUSED = """
from edgecnn.backends._cuda import load_cuda
from edgecnn.errors import DeviceError
try:
    load_cuda()
except DeviceError as exc:
    print(exc.message, exc.hint, sep="\\n")
"""


@pytest.mark.nvidia
def test_without_a_device_the_real_bindings_give_a_refusal(real_bindings: dict[str, str]) -> None:
    """In a process of its own, which is shown no GPU: so it holds on a machine that has one too."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], env=real_bindings, capture_output=True, text=True, check=True
    )
    message, hint = done.stdout.splitlines()
    assert re.match(r"cudaSetDevice failed: (cudaError\w+ \(\d+\)|Failed to dlopen libcuda)", message)
    assert "NVIDIA GPU and its driver" in hint
