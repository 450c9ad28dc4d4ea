"""Transfer learning: what is trained, what stands still, what is cached, and which classes a head knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.errors import ArtifactError, DataError, ModelError, RecipeError
from edgecnn.pytorch.training.progress import Silent
from edgecnn.recipe.load import load_recipe, recipe_from_mapping
from edgecnn.recipe.schema import Recipe
from edgecnn.zoo import cards

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torch import nn

    from edgecnn.pytorch.checkpoint import read_weights, write_checkpoint
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.training.loop import train
    from edgecnn.pytorch.training.transfer import head_names, make_learner, split_frozen
    from edgecnn.steps.train import take_weights

pytestmark = pytest.mark.torch

SPLITTABLE = ["lenet5", "squeezenet1_1", "resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "alexnet_owt"]


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def recipe(weights: Path | str, source: Path | str, mode: str, name: str = "resnet20_cifar", **train_: Any) -> Recipe:
    transfer = {"train": mode, "cache": train_.pop("cache", True)} if mode else {}
    return recipe_from_mapping(
        {
            "model": {"name": name, "weights": str(weights)},
            "data": {"source": str(source)},
            "train": {"epochs": 2, "batch": 8, "learning_rate": 0.001, "validation": 0, **train_},
            "transfer": transfer,
        },
        Path("recipes/transfer-test.toml"),
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes that differ in brightness, 16 images each of 32x32."""
    random = np.random.default_rng(0)
    for name, low, high in (("ants", 0, 120), ("bees", 100, 255)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(16):
            image = Image.fromarray(random.integers(low, high, (32, 32, 3), dtype=np.uint8))
            image.save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path / "data"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """ResNet-20 of ten classes with BN statistics that are not those of a fresh network."""
    return checkpoint(tmp_path / "start.safetensors", [f"class {k}" for k in range(10)])


def checkpoint(path: Path, labels: Sequence[str]) -> Path:
    torch.manual_seed(3)
    network = build_model("resnet20_cifar", len(labels))
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 3, 32, 32))
    write_checkpoint(path, network.state_dict(), Sidecar(kind="checkpoint", labels=list(labels)))
    return path


def changed(before: Path, after: Path) -> set[str]:
    old, new = read_weights(before), read_weights(after)
    return {k for k in new if old[k].shape != new[k].shape or not torch.equal(old[k], new[k])}


def test_head_trains_the_classifier_alone_and_freezes_bn(tmp_path: Path, pictures: Path, start: Path) -> None:
    result = train(recipe(start, pictures, "head"), tmp_path / "out", threads=1)
    assert changed(start, result.checkpoint) == {"linear.weight", "linear.bias"}
    assert read_sidecar(result.checkpoint).parents.keys() == {"../start.safetensors"}


def test_last_1_trains_the_last_stage_and_its_bn_statistics(tmp_path: Path, pictures: Path, start: Path) -> None:
    result = train(recipe(start, pictures, "last-1"), tmp_path / "out", threads=1)
    moved = changed(start, result.checkpoint)
    assert {k.split(".")[0] for k in moved} == {"layer3", "linear"}
    assert "layer3.2.bn2.running_mean" in moved


def test_all_trains_everything_the_old_layers_at_a_tenth(pictures: Path, start: Path) -> None:
    settings = recipe(start, pictures, "all")
    network = build_model("resnet20_cifar", 2)
    learner = make_learner(settings, network)
    shares = {id(p): g.share for g in learner.groups for p in g.params}
    assert {shares[id(p)] for n, p in network.named_parameters() if not n.startswith("linear")} == {0.1}
    assert {shares[id(p)] for n, p in network.named_parameters() if n.startswith("linear")} == {1.0}
    assert not learner.frozen


def test_cached_features_give_the_same_head(tmp_path: Path, pictures: Path, start: Path) -> None:
    notes = Notes()
    for cache in (True, False):
        train(recipe(start, pictures, "head", cache=cache), tmp_path / str(cache), threads=1, progress=notes)
    cached, plain = (read_weights(tmp_path / f"{c}/model.safetensors")["linear.weight"] for c in (True, False))
    torch.testing.assert_close(cached, plain, atol=1e-5, rtol=1e-4)
    assert sum("computed once for 32 images" in n for n in notes.notes) == 1
    varied = Notes()
    settings = recipe(start, pictures, "head", epochs=1, augment={"mirror": True})
    train(settings, tmp_path / "varied", threads=1, progress=varied)
    assert any("augmentation varies the images" in n for n in varied.notes)


@pytest.mark.parametrize("name", SPLITTABLE)
def test_the_frozen_part_and_the_rest_make_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, 3).eval()
    learner = make_learner(recipe("default", "x", "last-2", name), network)
    parts = split_frozen(network, [g.params for g in learner.groups])
    assert parts is not None
    prefix, rest = parts
    assert not any(p.requires_grad for p in prefix.parameters())
    assert {id(p) for p in rest.parameters() if p.requires_grad} == {id(p) for g in learner.groups for p in g.params}
    x = torch.randn(2, *cards()[name].input_shape)
    with torch.no_grad():
        torch.testing.assert_close(rest(prefix(x)), network(x), atol=1e-5, rtol=1e-4)


