"""The class names of a foreign graph: what the user names, or what its metadata says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.data.label_file import labels_from_json, labels_from_object, read_labels
from edgecnn.errors import DataError
from edgecnn.zoo import imagenet_classes

if TYPE_CHECKING:
    import onnx

BACKGROUND = "background"
_WITH_BACKGROUND = "imagenet-background"
_KEYS = ("labels", "names", "classes", "class_names", "class_labels", "id2label", "label_names")


@dataclass(frozen=True)
class Labels:
    """Names of the classes, and their wnids where they are ImageNet's."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None

    def require(self, outputs: int, source: Path) -> None:
        """Raise `DataError` unless there is one for each class of a graph with so many outputs."""
        if len(self.names) == max(2, outputs):
            return
        wanted = f"{outputs} classes" if outputs > 1 else "the two classes that one logit decides between"
        hint = "give one label for each class"
        if self.wnids == imagenet_classes()[1] and outputs == len(self.names) + 1:
            hint = f"--labels {_WITH_BACKGROUND} puts a background in front, as TensorFlow's networks have it"
        raise DataError(f"{source}: {len(self.names)} labels for {wanted}", hint)


def read_named_labels(text: str) -> Labels:
    """The labels that `--labels` names: `imagenet`, `imagenet-background` with a background in front, or a file that
    `read_labels` reads; raises `DataError`."""
    if text in ("imagenet", _WITH_BACKGROUND):
        names, wnids = imagenet_classes()
        front = () if text == "imagenet" else (BACKGROUND,)
        return Labels((*front, *names), (*front, *wnids))
    return Labels(*read_labels(Path(text)))


def settle_labels(
    given: Labels | None, model: onnx.ModelProto, outputs: int, source: Path
) -> tuple[Labels | None, list[str]]:
    """The `given` labels, or those of the metadata, and what is to be said of the latter; raises `DataError` for given
    ones that are not of so many outputs."""
    if given is None:
        return find_labels_inside(model, outputs)
    given.require(outputs, source)
    return given, []


def find_labels_inside(model: onnx.ModelProto, outputs: int) -> tuple[Labels | None, list[str]]:
    """The labels that a metadata entry lists for so many outputs, and what was made of each such entry: a list or a
    mapping in JSON or as Python prints it (Ultralytics' `names`), or one name a line."""
    said = []
    for key, text in _entries(model):
        try:
            labels = Labels(_listed(key, text))
        except DataError:
            said.append(f"metadata entry {key!r} not taken as labels: it is no list of names")
            continue
        if len(labels.names) == max(2, outputs) == len(set(labels.names)):
            return labels, [*said, f"labels taken from the metadata entry {key!r}"]
        said.append(f"metadata entry {key!r} not taken as labels: {len(labels.names)} names for {outputs} outputs")
    return None, said


def _entries(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    found = {entry.key: entry.value for entry in model.metadata_props}
    yield from ((key, found[key]) for key in _KEYS if found.get(key, "").strip())


def _listed(key: str, text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith(("[", "{")):
        lines = [line.strip() for line in text.strip().splitlines()]
        return labels_from_object(lines if len(lines) > 1 else None, key)
    return labels_from_json(text, key)
