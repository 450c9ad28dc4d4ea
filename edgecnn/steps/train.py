"""Train a network, or take finished weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.dataset import Split
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.recipe.schema import Recipe
from edgecnn.zoo import find_model

if TYPE_CHECKING:
    from edgecnn.pytorch.training.loop import TrainResult
    from edgecnn.pytorch.training.progress import Progress

CHECKPOINT = "model.safetensors"


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool | None = False,
    threads: int | None = None,
    skip_corrupt: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train `recipe.model` on `recipe.data` into `folder`, whose `model.safetensors` is the best epoch.

    `resume=None` goes on where the folder holds an unfinished run of the same settings. Raises `TrainingError`,
    `DataError` and `RecipeError` as `pytorch.training.loop.train` does.
    """
    from edgecnn.pytorch.training.loop import train as run_training

    return run_training(recipe, folder, resume=resume, threads=threads, skip_corrupt=skip_corrupt, progress=progress)


def take_weights(recipe: Recipe, output: Path) -> Sidecar:
    """Write the weights that `recipe.model.weights` names as the checkpoint `output`: `train.epochs` is 0.

    Raises `RecipeError` when there are no weights to take, `ModelError` when they do not fit, `ArtifactError` when they
    are not what their sidecar says.
    """
    from edgecnn.pytorch.checkpoint import checkpoint_sidecar, write_checkpoint
    from edgecnn.pytorch.pretrained import load_pretrained

    preprocessing = preprocessing_from_json(find_model(recipe.model.name).preprocessing)
    source = recipe.data.source
    split: Split = "train" if (Path(source) / "train").is_dir() else "test"  # a test folder may lack classes
    taken = load_pretrained(recipe, open_dataset(source, preprocessing, split).label_names or ())
    sidecar = checkpoint_sidecar(recipe, output, taken.labels, preprocessing, None, taken.weights.facts())
    if taken.wnids is not None:
        sidecar = replace(sidecar, wnids=taken.wnids)
    return write_checkpoint(output, taken.network.state_dict(), sidecar)
