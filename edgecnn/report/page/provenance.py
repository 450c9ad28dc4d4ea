"""Where the numbers come from: device, versions, dates, artifacts, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections import defaultdict

from edgecnn.report.details import RunDetails
from edgecnn.report.page.elements import Html, bullets, element, folded, section, table
from edgecnn.report.tables import conditions
from edgecnn.results.report import RunReport
from edgecnn.version import __version__


def provenance_section(results: RunReport, details: RunDetails) -> Html:
    """Conditions, versions with dates, commands, every artifact, and what could not be shown."""
    made = sorted(a.created for a in results.artifacts if a.created)
    dates = [f"artifacts made from {made[0]} to {made[-1]}"] if made else []
    dates += [f"judged {details.judged}"] if details.judged else []
    rows = [
        (a.path, a.kind, a.made_by, a.created, f"{a.size_mb:.3g}", (a.sha256 or "")[:12], ", ".join(a.parents))
        for a in results.artifacts
    ]
    heads = ["artifact", "kind", "made by", "created", "MB", "sha256", "from"]
    return section(
        "Where the numbers come from",
        bullets([*conditions(results), *dates, *_versions(results)]),
        bullets(details.missing),
        element("h3", "To make them again"),
        element("pre", element("code", "\n".join(commands(results, details)))),
        folded(f"{len(rows)} artifacts", table(heads, rows)),
    )


def _versions(results: RunReport) -> list[str]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for artifact in results.artifacts:
        for package, version in artifact.tools.items():
            found[package].add(version)
    said = ", ".join(f"{package} {' and '.join(sorted(versions))}" for package, versions in sorted(found.items()))
    return [f"page written by edgecnn {__version__}", *([f"made with {said}"] if said else [])]


def commands(results: RunReport, details: RunDetails) -> list[str]:
    """What makes the run anew, judges it again, and writes this page."""
    folder, recipe = shlex.quote(details.folder), shlex.quote(details.recipe or results.recipe)
    if not details.folder:
        return [f"edgecnn run {recipe}"]
    return [f"edgecnn run {recipe} --out again", f"edgecnn gate {folder}", f"edgecnn report {folder} -o report.html"]
