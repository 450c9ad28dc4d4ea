"""`quantize` says what TensorRT would refuse, while the graph is still here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.fakes.graphs import build

pytestmark = pytest.mark.torch


def of_any_height() -> onnx.ModelProto:
    model = build("c = Conv(input)\nr = Relu(c)\nlogits = Conv(r)")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    return model


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_graph_that_tensorrt_would_refuse_is_not_written(
    precision: str, tmp_path: Path, edgecnn: Callable[..., Any]
) -> None:
    onnx.save(of_any_height(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", input=np.zeros((4, 4, 8, 8), np.float32), label=np.zeros(4, np.int64))
    call = ("--precision", precision, "--data", tmp_path / "x.npz", "-o", tmp_path / "h.onnx")
    said = edgecnn("quantize", tmp_path / "m.onnx", *call).refused()
    assert "would refuse this graph: input: its axis 2 is not fixed" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "x.npz"]


def test_a_graph_that_tensorrt_takes_is_written(tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    onnx.save(build("c = Conv(input)\nr = Relu(c)\nlogits = Conv(r)"), tmp_path / "m.onnx")
    call = ("quantize", tmp_path / "m.onnx", "--precision", "fp16", "-o", tmp_path / "h.onnx", "--json")
    done = edgecnn(*call)
    assert done.code == 0, done.err
    assert json.loads(done.out)["warnings"] == []


def test_images_check_the_ranges_of_an_fp16_graph(tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    """With activations beyond 65 504 in the middle; without images none of them is known."""
    onnx.save(build("u = Mul(input, by=100000.0)\nd = Mul(u, by=0.00012)\nlogits = Conv(d)"), tmp_path / "m.onnx")
    pictures = np.random.default_rng(0).normal(0, 1, (8, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=pictures, label=np.zeros(8, np.int64))
    call = ("quantize", tmp_path / "m.onnx", "--precision", "fp16", "-o", tmp_path / "h.onnx", "--json")
    blind = json.loads(edgecnn(*call).out)
    assert "u" not in blind["kept_float32"]
    seeing = json.loads(edgecnn(*call, "--data", tmp_path / "x.npz").out)
    assert "u" in seeing["kept_float32"]
    assert seeing["range_check"] == "weights and activations"
    assert "kept in FP32: u" in edgecnn(*call[:-1], "--data", tmp_path / "x.npz").err


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A graph whose activations leave FP16 on the images beside it, and its weights do not."""
    model = build("c = Conv(input)\ns = Mul(c, by=[3e4])\nr = Relu(s)\nt = Mul(r, by=[1e-3])\nlogits = Conv(t)")
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "images.npz", input=np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32))
    return tmp_path


def test_fp16_keeps_in_float32_what_the_images_drive_beyond_it(large: Path, edgecnn: Callable[..., Any]) -> None:
    quantize = ("quantize", large / "m.onnx", "--precision", "fp16", "--json")
    blind = json.loads(edgecnn(*quantize, "-o", large / "blind.onnx").out)
    assert blind["kept_float32"] == []
    made = json.loads(edgecnn(*quantize, "--data", large / "images.npz", "-o", large / "h.onnx").out)
    assert made["range_check"] == "weights and activations"
    assert {"s", "r"} <= set(made["kept_float32"])
    calib = large / "m.calib.json"
    assert edgecnn("calibrate", large / "m.onnx", "--data", large / "images.npz", "-o", calib).code == 0
    same = json.loads(edgecnn(*quantize, "--ranges", calib, "-o", large / "same.onnx").out)
    assert made["kept_float32"] == same["kept_float32"]
    assert (large / "h.onnx").read_bytes() == (large / "same.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--precision fp16 --data images.npz --ranges m.calib.json", "not from both"),
        ("--precision fp16 --method mse", "--method says nothing about an FP16 graph"),
        ("--precision fp16 --around fp32", "--around says nothing about an FP16 graph"),
        ("--precision int8 --scheme ort-cpu --global-pool int8 --data images.npz", "is of TensorRT's scheme"),
        ("--precision fp16 --explain", "--explain says nothing about an FP16 graph"),
        (
            "--precision int8 --scheme ort-cpu --around fp16 --data images.npz",
            "the integer kernels of a CPU take float32",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    options: str, said: str, large: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(large)
    assert said in edgecnn("quantize", "m.onnx", *options.split(), "-o", "made.onnx").refused()
    assert not Path("made.onnx").exists()


@pytest.fixture
def net(tmp_path: Path) -> Path:
    onnx.save(
        build("a = Conv(input, k=3)\nr = Relu(a)\nb = Conv(r, k=3)\ng = GlobalAveragePool(b)\nlogits = Conv(g)"),
        tmp_path / "m.onnx",
    )
    np.savez(tmp_path / "images.npz", input=np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32))
    return tmp_path


def test_an_excluded_node_is_named_in_result_and_sidecar(net: Path, edgecnn: Callable[..., Any]) -> None:
    call = ("quantize", net / "m.onnx", "--precision", "int8", "--method", "minmax", "--data", net / "images.npz")
    options = ("--exclude", "b/*", "--exclude", "gemv", "-o", net / "q.onnx")
    found = json.loads(edgecnn(*call, *options, "--json").out)
    assert found["excluded"] == ["b/Conv"]
    a, b, logits = 64 * 4 * 4 * 9, 64 * 4 * 4 * 9, 4 * 3
    assert found["int8_share_pct"] == pytest.approx(100 * (a + logits) / (a + b + logits), abs=0.01)
    sidecar = json.loads((net / "q.onnx.json").read_text())
    assert sidecar["fields"]["quantize.exclude"] == ["b/*", "gemv"]
    assert sidecar["facts"]["excluded"] == ["b/Conv"]
    said = edgecnn(*call, *options).err
    assert "not INT8: b/Conv, as asked" in said
    assert "little gain from INT8 on a GPU: a/Conv and 1 more; --exclude few-channels keeps them out" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--precision int8 --exclude c/Conv", "exclude 'c/Conv' matches no node that reads INT8"),
        ("--precision int8 --exclude *", "no Conv, Gemm or MatMul is left to be INT8"),
        ("--precision fp16 --exclude a/Conv", "exclude says nothing about an FP16 graph"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_refused(
    options: str, said: str, net: Path, edgecnn: Callable[..., Any]
) -> None:
    call = ("quantize", net / "m.onnx", *options.split(), "--data", net / "images.npz", "-o", net / "q.onnx")
    refused = edgecnn(*call).refused()
    assert said in refused
    assert "hint:" in refused
    assert not (net / "q.onnx").exists()


def test_a_rule_on_tensorrt_is_said_to_be_idle_elsewhere(net: Path, edgecnn: Callable[..., Any]) -> None:
    call = ("quantize", net / "m.onnx", "--precision", "int8", "--scheme", "ort-cpu", "--method", "minmax")
    done = edgecnn(*call, "--data", net / "images.npz", "--exclude", "few-channels", "-o", net / "q.onnx", "--json")
    found = json.loads(done.out)
    assert found["excluded"] == []
    assert "'few-channels' speaks of TensorRT's kernels" in found["warnings"][0]
