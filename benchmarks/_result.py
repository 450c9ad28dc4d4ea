"""How every benchmark writes what it measured, and how it measures a process.

`results/BENCHMARK.json` is a list of rows. A row says what was measured (its key), what was found, and under `made` the
command, commit, machine and load; measured again, it replaces the row with the same key. `benchmarks/tables.py` makes
the documents' tables of these files.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.load import other_load_cores, read_cpu_time
from edgecnn.records import to_plain

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LONGEST_S = 1800
SPIN = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
Row = dict[str, Any]


class Recorder:
    """Rows of one benchmark; each is printed and filed when it is there, so that nothing measured is lost.

    `command` is how to measure a row again, `neighbors` how many busy loops ran beside it on purpose, `tools` are the
    packages whose versions matter.
    """

    def __init__(
        self, benchmark: str, command: str, *, tree: Path = ROOT, results: Path = RESULTS, tools: Sequence[str] = ()
    ) -> None:
        self.path, self.command = results / f"{benchmark}.json", command
        self._tree, self._tools = tree, tools
        self._begin()

    def _begin(self) -> None:
        self._load, self._before = os.getloadavg()[0], read_cpu_time()
        self._children_s = _children_cpu_s()

    def add(self, key: Mapping[str, Any], found: Mapping[str, Any], *, neighbors: int = 0) -> Row:
        """File one row; the load is that since the row before. A peer that is `left_out` replaces no measurement."""
        made = {
            "command": self.command,
            "commit": commit_of(self._tree),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": to_plain(cpu_device()),
            "cores": len(os.sched_getaffinity(0)),
            "tools": _versions(self._tools),
            "load_1_min": [round(self._load, 2), round(os.getloadavg()[0], 2)],
            "others_busy_cores": self._others(),
            "neighbors": neighbors,
        }
        row = {**key, **found, "made": made}
        rows = read_rows(self.path)
        others = [r for r in rows if any(r.get(k) != v for k, v in key.items())]
        if "left_out" not in found or others == rows:
            text = ",\n".join(" " + json.dumps(r) for r in [*others, row])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"[\n{text}\n]\n", encoding="utf-8")
        print(json.dumps(row), flush=True)
        self._begin()
        return row

    def _others(self) -> float | None:
        """How many cores others took, the processes that this one started apart."""
        after = read_cpu_time()
        others = other_load_cores(self._before, after)
        if others is None or self._before is None or after is None:
            return None
        own = (_children_cpu_s() - self._children_s) / (after.clock_s - self._before.clock_s)
        return round(max(0.0, others - own), 2)


class Measured(NamedTuple):
    """A process that ended well: with its children, seconds of processor time and by the clock, and its peak memory."""

    cpu_s: float
    clock_s: float
    peak_mb: int
    said: str


def measure_process(command: Sequence[object], *, tree: Path = ROOT, folder: Path | None = None) -> Measured:
    """Run a program of this checkout, or of another `tree`, in `folder` to its end; leaves with what it said where it
    fails.

    The peak memory of a child begins at that of its parent: measure from a process that loads little.
    """
    env = {**os.environ, "PYTHONPATH": str(tree)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode
    words, started = [str(word) for word in command], time.monotonic()
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(words, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=complaints, text=True)
        with process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            clock, process.returncode = time.monotonic() - started, os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaints.seek(0)
            sys.exit(f"{' '.join(words[:6])}: exit code {process.returncode}\n{complaints.read()[-2000:]}")
    return Measured(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss // 1024, said)


@contextlib.contextmanager
def neighbors(count: int = 2) -> Iterator[None]:
    """Beside the block `count` processes run that never rest; they end with it, or of themselves."""
    running = [subprocess.Popen([sys.executable, "-c", SPIN, str(LONGEST_S)]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of results; none where it is not there."""
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return rows


def commit_of(tree: Path = ROOT) -> str:
    """The commit of a checkout, with "-dirty" where what is measured, or what measures, differs from it."""
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "edgecnn", "recipes", "benchmarks/*.py"])
    commit, changed = (
        subprocess.run(["git", *words], cwd=tree, capture_output=True, text=True, check=False).stdout.strip()
        for words in commands
    )
    return commit + "-dirty" * bool(changed)


def _children_cpu_s() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def _versions(packages: Sequence[str]) -> dict[str, str]:
    from edgecnn.artifact.sidecar import tool_versions

    return tool_versions(*packages)
