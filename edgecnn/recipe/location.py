"""Where a recipe's images are on this machine: what `--data` and `--calibration-data` put in place of its own."""

from __future__ import annotations

from pathlib import Path

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
