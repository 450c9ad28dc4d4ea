"""Small tensors are taken in together: what is kept of each is what it is alone, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from edgecnn.backends._onnxruntime import open_session
from edgecnn.errors import GraphError
from edgecnn.graph.calibration import tally, watch
from edgecnn.graph.calibration.collect import collect_from_model, find_observed_tensors
from edgecnn.graph.calibration.histogram import empty_statistics, upper_halves
from edgecnn.graph.calibration.observe import Observer
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.noise import dataset_of

pytestmark = pytest.mark.onnx

NET = """
c1 = Conv(input, out=16, k=3)
h1 = HardSwish(c1)
c2 = Conv(h1, out=20, k=3)
s2 = Sigmoid(c2)
m2 = Mul(c2, s2)
p = MaxPool(m2, kernel_shape=[3, 3], strides=[3, 3])
c3 = Conv(p, out=16, k=3)
l3 = LeakyRelu(c3)
t3 = Tanh(l3)
g = GlobalAveragePool(t3)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


def noise(count: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(11).normal(0, 2, (count, 4, size, size)).astype(np.float32)


@pytest.mark.parametrize("counted", [3000, 1 << 20])
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 1), (5, 2), (8, 3)])
def test_extremes_are_exact_to_the_bit_behind_every_activation(
    monkeypatch: pytest.MonkeyPatch, counted: int, batch: int, threads: int
) -> None:
    """Also where batches are divided unevenly, and the last one is smaller."""
    monkeypatch.setattr(watch, "COUNTED", counted)
    images, model = noise(21), simplify_graph(build(NET, 24))
    made = collect_from_model(model, "", dataset_of(images), batch=batch, threads=threads).tensors
    names = [n for n in made if n != "input"]
    found = dict(zip(names, open_session(model, names, threads=1).run(None, {"input": images}), strict=True))
    assert {"h1", "s2", "m2", "l3", "t3"} < set(names)
    assert (max(s.step for s in made.values()) > 1) == (counted == 3000)
    for name, values in found.items():
        expected = empty_statistics(name, values.shape[1])
        expected.add(values)
        for side in ("channel_low", "channel_high"):
            found_bits, bits = (getattr(t, side).view(np.uint32) for t in (made[name], expected))
            np.testing.assert_array_equal(found_bits, bits, f"{side} of {name}")
        expected = empty_statistics(name, values.shape[1])
        expected.count(upper_halves(watch.take_counted(values, made[name].step)))
        np.testing.assert_array_equal(made[name].magnitudes, expected.magnitudes, name)
        assert made[name].images == 21


def test_values_that_wait_are_those_of_their_own_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an image fills the memory in which they are taken in, the next one is written over it."""
    monkeypatch.setattr(tally, "_WAITING_BYTES", 0)
    images, model = noise(3), simplify_graph(build(NET, 24))
    made = collect_from_model(model, "", dataset_of(images), batch=1, threads=1).tensors
    names = [n for n in made if n != "input"]
    found = dict(zip(names, open_session(model, names, threads=1).run(None, {"input": images}), strict=True))
    for name, values in found.items():
        expected = empty_statistics(name, values.shape[1])
        expected.add(values)
        np.testing.assert_array_equal(made[name].magnitudes, expected.magnitudes, name)


def test_tensors_with_other_than_the_batch_in_front_are_taken_in_too() -> None:
    """Halves of the channels as images of their own, 2 N of them: a first batch of one image has two."""
    net = """
    c1 = Conv(input, out=16, k=3)
    a = Reshape(c1, to=[-1, 8, 8, 8], out=8)
    c2 = Conv(a, out=3, k=1)
    t = Reshape(c2, to=[-1, 6, 8, 8], out=6)
    g = GlobalAveragePool(t)
    f = Flatten(g)
    logits = Gemm(f, out=3)
    """
    model, images = simplify_graph(build(net, 8)), noise(5, 8)
    for batch, threads in ((1, 1), (2, 1), (3, 2)):
        made = collect_from_model(model, "", dataset_of(images), batch=batch, threads=threads).tensors["c2"]
        (values,) = open_session(model, ["c2"], threads=1).run(None, {"input": images})
        assert values.shape == (10, 3, 8, 8)
        assert made.counted == values.size
        np.testing.assert_array_equal(made.channel_low, values.min((0, 2, 3)))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_tensor_that_is_not_finite_is_named(threads: int) -> None:
    model = simplify_graph(build(NET, 24))
    (bias,) = [i for i in model.graph.initializer if i.name == "c3.bias"]
    values = numpy_helper.to_array(bias).copy()
    values[5] = np.nan
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    with pytest.raises(GraphError, match="'c3' is NaN or infinite"):
        collect_from_model(model, "", dataset_of(noise(6)), threads=threads)


def test_a_piece_that_is_counted_after_one_that_failed_says_nothing() -> None:
    """Two run at once, and what the first took in is not finite."""
    model, images = simplify_graph(build(NET, 24)), noise(4)
    graph = OnnxGraph(model)
    steps = dict.fromkeys(["input", *find_observed_tensors(graph)], 1)
    observer = Observer(graph, steps, {}, images=4, threads=1)
    observer.begin_batch(4)
    images[3, :, 4, 7] = 3e38
    sound, damaged = observer.run(images[:2]), observer.run(images[2:])
    with pytest.raises(GraphError, match="is NaN or infinite"):
        damaged()
    sound()
