"""The class names of a foreign graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecnn.data.label_file import read_labels
from edgecnn.zoo import imagenet_classes


@dataclass(frozen=True)
class Labels:
    """Names of the classes, and their wnids where they are ImageNet's."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None


def read_named_labels(text: str) -> Labels:
    """The labels that `--labels` names: `imagenet`, or a file that `read_labels` reads; raises `DataError`."""
    if text == "imagenet":
        names, wnids = imagenet_classes()
        return Labels(names, wnids)
    return Labels(*read_labels(Path(text)))
