"""Is a calibration set fit for its purpose: none of the test images in it, every class, enough images for its ranges.

Leakage is looked for by sha256, and for near-duplicates (another size, quality or small crop) by a difference hash of
64 bits, confirmed on small grey pictures. How far the ranges would move with other images of the same kind, and how
much 8-bit rounding noise that costs, is found by resampling eighths of the set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.data.dataset import Dataset
from edgecnn.errors import DataError

if TYPE_CHECKING:
    from edgecnn.graph.calibration.histogram import TensorStatistics

HASH_DISTANCE = 10  # of 64 bits: candidates
SAME_PICTURE = 0.985  # correlation of 16 x 16 grey thumbnails, after removing the mean
STRANGER_SHARE = 0.01  # pairs of different pictures that may look alike by chance before the test says nothing
PARTS = 8
RESAMPLES = 50
GOOD_EXCESS_PCT = 2.0  # rounding noise on top of that of the best ranges, 0.09 dB

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationCheck:
    """What was found. `duplicates` and `near_duplicates` are pairs (calibration image, test image). `range_spread`
    is the standard deviation of a tensor's range over resampled sets, `noise_excess` the squared rounding and clipping
    error that these ranges add on average, both in per cent; medians over the tensors, and the tensor that is worst
    by its excess."""

    n: int
    test_n: int
    duplicates: tuple[tuple[str, str], ...]
    near_duplicates: tuple[tuple[str, str], ...]
    near_duplicates_checked: bool
    repeated: int
    classes: int | None
    classes_covered: int | None
    classes_missing: tuple[str, ...]
    range_method: str | None
    range_spread_pct_median: float | None
    noise_excess_pct_median: float | None
    noise_excess_pct_worst: float | None
    worst_tensor: str | None
    suggested_n: int | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A flat object, but for its lists."""
        return asdict(self)


def check_calibration(
    calibration: Dataset, test: Dataset, graph: Path | None, *, method: str = "mse", progress: Progress | None = None
) -> CalibrationCheck:
    """Check `calibration` against the images it must not hold, and its ranges on `graph` if there is one.

    `method` is the range method whose thresholds are resampled. Raises `DataError` for an empty set.
    """
    if len(calibration) == 0 or len(test) == 0:
        raise DataError("a calibration check needs images in both sets", "name two data sets that are not empty")
    sums = [[d.sha256(k) for k in range(len(d))] for d in (calibration, test)]
    duplicates = _equal(calibration, test, *sums)
    near, checked = _near_duplicates(calibration, test, set(duplicates))
    missing = _missing_classes(calibration)
    moves = {} if graph is None else _range_moves(graph, calibration, method, progress)
    worst = max(moves, key=lambda name: moves[name][1]) if moves else None
    spread, excess = (float(np.median([m[k] for m in moves.values()])) if moves else None for k in (0, 1))
    suggested = None if excess is None else _suggested(len(calibration), excess)
    covered = None if calibration.labels is None else len(set(calibration.labels.tolist()))
    return CalibrationCheck(
        n=len(calibration),
        test_n=len(test),
        duplicates=duplicates,
        near_duplicates=near,
        near_duplicates_checked=checked,
        repeated=len(sums[0]) - len(set(sums[0])),
        classes=None if calibration.label_names is None else len(calibration.label_names),
        classes_covered=covered,
        classes_missing=missing,
        range_method=method if moves else None,
        range_spread_pct_median=spread,
        noise_excess_pct_median=excess,
        noise_excess_pct_worst=moves[worst][1] if worst else None,
        worst_tensor=worst,
        suggested_n=suggested,
        problems=tuple(_problems(calibration, duplicates, near, missing, excess, suggested)),
    )


