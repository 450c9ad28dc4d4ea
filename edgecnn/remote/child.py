"""A worker process, seen from its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from edgecnn import errors
from edgecnn.errors import CrashError, EdgecnnError

# Ctrl-C ends it without a word, whatever it does: its parent says so. An empty entry of the path is the current folder,
# where a file may bear the name of a package.
PROGRAM = """
import signal, sys
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path[:] = filter(None, sys.path)
from edgecnn.remote.worker import main
sys.exit(main())
"""
INTERRUPTED, BUG = 130, 101
BY_THE_USER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MEANINGS = {signal.SIGKILL: "by Linux, perhaps, for want of memory"}

Progress = Callable[[int, int], None]


class Child:
    """A process of `python` (left out: this interpreter, which finds its packages where this process does) that answers
    calls of `Worker`'s methods; a context manager that ends it. One of which it was told that it has died is started
    anew by the next call."""

    def __init__(self, python: str = "") -> None:
        self._python = python
        self._start()

    def _start(self) -> None:
        python = self._python
        own = {} if python else {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [python or sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **own},
            encoding="utf-8",
            errors="replace",  # what an interpreter prints while it starts; our lines are ASCII
        )
        self._ready = self._told = False

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def call(self, what: str, name: str, arguments: Mapping[str, Any], progress: Progress | None = None) -> Any:
        """What `Worker.name(**arguments)` returns; `what` is said of it where the process dies.

        Raises the errors of the call, `CrashError` where the process ended without an answer, and KeyboardInterrupt
        where the user ended it.
        """
        if self._process.poll() is not None:
            if not self._told:  # it ended between two calls, and what it held is gone
                raise self._ended(what)
            self._process.communicate()
            self._start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(what) from None
        while True:
            answer = self._answer(what)
            if "progress" in answer:
                if progress is not None:
                    progress(*answer["progress"])
            elif "error" in answer:
                raise _error(**answer["error"])
            else:
                return answer["result"]

    def _answer(self, what: str) -> Mapping[str, Any]:
        """The next line; what an interpreter prints while it starts is none."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._ready or line == '{"ready": true}\n':
                if not self._ready:
                    self._ready = True
                    continue
                found: Mapping[str, Any] = json.loads(line)
                return found
        raise self._ended(what)

    def _ended(self, what: str) -> BaseException:
        code, self._told = self._process.wait(), True
        if code == INTERRUPTED or -code in BY_THE_USER:
            return KeyboardInterrupt()
        if code == BUG:
            return RuntimeError(f"{what}: a bug in the process that ran it; its traceback stands above")
        return CrashError(what, _how(code))


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        found = signal.Signals(-code)
    except ValueError:
        return f"signal {-code}"
    meaning = MEANINGS.get(found) or (signal.strsignal(found) or "").lower()
    return f"{found.name} ({meaning})"


def _error(kind: str, message: str, hint: str) -> EdgecnnError:
    """The error of the other process, of its kind."""
    found = getattr(errors, kind)
    error: EdgecnnError = found.__new__(found)
    EdgecnnError.__init__(error, message, hint)
    return error
