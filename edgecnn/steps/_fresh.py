"""Work in a process of its own, where PyTorch is not loaded yet.

Its threads wait as they did when it was loaded: passively where something was made. A latency is that of threads which
wait as everybody's do; on idle cores a small network is slower without that, and a ratio to it would flatter.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.errors import BackendError, EdgecnnError

Result = TypeVar("Result")


def run_in_fresh_process(work: Callable[[], Result]) -> Result:
    """What `work` gives, which like its result is pickled; its `EdgecnnError` is raised here."""
    with scratch_folder() as scratch:
        answer = scratch / "answer"
        ended = subprocess.run(
            [sys.executable, "-c", "from edgecnn.steps._fresh import answer; answer()"],
            input=pickle.dumps((work, answer)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            stdout=2,  # standard output carries the result
            check=False,
        )
        if ended.returncode or not answer.exists():
            raise BackendError(
                f"the process that measures PyTorch ended with exit code {ended.returncode}",
                "see the message above; `edgecnn bench` measures alone",
            )
        result: Result | EdgecnnError = pickle.loads(answer.read_bytes())
    if isinstance(result, EdgecnnError):
        raise result
    return result


def answer() -> None:
    """What the process does: the work that comes on standard input, its result into the file named beside it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    work, path = pickle.load(sys.stdin.buffer)
    try:
        result = work()
    except EdgecnnError as exc:
        result = exc
    path.write_bytes(pickle.dumps(result))
