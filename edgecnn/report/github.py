"""GitHub actions: workflow commands that become annotations; the step summary is the Markdown report."""

from __future__ import annotations

from pathlib import Path

from edgecnn.errors import WriteError
from edgecnn.output import inert
from edgecnn.results.report import RunReport

LEVELS = {"FAIL": "error", "INCONCLUSIVE": "warning", "PASS": "notice"}


def github_annotations(results: RunReport, file: str = "") -> str:
    """One line per judgement that did not pass, then one for the verdict; `file` is the recipe in the repository."""
    verdict = results.verdict
    lines = [
        _command(
            LEVELS[verdict.counts_as(j)],
            f"{results.recipe} {j.name}: {j.tolerance}",
            f"{j.verdict}: {j.evidence}" + ("" if j.limit is None else f" (limit {j.limit:g})"),
            file,
        )
        for j in verdict.checks
        if j.verdict != "PASS"
    ]
    summary = f"{len(verdict.checks)} checks on {results.target}"
    title = f"{results.recipe}: {verdict.verdict}"
    return "\n".join([*lines, _command(LEVELS[verdict.verdict], title, summary, file)]) + "\n"


def append_summary(path: Path, text: str) -> None:
    """Add to the step summary, which other steps write to as well; raises `WriteError`."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as exc:
        raise WriteError(f"{path}: cannot be written: {exc.strerror}", "check GITHUB_STEP_SUMMARY") from exc


def _command(level: str, title: str, message: str, file: str) -> str:
    """A workflow command; % and line ends are escaped, in properties also : and , (actions/toolkit, command.ts)."""
    properties = f"file={_property(file)},line=1," if file else ""
    return f"::{level} {properties}title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return inert(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
