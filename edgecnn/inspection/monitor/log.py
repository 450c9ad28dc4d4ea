"""The log of a monitor: its header, then what was counted since the line before."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edgecnn.artifact.checked_lines import Line, read_lines
from edgecnn.errors import ArtifactError
from edgecnn.inspection.monitor.counts import BOUNDS, Tally, tally_of
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.monitor import LogHeader, LogLine, Network

KIND = "edgecnn monitor log"
START = f'{{"kind": "{KIND}"'.encode()
_HINT = "name the log of `edgecnn monitor`, made by this version"
HOUR_S = 3600


class Entry(NamedTuple):
    """A line of a log, and its counts."""

    line: LogLine
    tally: Tally


def header_line(network: Network) -> Line:
    """The first line of a new log."""
    return dict(to_plain(LogHeader(kind=KIND, network=network, bounds=BOUNDS)))


def hour_of(time_s: float | None) -> str | None:
    """The hour of a time, ISO 8601 in UTC; None without one."""
    if time_s is None:
        return None
    return datetime.datetime.fromtimestamp(time_s // HOUR_S * HOUR_S, datetime.timezone.utc).isoformat()


def read_log(path: Path) -> tuple[Network, Iterator[Entry]]:
    """Whose log it is, and its lines; raises `ArtifactError`."""
    lines = read_lines(path, START)
    network = network_of(lines, path)
    if network is None:
        raise ArtifactError(f"{path}: is empty", _HINT)
    return network, entries(lines, network, path)


def network_of(lines: Iterator[Line], path: Path) -> Network | None:
    """What the header says, the first of the lines; None where there is none."""
    content = next(lines, None)
    if content is None:
        return None
    if content.get("kind") != KIND:
        raise ArtifactError(f"{path}: is not the log of a monitor", _HINT)
    header = record_from_mapping(LogHeader, content, f"{path}: line 1", _HINT)
    if dict(header.bounds) != BOUNDS or header.schema != 1:
        raise ArtifactError(f"{path}: its histograms have other bins than those of this version", _HINT)
    if (flaw := flaw_of(header.network)) is not None:
        raise ArtifactError(f"{path}: {flaw}", _HINT)
    return header.network


def flaw_of(network: Network) -> str | None:
    """Why there is no such network; None where there can be."""
    if not 0 < network.columns < 1 << 24:
        return f"columns = {network.columns}: from 1 to {(1 << 24) - 1} were expected"
    if network.labels and len(network.labels) != network.classes:
        return f"{len(network.labels)} labels of {network.columns} columns: {network.classes} or none were expected"
    return None


def entries(lines: Iterable[Line], network: Network, path: Path) -> Iterator[Entry]:
    """The counts of lines that follow the header."""
    for number, content in enumerate(lines, 2):
        line = record_from_mapping(LogLine, content, f"{path}: line {number}", _HINT)
        try:
            if line.hour is not None:
                datetime.datetime.fromisoformat(line.hour)
            yield Entry(line, tally_of(line, network))
        except ValueError as exc:
            raise ArtifactError(f"{path}: line {number}: {exc}", _HINT) from exc
