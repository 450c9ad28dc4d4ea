"""What a log shows to have moved since its reference, beyond what sampling moves."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.inspection.monitor.counts import BOUNDS, Batch, Tally, median_of, no_tally, tally
from edgecnn.inspection.monitor.log import Entry, read_log
from edgecnn.inspection.monitor.rows import ROWS_AT_ONCE, ArrayRows
from edgecnn.inspection.shift import Counts, DesignEffect, Shift, distribution_shift, resolvable_distance, share_shift
from edgecnn.measure.predict import read_predictions
from edgecnn.results.drift import ClassShift, Drift, StatisticShift
from edgecnn.results.monitor import Network
from edgecnn.statistics import difference_interval, holm_rejects

LEVEL = 0.05  # of an alarm without any drift, all statistics together
TELLS = 0.25  # the largest distance that may go unseen where "no drift" is said
CLASSES, FINITE = "classes", "not finite"
WHOLE = (CLASSES, FINITE)  # counts of what has no order


@dataclass
class Sample:
    """One side of a comparison: its network, its counts, and what its rows are worth beside independent ones."""

    name: str
    network: Network
    total: Tally
    effects: dict[str, DesignEffect] = field(default_factory=dict)

    def counts(self, statistic: str) -> Counts:
        """The histogram of a statistic."""
        return _counts(self.total, statistic)

    def independent(self, statistic: str) -> float:
        """How many independent rows its values are worth."""
        size = float(self.counts(statistic).sum())
        return size / self.effects[statistic].factor if statistic in self.effects else size


def drift(reference: Path | str, log: Path | str, *, last_hours: float | None = None) -> Drift:
    """What moved from a reference to the log of a monitor beyond sampling noise, at 5 % for all statistics together.

        import edgecnn as ec
        found = ec.drift("reference.jsonl", "monitor.jsonl")
        print(found.verdict, found.moved)

    The reference is another log, a file of predictions (reference.npz), a run folder that holds one, or logits
    [N, classes] as .npy or .npz. Of the log the `last_hours` count, or all. Each statistic is tested by permutation,
    all of them by Holm's procedure. Rows with a time are worth fewer than independent ones as far as neighbors are
    alike; images without one are taken as independent. Raises `ArtifactError` for what is no log, `MeasurementError`
    for two networks.
    """
    ours, theirs = read_reference(Path(reference)), read_sample(Path(log), last_hours)
    require_one_network(ours, theirs)
    return compare_samples(ours, theirs)


def read_sample(path: Path, last_hours: float | None = None) -> Sample:
    """The rows of a log; raises `ArtifactError`."""
    network, lines = read_log(path)
    first = None if last_hours is None else _first_hour(path, last_hours)
    sample = Sample(str(path), network, no_tally(network), {name: DesignEffect() for name in (*WHOLE, *BOUNDS)})
    timed = False
    for entry in _since(lines, first):
        sample.total += entry.tally
        timed |= entry.line.hour is not None
        if entry.line.hour is not None:
            for name, effect in sample.effects.items():
                effect.add(_counts(entry.tally, name))
    return sample if timed else Sample(sample.name, network, sample.total)


def _first_hour(path: Path, last_hours: float) -> datetime.datetime:
    hours = [datetime.datetime.fromisoformat(e.line.hour) for e in read_log(path)[1] if e.line.hour is not None]
    if not hours:
        raise ArtifactError(f"{path}: its images have no times", "leave --last out, or give the rows a time")
    return max(hours) - datetime.timedelta(hours=last_hours - 1)


def _since(entries: Iterator[Entry], first: datetime.datetime | None) -> Iterator[Entry]:
    for entry in entries:
        hour = entry.line.hour
        if first is None or (hour is not None and datetime.datetime.fromisoformat(hour) >= first):
            yield entry


def read_reference(path: Path) -> Sample:
    """A log, predictions, a run folder's, or bare logits; raises `ArtifactError`."""
    if path.is_dir():
        found = [folder / "reference.npz" for folder in (path, path.parent) if (folder / "reference.npz").is_file()]
        if not found:
            raise ArtifactError(f"{path}: no reference.npz in it", "name a run folder, predictions, or a log")
        path = found[0]
    if path.suffix == ".npz" and sidecar_path(path).exists():
        if read_sidecar(path).facts.get("golden"):
            raise ArtifactError(
                f"{path}: golden images of a release: the clearest of each class, and no sample to see a drift from",
                "name a log of this engine on test images, or the reference.npz of the run",
            )
        known = read_predictions(path)
        columns = int(known.logits.shape[1])
        labels = known.label_names if len(known.label_names) == max(2, columns) else ()
        network = Network(
            columns=columns,
            labels=labels,
            preprocessing_sha256=known.preprocessing_sha256,
            output=known.output,
            threshold=known.threshold,
        )
        batch = Batch(known.logits, [None] * len(known.ids), known.ids)
        return Sample(str(path), network, tally(batch, network))
    if path.suffix not in (".npy", ".npz"):
        return read_sample(path)
    rows, first = ArrayRows(path), 0
    total: Tally | None = None
    for pieces in rows.pieces(0.0):
        batch = rows.read(first, pieces)[1]
        first += ROWS_AT_ONCE
        network = Network(columns=batch.logits.shape[1])
        part = tally(batch, network)
        total = part if total is None else total + part
    if total is None:
        raise ArtifactError(f"{path}: no rows", "give logits [N, classes]")
    return Sample(str(path), network, total)


