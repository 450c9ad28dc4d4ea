"""`edgecnn run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecnn.cli.on import ON
from edgecnn.cli.options import (
    ACCEPT_HASH,
    CALIBRATION_DATA,
    JSON,
    RECIPE_DATA,
    RUNNABLE,
    SET,
    TARGETS,
    THREADS,
    TRUST_CODE,
)
from edgecnn.cli.printing import print_json, print_report, print_rows, stdout_kept
from edgecnn.cli.progress import step_counter
from edgecnn.output import print_lines, print_text, say
from edgecnn.steps import StepName

if TYPE_CHECKING:
    from edgecnn.recipe.schema import Recipe

EXAMPLES = """
edgecnn run lenet5-digits
edgecnn run mine.toml --trust-code  # needs a recipe with model.python
edgecnn run lenet5-digits --target cpu
edgecnn run lenet5-digits --set train.epochs=1 --until quantize --out runs/quick
edgecnn run resnet20-cifar10-orin --data DIR --set model.weights=FILE  # needs images and weights
edgecnn run mobilenet_v2-orin --data DIR --rebuilds 3  # needs an Orin with TensorRT
edgecnn run lenet5-digits --dry-run
edgecnn run lenet5-digits.tar --out runs/device  # needs a bundle
edgecnn run mobilenet_v2-orin --data DIR --on jetson --on desk  # needs devices in the network
"""


def run(
    recipe: Annotated[str, RUNNABLE],
    until: Annotated[StepName, typer.Option(help="Stop after this step.")] = "report",
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    data: Annotated[str, RECIPE_DATA] = "",
    calibration_data: Annotated[str, CALIBRATION_DATA] = "",
    target: Annotated[list[str] | None, TARGETS] = None,
    set_: Annotated[list[str] | None, SET] = None,
    rebuilds: Annotated[
        int | None,
        typer.Option(min=1, help="Build each engine so often, judge the worst, keep the median: build.rebuilds."),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again where finished weights are not those of the settings.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and why, and do nothing.")] = False,
    threads: Annotated[int | None, THREADS] = None,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    on: Annotated[list[str] | None, ON] = None,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Bring a recipe up to date, from training to the verdict.

    Only what is stale is made again, and why is said; finished weights only with --retrain. A target that is not this
    machine is prepared up to its graphs.

    Exit code 0: passed, 1: failed, 3: not all could be told or measured.
    """
    from edgecnn.pipeline.find import find_recipe_and_folder
    from edgecnn.pipeline.run import plan, run_recipe
    from edgecnn.records import to_plain
    from edgecnn.report.terminal import closing_line
    from edgecnn.steps.report import report_of_unmeasured

    changes = [*(set_ or ()), *([f"build.rebuilds={rebuilds}"] if rebuilds is not None else [])]
    loaded, folder = find_recipe_and_folder(
        recipe, changes, out, say, data=data, calibration_data=calibration_data, write=not dry_run
    )
    if dry_run:
        due = [
            {"step": task.step, "output": str(task.output), "why": why}
            for task, why in plan(
                loaded, folder, until=until, targets=target or (), threads=threads, retrain=retrain, say=say
            )
        ]
        if as_json:
            print_json({"folder": str(folder), "due": due})
        elif due:
            print_rows(due, ["step", "output", "why"])
        else:
            say(f"{folder}: everything is up to date")
        return 0
    settings: Any = {"until": until, "targets": target or (), "threads": threads, "trust_code": trust_code}
    settings |= {"retrain": retrain, "progress": step_counter}
    if on:
        return _run_on(loaded, folder, on, as_json, settings)
    with stdout_kept():
        outcome = run_recipe(loaded, folder, say, **settings)
    if as_json:
        reports, missing = to_plain(outcome.reports), to_plain(outcome.elsewhere)
        print_json({"folder": str(outcome.folder), "done": outcome.done, "reports": reports, "not_measured": missing})
        return outcome.exit_code
    for found in outcome.reports:
        print_report(found)
        say(f"the whole report: {outcome.folder / found.target / 'report.md'}")
    for one in outcome.elsewhere:
        print_text(one)
    if outcome.reports:
        print_text(
            closing_line([*outcome.reports, *(report_of_unmeasured(o.target, loaded) for o in outcome.elsewhere)])
        )
    return outcome.exit_code


def _run_on(recipe: Recipe, folder: Path, hosts: list[str], as_json: bool, settings: Any) -> int:
    """On other machines, each of which is judged."""
    from edgecnn.errors import RemoteError
    from edgecnn.pipeline.on_hosts import run_on_hosts
    from edgecnn.records import to_plain
    from edgecnn.report.devices import best_by_tolerance, devices_lines

    with stdout_kept():
        found = run_on_hosts(recipe, folder, hosts, say, **settings)
    lost = [host for host in found.hosts if host.not_judged]
    if len(lost) == len(found.hosts) == 1:
        raise RemoteError(lost[0].not_judged, lost[0].hint)
    if as_json:
        best = to_plain(best_by_tolerance(found.hosts))
        print_json({"folder": str(folder), "done": found.done, "hosts": to_plain(found.hosts), "best": best})
    else:
        print_lines(devices_lines(found.hosts))
        for host in found.hosts:
            for report in host.reports:
                say(f"{host.host}: the whole report: {Path(host.folder) / report.target / 'report.md'}")
    for host in lost:
        say(f"error: {host.not_judged}")
        say(f"hint: {host.hint}")
    return found.exit_code
