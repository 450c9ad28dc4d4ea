"""How many threads the work of this process may use at once, and how they wait: decided here and nowhere else.

A process may use the cores of its affinity, at most the quota of its control groups, shared with the processes of its
job on this machine (torchrun). `--threads` sets another number. A pool divides among its threads what it was allowed,
a session of ONNX Runtime takes what is allowed where it is opened, PyTorch likewise, and BLAS gets one thread: so their
product stays within the number; and pictures are decoded ahead in `Seats` that a query does not need just then. What
trains, calibrates or quantizes leaves alone what others keep busy when it starts; what measures does not, for its
figures are compared.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from edgecnn.machine.cpu import available_cores
from edgecnn.machine.load import other_load_cores, read_cpu_time

LOAD_WINDOW_S = 0.25
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # GNU's and LLVM's OpenMP; read once, when it is loaded
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"  # of the OpenBLAS in NumPy's wheels; read once, when it is loaded

_allowed: ContextVar[int | None] = ContextVar("allowed threads", default=None)
_spinning: ContextVar[bool] = ContextVar("spinning", default=False)
_torch_is_passive = False


def allowed_threads() -> int:
    """How many threads work that starts here may use: what `limit_threads` or a pool allows, else all there are."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    share = int(processes) if processes.isdecimal() else 1
    return _allowed.get() or max(1, available_cores() // max(1, share))


def spare_threads(threads: int | None) -> int:
    """The `threads` that were asked for, else those allowed here less what others keep busy just now, but at least half
    of them: the scheduler shares the cores fairly, and a passing load must not slow the whole step."""
    allowed = allowed_threads()
    if threads is not None or allowed == 1:
        return threads or 1
    before = read_cpu_time()
    time.sleep(LOAD_WINDOW_S)
    busy = other_load_cores(before, read_cpu_time()) or 0.0
    idle = round(len(os.sched_getaffinity(0)) - busy)
    return max(1, allowed // 2, min(allowed, idle))


@contextlib.contextmanager
def limit_threads(threads: int) -> Iterator[int]:
    """Within the block `allowed_threads` is `threads`, and BLAS has one: its threads wait for each other actively, and
    its products here are small."""
    before = _allowed.set(threads)
    try:
        with _one_blas_thread():
            yield threads
    finally:
        _allowed.reset(before)


@contextlib.contextmanager
def open_pool(most: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of at most `most` threads, each of which is allowed its part of what is allowed here."""
    allowed = allowed_threads()
    workers = min(most, allowed)
    with ThreadPoolExecutor(workers, initializer=_allowed.set, initargs=(allowed // workers,)) as pool:
        yield pool


class Seats:
    """So many threads that work of several kinds shares: what decodes ahead takes one at a time, and makes room for a
    query that waits for its own."""

    def __init__(self, threads: int) -> None:
        self._free, self._waiting = threads, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, threads: int, *, first: bool = False) -> Iterator[None]:
        """So many of them within the block, once they are free; before those who are not `first`."""
        with self._changed:
            self._waiting += first
            self._changed.wait_for(lambda: threads <= self._free and (first or not self._waiting))
            self._waiting -= first
            self._free -= threads
        try:
            yield
        finally:
            with self._changed:
                self._free += threads
                self._changed.notify_all()


@contextlib.contextmanager
def spin_while_waiting() -> Iterator[None]:
    """Within the block sessions are opened whose threads wait actively, as ONNX Runtime's do by default: for latencies
    alone, which are those of such sessions."""
    before = _spinning.set(True)
    try:
        yield
    finally:
        _spinning.reset(before)


def may_spin() -> bool:
    """Whether a session that is opened here is opened for its latency."""
    return _spinning.get()


@contextlib.contextmanager
def passive_openmp() -> Iterator[None]:
    """Within the block PyTorch is loaded so that its threads do not take the cores from others while they wait; without
    effect where it is loaded already, or where the environment says how to wait."""
    global _torch_is_passive
    added = {} if "torch" in sys.modules or may_spin() else {k: v for k, v in PASSIVE.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        _torch_is_passive |= bool(added) and "torch" in sys.modules


def load_numpy() -> None:
    """Load NumPy with one thread for its BLAS: others would wait actively from the moment they are started. Without
    effect where it is loaded already, or where the environment says how many."""
    alone = {} if "numpy" in sys.modules or _BLAS_THREADS in os.environ else {_BLAS_THREADS: "1"}
    os.environ.update(alone)
    try:
        import numpy  # noqa: F401
    finally:
        for name in alone:
            del os.environ[name]


def torch_is_passive() -> bool:
    """Whether PyTorch was loaded by `passive_openmp`: on idle cores its latency is longer than it has to be."""
    return _torch_is_passive


def _one_blas_thread() -> contextlib.AbstractContextManager[object]:
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:  # of the extras of a host: on a device nothing is solved
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits
