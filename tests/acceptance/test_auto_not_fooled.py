"""`auto` and the form in which a network comes: per-channel factors of 2^-4 to 2^4 that leave its function alone, and
images that say little. Networks, factors and logits are made without code of the project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.acceptance.nets import Net, normalized, pictures, run, sqnr_db, write_npz

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx
Command = Callable[..., "Result"]
CLASSES, WIDTH = 12, 16


def network(seed: int, depthwise: bool, residual: bool) -> onnx.ModelProto:
    net = Net(seed, CLASSES)
    x = net.relu(net.conv("c1", "input", (3, WIDTH)))
    y = net.relu(net.conv("c2", x, (WIDTH, WIDTH), group=WIDTH if depthwise else 1))
    z = net.conv("c3", y, (WIDTH, WIDTH), kernel=1)
    return net.model(net.head(net.relu(net.node("Add", "add", z, x) if residual else z), gain=8.0))


def rescaled(model: onnx.ModelProto, seed: int, residual: bool) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = {t.name: t for t in made.graph.initializer}
    factors = 2.0 ** np.random.default_rng(seed).uniform(-4, 4, (3, WIDTH))
    if residual:
        factors[2] = factors[0]

    def multiply(name: str, by: np.ndarray) -> None:
        value = (numpy_helper.to_array(held[name]) * by).astype(np.float32)
        held[name].CopyFrom(numpy_helper.from_array(value, name))

    before = np.ones(3)
    for name, after in zip(("c1", "c2", "c3"), factors, strict=True):
        depthwise = numpy_helper.to_array(held[f"{name}.weight"]).shape[1] == 1
        columns = before[:, None] if depthwise else before[None, :]
        multiply(f"{name}.weight", (after[:, None] / columns)[:, :, None, None])
        multiply(f"{name}.bias", after)
        before = after
    multiply("logits.weight", 1 / before)
    return made


@pytest.mark.parametrize(("depthwise", "residual"), [(False, False), (True, True)], ids=["plain", "mobile"])
def test_the_form_of_a_network_costs_at_most_a_decibel(
    depthwise: bool, residual: bool, edgecnn: Command, tmp_path: Path
) -> None:
    data, unseen = write_npz(tmp_path / "data.npz", normalized(pictures(64, CLASSES, 1)[0])), pictures(192, CLASSES, 9)
    images, own = normalized(unseen[0]), network(0, depthwise, residual)
    exact, reached = run(own, images), {}
    for name, model in (("own", own), ("other", rescaled(own, 10, residual))):
        graph, made = tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx"
        onnx.save(model, graph)
        assert sqnr_db(exact, run(model, images)) > 90
        asked = ("--precision", "int8", "--around", "fp32", "--data", data, "--threads", 1)
        said = edgecnn("quantize", graph, *asked, "-o", made)
        assert said.code == 0, said.said
        reached[name] = sqnr_db(exact, run(onnx.load(made), images))
    assert reached["other"] > reached["own"] - 1.0, reached


def test_images_that_say_nothing_are_refused_and_few_are_named(edgecnn: Command, tmp_path: Path) -> None:
    graph = tmp_path / "net.onnx"
    onnx.save(network(0, False, False), graph)
    asked = ("quantize", graph, "--precision", "int8", "-o", tmp_path / "made.onnx", "--json", "--data")
    black = np.full((32, 3, 12, 12), -2, np.float32)
    for few in (1, 32):
        edgecnn(*asked, write_npz(tmp_path / "black.npz", black[:few])).refused("every pixel has the same value")
    for count, said in ((1, "with 1 different image ("), (3, "with 3 different images (")):
        data = write_npz(tmp_path / "few.npz", normalized(pictures(count, CLASSES)[0]))
        result = edgecnn(*asked, data)
        assert result.code == 0, result.said
        assert any(f"reconstruction ({said}" in line for line in json.loads(result.out)["left_out"])
