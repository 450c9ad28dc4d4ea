"""Run a recipe: redo what is stale, say why, and end with the verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.hold import held
from edgecnn.artifact.run_folder import REPORT, read_report
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.stale import stale_reason
from edgecnn.artifact.write import require_writable
from edgecnn.backends import load_backend
from edgecnn.bundle.manifest import installed_bundle
from edgecnn.data.open import listing_each_folder_once
from edgecnn.errors import ArtifactError, DataError, DeviceError, EdgecnnError, RecipeError, nearest
from edgecnn.pipeline.device import bundled_images
from edgecnn.pipeline.find import find_recipe_and_folder, run_folder
from edgecnn.pipeline.implicit import require_implicit
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.tasks import all_tasks
from edgecnn.pipeline.workshop import HOST, ProgressFor, Task, Workshop
from edgecnn.recipe.location import is_here
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import worst_exit_code
from edgecnn.steps import HOST_STEPS, STEPS, StepName
from edgecnn.steps._arguments import require_at_least, require_one_of
from edgecnn.steps._shared import is_first
from edgecnn.steps.recipe_copy import keep_recipe
from edgecnn.steps.train import holds_finished_weights, make_way, take_back
from edgecnn.targets import find_target, target_mismatch

Say = Callable[[str], None]
DEVICE_STEPS = ("build", "validate", "bench")


@dataclass(frozen=True)
class NotMeasured:
    """A target that is not this machine: why, which steps remain for which engines, the command that packs the run for
    it, and the one to go on with there."""

    target: str
    why: str
    steps: tuple[str, ...]
    engines: tuple[str, ...]
    pack: str
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
    retrain: bool = False,
    say: Say = lambda line: None,
) -> RunReport | tuple[RunReport, ...]:
    """Bring a recipe up to date, from training to the verdict; redo only what is stale.

        import edgecnn as ec
        report = ec.run("lenet5-digits", say=print)
        ec.write_report("report.html", report)

    `recipe` is a recipe, its name or its path, a run folder, or a bundle (.tar); artifacts lie in `out`, which is
    runs/RECIPE where it is left out. `say` gets a line for each step; `trust_code` lets the Python file of
    `model.python` run, `retrain` replaces finished weights that are not those of the settings. `targets` are some of
    the recipe's; left out: all of them. Returns the report of the target that is this machine, or a tuple of them where
    not just one is; () where it ends with an earlier step, `until`. Raises `DeviceError` where a target is not this
    machine (what can be made here is made), and the errors of the steps; the files made before stay.
    """
    where = None if out is None else Path(out)
    if isinstance(recipe, Recipe):
        folder = run_folder(recipe, where)
    else:
        recipe, folder = find_recipe_and_folder(os.fspath(recipe), (), where, say)
    outcome = run_recipe(
        recipe,
        folder,
        say,
        until=until,
        targets=targets,
        threads=threads,
        trust_code=trust_code,
        retrain=retrain,
    )
    if outcome.elsewhere:
        first = outcome.elsewhere[0]
        raise DeviceError(f"{first} ({first.why})", _how_to_go_on(first))
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
    retrain: bool = False,
) -> Outcome:
    """Bring every file of the recipe up to date, as far as this machine can.

    Tasks of targets that are not this machine are left out: what can be made here is made, up to the graphs, and the
    commands to go on with are in the outcome. `targets` are some of the recipe's; left out: all of them. The folder is
    held meanwhile, and carries the recipe from then on. Raises `RecipeError` for a target that the recipe does not
    name, `ArtifactError` where finished weights would be replaced without `retrain`, and where a file that a bundle
    brought is not the recipe's; and the errors of the steps; the files made before stay.
    """
    require_at_least(1, threads=threads)
    require_one_of("until", until, StepName)
    own = _only(recipe, targets)
    shop = Workshop(
        own, folder, threads, progress, trust_code=trust_code, images=bundled_images(own, folder), retrain=retrain
    )
    with held(folder) if is_first() else contextlib.nullcontext():
        return _run(shop, recipe, until, say)


@listing_each_folder_once()
def plan(
    recipe: Recipe,
    folder: Path,
    *,
    until: StepName = STEPS[-1],
    targets: Sequence[str] = (),
    threads: int | None = None,
    retrain: bool = False,
    say: Say = lambda line: None,
) -> list[tuple[Task, str]]:
    """Each task that a run would do on this machine now, and why; nothing is done, nothing is written. What a run would
    refuse, finished weights or what a bundle has brought, is said."""
    require_one_of("until", until, StepName)
    recipe = _only(recipe, targets)
    shop = Workshop(recipe, folder, threads, images=bundled_images(recipe, folder), retrain=retrain)
    due = stale_tasks(_tasks(shop, until, _absent_targets(shop, until)))
    try:
        _require_allowed(due, shop)
    except ArtifactError as exc:
        say(f"a run would refuse this: {exc.message}")
    return due


def _run(shop: Workshop, whole: Recipe, until: StepName, say: Say) -> Outcome:
    """`whole` is the recipe with all of its targets: what the folder carries."""
    recipe, folder = shop.recipe, shop.folder
    absent = _absent_targets(shop, until)
    tasks = _tasks(shop, until, absent)
    if is_first() and take_back(tasks[0].output, tasks[0].expected(), tasks[0].parents):
        say(f"{tasks[0].step:<10} {tasks[0].output.name}: the weights of before --retrain are taken back")
    due = stale_tasks(tasks)
    _require_allowed(due, shop)
    _require_images(due, shop)
    for folder_of in {task.output.parent for task, _ in due}:
        require_writable(folder_of)
    require_implicit(recipe, {t.target for t, _ in due if t.step == "build"}, shop.threads)
    if any(task.target == HOST for task, _ in due):
        check_recipe(recipe, trust_code=shop.trust_code)
    if is_first() and (due or os.access(folder, os.W_OK)):
        keep_recipe(whole, folder)
    for task, reason in due:
        _do(task, reason, folder, say)
    if not due:
        say(f"{folder}: everything is up to date")
    present = [name for name in recipe.targets if name not in absent and until == STEPS[-1]]
    reports = tuple(read_report(folder / name / REPORT)[0] for name in present)
    elsewhere = tuple(_not_measured(recipe, folder, name, why, until) for name, why in absent.items())
    elsewhere = tuple(one for one in elsewhere if one.steps)
    for one in elsewhere:
        say(f"{one.target} is not this machine ({one.why}): {_how_to_go_on(one)}")
    return Outcome(folder, len(due), reports, elsewhere)


def _only(recipe: Recipe, targets: Sequence[str]) -> Recipe:
    for name in targets:
        if name not in recipe.targets:
            raise RecipeError(
                f"target {name!r}: {recipe.path} has {', '.join(recipe.targets)}",
                nearest(name, recipe.targets) or f"name one of these, or give --set 'targets=[\"{name}\"]'",
            )
    return dataclasses.replace(recipe, targets=tuple(dict.fromkeys(targets))) if targets else recipe


def _tasks(shop: Workshop, until: StepName, absent: Mapping[str, str]) -> list[Task]:
    tasks = [t for t in all_tasks(shop) if STEPS.index(t.step) <= STEPS.index(until)]
    return [t for t in tasks if t.target not in absent or (t.step == "build" and _builds_here(t.target))]


def _absent_targets(shop: Workshop, until: StepName) -> dict[str, str]:
    """Each target that is asked for and is not this machine, and why."""
    targets = [name for name in shop.recipe.targets if until not in HOST_STEPS]
    return {name: why for name in targets if (why := _absent(name, shop.threads))}


def _require_allowed(due: Sequence[tuple[Task, str]], shop: Workshop) -> None:
    """Raise `ArtifactError` where finished weights would be replaced unasked, or what a bundle has brought."""
    on_host = [(task, reason) for task, reason in due if task.target == HOST]
    if on_host and installed_bundle(shop.folder) is not None:
        own = ((t, stale_reason(t.output, t.expected(), t.parents)) for t, _ in on_host if t.output.exists())
        task, reason = next(((t, why) for t, why in own if why is not None), on_host[0])
        raise ArtifactError(
            f"{task.output}: {reason}; a device makes nothing that its bundle has to bring",
            "make the bundle again where the weights are: `edgecnn bundle RUN --for TARGET -o FILE.tar`",
        )
    for task, reason in on_host:
        if task.step == "train" and holds_finished_weights(task.output) and not shop.retrain:
            make_way(task.output, False, reason)


def _require_images(due: Sequence[tuple[Task, str]], shop: Workshop) -> None:
    """Raise `DataError`, before engines are built, where a device is to judge by images that it does not have."""
    source, brought = shop.recipe.data.source, installed_bundle(shop.folder) is not None
    missing = brought and shop.images is None and not is_here(source)
    if missing and any(task.step == "validate" for task, _ in due):
        raise DataError(
            f"{shop.folder}: its bundle brought no test images, and here is no {source!r}",
            "say where they are on this machine: --data DIR",
        )


def _do(task: Task, reason: str, folder: Path, say: Say) -> None:
    where = task.output.relative_to(folder)
    say(f"{task.step:<10} {where}: {reason}")
    started = time.perf_counter()
    task.make()
    for note in _notes(task):
        say(f"{'':<10} {where}: {note}")
    say(f"{'':<10} {where}: done in {time.perf_counter() - started:.1f} s")


def _notes(task: Task) -> list[str]:
    """What a network's weights and its export had done to them, and what speaks against its calibration images."""
    key = {"train": "weights_notes", "export": "changes", "quantize": "images_doubted"}.get(task.step)
    found = read_sidecar(task.output).facts.get(key, ()) if key else ()
    return [f"warning: {found}"] if isinstance(found, str) else list(found)


