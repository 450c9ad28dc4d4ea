"""Node by node between graphs: healthy quantised graphs are explained, a sabotaged one is blamed on the right node."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.diagnose.stages import Rung, climb, describe, first_parting, moved
from edgecnn.errors import MeasurementError
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.measure.predict import Predictions
from edgecnn.records import to_plain
from tests.fakes.graphs import build
from tests.fakes.noise import images

pytestmark = pytest.mark.torch

NET = """
    c1 = Conv(input, out=8, k=3)
    r1 = Relu(c1)
    c2 = Conv(r1, out=8, k=3)
    a = Add(c2, r1)
    r2 = Relu(a)
    d = Conv(r2, k=3, group=8)
    r3 = Relu(d)
    p = GlobalAveragePool(r3)
    f = Flatten(p)
    logits = Gemm(f, rows=8, out=5)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32.onnx and its fp16, tensorrt and ort-cpu graphs."""
    folder = tmp_path_factory.mktemp("parity")
    onnx.save(build(NET), folder / "fp32.onnx")
    model = onnx.load(folder / "fp32.onnx")
    ranges = collect_ranges(folder / "fp32.onnx", images(32))
    onnx.save(to_fp16(model, ranges)[0], folder / "fp16.onnx")
    for scheme in ("tensorrt", "ort-cpu"):
        for method in ("minmax", "mse", "entropy"):
            made = quantize_int8(model, ranges, scheme, method=method).model
            onnx.save(made, folder / f"{scheme}-{method}.onnx")
    return folder


@pytest.fixture(scope="module")
def auto(folder: Path) -> Path:
    """An INT8 graph by every means: equalised channels, weights fitted anew."""
    path = folder / "auto"
    path.mkdir()
    model = onnx.load(folder / "fp32.onnx")
    ranges = collect_ranges(folder / "fp32.onnx", images(32))
    made = quantize_int8(model, ranges, "tensorrt", method="auto", data=images(32)).model
    onnx.save(made, path / "auto.onnx")
    return path / "auto.onnx"


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    data = images(8)
    return np.stack([data.tensor(k) for k in range(8)])


def test_what_precision_explains_is_not_blamed(folder: Path, batch: np.ndarray) -> None:
    graphs = sorted(p for p in folder.glob("*.onnx") if p.name != "fp32.onnx")
    assert len(graphs) == 7
    for graph in graphs:
        assert first_parting(folder / "fp32.onnx", graph, batch) is None, graph.name


def test_fitted_weights_are_not_blamed_and_a_broken_scale_among_them_is(
    folder: Path, auto: Path, batch: np.ndarray, tmp_path: Path
) -> None:
    assert first_parting(folder / "fp32.onnx", auto, batch) is None
    bad = changed(auto, tmp_path / "bad.onnx", lambda n, v: v * np.float16(0.1) if n.startswith("r2_scale") else None)
    found = first_parting(folder / "fp32.onnx", bad, batch)
    assert found is not None
    assert found.node == "d/Conv"


def changed(path: Path, to: Path, change: Callable[[str, np.ndarray], np.ndarray | None]) -> Path:
    """A copy of the graph with some of its initialisers changed."""
    model, count = onnx.load(path), 0
    for tensor in model.graph.initializer:
        value = change(tensor.name, numpy_helper.to_array(tensor).copy())
        if value is not None:
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
            count += 1
    assert count > 0
    onnx.save(model, to)
    return to


@pytest.mark.parametrize(
    ("graph", "initialiser", "factor", "node"),
    [
        ("tensorrt-mse", "r1_scale", 0.2, "c2/Conv"),
        ("tensorrt-mse", "r1_scale", 16.0, "c2/Conv"),
        ("ort-cpu-mse", "r2_scale", 0.2, "d/Conv"),
        ("ort-cpu-mse", "r2_scale", 16.0, "d/Conv"),
        ("tensorrt-mse", "d.weight_scale", 1.5, "d/Conv"),
        ("fp16", "c2.bias", 1.2, "c2/Conv"),
    ],
)
def test_a_broken_scale_is_blamed_on_its_node(
    folder: Path, batch: np.ndarray, tmp_path: Path, graph: str, initialiser: str, factor: float, node: str
) -> None:
    def change(name: str, value: np.ndarray) -> np.ndarray | None:
        return (value * factor).astype(value.dtype) if name.startswith(initialiser) else None

    bad = changed(folder / f"{graph}.onnx", tmp_path / "bad.onnx", change)
    found = first_parting(folder / "fp32.onnx", bad, batch)
    assert found is not None
    assert found.node == node
    assert found.sqnr_db is not None
    assert found.explained_db is not None
    assert found.sqnr_db < found.explained_db


def test_equalised_channels_are_followed_and_a_forgotten_one_is_not(
    folder: Path, batch: np.ndarray, tmp_path: Path
) -> None:
    """Channels of c2's input r1 scaled up by its maker and down by its readers compute the same; without one reader
    they do not."""
    factors = np.array([4, 1, 0.25, 8, 1, 2, 0.5, 1], np.float32)
    model = onnx.load(folder / "fp32.onnx")
    for node in list(model.graph.node):
        if node.op_type == "Add":
            model.graph.node.remove(node)
        elif node.name == "r2/Relu":
            node.input[0] = "c2"
    plain = tmp_path / "plain.onnx"
    onnx.save(model, plain)

    def change(name: str, value: np.ndarray) -> np.ndarray | None:
        if name.startswith("c1."):
            return value * factors.reshape(-1, *[1] * (value.ndim - 1))
        return value / factors.reshape(1, -1, 1, 1) if name == "c2.weight" else None

    equalised = changed(plain, tmp_path / "equalised.onnx", change)
    assert first_parting(plain, equalised, batch) is None
    half = changed(plain, tmp_path / "half.onnx", lambda n, v: change(n, v) if n.startswith("c1.") else None)
    found = first_parting(plain, half, batch)
    assert found is not None
    assert found.node == "c1/Conv"


def test_graphs_that_have_nothing_in_common_are_refused(folder: Path, batch: np.ndarray, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(build("x = Conv(input, out=3)\ny = GlobalAveragePool(x)\nz = Flatten(y)"), other)
    with pytest.raises(MeasurementError, match="none of its tensors"):
        first_parting(folder / "fp32.onnx", other, batch)


def rung(name: str, precision: str, logits: np.ndarray, graph: Path | None = None) -> Rung:
    ids = tuple(map(str, range(len(logits))))
    return Rung(name, precision, Predictions(ids, np.zeros(len(logits), np.int64), logits, "p", "d"), graph)


def test_the_stages_name_the_hop(folder: Path, batch: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(200, 10)).astype(np.float32)
    near = exact + rng.normal(size=exact.shape).astype(np.float32) * 1e-5
    int8 = near + rng.normal(size=exact.shape).astype(np.float32) * 0.05
    broken = np.roll(int8, 1, axis=1)
    rungs = [
        rung("torch", "fp32", exact),
        rung("fp32.onnx", "fp32", near, folder / "fp32.onnx"),
        rung("int8.onnx", "int8", int8, folder / "tensorrt-mse.onnx"),
        rung("int8.plan", "int8", broken),
    ]
    hops = climb(rungs, batch)
    assert [h.explained for h in hops] == [True, True, False]
    culprit = moved(hops)
    assert culprit is not None
    assert (culprit.source, culprit.target) == ("int8.onnx", "int8.plan")
    assert "moved at int8.onnx -> int8.plan" in "\n".join(describe(hops))
    fine = climb([*rungs[:3], replace(rungs[2], name="int8.plan", graph=None)], batch)
    assert all(h.explained for h in fine)
    assert moved(fine) is fine[1]
    same = climb([rungs[0], rungs[0]], batch)
    assert moved(same) is None
    assert list(describe(same))[-1].startswith("no prediction moved on these ")


def test_nan_on_the_way_is_never_explained(batch: np.ndarray) -> None:
    exact = np.eye(5, dtype=np.float32)
    broken = exact.copy()
    broken[2, 2] = np.nan
    (hop,) = climb([rung("a", "fp32", exact), rung("b", "fp16", broken)], batch)
    assert not hop.explained
    assert hop.nan_count == 1
    with pytest.raises(MeasurementError, match="no hops"):
        climb([rung("a", "fp32", exact)], batch)


def test_the_hop_to_nan_is_named_and_is_the_last(folder: Path, batch: np.ndarray, tmp_path: Path) -> None:
    def overflow(name: str, value: np.ndarray) -> np.ndarray | None:
        return np.full_like(value, np.inf) if name.startswith("c2.bias") else None

    bad = changed(folder / "fp16.onnx", tmp_path / "bad.onnx", overflow)
    exact = np.eye(5, dtype=np.float32)
    broken = np.full_like(exact, np.nan)
    rungs = [
        rung("fp32.onnx", "fp32", exact, folder / "fp32.onnx"),
        rung("fp16.onnx", "fp16", broken, bad),
        rung("fp16.plan", "fp16", broken),
    ]
    (hop,) = climb(rungs, batch)
    assert hop.parting is not None
    assert (hop.parting.node, hop.parting.sqnr_db) == ("c2/Conv", None)
    json.dumps(to_plain(hop), allow_nan=False)
    said = "\n".join(describe([hop]))
    assert "first at Conv c2/Conv: not finite where" in said
    assert "moved at fp32.onnx -> fp16.onnx" in said
