"""Where a recipe's images are on this machine: what `--data` and `--calibration-data` put in place of its own."""

from __future__ import annotations

from pathlib import Path

from edgecnn.errors import RecipeError

ROOTED = ("mnist", "cifar10", "imagenet")  # data sets whose files lie in a folder that is named behind a colon


def kind_of(source: str) -> str:
    """The data set that `source` names before its colon; "" for a folder or a file."""
    name, colon, _ = source.partition(":")
    return name if name in ROOTED and colon else ""


def locate(source: str, data: str) -> str:
    """What to read in place of `source`: a folder alone holds the same kind of data set, anything else is taken as it
    is given."""
    kind = kind_of(source)
    return f"{kind}:{data}" if kind and not kind_of(data) and Path(data).is_dir() else data


def is_here(data: str) -> bool:
    """Whether there is a folder or file for what `data` names, or it needs none."""
    root = data.partition(":")[2] if kind_of(data) else data
    return data in ("digits", *ROOTED) or ".txt:" in data or Path(root).exists()


def require_here(data: str, option: str) -> None:
    """Raise `RecipeError`, which names the `option`, for images that are not here: a run that is up to date does not
    look at them, and would carry them in its recipe."""
    if data and not is_here(data):
        raise RecipeError(f"{option} {data}: no such folder or file", f"it counts from {Path.cwd()}; check the path")
