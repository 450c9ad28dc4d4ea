"""Run a recipe: redo what is stale, say why, and end with the verdict."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.run_folder import REPORT, read_report
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import load_backend
from edgecnn.data.open import listing_each_folder_once
from edgecnn.errors import DeviceError, EdgecnnError, RecipeError, nearest
from edgecnn.pipeline.find import run_folder
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.tasks import HOST, ProgressFor, Task, Workshop, all_tasks
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import worst_exit_code
from edgecnn.steps import HOST_STEPS, STEPS, StepName
from edgecnn.steps._arguments import require_at_least, require_one_of
from edgecnn.targets import find_target, target_mismatch

Say = Callable[[str], None]
DEVICE_STEPS = ("build", "validate", "bench")


@dataclass(frozen=True)
class NotMeasured:
    """A target that is not this machine: why, which steps remain for which engines, and the command to go on with
    there."""

    target: str
    why: str
    steps: tuple[str, ...]
    engines: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        return f"{self.target}: not measured: {', '.join(self.steps)} of {', '.join(self.engines)} remain"


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the report of each target that is this machine, and those that are not."""

    folder: Path
    done: int
    reports: tuple[RunReport, ...] = ()
    elsewhere: tuple[NotMeasured, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where a target failed, 3 where one is inconclusive or was not measured, else 0."""
        judged = worst_exit_code(report.verdict for report in self.reports)
        return 3 if self.elsewhere and judged == 0 else judged


def run(
    recipe: Recipe | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    until: StepName = STEPS[-1],
    targets: Sequence[str] = (),
    threads: int | None = None,
    trust_code: bool = False,
    say: Say = lambda line: None,
) -> RunReport | tuple[RunReport, ...]:
    """Bring a recipe up to date, from training to the verdict; redo only what is stale.

        import edgecnn as ec
        report = ec.run("lenet5-digits", say=print)
        ec.write_report("report.html", report)

    `recipe` is a recipe, its name or its path; artifacts lie in `out`, which is runs/RECIPE where it is left out. `say`
    gets a line for each step; `trust_code` lets the Python file of `model.python` run. `targets` are some of the
    recipe's; left out: all of them. Returns the report of the target that is this machine, or a tuple of them where not
    just one is; () where it ends with an earlier step, `until`. Raises `DeviceError` where a target is not this machine
    (what can be made here is made), and the errors of the steps; the files made before stay.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(os.fspath(recipe))
    outcome = run_recipe(
        recipe,
        run_folder(recipe, None if out is None else Path(out)),
        say,
        until=until,
        targets=targets,
        threads=threads,
        trust_code=trust_code,
    )
    if outcome.elsewhere:
        first = outcome.elsewhere[0]
        raise DeviceError(f"{first} ({first.why})", _how_to_go_on(first, outcome.folder))
    return outcome.reports[0] if len(outcome.reports) == 1 else outcome.reports


@listing_each_folder_once()
def run_recipe(
    recipe: Recipe,
    folder: Path,
    say: Say,
    *,
    until: StepName = STEPS[-1],
    targets: Sequence[str] = (),
    threads: int | None = None,
    trust_code: bool = False,
    progress: ProgressFor = lambda step: None,
) -> Outcome:
    """Bring every file of the recipe up to date, as far as this machine can.

    Tasks of targets that are not this machine are left out: what can be made here is made, up to the graphs, and the
    command to go on with is in the outcome. `targets` are some of the recipe's; left out: all of them. Raises
    `RecipeError` for a target that the recipe does not name, and the errors of the steps; the files made before stay.
    """
    require_at_least(1, threads=threads)
    require_one_of("until", until, StepName)
    recipe = _only(recipe, targets)
    shop = Workshop(recipe, folder, threads, progress, trust_code=trust_code)
    tasks = [t for t in all_tasks(shop) if STEPS.index(t.step) <= STEPS.index(until)]
    asked = [name for name in recipe.targets if until not in HOST_STEPS]
    absent = {name: why for name in asked if (why := _absent(name, threads))}
    tasks = [t for t in tasks if t.target not in absent]
    due = stale_tasks(tasks)
    if any(task.target == HOST for task, _ in due):
        check_recipe(recipe, trust_code=trust_code)
    for task, reason in due:
        _do(task, reason, folder, say)
    if not due:
        say(f"{folder}: everything is up to date")
    present = [name for name in asked if name not in absent and until == STEPS[-1]]
    reports = tuple(read_report(folder / name / REPORT)[0] for name in present)
    elsewhere = tuple(_not_measured(recipe, folder, name, why, until) for name, why in absent.items())
    for one in elsewhere:
        say(f"{one.target} is not this machine ({one.why}): {_how_to_go_on(one, folder)}")
    return Outcome(folder, len(due), reports, elsewhere)


def _only(recipe: Recipe, targets: Sequence[str]) -> Recipe:
    for name in targets:
        if name not in recipe.targets:
            raise RecipeError(
                f"target {name!r}: {recipe.path} has {', '.join(recipe.targets)}",
                nearest(name, recipe.targets) or f"name one of these, or give --set 'targets=[\"{name}\"]'",
            )
    return dataclasses.replace(recipe, targets=tuple(dict.fromkeys(targets))) if targets else recipe


def _do(task: Task, reason: str, folder: Path, say: Say) -> None:
    where = task.output.relative_to(folder)
    say(f"{task.step:<10} {where}: {reason}")
    started = time.perf_counter()
    task.make()
    for note in _notes(task):
        say(f"{'':<10} {where}: {note}")
    say(f"{'':<10} {where}: done in {time.perf_counter() - started:.1f} s")


def _notes(task: Task) -> list[str]:
    """What a network's weights and its export had done to them."""
    key = {"train": "weights_notes", "export": "changes"}.get(task.step)
    return list(read_sidecar(task.output).facts.get(key, ())) if key else []


def _absent(name: str, threads: int | None) -> str | None:
    """Why the target is not this machine, or None when it is."""
    target = find_target(name)
    try:
        return target_mismatch(target, load_backend(target.backend).device(threads))
    except EdgecnnError as exc:
        return exc.message


def _not_measured(recipe: Recipe, folder: Path, target: str, why: str, until: StepName) -> NotMeasured:
    steps = [s for s in STEPS[: STEPS.index(until) + 1] if s in DEVICE_STEPS]
    engines = [v.name for v in variants_of(recipe, on_cpu=find_target(target).kind == "cpu")]
    changed = [part for override in recipe.overrides for part in ("--set", override)]
    command = shlex.join(["edgecnn", "run", str(recipe.path), "--target", target, "--out", str(folder), *changed])
    return NotMeasured(target, why, tuple(steps), tuple(engines), command)


def _how_to_go_on(one: NotMeasured, folder: Path) -> str:
    return f"copy {folder}/ and the recipe to the device and go on there with `{one.command}`"
