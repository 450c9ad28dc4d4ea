"""What others take of the processor, read from a made-up /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecnn.machine.load import CpuTime, other_load_cores, read_cpu_time


def test_busy_time_is_that_of_the_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_cpu_time(tmp_path) is None
    (tmp_path / "proc").mkdir()
    lines = ["cpu  9 9 9 9 9 9 9 9 0 0", "cpu0 100 20 30 1000 500 1 2 40 7 7", "cpu1 900 0 0 0 0 0 0 0 0 0", "intr 5"]
    (tmp_path / "proc/stat").write_text("\n".join(lines))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    found = read_cpu_time(tmp_path)
    assert found is not None
    assert found.busy_s == pytest.approx(1.93), "stolen time too; not idle, nor waiting, nor guests twice"


def test_the_load_is_what_this_process_did_not_use() -> None:
    before, after = CpuTime(10.0, 100.0, 5.0), CpuTime(12.0, 103.0, 6.5)
    assert other_load_cores(before, after) == pytest.approx(0.75)
    assert other_load_cores(before, CpuTime(12.0, 101.0, 6.5)) == 0.0
    assert other_load_cores(None, after) is None
    assert other_load_cores(after, after) is None


def test_a_busy_process_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least half a core of another process, on any machine: it is what it used by its own account. Every core
    is looked at: the suite gives a worker one as its own, and the other process may run elsewhere."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(os.cpu_count() or 1)))
    before = read_cpu_time()
    assert before is not None
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    time.sleep(0.02)
    after = read_cpu_time()
    load = other_load_cores(before, after)
    assert after is not None
    assert load is not None
    assert load * (after.clock_s - before.clock_s) > 0.25
