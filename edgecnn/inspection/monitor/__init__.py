"""Count what an engine says, hour by hour, without keeping an image: a log to compare by, and Prometheus's text."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from edgecnn.artifact.checked_lines import CheckedLines
from edgecnn.artifact.sidecar import Sidecar, verified_sidecar
from edgecnn.artifact.write import check_output, write_bytes
from edgecnn.errors import ArtifactError, DataError
from edgecnn.graph.decision import LOGIT, PROBABILITY
from edgecnn.inspection.monitor.counts import Batch, Tally, line_of, no_tally, tally
from edgecnn.inspection.monitor.log import START, entries, flaw_of, header_line, hour_of, network_of
from edgecnn.inspection.monitor.prometheus import prometheus_text
from edgecnn.inspection.monitor.rows import Source, open_source
from edgecnn.records import to_plain
from edgecnn.results.monitor import Monitored, Network, Position

LINE_S = 60.0  # so much at most is lost with a process that is killed
OPEN_MINUTES = 8  # of rows that do not come in order
MOST_ROWS = 1 << 16  # in one line


def monitor(
    source: str,
    log: Path,
    *,
    prometheus: Path | None = None,
    engine: Path | None = None,
    classes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Monitored:
    """Count the rows of `source` to its end, or until the process is stopped: into `log`, which is continued where it
    is there, and with `prometheus` into that text file anew with each line of the log.

    The `engine`'s sidecar says what its outputs mean; without one, and without a line that says so among the rows,
    they are logits of numbered classes. A file that was counted before is gone on with. Raises `ArtifactError` for a
    log of another network, `DataError` for a row that is none; the rows before it are counted.
    """
    check_output(log, ".jsonl", None if source == "-" else Path(source))
    if prometheus is not None:
        check_output(prometheus, ".prom", log, option="--prometheus")
    told = None if engine is None else network_of_engine(engine)
    if told is not None and classes not in (None, told.columns):
        raise DataError(f"{engine}: has {told.columns} outputs, not {classes}", "leave --classes as the engine has it")
    with contextlib.closing(open_source(source, classes)) as rows, CheckedLines(log, START) as lines:
        counter = Counter(lines, log, prometheus, told)
        try:
            _count(counter, rows, progress)
        finally:
            counter.write()
        return counter.summary()


def network_of_engine(engine: Path) -> Network:
    """What the sidecar of an engine or graph says of its outputs; raises `ArtifactError` where it does not."""
    sidecar = verified_sidecar(engine).require_classes(engine)
    columns = sidecar.facts.get("classes") or len(sidecar.labels or ())
    if not isinstance(columns, int) or not columns:
        raise ArtifactError(f"{engine}: its sidecar tells no classes", "give --classes in place of --engine")
    return network_of_sidecar(engine.name, sidecar, columns)


def network_of_sidecar(name: str, sidecar: Sidecar, columns: int, threshold: float | None = None) -> Network:
    """A sidecar's engine of so many outputs; raises `ArtifactError`."""
    if threshold is None:
        threshold = PROBABILITY if sidecar.contract.output != "logits" and columns == 1 else LOGIT
    labels = tuple(sidecar.labels or ())
    network = Network(
        columns=columns,
        engine=name,
        engine_sha256=sidecar.sha256,
        labels=labels if len(labels) == max(2, columns) else (),
        preprocessing_sha256=_preprocessing_sha256(sidecar),
        output=sidecar.contract.output,
        threshold=threshold,
    )
    if (flaw := flaw_of(network)) is not None:
        raise ArtifactError(f"{name}: its sidecar's {flaw}", "give --classes in place of --engine")
    return network


def _preprocessing_sha256(sidecar: Sidecar) -> str:
    from edgecnn.data.preprocess import preprocessing_from_json

    return "" if sidecar.preprocessing is None else preprocessing_from_json(sidecar.preprocessing).sha256


def _count(counter: Counter, rows: Source, progress: Callable[[int], None] | None) -> None:
    done, digest = counter.resume(rows) if rows.kept else (0, hashlib.sha256())
    seen = 0
    for pieces in rows.pieces(counter.wait_s):
        new = pieces[max(0, done - seen) :]
        first, seen = seen + len(pieces) - len(new), seen + len(pieces)
        if new:
            network, batch = rows.read(first, new)
            for piece in new:
                digest.update(piece + b"\n")
            position = Position(rows=seen, sha256=digest.hexdigest()) if rows.kept else None
            counter.take(network, batch, position, rows.name)
            if progress is not None:
                progress(counter.n_new)
        counter.write_when_due()


