"""Train a network, or take finished weights."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.pair import move_pair, remove_pair
from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.stale import stale_reason
from edgecnn.data.dataset import Split
from edgecnn.data.open import open_dataset
from edgecnn.data.recipe_input import zoo_preprocessing
from edgecnn.errors import ArtifactError
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.results.training import TrainResult
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_packages
from edgecnn.steps._own import take_own_weights
from edgecnn.steps._shared import is_first
from edgecnn.zoo import find_model

if TYPE_CHECKING:
    from edgecnn.pytorch.training.progress import Progress

CHECKPOINT = "model.safetensors"


def train(
    recipe: Recipe | FilePath,
    folder: FilePath | None = None,
    *,
    resume: bool | None = False,
    retrain: bool = False,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a recipe's network on its data; what is returned stands for the checkpoint of the best epoch.

        import edgecnn as ec
        trained = ec.train("lenet5-digits", "runs/mine")
        fp32 = ec.export("lenet5", checkpoint=trained)

    `recipe` is a recipe, its name or its path; `ec.load_recipe` reads one with other settings. The checkpoint is
    model.safetensors in `folder`, which is runs/RECIPE where it is left out. `resume=None` goes on where the folder
    holds an unfinished run of the same settings. Finished weights that are there are refused, with `retrain` they stay
    as model.safetensors.previous until the new ones are whole. Accuracies are in per cent. Raises `ArtifactError` for
    finished weights, `TrainingError`, `DataError` and `RecipeError` as `pytorch.training.loop.train` does.
    """
    require_at_least(1, threads=threads)
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(os.fspath(recipe))
    folder = path_or_none(folder) or Path("runs") / recipe.name
    require_packages("train")
    from edgecnn.pytorch.training.loop import train as run_training

    if not resume:
        make_way(folder / CHECKPOINT, retrain)
    trained = run_training(recipe, folder, resume=resume, threads=threads, skip_corrupt=skip_corrupt, progress=progress)
    if is_first():
        drop_previous(folder / CHECKPOINT)
    return trained


def holds_finished_weights(checkpoint: Path) -> bool:
    """Whether replacing a checkpoint would lose work: one that was taken as it is can be taken again."""
    if not checkpoint.exists():
        return False
    with contextlib.suppress(ArtifactError):
        return read_sidecar(checkpoint).fields.get("train.epochs") != 0
    return True


def make_way(checkpoint: Path, retrain: bool, reason: str = "finished weights are there") -> None:
    """Put finished weights aside, as X.previous with its sidecar, for `retrain`; raises `ArtifactError` without it."""
    if not holds_finished_weights(checkpoint):
        return
    if not retrain:
        raise ArtifactError(
            f"{checkpoint}: {reason}; weights are not replaced unasked",
            "--retrain trains anew, and keeps these as .previous until the new ones are whole; "
            "or choose another folder with --out",
        )
    if is_first():
        move_pair(checkpoint, _previous(checkpoint))


def drop_previous(checkpoint: Path) -> None:
    """Remove what was put aside, now that the new weights are whole."""
    remove_pair(_previous(checkpoint))


def take_back(checkpoint: Path, expected: Sidecar, parents: Iterable[Path]) -> bool:
    """Put weights that were set aside back in their place, where none are there and they are the `expected` ones."""
    previous = _previous(checkpoint)
    if checkpoint.exists() or not previous.exists() or stale_reason(previous, expected, parents) is not None:
        return False
    move_pair(previous, checkpoint)
    return True


def _previous(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.previous")


def _fetch_published(recipe: Recipe) -> None:
    """Fetch what torch, if it is here, will read: what cannot be had is said before the seconds of its import."""
    from edgecnn.pytorch.download import fetch

    published = find_model(recipe.model.name).weights if recipe.model.name else None
    if recipe.model.weights == "default" and published is not None and importlib.util.find_spec("torch"):
        fetch(published.url, published.sha256)


def take_weights(recipe: Recipe, output: Path, *, trust_code: bool = False) -> Sidecar:
    """Write the weights that `recipe.model.weights` names as the checkpoint `output`: `train.epochs` is 0.

    Raises `RecipeError` when there are no weights to take, `ModelError` when they do not fit, `ArtifactError` when they
    are not what their sidecar says, and for a network that is code without `trust_code`.
    """
    _fetch_published(recipe)
    require_packages("train")
    if recipe.model.python or recipe.model.timm:
        return take_own_weights(recipe, output, trust_code=trust_code)
    from edgecnn.pytorch.checkpoint import checkpoint_sidecar, write_checkpoint
    from edgecnn.pytorch.pretrained import load_pretrained

    preprocessing = zoo_preprocessing(recipe)
    source = recipe.data.source
    split: Split = "train" if (Path(source) / "train").is_dir() else "test"  # a test folder may lack classes
    taken = load_pretrained(recipe, open_dataset(source, preprocessing, split).label_names or ())
    sidecar = checkpoint_sidecar(recipe, output, taken.labels, preprocessing, None, to_plain(taken.weights))
    if taken.wnids is not None:
        sidecar = replace(sidecar, wnids=taken.wnids)
    return write_checkpoint(output, taken.network.state_dict(), sidecar)
