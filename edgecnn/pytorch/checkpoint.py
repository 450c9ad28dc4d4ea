"""Checkpoints: weights as safetensors with a sidecar, and the training state that a killed run resumes from."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from edgecnn.artifact.sidecar import Sidecar, parents_of, tool_versions
from edgecnn.artifact.temporary import free_bytes, require_space
from edgecnn.artifact.write import atomic_path, write_artifact
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.recipe_input import input_fields
from edgecnn.errors import ArtifactError, TrainingError
from edgecnn.recipe.schema import Recipe, Setting
from edgecnn.records import parse_json
from edgecnn.results.device import Device
from edgecnn.zoo import find_model, imagenet_classes

STATE_NAME = "training-state.pt"
STATE_SCHEMA = 2
SPARE_BYTES = 48 << 10  # beside the tensors of a file: their names, its sidecar, the blocks of the disk

Weights = Mapping[str, Tensor]


def checkpoint_fields(recipe: Recipe) -> dict[str, Setting]:
    """The recipe's values that decide a checkpoint, as they stand in its sidecar."""
    verification = recipe.values("verification") if recipe.train.loss is not None else {}
    return {**recipe.values("model", "data.source", "train", "transfer"), **verification, **input_fields(recipe)}


def checkpoint_sidecar(
    recipe: Recipe,
    path: Path,
    labels: list[str],
    preprocessing: Preprocessing,
    device: Device | None,
    facts: Mapping[str, Any],
) -> Sidecar:
    """The sidecar of a checkpoint at `path`; weights given as a file are its parent, wnids get their names."""
    start = Path(recipe.model.weights)
    wnids = labels if labels and all(re.fullmatch(r"n\d{8}", name) for name in labels) else None
    named = dict(zip(*reversed(imagenet_classes()), strict=True)) if wnids else {}
    return Sidecar(
        kind="checkpoint",
        made_by="train",
        precision_requested="fp32",
        precision_obtained="fp32",
        parents=parents_of(path, start) if start.is_file() else {},
        recipe=recipe.name,
        fields=checkpoint_fields(recipe),
        preprocessing=preprocessing.to_json(),
        labels=[named.get(name, name) for name in labels],
        wnids=wnids,
        tools=tool_versions("torch", "torchvision", "safetensors"),
        device=device,
        facts={"model": find_model(recipe.model.name).name, "classes": len(labels), **facts},
    )


def write_checkpoint(path: Path, weights: Weights, sidecar: Sidecar) -> Sidecar:
    """Write weights as safetensors, atomically, with their sidecar."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in weights.items()}
    size = bytes_of(plain.values())

    def write(temporary: Path) -> None:
        with _disk_errors(temporary, size):
            safetensors.torch.save_file(plain, temporary)

    return write_artifact(path, write, sidecar, size)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises `ArtifactError` when it is missing or damaged."""
    tensors: dict[str, Tensor] = _read(path, lambda: safetensors.torch.load_file(path))
    return tensors


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the training state, atomically; tensors and plain values only, so that `weights_only` loads it."""
    size = bytes_of(_tensors_in(state))
    with atomic_path(folder / STATE_NAME, size) as temporary, _disk_errors(temporary, size):
        torch.save({"schema": STATE_SCHEMA, **state}, temporary)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take in a file, which has some kB of names beside them."""
    return sum(tensor.nbytes for tensor in tensors)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors_in(inner)


@contextlib.contextmanager
def _disk_errors(path: Path, size: int) -> Iterator[None]:
    """What PyTorch and safetensors say of a file that cannot be written, as the `OSError` that they hide."""
    try:
        yield
    except (RuntimeError, safetensors.SafetensorError) as exc:
        room = free_bytes(path)
        full = room is not None and room < size + SPARE_BYTES
        raise OSError(errno.ENOSPC if full else errno.EIO, os.strerror(errno.ENOSPC) if full else str(exc)) from exc


def require_space_for_epoch(folder: Path, weights: int, state: int) -> None:
    """Raise `WriteError` where the files of an epoch do not fit on the disk, of so many bytes of weights and of
    training state: best and last weights, the state, and once all is done the result. Each replaces an older one, which
    is there until the new one is whole."""
    held = most = 0
    for name, size in (("best.safetensors", weights), ("last.safetensors", weights), (STATE_NAME, state)):
        path = folder / name
        most = max(most, held + size + SPARE_BYTES)
        held += size + SPARE_BYTES - (path.stat().st_size if path.is_file() else 0)
    require_space(folder / STATE_NAME, max(most, held + weights + SPARE_BYTES))


def read_state(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The state of a run of the same recipe; raises `TrainingError` naming what differs."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise TrainingError(f"{path}: there is no run to resume", "start one without --resume")
    state: dict[str, Any] = _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    if not isinstance(state, dict) or state.get("schema") != STATE_SCHEMA:
        found = state.get("schema") if isinstance(state, dict) else type(state).__name__
        raise TrainingError(
            f"{path}: a training state of schema {found}, this edgecnn reads {STATE_SCHEMA}",
            "finish the run with the version that began it, or start anew without --resume",
        )
    try:
        before, now, changed = _changes(state, recipe)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ArtifactError(f"{path}: not a whole training state ({exc!r})", "start anew without --resume") from exc
    if changed:
        listing = "; ".join(f"{k} was {before.get(k)!r}, now {now.get(k)!r}" for k in changed)
        raise TrainingError(
            f"{path}: the run was started with another recipe: {listing}",
            "resume with the recipe it was started with, or start anew without --resume",
        )
    return state


def can_resume(folder: Path, recipe: Recipe) -> bool:
    """Whether `folder` holds the state of a run of the same recipe."""
    path = folder / STATE_NAME
    if not path.is_file():
        return False
    try:
        read_state(folder, recipe)
    except (TrainingError, ArtifactError):
        return False
    return True


def seconds_trained(folder: Path, recipe: Recipe) -> float:
    """How long the completed epochs of an unfinished run of the same recipe have taken; 0 where there is none."""
    if not can_resume(folder, recipe):
        return 0.0
    return float(sum(epoch["seconds"] for epoch in read_state(folder, recipe)["history"]))


def _changes(state: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Setting], dict[str, Setting], list[str]]:
    before, now = parse_json(state["fields"]), json.loads(json.dumps(checkpoint_fields(recipe)))
    keys = sorted(before.keys() | now.keys())
    return before, now, [k for k in keys if before.get(k) != now.get(k)]


def _read(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "make it first, or check the path") from exc
    except Exception as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc})", "the file is damaged: make it again") from exc
