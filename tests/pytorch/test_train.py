"""Training: what it writes, that it repeats and resumes bit for bit, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.run_folder import read_gradients
from edgecnn.artifact.sidecar import read_sidecar, verified_sidecar
from edgecnn.data.dataset import batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ArtifactError, DataError, RecipeError, TrainingError
from edgecnn.pipeline.tasks import all_tasks
from edgecnn.pipeline.workshop import Workshop
from edgecnn.pytorch.training.progress import Epoch, Silent
from edgecnn.recipe.load import load_recipe, recipe_from_mapping
from edgecnn.recipe.schema import Recipe
from edgecnn.session import Session
from edgecnn.steps._images import open_images

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from safetensors.torch import save_file

    from edgecnn.pytorch.checkpoint import STATE_NAME, read_weights
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.reference import open_reference
    from edgecnn.pytorch.training.loop import train

pytestmark = pytest.mark.torch

RICH: dict[str, Any] = {  # everything with a memory at once
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 0.5,
    "label_smoothing": 0.1,
    "clip_norm": 1.0,
    "warmup_epochs": 0.5,
    "dropout": 0.1,
    "lr_schedule": "plateau",
    "optimizer": "adamw",
    "augment": {"mirror": True, "pad": 2, "rotation_deg": 5, "elastic_px": 0.5, "color": 0.1, "erase": 0.2},
}


class Interrupt(Silent):
    """Kills the run when an epoch is done."""

    def __init__(self, epoch: int) -> None:
        self.at, self.closed = epoch, False

    def close(self) -> None:
        self.closed = True

    def epoch(self, epoch: Epoch) -> None:
        if epoch.epoch == self.at:
            raise KeyboardInterrupt


def recipe(source: str = "digits", **settings: Any) -> Recipe:
    values = {"epochs": 1, "batch": 32, "learning_rate": 0.05, **settings}
    return recipe_from_mapping(
        {"model": {"name": "lenet5"}, "data": {"source": source}, "train": values}, Path("recipes/digits-test.toml")
    )


def folder_of(root: Path, classes: Sequence[str], count: int = 6) -> Path:
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(random.integers(0, 255, (36, 40), dtype=np.uint8)).save(root / name / f"{k}.png")
    return root


def same(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def test_the_recipe_of_the_digits_reaches_98_percent_and_its_checkpoint_is_the_reference(digits: Path) -> None:
    checkpoint = digits / "model.safetensors"
    sidecar = verified_sidecar(checkpoint)
    assert sidecar.facts["top1_pct"] >= 98.0
    assert sidecar.facts["n"] == 540
    assert sidecar.kind == "checkpoint"
    assert sidecar.recipe == "lenet5-digits"
    assert sidecar.fields["train.epochs"] == 20
    assert sidecar.labels == [str(d) for d in range(10)]
    assert list((digits / "tensorboard").glob("events.out.tfevents.*"))
    assert sidecar.preprocessing is not None
    test = open_dataset("digits", preprocessing_from_json(sidecar.preprocessing), "test")
    with open_reference(checkpoint) as session:
        assert isinstance(session, Session)
        hits = [session.run(b.input).argmax(1) == b.label for b in batches(test, 100)]
    assert 100 * np.concatenate(hits).mean() == pytest.approx(sidecar.facts["top1_pct"])


@pytest.mark.cpu_s(20)
@pytest.mark.parametrize("settings", [{}, RICH], ids=["plain", "rich"])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    three = recipe(epochs=3, **settings)
    train(three, tmp_path / "whole", threads=1)
    killer = Interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        train(three, tmp_path / "killed", threads=1, progress=killer)
    assert killer.closed  # a bar gives the terminal back
    assert not (tmp_path / "killed/model.safetensors").exists()
    torch.rand(7)  # the state of the process must not matter
    train(three, tmp_path / "killed", threads=1, resume=True)
    for name in ("model", "best", "last"):
        assert same(tmp_path / f"whole/{name}.safetensors", tmp_path / f"killed/{name}.safetensors")
    torch.load(tmp_path / "whole" / STATE_NAME, weights_only=True)


def test_gradient_norms_are_recorded_where_they_are_asked_for_and_change_nothing(tmp_path: Path) -> None:
    """Of one step an epoch over all images: the norms of the gradients that autograd gives, before clipping."""
    settings: dict[str, Any] = {"epochs": 2, "batch": 1257, "validation": 0.0, "learning_rate": 0.0, "clip_norm": 1e-3}
    train(recipe(gradient_norms=True, **settings), tmp_path / "asked", threads=1)
    train(recipe(**settings), tmp_path / "plain", threads=1)
    assert same(tmp_path / "asked/model.safetensors", tmp_path / "plain/model.safetensors")
    made, other = (read_sidecar(tmp_path / name / "model.safetensors") for name in ("asked", "plain"))
    assert made.fields == other.fields
    assert read_gradients(tmp_path / "plain") is None
    found = read_gradients(tmp_path / "asked")
    assert found is not None
    assert (found.model, found.layers, found.epochs) == ("lenet5", ("conv1", "conv2", "fc1", "fc2", "fc3"), (1, 2))
    network = build_model("lenet5")
    network.load_state_dict(read_weights(tmp_path / "asked/model.safetensors"))
    images = open_dataset("digits", preprocessing_from_json(made.preprocessing or {}), "train")
    (batch,) = batches(images, len(images))
    torch.nn.functional.cross_entropy(network(torch.from_numpy(batch.input)), torch.from_numpy(batch.label)).backward()
    exact = [float(network.get_submodule(layer).weight.grad.norm()) for layer in found.layers]
    assert found.norms[0] == pytest.approx(exact, rel=1e-3)
    assert found.norms[1] == pytest.approx(exact, rel=1e-3)
    train(recipe(**settings), tmp_path / "asked", threads=1)
    assert read_gradients(tmp_path / "asked") is None, "those of an earlier training are gone"


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    train(recipe(), tmp_path / "a", threads=1)
    train(recipe(seed=1), tmp_path / "b", threads=1)
    assert not same(tmp_path / "a/model.safetensors", tmp_path / "b/model.safetensors")


def test_the_best_epoch_is_chosen_on_held_out_training_images(tmp_path: Path) -> None:
    result = train(recipe(epochs=3, lr_schedule="constant"), tmp_path, threads=1)
    state = torch.load(tmp_path / STATE_NAME, weights_only=True)
    scores = [(h["validation_top1_pct"], -h["validation_loss"]) for h in state["history"]]
    assert result.validation_n == 126
    assert result.best_epoch == 1 + scores.index(max(scores))
    assert read_sidecar(tmp_path / "best.safetensors").facts["epoch"] == result.best_epoch


def test_early_stop_ends_and_keeps_the_best(tmp_path: Path) -> None:
    result = train(recipe(epochs=9, learning_rate=0.0, early_stop=2, lr_schedule="constant"), tmp_path, threads=1)
    assert result.epochs == 3
    assert result.best_epoch == 1


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_a_rate_that_diverges_is_named_and_leaves_the_last_checkpoint(tmp_path: Path, rate: float) -> None:
    result = train(recipe(), tmp_path, threads=1)
    before = result.checkpoint.read_bytes()
    with pytest.raises(TrainingError, match="diverged|loss is nan") as caught:
        train(recipe(learning_rate=rate), tmp_path, threads=1)
    assert "learning_rate" in caught.value.hint
    assert result.checkpoint.read_bytes() == before


def test_resuming_with_another_recipe_is_refused_with_what_changed(tmp_path: Path) -> None:
    train(recipe(), tmp_path, threads=1)
    with pytest.raises(TrainingError, match=r"train.epochs was 1, now 2; train.learning_rate was 0.05, now 0.1"):
        train(recipe(epochs=2, learning_rate=0.1), tmp_path, resume=True)
    with pytest.raises(TrainingError, match="no run to resume"):
        train(recipe(), tmp_path / "elsewhere", resume=True)


def test_resuming_with_other_images_is_refused(tmp_path: Path) -> None:
    """Another image moves the split: images that chose an epoch would be trained on."""
    folder = folder_of(tmp_path / "data", ["ants", "bees"])
    settings = recipe(str(folder), batch=4, epochs=2, validation=0.25)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "out", threads=1, progress=Interrupt(1))
    Image.new("L", (40, 40)).save(folder / "bees" / "more.png")
    with pytest.raises(TrainingError, match="the train images are not those that the run was started with"):
        train(settings, tmp_path / "out", threads=1, resume=True)
    (folder / "bees" / "more.png").unlink()
    assert train(settings, tmp_path / "out", threads=1, resume=True).epochs == 2


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train(recipe(), tmp_path, threads=1)
    (tmp_path / STATE_NAME).write_bytes((tmp_path / STATE_NAME).read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=STATE_NAME):
        train(recipe(), tmp_path, resume=True)


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "two", ["ants", "bees"])
    with pytest.raises(DataError, match="11 training images make no batch of 32"):
        train(recipe(str(folder)), tmp_path / "out")
    (folder / "wasps").mkdir()
    with pytest.raises(DataError, match=r"wasps: a class without images"):
        train(recipe(str(folder)), tmp_path / "out")
    with pytest.raises(DataError, match="one class only"):
        train(recipe(str(folder_of(tmp_path / "one", ["ants"]))), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"train.epochs is 0"):
        train(recipe(epochs=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def brightness(root: Path, classes: dict[str, int], count: int) -> None:
    random = np.random.default_rng(1)
    for name, level in classes.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            pixels = level + random.integers(0, 20, (32, 32))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{k}.png")


def test_classes_of_the_test_split_are_those_of_the_training_split_by_name(tmp_path: Path) -> None:
    """Without the first class, every later one would count as its neighbour."""
    levels = {"ants": 0, "bees": 100, "wasps": 220}
    brightness(tmp_path / "data/train", levels, 40)
    brightness(tmp_path / "data/val", {name: levels[name] for name in ("bees", "wasps")}, 10)
    settings = recipe(str(tmp_path / "data"), batch=8, epochs=4, validation=0)
    result = train(settings, tmp_path / "out", threads=1)
    assert (result.n, result.top1_pct) == (20, 100)
    brightness(tmp_path / "data/val", {"flies": 50}, 1)
    with pytest.raises(DataError, match="val: class 'flies' is not one of the model's 3 classes"):
        train(settings, tmp_path / "refused")
    assert not (tmp_path / "refused").exists(), "before the first epoch"


def test_weights_without_labels_are_named_by_the_training_folders(tmp_path: Path) -> None:
    """The test split may lack a class; and where nobody knows the classes, the steps measure agreement alone."""
    data = tmp_path / "data"
    folder_of(data / "train", ["ants", "bees", "wasps"], 1)
    folder_of(data / "val", ["bees", "wasps"], 1)
    save_file(build_model("lenet5", 3).state_dict(), tmp_path / "w.safetensors")
    content: dict[str, Any] = {
        "model": {"name": "lenet5", "classes": 3, "weights": str(tmp_path / "w.safetensors")},
        "data": {"source": str(data)},
        "train": {"epochs": 0},
    }
    made = tmp_path / "model.safetensors"
    shop = Workshop(recipe_from_mapping(content, Path("recipes/w.toml")), tmp_path)
    all_tasks(shop)[0].make()
    sidecar = read_sidecar(made)
    assert sidecar.labels == ["ants", "bees", "wasps"]
    test = shop.test_images(made)
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2]
    assert open_images(replace(sidecar, labels=None), str(data), "test").labels is None


def test_a_folder_of_training_images_alone_reports_no_test_figure(tmp_path: Path) -> None:
    brightness(tmp_path / "data/train", {"ants": 0, "bees": 200}, 8)
    result = train(recipe(str(tmp_path / "data"), batch=8, validation=0), tmp_path / "out", threads=1)
    assert result.top1_pct is None


def test_a_corrupt_image_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", ["ants", "bees"])
    (folder / "bees/3.png").write_bytes(b"not a picture")
    for augment in ({}, {"area": [0.5, 1.0]}):  # held in memory, and decoded for each epoch
        settings = recipe(str(folder), batch=4, validation=0, epochs=2, augment=augment)
        with pytest.raises(DataError, match=r"bees/3.png: not a readable image"):
            train(settings, tmp_path / "out")
        result = train(settings, tmp_path / "out", skip_corrupt=True)
        assert result.corrupt_images == 1
        assert result.top1_pct is None  # the folder has no test split of its own: none is reported
    assert json.loads((tmp_path / "out/model.safetensors.json").read_text())["facts"]["corrupt_images"] == 1


def test_too_few_readable_images_are_no_training(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", ["ants", "bees"])
    (folder / "bees/3.png").write_bytes(b"not a picture")
    settings = recipe(str(folder), batch=12, validation=0)
    with pytest.raises(TrainingError, match="11 readable training images make no batch of 12"):
        train(settings, tmp_path / "out", skip_corrupt=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_vanishes_mid_epoch_leaves_the_checkpoints_whole(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", ["ants", "bees"])

    class Vanish(Silent):
        def epoch(self, epoch: Epoch) -> None:
            folder.rename(tmp_path / "gone")

    settings = recipe(str(folder), batch=4, validation=0, epochs=3, augment={"area": [0.5, 1.0]})
    with pytest.raises(DataError, match="png"):
        train(settings, tmp_path / "out", progress=Vanish())
    read_weights(tmp_path / "out/best.safetensors")
    verified_sidecar(tmp_path / "out/last.safetensors")
    (tmp_path / "gone").rename(folder)
    assert train(settings, tmp_path / "out", resume=True).epochs == 3


def test_folders_named_by_wnid_get_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", ["n01443537", "n01440764"])
    result = train(recipe(str(folder), batch=4, validation=0), tmp_path / "out", threads=1)
    sidecar = read_sidecar(result.checkpoint)
    assert sidecar.wnids == ["n01440764", "n01443537"]
    assert sidecar.labels == ["tench", "goldfish"]


@pytest.mark.parametrize(
    "settings",
    [
        {"amp": "bf16", "channels_last": True, "nesterov": True, "init": "he"},
        {"lr_schedule": "step", "milestones": [1], "init": "xavier", "augment": {"area": [0.3, 1.0], "mirror": True}},
        {"lr_schedule": "one-cycle", "augment": {"jitter": [34, 40], "pca_color": 0.1, "shear_deg": 5, "zoom": 0.1}},
    ],
    ids=["bf16", "decoded each epoch", "jitter"],
)
def test_settings_that_change_how_it_is_computed_still_learn(tmp_path: Path, settings: dict[str, Any]) -> None:
    result = train(recipe(epochs=3, **settings), tmp_path, threads=1)
    assert result.top1_pct is not None
    assert result.top1_pct > 60  # guessing: 10


def test_event_files_hold_every_epoch(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    train(recipe(epochs=2), tmp_path, threads=1)
    [path] = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    found = [(e.step, v.tag) for e in EventFileLoader(str(path)).Load() for v in e.summary.value]
    state = torch.load(tmp_path / STATE_NAME, weights_only=True)
    assert len(state["history"]) == 2
    for tag in ("train/loss", "train/top1_pct", "train/learning_rate", "train/images_per_s", "validation/top1_pct"):
        assert [step for step, name in found if name == tag] == [1, 2]


def test_progress_says_loss_top1_images_per_s_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.pytorch.training import progress
    from edgecnn.pytorch.training.progress import Bar, Lines, Step

    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    epoch = Epoch(2, 5, 0.5, 80.0, 0.6, 79.0, 1234.0, 1.5, 0.01)
    lines = Lines()
    lines.step(Step(1, 5, 10, 10, 0.5, 80.0, 1234.0, 0.01))
    now = 20.0
    lines.epoch(epoch)
    said = capsys.readouterr().err
    assert said.endswith(", 60 s left\n")
    now = 31.0
    lines.step(Step(3, 5, 2, 10, 0.5, 80.0, 1234.0, 0.01))
    assert capsys.readouterr().err.endswith(" step 2/10 loss 0.5000 top-1 80.00 % 1234 images/s, 72 s left\n")
    monkeypatch.undo()
    for part in ("epoch 2/5", "loss 0.5000", "top-1 80.00 %", "held out: loss 0.6000 top-1 79.00 %", "1234 images/s"):
        assert part in said
    bar = Bar()
    bar.step(Step(2, 5, 3, 10, 0.5, 80.0, 1234.0, 0.01))
    [task] = bar.bar.tasks
    assert (task.completed, task.total, task.description) == (13, 50, "epoch 2/5")
    assert task.fields["figures"] == "loss 0.5000  top-1 80.00 %  1234 images/s"
    bar.close()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lenet_reaches_99_percent_on_mnist(tmp_path: Path, shared: Path) -> None:
    result = train(load_recipe("lenet5-mnist", [f'data.source="mnist:{shared}/data/mnist"']), tmp_path)
    assert result.n == 10_000
    assert result.top1_pct is not None
    assert result.top1_pct >= 99.0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_resnet20_reaches_60_percent_in_three_epochs(tmp_path: Path, shared: Path) -> None:
    result = train(load_recipe("resnet20-cifar10", [f'data.source="cifar10:{shared}/data/cifar10-jpeg"']), tmp_path)
    assert result.epochs == 3
    assert result.n == 10_000
    assert result.top1_pct is not None
    assert result.top1_pct >= 60.0


def test_a_state_of_an_earlier_schema_is_refused_with_a_hint(tmp_path: Path) -> None:
    from edgecnn.pytorch.checkpoint import read_state

    torch.save({"schema": 1}, tmp_path / "training-state.pt")
    with pytest.raises(TrainingError, match="training state of schema 1, this edgecnn reads 2") as caught:
        read_state(tmp_path, load_recipe("lenet5-digits"))
    assert "--resume" in caught.value.hint
    for fields in ("[", "[" * 10**5, "[]", None):
        torch.save({"schema": 2, "fields": fields}, tmp_path / "training-state.pt")
        with pytest.raises(ArtifactError, match="not a whole training state"):
            read_state(tmp_path, load_recipe("lenet5-digits"))
    torch.save([2], tmp_path / "training-state.pt")
    with pytest.raises(TrainingError, match="training state of schema list"):
        read_state(tmp_path, load_recipe("lenet5-digits"))
