"""What a reconstruction keeps of the graphs that it runs side by side: once, in few bytes, and nothing lost by it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq import judging
from edgecnn.graph.ptq.graph_sides import fits_half
from edgecnn.graph.ptq.im2col import layer_from_node
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.ptq.subgraph import ActivationCache
from edgecnn.graph.simplify import simplify_graph
from edgecnn.quantization import QuantParams
from tests.fakes.graphs import build
from tests.fakes.int8 import RESIDUAL, logits, pictures, uneven

pytestmark = pytest.mark.onnx

Key = tuple[str, str, int]


def kept_by(scheme: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[Key], dict[tuple[str, str], np.dtype[Any]]]:
    """How often each (folder, tensor, batch) was put, and of which type by side, where no channel can be scaled."""
    times: Counter[Key] = Counter()
    types: dict[tuple[str, str], np.dtype[Any]] = {}
    put = ActivationCache.put

    def watching(cache: ActivationCache, tensor: str, batch: int, value: np.ndarray) -> None:
        times[str(cache.folder), tensor, batch] += 1
        types[cache.folder.name, tensor] = value.dtype
        put(cache, tensor, batch, value)

    monkeypatch.setattr(ActivationCache, "put", watching)
    monkeypatch.setattr(judging, "equalize_channels", lambda model, *_: (model, {}))
    model, data = uneven(RESIDUAL), pictures(64)
    ranges = collect_from_model(simplify_graph(model), "", data)
    quantize_int8(model, ranges, scheme, around="fp32", data=data)
    return times, types


@pytest.mark.parametrize(("scheme", "codes"), [("tensorrt", "int8"), ("ort-cpu", "uint8")])
def test_each_side_is_computed_once_and_kept_small(scheme: str, codes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times, types = kept_by(scheme, monkeypatch)
    assert set(times.values()) == {1}, "each batch of each tensor once"
    assert {side for side, _ in types} == {"float", "quantized"}
    for side, kind in (("float", "float16"), ("quantized", codes)):
        kept = {tensor: found for (one, tensor), found in types.items() if one == side and tensor != "input"}
        assert len(kept) >= 3
        assert set(kept.values()) == {np.dtype(kind)}, kept


@pytest.mark.parametrize(
    ("scale", "largest", "fits"),
    [(0.05, 6.0, True), (300.0, 4e4, False), (1e-8, 1e-6, False), (1e-4, 0.0127, True), (1e-4, 2e4, True)],
)
def test_fp16_is_for_what_it_holds_to_an_eighth_of_a_step(scale: float, largest: float, fits: bool) -> None:
    params = QuantParams(scale)
    assert fits_half(params, largest) is fits
    values = np.linspace(-127 * scale, 127 * scale, 10_001).astype(np.float32)
    with np.errstate(over="ignore"):
        lost = np.abs(values.astype(np.float16).astype(np.float32) - values).max()
    if fits:
        assert lost <= scale / 8
    elif scale < 1e-4:
        assert lost > scale / 8


@pytest.mark.parametrize("zero", [0, -128])
@pytest.mark.parametrize("line", ["c = Conv(input, out=6, k=3)", "c = Conv(input, out=6, k=5, stride=2, group=2)"])
def test_windows_of_codes_are_those_of_the_values_they_stand_for(line: str, zero: int) -> None:
    """Padding is zero, which is not the code 0 where there is a zero point."""
    graph = OnnxGraph(simplify_graph(build(line + "\ng = GlobalAveragePool(c)\nlogits = Flatten(g)")))
    layer, params = layer_from_node(graph, graph.node["c/Conv"]), QuantParams(0.02, zero)
    value = np.abs(np.stack([pictures(3).tensor(i) for i in range(3)]))
    codes = params.quantize(value).astype(np.int8)
    rows = layer.sampled(codes, 9, 1, params)
    np.testing.assert_array_equal(rows, params.fake_quantize(layer.sampled(value, 9, 1)))
    assert not np.array_equal(rows, layer.sampled(codes, 9, 2, params)), "other positions for another seed"


def test_windows_of_uneven_padding_and_dilation_times_weights_are_the_convolution() -> None:
    rng = np.random.default_rng(3)
    shape = {"kernel_shape": [3, 2], "pads": [0, 2, 3, 1], "dilations": [2, 3], "strides": [1, 2]}
    model = build("c = Conv(input, out=6, k=3)\ng = GlobalAveragePool(c)\nlogits = Flatten(g)")
    node, weight = model.graph.node[0], rng.normal(0, 1, (6, 4, 3, 2)).astype(np.float32)
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(key, value) for key, value in shape.items())
    next(i for i in model.graph.initializer if i.name == "c.weight").CopyFrom(
        numpy_helper.from_array(weight, "c.weight")
    )
    graph, data = OnnxGraph(simplify_graph(model)), pictures(3)
    layer = layer_from_node(graph, graph.node["c/Conv"])
    rows = layer.sampled(np.stack([data.tensor(i) for i in range(3)]), 10_000, 0)
    matrix = layer.matrix(weight).astype(np.float32)
    made = np.matmul(rows, matrix.transpose(0, 2, 1)).mean(axis=1).reshape(-1) + graph.array(layer.bias)
    np.testing.assert_allclose(made, logits(model, data).mean(axis=0), atol=1e-5)


def test_a_thing_dropped_is_gone_and_the_rest_is_as_it_was_put(tmp_path: Path) -> None:
    cache = ActivationCache(tmp_path)
    for kind in ("int8", "uint8", "float16", "float32"):
        cache.put(kind, 0, np.arange(6).reshape(2, 3).astype(kind))
    cache.drop("uint8")
    assert set(cache.types) == {"int8", "float16", "float32"}
    for kind in cache.types:
        made = cache.get(kind, 0)
        assert made.dtype == kind
        np.testing.assert_array_equal(made, np.arange(6).reshape(2, 3))
