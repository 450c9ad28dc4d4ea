"""`auto` on images that tell it little: it damps, leaves a candidate out and says so, and never ends in an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.ptq import layer_reconstruction
from edgecnn.graph.ptq.gptq import GptqRounding, Moments, solve_ridge
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL, logits, pictures, sqnr_db, uneven
from tests.fakes.noise import dataset_of

pytestmark = pytest.mark.onnx

ONE = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(0, 1, (64, 4, 8, 8)).astype(np.float32)
ALIKE = {
    "40 equal": (ONE.repeat(40, axis=0), "with 1 different image"),
    "20 of one color": (
        np.tile(np.array([-2.1, -2.0, -1.8, 0.3], np.float32).reshape(1, 4, 1, 1), (20, 1, 8, 8)),
        "with 1 diff",
    ),
    "3 pictures, 16 copies each": (np.tile(NOISE[:3], (16, 1, 1, 1)), "with 3 different images"),
    "frames of a still camera": (ONE + 0.01 * NOISE, "with images of one scene"),
}


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
@pytest.mark.parametrize("kind", ALIKE)
def test_images_that_are_all_alike_leave_the_regressions_out(kind: str, scheme: str) -> None:
    values, why = ALIKE[kind]
    model, data, unseen = uneven(RESIDUAL), dataset_of(values), pictures(64, seed=9)
    ranges = collect_from_model(simplify_graph(model), "", data)
    quantized = quantize_int8(model, ranges, scheme, around="fp32", data=data)  # type: ignore[arg-type]
    made, report = quantized.model, quantized.report
    assert any(line.startswith("reconstruction") and why in line for line in report.left_out), report.left_out
    seen = sqnr_db(logits(model, data), logits(made, data))
    assert seen > 20
    assert np.isfinite(logits(made, unseen)).all()


@pytest.mark.parametrize("columns", [24, 1200])
def test_a_large_channel_that_hardly_varies_is_damped(columns: int) -> None:
    """Its variance is the difference of two sums that single precision holds to seven digits."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (1, 3000, columns)).astype(np.float32)
    x[..., 3] = 2e4 + 1e-3 * x[..., 3]
    x[..., 5] = 7e3
    moments = Moments.empty(1, 6, columns)
    for part in np.split(x, 3, axis=1):
        moments.add(part, part[..., 6:12] * np.float32(0.01))
    seen = moments.centered()
    assert np.linalg.eigvalsh(seen.raised(0.003))[0].min() > 0
    weight = rng.normal(0, 1, (1, 6, columns))
    codes = GptqRounding.of(seen).rounded(weight, np.full((1, 6), 0.05))
    assert np.isfinite(codes).all()
    change = solve_ridge(seen, 0.003)
    assert np.abs(change[..., [3, 5]]).max() < 1e-3, "no part of the error follows these two"
    np.testing.assert_allclose(change[0, :, 6:12], 0.01 * np.eye(6), atol=1e-3)


def test_a_network_with_a_nearly_constant_channel_is_reconstructed() -> None:
    model = build(RESIDUAL)
    for name, row in (("c2.weight", 1e-12), ("c2.bias", None)):
        held = next(i for i in model.graph.initializer if i.name == name)
        array = numpy_helper.to_array(held).copy()
        array[3] = 3e4 if row is None else array[3] * row
        held.CopyFrom(numpy_helper.from_array(array, name))
    data = pictures(64)
    report = quantize_int8(model, collect_from_model(simplify_graph(model), "", data), "tensorrt", data=data).report
    assert [s.name for s in report.candidates if s.name.startswith("reconstructed")]


@pytest.mark.parametrize("count", [1, 2])
def test_a_candidate_without_a_solution_falls_away_and_that_is_said(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The equalized one, or the one after it too."""
    solved, first = layer_reconstruction._solve, iter(range(count))

    def unsolvable(*words: Any) -> object:
        if next(first, None) is not None:
            raise np.linalg.LinAlgError("Matrix is not positive definite")
        return solved(*words)

    monkeypatch.setattr(layer_reconstruction, "_solve", unsolvable)
    model, data = uneven(RESIDUAL), pictures(64)
    quantized = quantize_int8(
        model, collect_from_model(simplify_graph(model), "", data), "tensorrt", around="fp32", data=data
    )
    made, report = quantized.model, quantized.report
    assert {s.name for s in report.candidates} >= {"least squared error", "with offsets"}
    assert len([s for s in report.candidates if s.name.startswith("reconstructed")]) == 2 - count
    assert len([line for line in report.left_out if "not positive definite" in line]) == count
    assert sqnr_db(logits(model, data), logits(made, data)) > 20


def dead(what: str) -> onnx.ModelProto:
    """A branch whose ReLU never fires beside a live one; with `what` "everything" there is no live one."""
    text = "c = Conv(input, out=6, k=3)\nr = Relu(c)\nd = Conv(r, out=6)\ns = Relu(d)\ne = Conv(s, out=6)\n"
    text += "t = Add(e, r)\n" if what == "a branch" else "t = Relu(e)\n"
    model = build(text + "last = Conv(t, out=5)\ng = GlobalAveragePool(last)\nlogits = Flatten(g)")
    bias = next(i for i in model.graph.initializer if i.name == "d.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(6, -100, np.float32), bias.name))
    return model


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "auto"])
def test_a_dead_branch_is_quantised_and_named(scheme: str, method: str, tmp_path: Path) -> None:
    model, data = dead("a branch"), pictures(64)
    ranges = collect_from_model(simplify_graph(model), "", data)
    quantized = quantize_int8(model, ranges, scheme, method=method, around="fp32", data=data)  # type: ignore[arg-type]
    made, report = quantized.model, quantized.report
    assert any("the range of 's' (0 everywhere" in line for line in report.left_out), report.left_out
    steps = [numpy_helper.to_array(i) for i in made.graph.initializer if i.name.endswith("_scale")]
    assert min(float(s.min()) for s in steps) > 0
    assert sqnr_db(logits(model, data), logits(made, data)) > 25


def test_a_dead_network_is_refused() -> None:
    model = dead("everything")
    ranges = collect_from_model(simplify_graph(model), "", pictures(20))
    with pytest.raises(GraphError, match="tensor 's' was 0 everywhere"):
        quantize_int8(model, ranges, "tensorrt", method="mse")