def _equal(
    calibration: Dataset, test: Dataset, ours: Sequence[str], theirs: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    position = {digest: k for k, digest in enumerate(theirs)}
    return tuple((calibration.ids[k], test.ids[position[d]]) for k, d in enumerate(ours) if d in position)


def _near_duplicates(
    calibration: Dataset, test: Dataset, equal: set[tuple[str, str]]
) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Pairs of nearly the same picture, and whether the test could tell: on tiny pictures (8 x 8 digits) strangers look
    alike too, which shows within the calibration set itself."""
    if calibration.image is None or test.image is None:
        return (), False
    ours, theirs = _thumbnails(calibration), _thumbnails(test)
    within = [pair for pair in _alike(ours, ours) if pair[0] < pair[1]]
    if len(within) > STRANGER_SHARE * len(calibration):
        return (), False
    pairs = ((calibration.ids[a], test.ids[b]) for a, b in _alike(ours, theirs))
    return tuple(pair for pair in pairs if pair not in equal), True


def _thumbnails(dataset: Dataset) -> npt.NDArray[np.float32]:
    """[N, 16 x 18] grey values of every image."""

    def small(index: int) -> npt.NDArray[np.float32]:
        assert dataset.image is not None
        picture = dataset.image(index).convert("L").resize((18, 16), Image.Resampling.BOX)
        return np.asarray(picture, np.float32).reshape(-1)

    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(small, range(len(dataset)))))


def _alike(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Positions of pairs whose difference hashes and thumbnails agree."""
    left, right = _hashes(ours), _hashes(theirs)
    a, b = _standardised(ours), _standardised(theirs)
    found = []
    for k in range(len(left)):
        near = np.flatnonzero(_BITS[left[k] ^ right].sum(axis=1) <= HASH_DISTANCE)
        found += [(k, int(j)) for j in near if float(a[k] @ b[j]) >= SAME_PICTURE]
    return found


_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)


def _hashes(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """[N, 8] bytes: whether each of 8 x 8 cells is brighter than its right neighbour (dHash)."""
    cells = thumbnails.reshape(-1, 8, 2, 9, 2).mean(axis=(2, 4))
    return np.packbits((cells[:, :, :-1] > cells[:, :, 1:]).reshape(len(cells), 64), axis=1)


def _standardised(thumbnails: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6), np.float32)


def _missing_classes(calibration: Dataset) -> tuple[str, ...]:
    if calibration.labels is None or calibration.label_names is None:
        return ()
    there = set(calibration.labels.tolist())
    return tuple(name for k, name in enumerate(calibration.label_names) if k not in there)


def _range_moves(
    graph: Path, calibration: Dataset, method: str, progress: Progress | None
) -> dict[str, tuple[float, float]]:
    """(spread, excess noise) in per cent of every tensor's threshold over sets of resampled eighths."""
    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.calibration.thresholds import squared_errors, threshold
    from edgecnn.graph.simplify import load_graph, prepared

    parts = min(PARTS, len(calibration))
    if parts < 2:
        return {}
    model = prepared(load_graph(graph))
    collected = []
    for k in range(parts):
        collected.append(collect_from_model(model, "", calibration.subset(range(k, len(calibration), parts))))
        if progress is not None:
            progress(k + 1, parts)
    draws = np.random.default_rng(0).integers(0, parts, (RESAMPLES, parts))
    correction = parts / (parts - 1)  # of the bootstrap's bias with few parts
    moves = {}
    for name in collected[0].tensors:
        statistics = [part.tensors[name] for part in collected]
        values = [threshold(_merged([statistics[k] for k in draw]), method) for draw in draws]
        whole = _merged(statistics)
        noise = squared_errors(whole.magnitudes, np.array([*values, threshold(whole, method), whole.largest]), 127)
        spread = math.sqrt(correction) * float(np.std(values) / max(float(np.mean(values)), 1e-30))
        excess = correction * max(0.0, float(noise[:RESAMPLES].mean() / max(float(noise[RESAMPLES]), 1e-30) - 1))
        moves[name] = (100 * spread, 100 * excess)
    return moves


def _merged(statistics: Sequence[TensorStatistics]) -> TensorStatistics:
    merged = copy.deepcopy(statistics[0])
    for one in statistics[1:]:
        merged.merge(one)
    return merged


def _suggested(n: int, excess_pct: float) -> int:
    """Images at which the median excess would be good: it is quadratic in the error of the range, so falls as 1 / n."""
    return max(1, math.ceil(n * excess_pct / GOOD_EXCESS_PCT))


def _problems(
    calibration: Dataset,
    duplicates: Sequence[tuple[str, str]],
    near: Sequence[tuple[str, str]],
    missing: Sequence[str],
    excess_pct: float | None,
    suggested: int | None,
) -> list[str]:
    found = []
    if duplicates:
        found.append(f"{len(duplicates)} images are test images: {duplicates[0][0]} is {duplicates[0][1]}")
    if near:
        found.append(f"{len(near)} images look like test images: {near[0][0]} like {near[0][1]}")
    if missing and calibration.label_names and len(calibration) >= len(calibration.label_names):
        found.append(
            f"{len(missing)} of {len(calibration.label_names)} classes have no image: {', '.join(missing[:5])}"
        )
    if excess_pct is not None and excess_pct > GOOD_EXCESS_PCT:
        found.append(
            f"the ranges are those of few images: on others like them they cost {excess_pct:.1f} % more rounding noise "
            f"(median); about {suggested} images would keep that within {GOOD_EXCESS_PCT:g} %"
        )
    return found
