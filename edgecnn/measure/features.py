"""Features of images: an engine's beside those of its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgecnn.data.dataset import Dataset, batches
from edgecnn.errors import DataError, MeasurementError
from edgecnn.measure.predict import Progress
from edgecnn.results.features import FeatureAgreement, FeaturesAgreement
from edgecnn.session import Array, Session


def run_features(session: Session, images: Array) -> dict[str, Array]:
    """Every output by name for `images` [N, C, H, W]; a batch that the engine does not take is filled up and cut."""
    wanted = session.input.shape[1:]
    if any(w not in (None, f) for w, f in zip(wanted, images.shape[1:], strict=True)):
        raise MeasurementError(
            f"images of {'x'.join(map(str, images.shape[1:]))}, the engine takes {'x'.join(map(str, wanted))}",
            "use the preprocessing of the model that the engine was made from",
        )
    size = len(images)
    taken = session.input.shape[0] or session.info.fitting_batch(size)
    if size < taken:
        images = np.concatenate([images, np.repeat(images[-1:], taken - size, axis=0)])
    return {name: rows[:size] for name, rows in session.run_all({session.input.name: images}).items()}


class Tally:
    """What is known of one output so far, its rows beside those of the reference."""

    def __init__(self) -> None:
        self.signal = self.noise = self.cosines = 0.0
        self.least, self.worst = math.inf, ""
        self.n = self.broken = 0

    def add(self, ids: Sequence[str], found: Array, expected: Array) -> None:
        """Count the rows [N, ...] of images."""
        for image, one, other in zip(ids, found, expected, strict=True):
            ours, theirs = one.astype(np.float64).reshape(-1), other.astype(np.float64).reshape(-1)
            if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
                self.broken += 1
                continue
            lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
            alike = float(np.array_equal(ours, theirs)) if lengths == 0 else min(1.0, float(ours @ theirs) / lengths)
            self.signal += float(theirs @ theirs)
            self.noise += float(np.square(ours - theirs).sum())
            self.cosines += alike
            self.n += 1
            if alike < self.least:
                self.least, self.worst = alike, image

    def result(self, name: str, shape: tuple[int, ...]) -> FeatureAgreement:
        """What they come to."""
        told = self.n > 0
        level = 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else None
        mean, least = (self.cosines / self.n, self.least) if told else (None, None)
        return FeatureAgreement(name, shape, self.n, self.broken, level, mean, least, self.worst)


def compare_features(
    name: str,
    session: Session,
    reference: Session,
    dataset: Dataset,
    *,
    batch: int,
    workers: int = 2,
    strict: bool = False,
    progress: Progress | None = None,
) -> FeaturesAgreement:
    """SQNR and cosine of every output of `session` against that of `reference`, on the same images.

    An unreadable image is left out and listed, or with `strict` raises `DataError`. Raises `MeasurementError` where the
    outputs are not the same.
    """
    outputs = [spec.name for spec in reference.info.outputs]
    tallies, shapes, unreadable = {name: Tally() for name in outputs}, dict[str, tuple[int, ...]](), list[str]()
    skip: Callable[[str, DataError], None] | None = None if strict else lambda image, error: unreadable.append(image)
    done = 0
    for part in batches(dataset, batch, workers, skip):
        found, expected = run_features(session, part.input), run_features(reference, part.input)
        for output in outputs:
            if found[output].shape != expected[output].shape:
                ours, theirs = (list(rows[output].shape) for rows in (found, expected))
                raise MeasurementError(
                    f"features {output} are {ours}, of the reference {theirs}",
                    "name the features graph that the engine was made from",
                )
            shapes[output] = found[output].shape[1:]
            tallies[output].add(part.ids, found[output], expected[output])
        done += len(part.ids)
        if progress is not None:
            progress(done + len(unreadable), len(dataset))
    if not done:
        raise DataError(f"{dataset.name}: none of its {len(dataset)} images can be read", "check the files")
    rows = tuple(tallies[output].result(output, shapes[output]) for output in outputs)
    return FeaturesAgreement(name, dataset.name, done, tuple(unreadable), rows)
