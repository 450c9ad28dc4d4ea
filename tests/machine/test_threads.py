"""Who gets how many threads, and how they wait."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgecnn.machine import threads
from edgecnn.machine.load import CpuTime


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with so many cores, of which so many are kept busy by others."""

    def make(count: int, busy: float = 0.0) -> None:
        readings = iter([CpuTime(10.0, 50.0, 1.0), CpuTime(11.0, 50.0 + busy, 1.0)])
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(count)))
        monkeypatch.setattr(threads, "available_cores", lambda: count)
        monkeypatch.setattr(threads, "read_cpu_time", lambda: next(readings))
        monkeypatch.setattr(threads, "LOAD_WINDOW_S", 0.0)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    return make


@pytest.mark.parametrize(
    ("count", "busy", "spare"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 1.0, 1), (2, 2.0, 1), (1, 1.0, 1), (8, 3.0, 5), (8, 8.0, 4), (3, 3.0, 1)],
)
def test_what_others_keep_busy_is_left_alone(cores: Callable[..., None], count: int, busy: float, spare: int) -> None:
    cores(count, busy)
    assert threads.spare_threads(None) == spare


def test_a_number_that_is_asked_for_is_taken_whatever_the_load(cores: Callable[..., None]) -> None:
    cores(2, 2.0)
    assert threads.spare_threads(5) == 5
    assert threads.allowed_threads() == 2, "the load lowers nothing that is measured"


def test_a_load_that_cannot_be_read_lowers_nothing(cores: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cores(4)
    monkeypatch.setattr(threads, "read_cpu_time", lambda: None)
    assert threads.spare_threads(None) == 4


def test_pools_divide_what_is_allowed(cores: Callable[..., None]) -> None:
    """The product of a pool's threads and of what each of them may use never exceeds the number, however deep."""
    cores(8)

    def inside() -> tuple[int, int, int]:
        own = threads.allowed_threads()
        with threads.open_pool(4) as inner:
            return own, inner._max_workers, inner.submit(threads.allowed_threads).result()

    for limit in range(1, 9):
        with threads.limit_threads(limit), threads.open_pool(2) as pool:
            own, workers, each = pool.submit(inside).result()
            assert pool._max_workers * own <= limit
            assert pool._max_workers * workers * each <= limit
    assert threads.allowed_threads() == 8


def test_seats_go_first_to_who_needs_many() -> None:
    seats, order = threads.Seats(2), list[str]()
    begun, free = threading.Event(), threading.Event()

    def small(name: str) -> None:
        with seats.take(1):
            begun.set()
            free.wait(5)
            order.append(name)

    def large() -> None:
        with seats.take(2, first=True):
            order.append("large")

    with ThreadPoolExecutor(3) as pool:
        pool.submit(small, "one")
        begun.wait(5)
        waiting = pool.submit(large)
        while not seats._waiting:
            time.sleep(0.001)
        late = pool.submit(small, "late")
        time.sleep(0.02)
        free.set()
        waiting.result(5)
        late.result(5)
    assert order == ["one", "large", "late"]


def test_the_processes_of_a_job_share_the_machine(cores: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cores(8)
    for processes, share in {"2": 4, "3": 2, "16": 1, "0": 8, "many": 8}.items():
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert threads.allowed_threads() == share


def test_blas_has_one_thread_within_a_limit_and_its_own_after_it() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def blas() -> set[int]:
        return {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"}

    import numpy as np

    assert np.ones(2) @ np.ones(2) == 2
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = blas()
        with threads.limit_threads(2):
            assert blas() <= {1}
        assert blas() == before


@pytest.mark.skipif(threads.available_cores() < 2, reason="BLAS has one thread anyway")
def test_numpy_is_loaded_without_threads_that_wait() -> None:
    pytest.importorskip("threadpoolctl")
    script = (
        "import os\n"
        "from edgecnn.machine.threads import load_numpy\n"
        "load_numpy()\n"
        "import threadpoolctl\n"
        "print([b['num_threads'] for b in threadpoolctl.threadpool_info()], 'OPENBLAS_NUM_THREADS' in os.environ)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[1] False\n"


def test_openmp_is_told_to_wait_passively_while_pytorch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(threads, "_torch_is_passive", False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    with threads.passive_openmp():
        assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("PASSIVE", "7")
    assert "OMP_WAIT_POLICY" not in os.environ, "processes that are started later wait as they like"
    assert not threads.torch_is_passive(), "it was not loaded"
    with threads.passive_openmp():
        monkeypatch.setitem(sys.modules, "torch", sys)
    assert threads.torch_is_passive()
    with threads.passive_openmp():
        assert "OMP_WAIT_POLICY" not in os.environ, "too late"
    monkeypatch.delitem(sys.modules, "torch")
    with threads.spin_while_waiting(), threads.passive_openmp():
        assert "OMP_WAIT_POLICY" not in os.environ, "loaded for its latency"
    assert not threads.may_spin()