class Counter:
    """What is counted and not yet in the log, and the log's sums. Each batch is taken whole or not at all."""

    def __init__(self, lines: CheckedLines, path: Path, prometheus: Path | None, told: Network | None) -> None:
        self._lines, self._path, self._prometheus = lines, path, prometheus
        before = lines.lines()
        known = network_of(before, path)
        self._network = _one_network(known, told, str(path))
        self._begun = known is not None
        self._read: dict[int, set[str]] = {}
        self._position: Position | None = None
        self._open: dict[int | None, Tally] = {}
        self._total: Tally | None = None
        self._hours: set[str] = set()
        self._since, self._minute = time.monotonic(), 0
        self._latest: float | None = None
        self.n_new = 0
        if known is not None:
            self._total = no_tally(known)
            for entry in entries(before, known, path):
                self._total += entry.tally
                self._note_hour(entry.line.hour)
                if (read := entry.line.read) is not None:
                    self._read.setdefault(read.rows, set()).add(read.sha256)
        if self._network is not None:
            self._show()

    def resume(self, rows: Source) -> tuple[int, hashlib._Hash]:
        """How many pieces of a file are in the log already, and the digest up to there."""
        digest, seen, done, reached = hashlib.sha256(), 0, 0, hashlib.sha256()
        for pieces in rows.pieces(0.0) if self._read else ():
            for piece in pieces:
                digest.update(piece + b"\n")
                seen += 1
                if digest.hexdigest() in self._read.get(seen, ()):
                    done, reached = seen, digest.copy()
        return done, reached

    @property
    def wait_s(self) -> float:
        """How long to wait for rows before `write_when_due`."""
        return LINE_S / 10

    def take(self, network: Network | None, batch: Batch, position: Position | None, where: str) -> None:
        """Count a batch. Raises `DataError` for rows of another network, `ArtifactError` for another than the log's."""
        known = _one_network(self._network, network, where)
        if len(batch.logits) == 0:
            self._network = known
            return
        columns = batch.logits.shape[1]
        known = known or Network(columns=columns)
        if columns != known.columns:
            raise DataError(f"{where}: {columns} logits in a row, {known.columns} before", "one log is of one network")
        latest, backwards = self._latest, dict[int | None, int]()
        by_minute: dict[int | None, list[int]] = {}
        for k, moment in enumerate(batch.times):
            minute = None if moment is None else int(moment // LINE_S)
            by_minute.setdefault(minute, []).append(k)
            if moment is not None:
                backwards[minute] = backwards.get(minute, 0) + (latest is not None and moment < latest)
                latest = moment
        newest = max((m for m in by_minute if m is not None), default=0)
        if newest > self._minute:  # the minutes before are whole
            self.write()
            self._minute = newest
        counted = dict(self._open)
        for minute, chosen in by_minute.items():
            part = replace(tally(batch.take(chosen), known), backwards=backwards.get(minute, 0))
            counted[minute] = counted[minute] + part if minute in counted else part
        self._network, self._latest, self.n_new = known, latest, self.n_new + len(batch.logits)
        self._open, self._position = counted, position

    def write_when_due(self) -> None:
        """Write the first rows at once, then lines after a minute of the clock, and of much that came at once."""
        counted = sum(t.n for t in self._open.values())
        due = time.monotonic() - self._since >= LINE_S or counted >= MOST_ROWS or len(self._open) > OPEN_MINUTES
        if due or not self._begun:
            self.write()

    def write(self) -> None:
        """Append what is counted, a line for each minute; raises `WriteError`, and then it is still to be written."""
        self._since = time.monotonic()
        if self._network is None or not self._open:
            return
        with _uninterrupted():
            hours = [hour_of(None if minute is None else minute * LINE_S) for minute in self._open]
            tallies = list(self._open.values())
            lines = [to_plain(line_of(t, hour, self._position)) for hour, t in zip(hours, tallies, strict=True)]
            self._lines.append(*([] if self._begun else [header_line(self._network)]), *lines)
            self._begun = True
            for hour, counted in zip(hours, tallies, strict=True):
                self._total = (self._total or no_tally(self._network)) + counted
                self._note_hour(hour)
            self._open = {}
        self._show()

    def _note_hour(self, hour: str | None) -> None:
        if hour is not None:
            self._hours.add(hour)

    def _show(self) -> None:
        if self._prometheus is not None and self._network is not None:
            total = self._total or no_tally(self._network)
            write_bytes(self._prometheus, prometheus_text(total, self._network, self._path.stem).encode())

    def summary(self) -> Monitored:
        """What the log holds."""
        total = self._total
        return Monitored(
            log=str(self._path),
            n=total.n if total else 0,
            n_new=self.n_new,
            not_finite=total.not_finite if total else 0,
            backwards=total.backwards if total else 0,
            hours=len(self._hours),
            classes=self._network.classes if self._network else 0,
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block, so that a line is not written twice."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: asked.append(n)) for number in held]
    try:
        yield
    finally:
        for number, handler in zip(held, before, strict=True):
            signal.signal(number, handler)
    for again in asked:
        signal.raise_signal(again)


def _one_network(known: Network | None, told: Network | None, where: str) -> Network | None:
    if known is None or told is None or known == told:
        return known or told
    keys = [f.name for f in fields(Network) if getattr(known, f.name) != getattr(told, f.name)]
    found, wanted = (", ".join(f"{key} {str(getattr(n, key))[:60]!r}" for key in keys) for n in (told, known))
    raise ArtifactError(
        f"{where}: rows of a network with {found}, not {wanted}", "one log is that of one engine: -o another"
    )
