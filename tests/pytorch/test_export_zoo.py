"""The networks of the zoo as graphs: one of every family, quickly; all of them, with the clock running."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends.ort.session import OrtSession
from edgecnn.zoo import cards

if TYPE_CHECKING:  # imported before the first test of this file
    from edgecnn.pytorch.export.exporter import make_probe_images
    from edgecnn.steps.export import export

pytestmark = pytest.mark.torch

NEEDLESS = {"Identity", "Constant", "Shape", "Gather", "Cast", "Unsqueeze", "Squeeze", "Dropout", "Expand", "Where"}


STAND_INS = {  # network of another family -> the cheaper one whose nodes are of all its kinds
    "wrn28_10_cifar": "preresnet18",
    "resnext50_32x4d": "se_resnext50_32x4d",
    "fractalnet_cifar": "se_resnext50_32x4d",
    "densenet_bc100_12_cifar": "nasnet_mobile",
    "inception_v3": "nasnet_mobile",
}


def cheapest_of_each_family() -> list[Any]:
    """The largest, and those that another family's stands in for, with the slow tests."""
    best: dict[str, str] = {}
    for name, card in cards().items():
        if card.family not in best or card.params < cards()[best[card.family]].params:
            best[card.family] = name
    slow = {n for n in best.values() if cards()[n].params > 62e6} | STAND_INS.keys()
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in best.values()]


def export_and_inspect(name: str, tmp_path: Path, size: int | None = None) -> set[tuple[str, ...]]:
    """Export one; the kinds of its nodes: operators with the names of their attributes."""
    card, path = cards()[name], tmp_path / f"{name}.onnx"
    facts = read_sidecar(export(name, path, weights="none", size=size, max_batch=3)).facts
    assert facts["params"] == card.params
    assert facts["max_difference"] < 1e-4
    model = onnx.load(path)
    kinds = [n.op_type for n in model.graph.node]
    assert NEEDLESS.isdisjoint(kinds)
    produced_by = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":  # what a Conv alone feeds is folded
            source = produced_by.get(node.input[0])
            readers = sum(node.input[0] in other.input for other in model.graph.node)
            assert source is None or source.op_type != "Conv" or readers > 1, node.name
    names = [n.name for n in model.graph.node]
    assert len(set(names)) == len(names)
    parameters = {i.name for i in model.graph.initializer}
    assert all(n.input[1] == f"{n.name}.weight" for n in model.graph.node if n.op_type in ("Conv", "Gemm"))
    assert all(f"{n.name}.weight" in parameters for n in model.graph.node if n.op_type in ("Conv", "Gemm"))
    with OrtSession(path) as session:  # the file as anybody would open it
        logits = session.run(make_probe_images(tuple(facts["input_shape"]), 2))
    assert logits.shape == (2, card.classes)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3 * np.abs(logits).max()
    return {(n.op_type, *sorted(a.name for a in n.attribute)) for n in model.graph.node}


@pytest.mark.cpu_s(30)
@pytest.mark.parametrize("name", cheapest_of_each_family())
def test_one_of_each_family(name: str, tmp_path: Path) -> None:
    """Of small images, where the network takes them: its operators and names are those of large ones."""
    card = cards()[name]
    small = min(card.input_shape[1], max(card.min_size, 64))
    export_and_inspect(name, tmp_path, small if small < card.input_shape[1] else None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_them_in_eight_minutes_of_two_cores(tmp_path: Path) -> None:
    started = time.process_time()
    kinds = {}
    for name in cards():
        kinds[name] = export_and_inspect(name, tmp_path)
        (tmp_path / f"{name}.onnx").unlink()
    assert time.process_time() - started < 2 * 8 * 60
    assert all(kinds[name] <= kinds[other] for name, other in STAND_INS.items())


@pytest.mark.slow
def test_peak_memory_of_vgg19_is_at_most_three_times_its_weights(root: Path) -> None:
    import json

    command = [sys.executable, str(root / "benchmarks/networks.py"), "--alone", "vgg19"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["weights_mb"] == 575
    assert found["peak_mb"] <= 3 * found["weights_mb"]


def test_published_weights_of_the_shared_folder_classify(tmp_path: Path, shared: Path) -> None:
    """Preprocessing, labels and weights belong together: SqueezeNet must find what is in the pictures."""
    from edgecnn.data.dataset import batches
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json

    path = tmp_path / "squeezenet.onnx"
    export("squeezenet1_1", path, weights=str(shared / "weights" / "squeezenet1_1_imagenet.safetensors"))
    sidecar = read_sidecar(path)
    assert sidecar.preprocessing is not None
    images = open_dataset(
        str(shared / "data" / "imagenet-500"),
        preprocessing_from_json(sidecar.preprocessing),
        "test",
        sidecar.labels or (),
        sidecar.wnids or (),
    ).subset(range(0, 500, 10))
    with OrtSession(path) as session:
        right = [session.run(b.input).argmax(1) == b.label for b in batches(images, 10)]
    assert 50 <= 100 * np.concatenate(right).mean() <= 80  # 65 on all of them
