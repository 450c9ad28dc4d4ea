"""`auto` is not fooled by the form in which a network comes: channels are rescaled, and it computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.ptq.candidates import give_own_constants
from edgecnn.graph.ptq.channel_ties import tie_channels
from edgecnn.graph.ptq.equalization import scale_channels
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.int8 import CHAIN, MOBILE, RESIDUAL, SEPARABLE, logits, pictures, quantized, sqnr_db, uneven

pytestmark = pytest.mark.onnx


def rescaled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same function: every channel that can be is divided by a factor of 2^-4 to 2^4."""
    graph = OnnxGraph(model)
    channels = tie_channels(graph)
    roots = {int(r) for tensor in channels.ids for r in channels.roots(tensor)} - channels.pinned_roots()
    drawn = np.random.default_rng(seed).uniform(-4, 4, len(roots))
    return scale_channels(model, graph, channels, dict(zip(sorted(roots), (2.0**drawn).tolist(), strict=True)))


def redrawn(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same with other weights, unless the seed is 0: channels of very different size."""
    rng = np.random.default_rng(1000 + seed)
    for held in model.graph.initializer if seed else ():
        array = numpy_helper.to_array(held)
        if array.ndim > 1:
            uneven_rows = np.exp(rng.normal(0, 1, (len(array), *[1] * (array.ndim - 1))))
            values = uneven_rows * rng.normal(0, (2 / np.prod(array.shape[1:])) ** 0.5, array.shape)
            held.CopyFrom(numpy_helper.from_array(values.astype(np.float32), held.name))
    return model


@pytest.mark.parametrize(("text", "seed"), [(CHAIN, 1), (RESIDUAL, 0)], ids=["chain", "residual"])
def test_the_form_of_a_network_costs_auto_at_most_a_decibel(text: str, seed: int) -> None:
    model, data, unseen = uneven(text), pictures(64), pictures(128, seed=9)
    exact = logits(model, unseen)
    reached = sqnr_db(exact, logits(quantized(model, data).model, unseen))
    other = rescaled(model, seed)
    assert sqnr_db(exact, logits(other, unseen)) > 100
    poor = sqnr_db(exact, logits(quantized(other, data, "mse").model, unseen))
    assert poor < reached - 3.0, "or nothing was rescaled"
    assert sqnr_db(exact, logits(quantized(other, data).model, unseen)) > reached - 1.0


@pytest.mark.parametrize(("text", "weights"), [(SEPARABLE, 0), (MOBILE, 3)], ids=["separable", "mobile"])
def test_the_form_of_a_depthwise_network_costs_auto_at_most_a_decibel_with_twenty_images(
    text: str, weights: int
) -> None:
    model = redrawn(give_own_constants(simplify_graph(build(text))), weights)
    data, unseen = pictures(20), pictures(400, seed=900)
    exact = logits(model, unseen)
    reached = sqnr_db(exact, logits(quantized(model, data).model, unseen))
    for seed in (11, 101):
        other = quantized(rescaled(model, seed), data).model
        assert sqnr_db(exact, logits(other, unseen)) > reached - 1.0, seed


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 64])
@pytest.mark.parametrize("text", [CHAIN, RESIDUAL, SEPARABLE, MOBILE], ids=["chain", "residual", "separable", "mobile"])
def test_other_forms_of_networks_with_random_weights_cost_their_images_little(text: str, count: int) -> None:
    """In the mean of its images: one of 400 that is clipped holds up to a third of the noise, in any form."""
    data, unseen, lost = pictures(count), pictures(400, seed=900), []
    for weights in range(4):
        model = redrawn(give_own_constants(simplify_graph(build(text))), weights)
        exact = logits(model, unseen)
        forms = [model, rescaled(model, 0), rescaled(model, 1)]
        noise = [np.square(logits(quantized(form, data).model, unseen) - exact).sum(axis=1) for form in forms]
        lost += [10 * float(np.log10(other / noise[0]).mean()) for other in noise[1:]]
    print(f"lost at most {max(lost):.2f} dB, in the mean {np.mean(lost):.2f}")
    assert max(lost) <= 1.75
    assert np.mean(lost) <= 0.75
