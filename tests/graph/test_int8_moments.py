"""Sums over samples, however they come in parts, are the covariance of all; and how much room that takes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.gptq import LARGE, SPAN, Covariance, Moments, Samples
from edgecnn.graph.ptq.im2col import layer_from_node
from edgecnn.graph.ptq.layer_reconstruction import _solve
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx


def samples(columns: int, count: int, groups: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(columns)
    x = (rng.normal(0, 1, (groups, count, columns)) * np.geomspace(1, 0.1, columns) + 3).astype(np.float32)
    return x, (0.1 * x[..., :5] + rng.normal(0, 0.1, (groups, count, 5))).astype(np.float32)


def in_parts(x: np.ndarray, r: np.ndarray, summed: int, parts: int) -> Covariance:
    """The first `summed` samples as moments, the others kept."""
    moments, kept = Moments.empty(len(x), r.shape[2], x.shape[2]), Samples()
    for held, where in ((moments, slice(0, summed)), (kept, slice(summed, None))):
        for one, missed in zip(*(np.array_split(v[:, where], parts, axis=1) for v in (x, r)), strict=True):
            held.add(one, missed)
    return moments.centered().plus(kept)


@pytest.mark.parametrize(("columns", "groups"), [(9, 3), (SPAN + 40, 1), (2 * SPAN + 10, 1)])
@pytest.mark.parametrize("parts", [1, 5])
def test_parts_add_up_to_the_covariance_of_all(columns: int, groups: int, parts: int) -> None:
    x, r = samples(columns, 240, groups)
    r[:, 180:] += 1  # the parts differ in their means
    made = in_parts(x, r, 180, parts)
    assert made.count == 240
    for group in range(groups):
        both = np.concatenate([x[group], r[group]], axis=1, dtype=np.float64)
        wanted = np.cov(both, rowvar=False, bias=True)
        np.testing.assert_allclose(made.xx[group], wanted[:columns, :columns], atol=2e-6)
        np.testing.assert_allclose(made.rx[group], wanted[columns:, :columns], atol=2e-6)
        np.testing.assert_allclose(made.rr[group], np.diag(wanted)[columns:], rtol=1e-5)
        np.testing.assert_allclose(np.concatenate([made.x[group], made.r[group]]), both.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("columns", [24, SPAN + 40])
def test_an_error_over_samples_is_that_over_their_moments(columns: int) -> None:
    x, r = samples(columns, 200)
    moments, kept = Moments.empty(1, 5, columns), Samples()
    for part in (slice(0, 150), slice(150, 200)):
        moments.add(x[:, part], r[:, part])
        kept.add(x[:, part], r[:, part])
    seen, change = moments.centered(), np.random.default_rng(1).normal(0, 0.05, (1, 5, columns))
    offset = np.full((1, 5), 0.3)
    np.testing.assert_allclose(kept.error(change), seen.error(change), rtol=1e-3)
    np.testing.assert_allclose(kept.error(change, offset), seen.error(change, offset), rtol=1e-3)


def test_a_wide_layer_holds_few_matrices_of_all_its_columns_at_a_time() -> None:
    """The covariance and a factor of it: what train, held-out and all samples took apart was more than twice that."""
    model = simplify_graph(build("c = Conv(input, out=5, k=16)\ng = GlobalAveragePool(c)\nlogits = Flatten(g)"))
    graph: Any = OnnxGraph(model)
    layer = layer_from_node(graph, graph.nodes[0])
    columns = layer.columns(graph)
    assert columns >= LARGE
    x, r = samples(columns, 160)
    tracemalloc.start()
    moments, kept = Moments.empty(1, 5, columns), Samples()
    for number, (one, missed) in enumerate(zip(*(np.array_split(v, 8, axis=1) for v in (x, r)), strict=True)):
        (kept if number % 4 == 3 else moments).add(one, missed)
    _solve(graph, layer, (moments, kept), False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * 4 * columns**2, f"{peak / (4 * columns**2):.1f} matrices"
