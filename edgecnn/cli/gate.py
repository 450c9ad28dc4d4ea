"""`edgecnn gate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecnn.cli.options import JSON, RUN, RUN_RECIPE
from edgecnn.cli.printing import print_json, print_report
from edgecnn.output import print_line, print_text, say

if TYPE_CHECKING:
    from edgecnn.results.baseline import Baseline
    from edgecnn.results.report import RunReport

EXAMPLES = """
edgecnn gate runs/lenet5-digits
edgecnn gate runs/lenet5-digits --junit junit.xml --markdown comment.md
"""


def gate(
    run: Annotated[str, RUN],
    recipe: Annotated[str, RUN_RECIPE] = "",
    record: Annotated[bool, typer.Option("--record", help="Accept these numbers for this device from now on.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    github: Annotated[
        bool, typer.Option("--github", help="Print GitHub's annotations, and write its step summary.")
    ] = False,
    gitlab: Annotated[Path | None, typer.Option(help="Write GitLab's code-quality JSON to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a comment for a pull request to this file.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Judge a run by its recipe's tolerances.

    Where the device has a baseline it is judged by that too. Of a whole run every target of the recipe is asked for.
    Exit code 0: passed, 1: failed, 3: not all could be told or measured.
    """
    from edgecnn.gate.baseline import unstable_latencies
    from edgecnn.pipeline.find import find_run, require_no_input, unmeasured_targets
    from edgecnn.records import to_plain
    from edgecnn.report.terminal import closing_line
    from edgecnn.results.verdict import worst_exit_code
    from edgecnn.steps import gate as step
    from edgecnn.steps.report import report_of, report_of_unmeasured

    judged_by, runs = find_run(run, recipe, say)
    require_no_input(runs, junit, gitlab, markdown)
    reports, baselines = [], []
    for measured in runs:
        verdict = step.gate(measured, judged_by, against_baseline=not record)
        reports.append(report_of(measured, judged_by, verdict))
        if not step.is_writable(measured.folder):
            say(f"{measured.folder}: cannot be written to: the verdict is not kept")
        if record:
            step.record(measured, judged_by, verdict)
        path = step.baseline_path(judged_by, measured.device)
        baselines.append(step.read_baseline(path) if path.exists() else None)
    for target in unmeasured_targets(run, judged_by, runs):
        reports.append(report_of_unmeasured(target, judged_by))
        baselines.append(None)
    _write_for_ci(reports, baselines, _shown(judged_by.path), junit, gitlab, markdown)
    if github:
        _to_github(reports, _shown(judged_by.path), to_stderr=as_json)
    if as_json:
        keys = [{"recipe": r.recipe, "target": r.target, "device_key": r.device_key} for r in reports]
        print_json([{**key, **to_plain(r.verdict)} for key, r in zip(keys, reports, strict=True)])
    else:
        for found in reports:
            print_report(found)
            if record and found.measurements:
                say(f"the baseline of {found.device_key}")
                for line in unstable_latencies(found.measurements):
                    say(line)
        print_text(closing_line(reports))
        _say_reports(run, recipe, [str(one.folder) for one in runs])
    return worst_exit_code(r.verdict for r in reports)


def _say_reports(run: str, recipe: str, folders: list[str]) -> None:
    """The command that shows all evidence: of several targets one for each, as `report` takes one."""
    named = {f"{Path(folder).name}.html": folder for folder in folders} if len(folders) > 1 else {"report.html": run}
    for output, judged in named.items():
        words = ["edgecnn", "report", judged, *(["--recipe", recipe] if recipe else []), "-o", output]
        say(f"all evidence: {shlex.join(words)}")


def _shown(recipe: Path) -> str:
    """The recipe's path as CI services know its file: from the folder that the job runs in, without detours."""
    here, there = Path.cwd().resolve(), recipe.resolve()
    return str(there.relative_to(here) if there.is_relative_to(here) else recipe)


def _write_for_ci(
    reports: list[RunReport],
    baselines: list[Baseline | None],
    file: str,
    junit: Path | None,
    gitlab: Path | None,
    markdown: Path | None,
) -> None:
    from edgecnn.artifact.write import write_bytes
    from edgecnn.report.gitlab import gitlab_report
    from edgecnn.report.junit import junit_report
    from edgecnn.report.markdown import markdown_comment

    if junit is not None:
        write_bytes(junit, junit_report(*reports).encode())
    if gitlab is not None:
        write_bytes(gitlab, gitlab_report(*reports, file=file).encode())
    if markdown is not None:
        comments = [markdown_comment(r, b) for r, b in zip(reports, baselines, strict=True)]
        write_bytes(markdown, "\n".join(comments).encode())


def _to_github(reports: list[RunReport], file: str, *, to_stderr: bool) -> None:
    import os

    from edgecnn.report.github import append_summary, github_annotations
    from edgecnn.report.markdown import markdown_report

    for found in reports:
        for line in github_annotations(found, file).splitlines():
            (say if to_stderr else print_line)(line)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            append_summary(Path(summary), markdown_report(found))
