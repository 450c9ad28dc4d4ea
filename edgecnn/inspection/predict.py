"""Classify single images with an engine, by the preprocessing and the labels that travel in its sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import open_engine
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.data.sources.folder import IMAGE_SUFFIXES, decode, image_names
from edgecnn.errors import ArtifactError, DataError
from edgecnn.graph.decision import decision_threshold
from edgecnn.inspection.monitor import network_of_sidecar
from edgecnn.inspection.monitor_line import row_content
from edgecnn.measure.served import scores_of
from edgecnn.output import inert_json
from edgecnn.records import to_plain
from edgecnn.session import Array, class_probabilities, class_scores

TOP = 5
COLUMNS = (
    "image",
    *(f"top{k}_{what}" for k in range(1, TOP + 1) for what in ("label", "class", "probability")),
    "error",
)


@dataclass(frozen=True)
class Classified:
    """An image with its most probable classes (label, index, probability), the best first; or why there are none. With
    what the network was shown (uint8 [H, W] or [H, W, C]) and what it gave, [classes], where it could be read."""

    image: str
    top: tuple[tuple[str, int, float], ...] = ()
    error: DataError | None = None
    pixels: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    logits: Array | None = field(default=None, repr=False, compare=False)
    threshold: float = 0.0

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON: `image` with `top5`, or with `error`."""
        if self.error is not None:
            return {"image": self.image, "error": _encodable(self.error.message)}
        return {"image": self.image, "top5": [{"label": n, "class": k, "probability": p} for n, k, p in self.top]}

    @property
    def flat(self) -> dict[str, str | float | None]:
        """By `COLUMNS`; without the columns of classes that there are not."""
        row: dict[str, str | float | None] = {"image": self.image}
        for k, (label, index, probability) in enumerate(self.top, 1):
            row |= {f"top{k}_label": label, f"top{k}_class": index, f"top{k}_probability": probability}
        return {**row, "error": _encodable(self.error.message) if self.error else None}


def images_of(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and of a folder every image below it; raises `DataError` for a folder without any."""
    found: list[Path] = []
    for path in paths:
        names = image_names(path) if path.is_dir() else None
        if names is not None and not names:
            raise DataError(f"{path}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})", "name a folder with images")
        found += [path] if names is None else [path / name for name in names]
    return found


def classify(engine: Path, images: Sequence[Path], threads: int | None, trust: bool) -> Iterator[Classified]:
    """Each image's five most probable classes; one output decides between two. An image that cannot be read, or for
    which the logits are not finite, carries its error and hides no other.

    Raises `ArtifactError` for an engine whose preprocessing is not known.
    """
    with open_engine(engine, threads, trust) as session:
        sidecar = read_sidecar(engine)
        if sidecar.preprocessing is None:
            raise ArtifactError(
                f"{engine}: its sidecar has no preprocessing, so an image cannot be prepared for it",
                "`edgecnn import --preprocess` adds it to a graph that came from elsewhere",
            )
        preprocessing = preprocessing_from_json(sidecar.preprocessing)
        threshold = decision_threshold(engine, sidecar, session.output)
        contract = sidecar.contract
        for path in images:
            pixels, logits = None, None
            try:
                pixels = _read(path, preprocessing)
                image = preprocessing.arrange(pixels, contract.input)
                logits = scores_of(session.run_all({session.input.name: image[None]}), session, contract)[:1]
                if not np.isfinite(logits).all():
                    raise DataError(f"{path}: the logits of {engine} are not finite", "validate it: `edgecnn validate`")
            except DataError as exc:
                yield Classified(
                    _encodable(str(path)), (), exc, pixels, None if logits is None else logits[0], threshold
                )
                continue
            (probability,), (scores,) = (
                class_probabilities(logits, threshold, contract.output),
                class_scores(logits, threshold),
            )
            names = sidecar.labels or [str(k) for k in range(len(scores))]
            best = np.argsort(-scores, kind="stable")[:TOP]
            top = tuple((names[k], int(k), round(float(probability[k]), 6)) for k in best)
            yield Classified(_encodable(str(path)), top, None, pixels, logits[0], threshold)


def lines_for_monitor(engine: Path, rows: Iterable[Classified]) -> Iterator[str]:
    """What `edgecnn monitor` reads, lines of JSON: whose they are, then each image with its logits and the statistics
    of its pixels; its time is null, for when it was taken is not known. An image that cannot be read has none."""
    begun = False
    for row in rows:
        if row.logits is None:
            continue
        if not begun:
            yield inert_json(
                to_plain(network_of_sidecar(engine.name, read_sidecar(engine), len(row.logits), row.threshold))
            )
            begun = True
        yield inert_json({**row_content(row.logits, row.pixels, row.image), "time": None})


def _encodable(text: str) -> str:
    """With bytes of a name that are no UTF-8 as their escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read(path: Path, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    if not path.exists():
        raise DataError(f"{path}: no such image", "check the path")
    picture = decode(path)
    try:
        return np.asarray(preprocessing.crop_image(picture))
    except DataError as exc:
        raise DataError(f"{path}: {exc.message}", exc.hint) from exc
