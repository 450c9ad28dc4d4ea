"""What a build says while it runs, and how Ctrl-C ends it.

TensorRT calls the monitor from several threads while the main thread waits inside it, where Python's signal handlers
do not run. So the interrupt is also taken from the wakeup descriptor, to which the C-level handler writes at once;
`step_complete` then answers False, the builder gives up, and the caller raises KeyboardInterrupt. An exception must
never leave a callback: in C++ it would end the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from edgecnn.output import say

SECONDS_BETWEEN_LINES = 10.0
ENDING = frozenset({signal.SIGINT, signal.SIGTERM})


class Interruption:
    """Whether the user has pressed Ctrl-C, or ended the process by SIGTERM, since the block was entered."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._reader = -1
        self._previous: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """True from the first signal on."""
        if not self._asked.is_set() and self._reader >= 0:
            with contextlib.suppress(BlockingIOError):
                if not ENDING.isdisjoint(os.read(self._reader, 64)):
                    self._asked.set()
        return self._asked.is_set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take both signals over for the block; without effect outside the main thread, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._handle) for number in ENDING}
        try:
            yield
        finally:
            for number, previous in self._previous.items():
                signal.signal(number, previous)
            signal.set_wakeup_fd(previous_fd)
            os.close(self._reader)
            os.close(writer)
            self._reader = -1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        previous = self._previous[number]
        if number == signal.SIGTERM and callable(previous):
            with contextlib.suppress(KeyboardInterrupt):  # raised when the build has ended
                previous(number, frame)
            self._previous[number] = signal.SIG_DFL


class BuildProgress:
    """Phases of a build: a rich bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, list[int]] = {}  # name -> [depth, steps done, steps in all, rich task]
        self._bar = _rich_bar() if sys.stderr.isatty() else None
        self._said = time.monotonic()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for the block."""
        with self._bar or contextlib.nullcontext():
            yield

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within another when `parent` names one."""
        with self._lock:
            depth = self._phases[parent][0] + 1 if parent in self._phases else 0
            task = self._bar.add_task("  " * depth + name, total=steps) if self._bar else -1
            self._phases[name] = [depth, 0, steps, task]
            if not self._bar and depth == 0:
                say(f"building: {name}")

    def step(self, name: str, step: int) -> None:
        """Step number `step` (from 0) of a phase is done."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is None:
                return
            phase[1] = step + 1
            if self._bar:
                self._bar.update(phase[3], completed=step + 1)
            elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
                self._said = time.monotonic()
                say(f"building: {name} {phase[1]}/{phase[2]}")

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase and self._bar:
                self._bar.remove_task(phase[3])


def progress_monitor(trt: Any, progress: BuildProgress, interruption: Interruption) -> Any:
    """A TensorRT progress monitor (10.0 and later) that draws `progress` and cancels on `interruption`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with contextlib.suppress(Exception):
                progress.start(phase_name, parent_phase, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            with contextlib.suppress(Exception):
                progress.finish(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with contextlib.suppress(Exception):
                progress.step(phase_name, step)
            return not interruption.asked

    return Monitor()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True, color_system=None), transient=True)