def _absent(name: str, threads: int | None) -> str | None:
    """Why the target is not this machine, or None when it is."""
    target = find_target(name)
    try:
        device = load_backend(target.backend).device(threads)
    except EdgecnnError as exc:
        return exc.message
    if target.built_anywhere and not device.compute_capability:
        return "its plans are built here, and run on a GPU"
    return target_mismatch(target, device)


def _builds_here(name: str) -> bool:
    """Whether an absent target's engines can be built on this machine all the same."""
    target = find_target(name)
    if not target.built_anywhere:
        return False
    try:
        return bool(load_backend(target.backend).tools())
    except EdgecnnError:
        return False


def _not_measured(recipe: Recipe, folder: Path, target: str, why: str, until: StepName) -> NotMeasured:
    remaining = DEVICE_STEPS[1:] if _builds_here(target) else DEVICE_STEPS
    steps = [s for s in STEPS[: STEPS.index(until) + 1] if s in remaining]
    engines = [v.name for v in variants_of(recipe, on_cpu=find_target(target).kind == "cpu")]
    archive = f"{recipe.name}-{target}.tar"
    pack = shlex.join(["edgecnn", "bundle", str(folder), "--for", target, "-o", archive])
    return NotMeasured(target, why, tuple(steps), tuple(engines), pack, shlex.join(["edgecnn", "run", archive]))


def _how_to_go_on(one: NotMeasured) -> str:
    return f"pack it with `{one.pack}`, copy that to the device and go on there with `{one.command}`"