@pytest.mark.cpu_s(30)
def test_every_network_of_the_zoo_can_be_cut_before_its_head() -> None:
    for name in cards():
        if name == "resnet1202_cifar":
            continue
        with torch.device("meta"):
            network = build_model(name)
        learner = make_learner(recipe("default", "x", "head", name), network)
        parts = split_frozen(network, [g.params for g in learner.groups])
        assert parts is not None, name
        trained = {id(p) for p in parts[1].parameters() if p.requires_grad}
        main = [h for h in head_names(network) if not h.startswith(tuple(getattr(network, "aux_names", ())) or "-")]
        assert trained == {id(p) for h in main for p in network.get_submodule(h).parameters()}, name


def test_auxiliary_heads_weigh_what_the_recipe_says() -> None:
    from edgecnn.pytorch.training.epoch import DataSplits, Learner, Trainer
    from edgecnn.pytorch.training.optimizer import ParameterGroup
    from edgecnn.pytorch.training.process_group import ProcessGroup

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(1, 3))

        def forward(self, x: torch.Tensor) -> object:
            outputs = self.a.expand(len(x), 3), self.b.expand(len(x), 3)
            return outputs if self.training else outputs[0]

    settings = recipe("none", "x", "", "lenet5", learning_rate=1.0, momentum=0.0, weight_decay=0.0).train
    two = Two()
    learner = Learner(two, two, [ParameterGroup(list(two.parameters()))], [], settings.auxiliary_weight)

    class One:
        readable, corrupt = np.arange(8), dict[str, str]()

        def batches(self, order: object, epoch: int = 0) -> object:
            from edgecnn.pytorch.training.loader import Batch

            yield Batch(torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64), torch.arange(8))

        def inputs(self, batch: object, epoch: int | None = None) -> torch.Tensor:
            return torch.zeros(8, 1)

    splits = DataSplits(One(), None, None, ["a", "b", "c"], None)  # type: ignore[arg-type]
    trainer = Trainer(settings, learner, splits, ProcessGroup(0, 1, torch.device("cpu")), Silent())
    trainer.train_epoch(0)
    torch.testing.assert_close(two.b, 0.3 * two.a)
    assert float(two.a.detach()[0, 0]) > 0


def test_classes_in_another_order_follow_the_checkpoint(tmp_path: Path, pictures: Path) -> None:
    weights = checkpoint(tmp_path / "two.safetensors", ["bees", "ants"])
    notes = Notes()
    settings = recipe(weights, pictures, "head", learning_rate=0.0)
    result = train(settings, tmp_path / "out", threads=1, progress=notes)
    assert read_sidecar(result.checkpoint).labels == ["bees", "ants"]
    assert changed(weights, result.checkpoint) == set()  # the head is kept, and the rate is 0
    assert any("the head is kept" in n for n in notes.notes)


def test_weights_taken_as_they_are_keep_the_order_of_their_classes(tmp_path: Path, pictures: Path) -> None:
    weights = checkpoint(tmp_path / "two.safetensors", ["bees", "ants"])
    taken = recipe(weights, pictures, "", epochs=0)
    assert take_weights(taken, tmp_path / "model.safetensors").labels == ["bees", "ants"]
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(weights.read_bytes())  # nobody says its classes: they are the data set's
    with pytest.raises(ModelError, match="2 classes in .*, 10 in the network"):
        take_weights(recipe(plain, pictures, "", epochs=0), tmp_path / "m.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="its sha256"):
        take_weights(taken, tmp_path / "model.safetensors")


def test_what_cannot_be_started_from(tmp_path: Path, pictures: Path, start: Path) -> None:
    with pytest.raises(RecipeError, match=r"the network has 5 stages \(conv1, bn1, layer1, layer2, layer3\)"):
        train(recipe(start, pictures, "last-6"), tmp_path / "out")
    with pytest.raises(RecipeError, match=r"transfer.train = 'last'"):
        recipe(start, pictures, "last")
    with pytest.raises(RecipeError, match=r"model.weights is 'none'"):
        recipe("none", pictures, "head")
    with pytest.raises((ModelError, DataError)):
        train(recipe(start, pictures, "head", "lenet5"), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ants_and_bees_reach_90_percent_with_a_new_head(tmp_path: Path, shared: Path) -> None:
    overrides = [
        f'data.source="{shared}/data/hymenoptera"',
        f'model.weights="{shared}/weights/squeezenet1_1_imagenet.safetensors"',
    ]
    result = train(load_recipe("squeezenet1_1-hymenoptera", overrides), tmp_path)
    assert result.n == 153
    assert result.top1_pct is not None
    assert result.top1_pct >= 90


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_fine_tuned_network_goes_on_to_an_int8_verdict_and_nothing_is_redone(tmp_path: Path, shared: Path) -> None:
    from edgecnn.cli import main

    command = [
        "run", "squeezenet1_1-hymenoptera", "--out", str(tmp_path / "run"), "--set", "bench.duration_s=0.2",
        "--set", f'data.source="{shared}/data/hymenoptera"',
        "--set", f'model.weights="{shared}/weights/squeezenet1_1_imagenet.safetensors"',
    ]  # fmt: skip
    assert main(command) == 0
    verdict = (tmp_path / "run/cpu/report.md").read_text()
    assert "int8" in verdict
    made = (tmp_path / "run/model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "run/model.safetensors").stat().st_mtime_ns == made
