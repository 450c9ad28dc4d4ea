"""Which tasks must run, and why: driven by what is asked for, judged by the sidecars.

A file that is missing is made only when a file that is to be made needs it: a run folder that was copied to a device
without its checkpoint is as complete there as it has to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.stale import stale_reason
from edgecnn.pipeline.workshop import Task


def stale_tasks(tasks: Sequence[Task]) -> list[tuple[Task, str]]:
    """(task, reason) of every task that has to run, in order.

    `tasks` come parents first. Asked for are the engines, whatever no other task of the list reads, and every file that
    is there: behind a stale one all that follows is stale, however fresh it looks beside its own parents.
    """
    reasons = {t.output: r for t in tasks if (r := stale_reason(t.output, t.expected(), t.parents))}
    read = {p for t in tasks for p in t.parents}
    needed = {t.output for t in tasks if t.step == "build" or t.output not in read or t.output.exists()}
    running: set[Path] = set()
    while True:
        due = {t.output for t in tasks if t.output in needed and t.output in reasons}
        if due == running:
            return [(t, reasons[t.output]) for t in tasks if t.output in due]
        running = due
        for task in tasks:
            if task.output in due:
                needed.update(task.parents)
            for parent in task.parents:
                if parent in due and task.output.exists():
                    reasons[task.output] = f"{parent.name} is made again"
