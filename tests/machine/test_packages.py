"""How a missing package is to be installed follows the machine."""

from __future__ import annotations

import pytest

from edgecnn.machine import packages
from edgecnn.machine.packages import missing_package


def on(patch: pytest.MonkeyPatch, board: str = "", driver: str = "", onnxruntime: bool = False) -> None:
    patch.setattr(packages, "board_name", lambda: board)
    patch.setattr(packages, "driver_version", lambda: driver)
    patch.setattr(packages.importlib.util, "find_spec", lambda name: object() if onnxruntime else None)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("tensorrt", "--system-site-packages"),
        ("cuda-bindings", "edgecnn[jetson]"),
        ("pycuda", "edgecnn[pycuda]"),
        ("onnx", "on a host"),
        ("torch", "on a host"),
    ],
)
def test_on_a_jetson(monkeypatch: pytest.MonkeyPatch, package: str, words: str) -> None:
    on(monkeypatch, board="NVIDIA Jetson AGX Orin Developer Kit", driver="L4T 36.4.0")
    hint = missing_package(package, "this", "cpu").hint
    assert words in hint
    assert "[gpu]" not in hint


@pytest.mark.parametrize(
    ("driver", "extra"),
    [("L4T 36.4.0", "jetson"), ("540.4.0", "jetson"), ("L4T 38.2.0", "jetson7"), ("580.00", "jetson7"), ("", "jetson")],
)
def test_a_jetson_gets_the_bindings_that_its_driver_takes(
    monkeypatch: pytest.MonkeyPatch, driver: str, extra: str
) -> None:
    on(monkeypatch, board="NVIDIA Jetson AGX Orin Developer Kit", driver=driver)
    assert f"'edgecnn[{extra}]'" in missing_package("cuda-bindings", "this", "cpu").hint


@pytest.mark.parametrize("package", ["tensorrt", "cuda-bindings", "torch", "onnxruntime"])
def test_on_a_desktop_with_a_gpu_it_is_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    on(monkeypatch, driver="580.95.05")
    assert "edgecnn[gpu]" in missing_package(package, "this", "cpu").hint


def test_the_extra_is_never_put_beside_the_other_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, driver="580.95.05", onnxruntime=True)
    assert missing_package("tensorrt", "this", "gpu").hint == "install it with: pip install tensorrt"


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    assert "edgecnn[cpu]" in missing_package("torch", "this", "cpu").hint
    assert "edgecnn[gpu]" in missing_package("tensorrt", "this", "gpu").hint
