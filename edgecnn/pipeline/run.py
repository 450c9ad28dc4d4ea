"""Run a recipe: redo what is stale, say why, and end with the verdict."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import read_json
from edgecnn.errors import EdgecnnError, RecipeError, nearest
from edgecnn.pipeline import HOST_STEPS, STEPS
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.staleness import outdated
from edgecnn.pipeline.steps import Context, work
from edgecnn.pipeline.tasks import HOST, Task, all_tasks
from edgecnn.recipe.schema import Recipe
from edgecnn.targets import find_target

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the report of each target that is this machine, and how to go on for those that are not."""

    folder: Path
    done: int
    reports: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 passed (or nothing judged), 1 failed, 3 inconclusive: the worst of the targets."""
        codes = {int(report["verdict"]["exit_code"]) for report in self.reports}
        return next((code for code in (1, 3) if code in codes), 0)


def run_folder(recipe: Recipe, out: Path | None) -> Path:
    """Where a recipe's artifacts go: `./runs/<recipe>/` unless said otherwise."""
    return out if out is not None else Path("runs") / recipe.name


def run_recipe(
    recipe: Recipe, folder: Path, say: Say, *, until: str = STEPS[-1], threads: int | None = None
) -> Outcome:
    """Bring every file of the recipe up to date, as far as this machine can.

    Tasks of targets that are not this machine are left out, and the command to go on with is in the outcome. Raises
    the errors of the steps; the files made before stay.
    """
    if until not in STEPS:
        raise RecipeError(f"--until {until}: no such step", nearest(until, STEPS) or f"steps: {', '.join(STEPS)}")
    tasks = [t for t in all_tasks(recipe, folder, threads) if STEPS.index(t.step) <= STEPS.index(until)]
    targets = [name for name in recipe.targets if until not in HOST_STEPS]
    absent = {name: why for name in targets if (why := _absent(name, threads))}
    tasks = [t for t in tasks if t.target not in absent]
    due = outdated(tasks, recipe)
    if any(task.target == HOST for task, _ in due):
        check_recipe(recipe)
    context = Context(recipe, folder, threads)
    for task, reason in due:
        _do(task, reason, context, say)
    if not due:
        say(f"{folder}: everything is up to date")
    present = [name for name in targets if name not in absent and until == "report"]
    reports = [read_json(folder / name / "report.json") for name in present]
    return Outcome(folder, len(due), reports, [_elsewhere(recipe, folder, n, w) for n, w in absent.items()])


def _do(task: Task, reason: str, context: Context, say: Say) -> None:
    where = task.output.relative_to(context.folder)
    say(f"{task.step:<10} {where}: {reason}")
    started = time.perf_counter()
    work(task, context)
    say(f"{'':<10} {where}: done in {time.perf_counter() - started:.1f} s")


def _absent(name: str, threads: int | None) -> str | None:
    """Why the target is not this machine, or None when it is."""
    from edgecnn.backends import load_backend
    from edgecnn.targets import target_mismatch

    target = find_target(name)
    try:
        return target_mismatch(target, load_backend(target.backend).device(threads))
    except EdgecnnError as exc:
        return exc.message


def _elsewhere(recipe: Recipe, folder: Path, target: str, why: str) -> str:
    command = shlex.join(["edgecnn", "run", str(recipe.path), "--out", str(folder)])
    return (
        f"target {target} is not this machine ({why}): copy {folder}/ and {recipe.path} to the device "
        f"and go on there with `{command}`"
    )
