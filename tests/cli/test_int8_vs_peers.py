"""INT8 graphs of other tools and ours are compared at an equal share of INT8."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

MODELOPT = """
from edgecnn.data.dataset import Dataset
from edgecnn.steps.quantize import quantize as ours

def quantize(graph, *, calibration_data, output_path, **_):
    images = calibration_data["input"]
    data = Dataset("cal", tuple(map(str, range(len(images)))), None, None, None,
                   lambda i: images[i].tobytes(), None, lambda i: images[i])
    ours(graph, output_path, precision="int8", scheme="SCHEME", method="minmax", around="fp32", dataset=data,
         exclude=["c2/*"])
"""


def measured_beside(scheme: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is said under TensorRT's scheme of a stand-in for ModelOpt, which keeps one of two layers in float."""
    for name in ("modelopt", "modelopt/onnx", "modelopt/onnx/quantization", "nvidia_modelopt-1.dist-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "modelopt" / "onnx" / "quantization" / "__init__.py").write_text(MODELOPT.replace("SCHEME", scheme))
    (tmp_path / "nvidia_modelopt-1.dist-info" / "METADATA").write_text("Name: nvidia-modelopt\nVersion: 1\n")
    onnx.save(build("c1 = Conv(input)\nr = Relu(c1)\nc2 = Conv(r)\nlogits = Flatten(c2)"), tmp_path / "net.onnx")
    images = np.random.default_rng(0).normal(0, 1, (16, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "net.npz", cal=images, x=images, y=np.zeros(16, np.int64))
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    peers = import_module("int8_vs_peers")
    monkeypatch.setattr(peers, "METHODS", ("minmax",))
    case = peers.Case(tmp_path / "net", "tensorrt", tmp_path, {"modelopt": sys.executable})
    found: dict[str, Any] = case.measure("modelopt-max")
    return found


def test_ours_leaves_out_what_the_other_tool_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured_beside("tensorrt", root, tmp_path, monkeypatch)
    for row in (found, found["edgecnn"]["minmax"]):
        assert (row["float_nodes"], row["int8_share_pct"]) == (["c2/Conv"], 50)
    assert found["version"] == "1"
    assert found["edgecnn"]["minmax"]["sqnr_db"] == found["sqnr_db"]


def test_a_graph_that_tensorrt_refuses_is_not_scored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured_beside("ort-cpu", root, tmp_path, monkeypatch)
    assert "instead of int8" in found["illegal"]
    assert not found.keys() & {"sqnr_db", "agreement_pct", "edgecnn"}
