"""The one display of progress: a line on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from edgecnn.output import inert, is_terminal


def counter(what: str, unit: str) -> Callable[[int, int], None]:
    """A line on stderr that counts `unit`, with rate and time left; every 5 s, on a terminal ten times a second.

    The rate counts from the first call: what an interrupted run did before does not belong to it.
    """
    terminal, shown = is_terminal(sys.stderr), time.monotonic()
    begin: tuple[float, int] | None = None

    def show(done: int, total: int) -> None:
        nonlocal shown, begin
        now = time.monotonic()
        if begin is None:
            begin = now, done
            return
        started, first = begin
        finished = done >= total and terminal
        if now - shown < (0.1 if terminal else 5.0) and not finished:
            return
        shown = now
        rate = max(done - first, 1) / max(now - started, 1e-9)
        line = inert(f"{what} {done}/{total} {unit}, {rate:.0f}/s, {(total - done) / rate:.0f} s left")
        print(
            f"\r{line}\033[K" if terminal else line,
            end="\n" if finished or not terminal else "",
            file=sys.stderr,
            flush=True,
        )

    return show
