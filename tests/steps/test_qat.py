"""`train --qat`: begins with what `quantize` makes, resumes to the bit, goes on in a run; and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from edgecnn.artifact.sidecar import verified_sidecar
from edgecnn.artifact.stale import TRAIN_IMAGES
from edgecnn.errors import ArtifactError, DataError, EdgecnnError, RecipeError
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.pipeline.run import plan
from edgecnn.pytorch.training.progress import Epoch, Silent
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe
from edgecnn.steps.qat import train_quantized

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

pytestmark = [pytest.mark.torch, pytest.mark.onnx]

TENSORRT = 'targets=["agx-orin"]'
GRAPH = "model.int8-tensorrt.onnx"


class Interrupt(Silent):
    """Kills the run when the first epoch is done."""

    def epoch(self, epoch: Epoch) -> None:
        raise KeyboardInterrupt


def recipe(*overrides: str) -> Recipe:
    quick = ["qat.epochs=2", "qat.learning_rate=0.1", "quantize.method=mse"]
    return load_recipe("lenet5-digits", [*quick, TENSORRT, *overrides])


def run_folder(digits: Path, folder: Path) -> Path:
    """A run of which the float graph and its ranges are there."""
    folder.mkdir()
    for name in ("model.safetensors", "model.fp32.onnx", "model.calib.json"):
        for path in digits.glob(f"{name}*"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def whole(digits_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose INT8 graph was trained for two epochs."""
    folder = run_folder(digits_made, tmp_path_factory.mktemp("qat") / "whole")
    train_quantized(recipe(), folder, threads=1)
    return folder


def test_killed_and_resumed_it_is_the_same_graph(whole: Path, digits: Path, tmp_path: Path) -> None:
    killed = run_folder(digits, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        train_quantized(recipe(), killed, threads=1, progress=Interrupt())
    assert not (killed / GRAPH).exists()
    torch.rand(7)  # the state of the process must not matter
    [again] = train_quantized(recipe(), killed, threads=1, resume=True)
    assert again.graph.read_bytes() == (whole / GRAPH).read_bytes()
    sidecar = verified_sidecar(again.graph)
    assert again.sqnr_db == sidecar.facts["qat_sqnr_db"] >= 40


def test_weights_and_scales_have_moved_and_nothing_else(whole: Path) -> None:
    before, after = (OnnxGraph(onnx.load(whole / name)) for name in ("qat/tensorrt/start.onnx", GRAPH))
    assert [n.SerializeToString() for n in before.nodes] == [n.SerializeToString() for n in after.nodes]
    moved = {n for n in before.initializers if (before.array(n) != after.array(n)).any()}
    scales = {node.input[1] for node in before.nodes if node.op_type == "QuantizeLinear"}
    assert 5 <= len(moved - scales) <= 10, "weights and biases of five layers"
    assert moved & scales, "and how finely activations are read"


def test_a_run_takes_the_graph_until_a_setting_changes(whole: Path) -> None:
    sidecar = verified_sidecar(whole / GRAPH)
    assert (sidecar.scheme, sidecar.precision_obtained, sidecar.facts["method"]) == ("tensorrt", "int8", "mse")
    assert sidecar.fields["qat.epochs"] == 2
    assert sidecar.fields["quantize.method"] == "mse"
    assert sidecar.facts[TRAIN_IMAGES]
    assert set(sidecar.parents) == {"model.fp32.onnx", "model.calib.json"}

    def due(settings: Recipe) -> list[str]:
        return [reason for task, reason in plan(settings, whole, until="quantize") if task.output == whole / GRAPH]

    assert due(recipe()) == []
    assert due(recipe("qat.learning_rate=0.2")) == ["qat.learning_rate changed from 0.1 to 0.2"]
    assert due(recipe("qat.epochs=0")) == ["qat.epochs changed from 2 to None"]


def test_a_trained_graph_is_trained_again_where_that_is_asked_for(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ArtifactError, match="a trained INT8 graph is there"):
        train_quantized(recipe(), folder, threads=1)
    [other] = train_quantized(recipe("qat.epochs=1"), folder, threads=1, retrain=True)
    assert other.graph.read_bytes() != (whole / GRAPH).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["qat.epochs=0"], RecipeError, "qat.epochs is 0: there is nothing to train"),
        (['precisions=["fp32", "fp16"]'], RecipeError, "qat.epochs = 2 trains INT8 graphs: precisions has no 'int8'"),
        ([], ArtifactError, "model.fp32.onnx: no such file: quantization-aware training begins with a trained network"),
    ],
)
def test_what_cannot_be_begun(overrides: list[str], error: type[EdgecnnError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message) as caught:
        train_quantized(recipe(*overrides), tmp_path)
    assert caught.value.hint


def test_networks_that_are_not_of_the_zoo_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[model]\ntimm = "resnet10t"\nweights = "none"\n[data]\nsource = "digits"\n[qat]\nepochs = 1\n')
    with pytest.raises(RecipeError, match="qat.epochs = 1: only networks of the zoo are trained here"):
        train_quantized(path, tmp_path)


def test_images_of_other_classes_are_refused(digits: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = run_folder(digits, tmp_path / "run")
    for name in ("ants", "bees"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(20):
            Image.new("L", (32, 32), 10 * k).save(tmp_path / "data" / name / f"{k}.png")
    settings = recipe(f"data.source={tmp_path / 'data'}", "data.calibration=")
    with pytest.raises(DataError, match="classes"):
        train_quantized(settings, folder, threads=1)
