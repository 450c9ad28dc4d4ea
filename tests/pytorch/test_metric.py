"""Embeddings are trained: losses against loops, batches of P x K, epochs that resume, the threshold of the end."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import read_sidecar, verified_sidecar
from edgecnn.errors import DataError, TrainingError
from edgecnn.pytorch.training.progress import Epoch, Silent
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.embedding import EmbeddingNetwork, scale_to_unit
    from edgecnn.pytorch.reference import open_reference
    from edgecnn.pytorch.training.loop import make_trainer, train
    from edgecnn.pytorch.training.metric import contrastive_loss, triplet_loss
    from edgecnn.pytorch.training.process_group import join_process_group

pytestmark = pytest.mark.torch


def recipe(*overrides: str) -> Recipe:
    return load_recipe("lenet5-digits-verify", ["train.epochs=2", *overrides])


def rows(seed: int = 0) -> tuple[Any, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return scale_to_unit(torch.randn(11, 5, generator=generator)), [0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 3]


@pytest.mark.parametrize("seed", range(3))
def test_each_positive_is_held_against_the_nearest_negative_beyond_it(seed: int) -> None:
    e, labels = rows(seed)
    e[8] = -e[0]  # of one class, and no image is farther
    d = [[float((a - b).square().sum()) for b in e] for a in e]
    losses, easy = [], 0
    for a, p in itertools.permutations(range(len(labels)), 2):
        if labels[a] == labels[p]:
            apart = [d[a][n] for n in range(len(labels)) if labels[n] != labels[a]]
            beyond = [x for x in apart if x > d[a][p]]
            easy += not beyond
            losses.append(max(d[a][p] - (min(beyond) if beyond else max(apart)) + 0.2, 0.0))
    assert easy  # then the farthest counts
    assert float(triplet_loss(e, torch.tensor(labels), 0.2)) == pytest.approx(np.mean(losses), rel=1e-4)


def test_contrastive_pulls_by_the_square_and_pushes_to_the_margin() -> None:
    e, labels = rows()
    near, far = [], []
    for a, b in itertools.permutations(range(len(labels)), 2):
        d = float((e[a] - e[b]).norm())
        (near if labels[a] == labels[b] else far).append(d**2 if labels[a] == labels[b] else max(1.5 - d, 0) ** 2)
    found = float(contrastive_loss(e, torch.tensor(labels), 1.5))
    assert found == pytest.approx((np.mean(near) + np.mean(far)) / 2, rel=1e-4)


@pytest.mark.parametrize("loss", ["triplet", "contrastive"])
def test_a_loss_has_gradients_where_images_are_the_same(loss: str) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    pull = triplet_loss if loss == "triplet" else contrastive_loss
    pull(scale_to_unit(x), torch.tensor([0, 0, 1, 1]), 0.5).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_of_auxiliary_heads_each_is_of_unit_length() -> None:
    class Heads(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x, 3 * x

    heads = EmbeddingNetwork(Heads())(torch.ones(2, 5))
    assert [one.norm(dim=1).tolist() for one in heads] == [pytest.approx([1.0, 1.0])] * 2


def test_the_norm_of_an_embedding_is_one_and_of_zeros_it_is_none() -> None:
    made = scale_to_unit(torch.tensor([[3.0, 4.0], [0.0, 0.0], [300.0, -400.0]]))
    assert torch.allclose(made, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]]))


def test_a_batch_has_p_classes_with_k_images_and_an_epoch_no_image_much_oftener() -> None:
    with join_process_group(lambda local: torch.device("cpu")) as processes:
        trainer = make_trainer(recipe("train.batch=48"), processes, False, Silent())
        labels = trainer.splits.train.labels.numpy()
        batches = [*trainer._order(0)]
        for positions in batches:
            found, counts = np.unique(labels[positions], return_counts=True)
            assert (len(found), set(counts.tolist())) == (3, {16})
            assert len(set(positions.tolist())) == 48
        seen = np.bincount(np.concatenate(batches), minlength=len(labels))
        assert seen.max() <= 2
        assert [*map(list, trainer._order(0))] == [*map(list, batches)]
        assert [*map(list, trainer._order(1))] != [*map(list, batches)]
        assert set(trainer.splits.labels) == set("56789")


class Interrupt(Silent):
    """Kills the run when the first epoch is done."""

    def epoch(self, epoch: Epoch) -> None:
        raise KeyboardInterrupt


def test_killed_and_resumed_it_is_the_same_network_with_a_threshold_of_its_validation_classes(tmp_path: Path) -> None:
    whole = train(recipe(), tmp_path / "whole", threads=1)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(), tmp_path / "killed", threads=1, progress=Interrupt())
    assert "verification" not in read_sidecar(tmp_path / "killed" / "last.safetensors").facts
    again = train(recipe(), tmp_path / "killed", threads=1, resume=True)
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    known = verified_sidecar(whole.checkpoint)
    assert (known.embeds, known.labels, known.facts["features"]) == (True, None, {"embedding": [32]})
    chosen = known.facts["verification"]
    assert chosen["validation_classes"] == ["3", "4"]
    assert chosen["train_classes"] == ["5", "6", "7", "8", "9"]
    assert 0 < chosen["threshold"] < 4
    assert known.fields["verification.margin"] == 0.5
    with open_reference(whole.checkpoint, threads=1) as session:
        assert (session.output.name, session.output.shape) == ("embedding", (None, 32))
        made = session.run(np.random.default_rng(0).standard_normal((3, 1, 32, 32), np.float32))
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-4)


def test_classes_that_make_no_batch_and_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="5 classes to train on make no batch of 8"):
        train(recipe("train.batch=128"), tmp_path)
    with pytest.raises(DataError, match="make no batch of 4800"):
        train(recipe("train.batch=4800"), tmp_path)
    alone = join_process_group(lambda local: torch.device("cpu"))
    with alone as processes, pytest.raises(TrainingError, match="with 2 processes"):
        make_trainer(recipe(), replace(processes, size=2), False, Silent())