def require_one_network(ours: Sample, theirs: Sample) -> None:
    """Raise `MeasurementError` unless both can be of one network; what is not known of either is not compared."""
    a, b = ours.network, theirs.network
    for what, first, second in (
        ("classes", a.classes, b.classes),
        ("class names", ", ".join(a.labels), ", ".join(b.labels)),
        ("preprocessing", a.preprocessing_sha256[:12], b.preprocessing_sha256[:12]),
        ("engine", a.engine_sha256[:12], b.engine_sha256[:12]),
    ):
        if first and second and first != second:
            shown = [str(v) if len(str(v)) < 60 else f"{str(v)[:57]}..." for v in (first, second)]
            raise MeasurementError(
                f"{ours.name} and {theirs.name} are not of one network: {what} {shown[0]} and {shown[1]}",
                "compare with a log, or with predictions, of the same engine",
            )


def compare_samples(ours: Sample, theirs: Sample) -> Drift:
    """The verdict on two samples of one network."""
    names = [name for name in (*WHOLE, *BOUNDS) if _compared(ours, theirs, name)]
    n = {name: (max(1.0, ours.independent(name)), max(1.0, theirs.independent(name))) for name in names}
    shifts = {name: _shift(ours.counts(name), theirs.counts(name), n[name], name in WHOLE) for name in names}
    moved = dict(zip(names, holm_rejects([shifts[name].p for name in names], LEVEL), strict=True))
    rows = tuple(
        StatisticShift(
            name=name,
            n_reference=int(ours.counts(name).sum()),
            n_log=int(theirs.counts(name).sum()),
            independent_reference=round(n[name][0]),
            independent_log=round(n[name][1]),
            distance=round(shifts[name].distance, 4),
            resolvable_distance=round(resolvable_distance(n[name], LEVEL / len(names)), 4),
            p=round(shifts[name].p, 6),
            moved=moved[name],
            median_reference=None if name in WHOLE else median_of(ours.counts(name), BOUNDS[name]),
            median_log=None if name in WHOLE else median_of(theirs.counts(name), BOUNDS[name]),
        )
        for name in names
    )
    few = not rows or any(row.resolvable_distance > TELLS for row in rows)
    return Drift(
        reference=ours.name,
        log=theirs.name,
        n_reference=ours.total.n,
        n_log=theirs.total.n,
        level=LEVEL,
        moved=tuple(name for name in names if moved[name]),
        verdict="drift" if any(moved.values()) else "too few" if few else "no drift",
        statistics=rows,
        classes=_moved_classes(ours, theirs, shifts[CLASSES].moved) if moved.get(CLASSES) else (),
        least_certain=theirs.total.least_certain,
        notes=tuple(_notes(ours, theirs, names)),
    )


def _counts(total: Tally, statistic: str) -> Counts:
    if statistic == CLASSES:
        return total.predicted
    if statistic == FINITE:
        return np.array([total.n - total.not_finite, total.not_finite])
    return np.asarray(total.histograms[statistic])


def _compared(ours: Sample, theirs: Sample, name: str) -> bool:
    if name == FINITE and not ours.total.not_finite and not theirs.total.not_finite:
        return False
    return bool(ours.counts(name).any() and theirs.counts(name).any())


def _shift(ours: Counts, theirs: Counts, n: tuple[float, float], unordered: bool) -> Shift:
    there = (ours + theirs) > 0
    if not unordered:
        return distribution_shift(ours[there], theirs[there], n)
    found = share_shift(ours[there], theirs[there], n)
    where = np.flatnonzero(there)
    return found._replace(moved=tuple(int(where[k]) for k in found.moved))


def _moved_classes(ours: Sample, theirs: Sample, moved: tuple[int, ...]) -> tuple[ClassShift, ...]:
    """Those whose share moved, the farthest first."""
    first, second = ours.total.predicted, theirs.total.predicted
    made = []
    for k in moved:
        share, other = first[k] / first.sum(), second[k] / second.sum()
        ends = difference_interval(
            second[k] * theirs.independent(CLASSES) / second.sum(),
            theirs.independent(CLASSES),
            first[k] * ours.independent(CLASSES) / first.sum(),
            ours.independent(CLASSES),
        )
        made.append(
            ClassShift(
                label=k,
                label_name=theirs.network.label(k) if theirs.network.labels else ours.network.label(k),
                reference_pct=round(100 * float(share), 3),
                log_pct=round(100 * float(other), 3),
                difference_pp=round(100 * float(other - share), 3),
                difference_ci_pp=(round(100 * float(ends[0]), 3), round(100 * float(ends[1]), 3)),
            )
        )
    return tuple(sorted(made, key=lambda c: -abs(c.difference_pp)))


def _notes(ours: Sample, theirs: Sample, names: list[str]) -> Iterator[str]:
    if not theirs.total.n or not ours.total.n:
        yield "no images were counted"
    if missing := [name for name in BOUNDS if name not in names]:
        yield f"not compared, since one side has none: {', '.join(missing)}"
    if theirs.total.backwards:
        yield f"{theirs.total.backwards} images came with a time before that of their predecessor: check the clock"
    alike = max((s.effects[name].factor for s in (ours, theirs) for name in names if name in s.effects), default=1.0)
    if alike >= 1.5:
        yield f"images that follow each other are alike, as in a video: worth up to {alike:.1f} times fewer"
    elif not theirs.effects and theirs.total.n:
        yield "the images have no times: taken as independent of each other"
