"""What ONNX Runtime logs beside its sessions: a reason while one is opened, noise of libraries while one runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecnn.backends import open_engine
from edgecnn.errors import DeviceError
from edgecnn.steps.build import build
from tests.fakes.fake_onnxruntime import FakeRuntime

pytestmark = pytest.mark.onnx

CUDNN = "[E:onnxruntime:Default, cudnn_fe_call.cc:39] [cudnn_frontend] Error: No execution plans support the graph.\n"


def test_plans_that_cudnn_tries_in_vain_are_not_told(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime.logs_while_running = CUDNN
    engine = build(graph("fp16"), tmp_path / "e.onnx", provider="cuda")
    with open_engine(engine) as session:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert capfd.readouterr().err == ""


def test_the_reason_of_the_next_fall_back_is_still_told(
    runtime: FakeRuntime, graph: Callable[..., Path], tmp_path: Path
) -> None:
    build(graph("fp32"), tmp_path / "e.onnx", provider="cuda")
    runtime.falls_back = "Failed to load library x.so with error: libcudnn.so.9: cannot open shared object file\n"
    with pytest.raises(DeviceError, match=r"libcudnn\.so\.9"):
        build(graph("fp32"), tmp_path / "f.onnx", provider="cuda")
    assert runtime.severity == 2, "such a reason is a line of that log"
