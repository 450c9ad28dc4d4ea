"""`auto` and `calibrate --check` on images that are not the network's: said, kept in the sidecar, and never worse than
least squared error; and on networks that give probabilities, as on those that give logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from tests.acceptance.channel_pictures import sidecar
from tests.acceptance.nets import Floats, Net, normalized, pictures, run, write_npz

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx
CLASSES = 12


def network(ends: str = "logits") -> onnx.ModelProto:
    net = Net(0, CLASSES)
    x = net.relu(net.conv("c1", "input", (3, 16)))
    y = net.head(net.relu(net.conv("c2", x, (16, 16))), gain=8.0)
    return net.model(y if ends == "logits" else net.node("Softmax", "probabilities", y, axis=1))


def images(count: int = 64, seed: int = 1) -> Floats:
    return normalized(pictures(count, CLASSES, seed)[0])


def of_one_class(count: int) -> Floats:
    made, labels = pictures(count * CLASSES, CLASSES, 1)
    return normalized(made[labels == 3])


SETS: dict[str, Callable[[], Floats]] = {
    "good": images,
    "one class": lambda: of_one_class(64),
    "noise": lambda: np.random.default_rng(0).normal(0, 1, (64, 3, 12, 12)).astype(np.float32),
    "not normalized": lambda: 255 * (0.25 * images() + 0.5),
}


@pytest.mark.parametrize("ends", ["logits", "probabilities"])
def test_wrong_images_are_said_and_auto_is_then_mse(ends: str, edgecnn: Callable[..., Result], tmp_path: Path) -> None:
    graph, unseen = tmp_path / "net.onnx", images(48, 9)
    onnx.save(network(ends), graph)
    for name, make in SETS.items():
        data = write_npz(tmp_path / "data.npz", make())
        made = {}
        for method in ("mse", "auto"):
            made[method] = tmp_path / f"{method}.onnx"
            asked = ("--precision", "int8", "--method", method, "--data", data, "--threads", 1, "--json")
            said = edgecnn("quantize", graph, *asked, "-o", made[method])
            assert said.code == 0, said.said
            result, kept = json.loads(said.out), sidecar(made[method])["facts"].get("images_doubted")
            assert (kept is None) == (name == "good"), (name, kept)
            assert result["images_doubted"] == kept
            assert kept is None or any(kept in line for line in result["warnings"])
        auto, plain = (run(onnx.load(path), unseen) for path in (made["auto"], made["mse"]))
        assert np.array_equal(auto, plain) == (name != "good"), name


@pytest.mark.parametrize(("ends", "tested"), [("logits", 48), ("probabilities", 10)])
def test_check_speaks_of_wrong_images_with_many_test_images_and_with_few(
    ends: str, tested: int, edgecnn: Callable[..., Result], tmp_path: Path
) -> None:
    graph, test = tmp_path / "net.onnx", write_npz(tmp_path / "test.npz", images(tested, 7))
    onnx.save(network(ends), graph)
    told = {}
    copies = np.repeat(images(1), 64, axis=0)
    for name, make in {"good": images, "noise": SETS["noise"], "copies": lambda: copies}.items():
        data = write_npz(tmp_path / "data.npz", make())
        said = edgecnn("calibrate", graph, "--data", data, "--check", "--test", test, "--json")
        found = json.loads(said.out)
        told[name] = " ".join(found["problems"])
        assert said.code == (3 if found["problems"] else 0)
        assert (found["test_distance"] is None) == (tested < 16)
    assert "to the network" not in told["good"]
    assert "unsure" not in told["good"]
    assert "to the network: its" in told["noise"] or "unsure" in told["noise"], told
    assert "63 of 64 images are copies of others" in told["copies"]
