"""The comparison with PyTorch that ends an export: PyTorch sees three images, and no batch can hide behind that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from safetensors.torch import load_file, save_file

    from edgecnn.pytorch import models
    from edgecnn.pytorch.export.exporter import PROBES, compare_logits, make_probe_images
    from edgecnn.pytorch.weights import load_checkpoint
    from edgecnn.steps.export import export
    from edgecnn.zoo import cards

from edgecnn.errors import GraphError, ModelError

pytestmark = pytest.mark.torch
SHAPE, CLASSES = (3, 4, 5), 7


class Graph:
    """Stands for a session of an exported graph: logits [N, classes] that `change` has gone over."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.change, self.batches = change, list[int]()

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        (images,) = feeds.values()
        self.batches.append(len(images))
        return [self.change(logits_of(images))]


def logits_of(images: np.ndarray) -> np.ndarray:
    weights = np.random.default_rng(1).standard_normal((int(np.prod(SHAPE)), CLASSES), np.float32)
    made: np.ndarray = images.reshape(len(images), -1) @ weights
    return made


def compare(change: Callable[[np.ndarray], Any], max_batch: int = 8) -> Graph:
    graph, images = Graph(change), make_probe_images(SHAPE, PROBES)
    compare_logits(graph, images, logits_of(images), max_batch)  # type: ignore[arg-type]
    return graph


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [1, 2]), (2, [1, 2]), (3, [1, 3]), (17, [1, 17])])
def test_each_batch_is_run(max_batch: int, batches: list[int]) -> None:
    assert compare(lambda logits: logits, max_batch).batches == batches


@pytest.mark.parametrize("shift", range(1, 8))
def test_rows_of_a_large_batch_that_are_moved_are_found(shift: int) -> None:
    with pytest.raises(GraphError, match="differs from PyTorch by .* at batch 8"):
        compare(lambda logits: np.roll(logits, shift, axis=0) if len(logits) == 8 else logits)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits[::-1] if len(logits) == 8 else logits,
        lambda logits: logits[np.arange(8) % 3] if len(logits) == 8 else logits,
        lambda logits: logits.reshape(2, 4, -1).transpose(1, 0, 2).reshape(8, -1) if len(logits) == 8 else logits,
        lambda logits: logits * np.where(np.arange(len(logits)) == 7, 1.01, 1)[:, None],
    ],
    ids=["backwards", "the first again", "a batch folded into another axis", "one row a little off"],
)
def test_what_is_wrong_in_a_large_batch_alone_is_found(change: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(GraphError, match="at batch 8"):
        compare(change)


def test_a_frozen_batch_is_found() -> None:
    with pytest.raises(GraphError, match=r"gives \[1, 7\] at batch 8"):
        compare(lambda logits: logits[:1])


@pytest.mark.parametrize("name", ["lenet5", "resnet20_cifar", "shufflenet_v2_x0_5"])
def test_a_network_is_filled_by_its_checkpoint_without_drawing_numbers_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    save_file(models.build_model(name).state_dict(), tmp_path / "w.safetensors")
    state = torch.random.get_rng_state()
    made = models.build_model_to_fill(name)
    assert torch.equal(torch.random.get_rng_state(), state)
    load_checkpoint(tmp_path / "w.safetensors", made)
    whole = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(value, whole[key]) for key, value in made.state_dict().items())
    drawn = models.build_model(name)  # constants that no checkpoint holds
    buffers = dict(drawn.named_buffers())
    assert all(torch.equal(b, buffers[key]) for key, b in made.named_buffers() if key not in whole)
    graphs = [export(name, tmp_path / "a.onnx", checkpoint=tmp_path / "w.safetensors")]
    monkeypatch.setattr(models, "build_model_to_fill", models.build_model)
    graphs.append(export(name, tmp_path / "b.onnx", checkpoint=tmp_path / "w.safetensors"))
    assert graphs[0].read_bytes() == graphs[1].read_bytes()


def test_a_checkpoint_that_leaves_something_unfilled_is_refused(tmp_path: Path) -> None:
    whole = models.build_model("lenet5").state_dict()
    for key in list(whole):
        save_file({k: v for k, v in whole.items() if k != key}, tmp_path / "w.safetensors")
        with pytest.raises(ModelError):
            load_checkpoint(tmp_path / "w.safetensors", models.build_model_to_fill("lenet5"))


@pytest.mark.slow
def test_no_network_of_the_zoo_holds_drawn_numbers_beside_its_state() -> None:
    for name in cards():
        made, drawn = models.build_model_to_fill(name), models.build_model(name)
        held, buffers = set(made.state_dict()), dict(drawn.named_buffers())
        assert all(torch.equal(b, buffers[key]) for key, b in made.named_buffers() if key not in held), name
