"""One reader fed with damaged files: how often, how slow, and what it must not raise.

An execution is told by its number alone: target and number make the same damaged file again.
"""

from __future__ import annotations

import contextlib
import io
import random
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgecnn.errors import EdgecnnError
from tests.fuzz.targets import Target

SLOW_S = 5.0
LARGEST_BYTES = 1 << 30  # of memory above what the process had before


@dataclass
class Total:
    """What came of one target."""

    executions: int = 0
    taken: int = 0
    refused: int = 0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    faults: list[str] = field(default_factory=list)


def content_of(name: str, target: Target, number: int) -> bytes:
    """The damaged file of an execution."""
    rng = random.Random(f"{name}/{number}")
    return target.mutate(rng, rng.choice(target.seeds))


def run(
    name: str, target: Target, total: Total, most: int, until: Callable[[], bool], folder: Path, faults: int = 5
) -> Total:
    """Go on to `most` executions, or until it is time; a fault is kept with the number that makes it again."""
    path = folder / target.name
    before, base = time.process_time(), _peak_bytes()
    while total.executions < most and len(total.faults) < faults and not until():
        number = total.executions
        path.write_bytes(content_of(name, target, number))
        start = time.process_time()
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            try:
                target.read(path)
                total.taken += 1
            except EdgecnnError:
                total.refused += 1
            except Exception as exc:  # noqa: BLE001 - what is looked for
                place = traceback.extract_tb(exc.__traceback__)[-1]
                total.faults.append(
                    f"{name} {number}: {type(exc).__name__}: {exc} ({Path(place.filename).name}:{place.lineno})"[:300]
                )
        total.executions += 1
        took = time.process_time() - start
        total.slowest_s = max(total.slowest_s, took)
        if took > SLOW_S:
            total.faults.append(f"{name} {number}: {took:.1f} s")
        if (grown := _peak_bytes() - base) > LARGEST_BYTES:
            total.faults.append(f"{name} {number}: {grown / 1e9:.1f} GB more memory")
            base += grown
    total.cpu_s += time.process_time() - before
    total.peak_mb = max(total.peak_mb, (_peak_bytes() - base) / 1e6)
    return total


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
