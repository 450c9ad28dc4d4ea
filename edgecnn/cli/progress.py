"""The one display of progress: a line on stderr."""

from __future__ import annotations

import sys
import time

from edgecnn.output import ERASED, inert, is_terminal


class Counter:
    """A line on stderr that counts `unit`, with rate and time left: every 5 s; on a terminal drawn ten times a second,
    and gone at the end.

    The rate counts from the first call: what an interrupted run did before does not belong to it. Another total, or
    less done, begins anew: a step may count several things one after the other. Pickled, it goes on elsewhere.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._terminal, self._shown = is_terminal(sys.stderr), time.monotonic()
        self._begin: tuple[float, int] | None = None
        self._last = (0, 0)

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._begin is None or total != self._last[1] or done < self._last[0]:
            self._begin, self._last = (now, done), (done, total)
            return
        self._last = done, total
        started, first = self._begin
        finished = done >= total and self._terminal
        if done == first or (now - self._shown < (0.1 if self._terminal else 5.0) and not finished):
            return
        self._shown = now
        rate = (done - first) / max(now - started, 1e-9)
        pace = f"{total - done}" if self._unit == "s" else f"{rate:.0f}/s, {(total - done) / rate:.0f}"
        line = inert(f"{self._what} {done}/{total} {self._unit}, {pace} s left")
        drawn = ERASED + ("" if finished else line) if self._terminal else f"{line}\n"
        print(drawn, end="", file=sys.stderr, flush=True)


def step_counter(step: str) -> Counter:
    """What the steps of a run count."""
    return Counter(step, {"bench": "s", "quantize": "parts"}.get(step, "images"))
