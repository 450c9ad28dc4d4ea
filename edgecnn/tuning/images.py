"""The three sets of images of a search, none of which shares an image with another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecnn.data.dataset import Dataset, spread
from edgecnn.data.leakage import find_duplicates
from edgecnn.errors import ArtifactError, DataError
from edgecnn.statistics import drop_interval, images_for_drop
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps.calibrate import calibration_images, source_and_manifest

FEWEST = 16  # of each set


@dataclass(frozen=True)
class SearchImages:
    """`calibration` makes the graphs and ranks the nodes, `held_out` chooses among the graphs, `test` judges what was
    chosen. The last two have labels, and each of their images once: a copy proves nothing more."""

    calibration: Dataset
    held_out: Dataset
    test: Dataset

    @property
    def sha256(self) -> str:
        """Of all of them, and of the labels."""
        sets = (self.calibration, self.held_out, self.test)
        shas = [one.sha256(k) for one in sets for k in range(len(one))]
        labels = [str(label) for one in (self.held_out, self.test) for label in np.asarray(one.labels).tolist()]
        return hashlib.sha256("\n".join(shas + labels).encode()).hexdigest()


def open_search_images(
    graph: Path,
    ranges: Path,
    data: str,
    *,
    held_out: str,
    test: str,
    count: int,
    max_drop_pp: float,
    calibration: Dataset | None = None,
) -> SearchImages:
    """The calibration images are those that `ranges` were made of: `calibration`, or found again. Without a `held_out`
    set, that is at most `count` training images of `data` that are in no other set; without a `test` set, it is the
    test images of `data`.

    Raises `DataError` where a set has too few images, no labels, or images of another, where so few test images cannot
    prove a drop within `max_drop_pp`, and where it is not known which images calibrated.
    """
    sidecar = sidecar_of(graph)
    source = source_and_manifest(data)[0]
    tested = _labelled(open_images(sidecar, test or source, "test"), "test images")
    _require_enough(tested, max_drop_pp)
    calibration = _find_calibration_images(graph, ranges, data, calibration)
    hint = "name others with --test, or calibrate with others"
    _require_apart(calibration, "calibration images", tested, "test images", hint)
    if held_out:
        chosen = _labelled(open_images(sidecar, held_out, "train"), "held-out images")
        _require_apart(calibration, "calibration images", chosen, "held-out images", "name others with --held-out")
        _require_apart(chosen, "held-out images", tested, "test images", "name others with --held-out or --test")
        chosen = chosen.subset(spread(chosen, count))
    else:
        chosen = _others(open_images(sidecar, source, "train"), (calibration, tested), count)
    for images, what in ((calibration, "calibration images"), (chosen, "held-out images")):
        if len(images) < FEWEST:
            raise DataError(
                f"{images.name}: {len(images)} {what}, at least {FEWEST} are needed",
                "calibrate with fewer of the training images, or name others to choose by with --held-out"
                if what == "held-out images"
                else "calibrate with more images",
            )
    return SearchImages(calibration, chosen, tested)


def _labelled(data: Dataset, what: str) -> Dataset:
    labels = np.full(len(data), -1) if data.labels is None or data.by_position else data.labels
    known = np.flatnonzero(labels >= 0).tolist()
    if not known:
        raise DataError(
            f"{data.name}: the {what} have no labels, and without them no drop of top-1 can be measured",
            "name a labelled data set: class folders that bear the model's names, or an .npz with `label`",
        )
    first = list({data.sha256(k): k for k in reversed(known)}.values())[::-1]
    return data if len(first) == len(data) else data.subset(first)


def _require_enough(test: Dataset, max_drop_pp: float) -> None:
    n, most = len(test), max_drop_pp / 100
    least = drop_interval(0, 0, n)[1]
    if least <= most:
        return
    needed = images_for_drop(0, 0, n, most)
    found = f"{n} test images prove no drop below {100 * least:.2g} pp, not even where nothing changes"
    raise DataError(
        f"{test.name}: {found}; asked for is {max_drop_pp:g} pp",
        f"name at least {needed} labelled test images with --test, or allow more with --max-drop"
        if needed
        else "no number of images proves that nothing at all is lost: --max-drop 0.5, for example",
    )


def _find_calibration_images(graph: Path, ranges: Path, data: str, opened: Dataset | None) -> Dataset:
    """Those that the ranges were made of: `opened`, or found again where their sidecar or `data` says."""
    made = sidecar_of(ranges, verified=True)
    wanted, images = made.facts.get("data_sha256"), made.facts.get("images")
    if opened is not None and _sha256(opened) == wanted:
        return opened
    source, manifest = source_and_manifest(data)
    named = [str(made.fields.get(f"data.{key}") or "") for key in ("source", "calibration", "calibration_source")]
    tried = [(named[2] or named[0], named[1]), (named[2] or source, named[1]), (source, manifest)]
    for where, chosen in dict.fromkeys(tried):
        if not where or not isinstance(images, int):
            continue
        try:
            found = calibration_images(graph, where, calibration=chosen, images=images)
        except (DataError, ArtifactError):
            continue
        if _sha256(found) == wanted:
            return found
    raise DataError(
        f"{ranges}: the images that these ranges were made of are not found in {named[0] or 'what they name'} or "
        f"{data}, so that none of them can be kept out of the others",
        f"calibrate again: edgecnn calibrate {graph.name} --data {data}",
    )


def _sha256(data: Dataset) -> str:
    """Of a set, as ranges hold it."""
    contents = data.sha256s or [data.content_sha256(k) for k in range(len(data))]
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def _require_apart(one: Dataset, what: str, other: Dataset, named: str, hint: str) -> None:
    same = find_duplicates(one, other)
    if same:
        first, second = same[0]
        raise DataError(
            f"{other.name}: {len(same)} of the {what} are among the {named} (same sha256), the first: {first} is "
            f"{second}",
            hint,
        )


def _others(whole: Dataset, taken: tuple[Dataset, Dataset], count: int) -> Dataset:
    known = {one.sha256(k) for one in taken for k in range(len(one))}
    whole = _labelled(whole, "training images")
    positions = list[int]()
    for k in spread(whole, count + len(known)):
        if (sha := whole.sha256(k)) not in known:
            known.add(sha)
            positions.append(k)
    found = whole.subset(positions)
    return found.subset(spread(found, count))
