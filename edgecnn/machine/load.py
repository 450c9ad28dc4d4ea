"""How much of the processor others take while something is measured: other processes, and the hypervisor."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from edgecnn.machine._files import ROOT, text_of

SHORTEST_S = 0.2


@dataclass(frozen=True)
class CpuTime:
    """Seconds so far: by the clock, that the cores which this process may use were busy, and that it used itself."""

    clock_s: float
    busy_s: float
    own_s: float


def read_cpu_time(root: Path = ROOT) -> CpuTime | None:
    """The seconds now; None where Linux does not tell them. Time that a hypervisor stole counts as busy."""
    cores, ticks = os.sched_getaffinity(0), 0
    lines = re.findall(r"^cpu(\d+) (.+)$", text_of(root / "proc/stat"), re.M)
    for number, line in lines:
        if int(number) in cores:  # user, nice, system, idle, iowait, irq, softirq, steal
            columns = [int(value) for value in line.split()]
            ticks += sum(columns[:3]) + sum(columns[5:8])
    if not lines:
        return None
    return CpuTime(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def other_load_cores(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """How many cores' time others took between two readings; None where one is missing, or where they are so close that
    the kernel's ticks (10 ms) would decide."""
    if before is None or after is None or after.clock_s - before.clock_s < SHORTEST_S:
        return None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return max(0.0, others / (after.clock_s - before.clock_s))
