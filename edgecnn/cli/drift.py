"""`edgecnn drift`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import print_line, print_text

if TYPE_CHECKING:
    from edgecnn.results.drift import Drift

EXAMPLES = """
edgecnn drift reference.jsonl camera.jsonl  # needs the log of `edgecnn monitor`
edgecnn drift runs/lenet5-digits camera.jsonl --last 24  # needs the log of `edgecnn monitor`
"""


def drift(
    reference: Annotated[
        Path, typer.Argument(help="A log, a run folder, its reference.npz, or logits as .npy or .npz.")
    ],
    log: Annotated[Path, typer.Argument(help="The log of `edgecnn monitor`.")],
    last: Annotated[
        float | None, typer.Option(min=1, max=1e6, help="Only the last so many hours of the log.  [default: all]")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Say what moved beyond sampling noise.

    From a reference to the log of a monitor: classes, confidence, statistics of the input.
    Exit code 0: nothing did, 1: something did, 3: too few images to say.
    """
    from edgecnn.inspection.drift import drift as compared
    from edgecnn.records import to_plain

    found = compared(reference, log, last_hours=last)
    if as_json:
        print_json(to_plain(found))
    else:
        _print(found)
    return found.exit_code


def _print(found: Drift) -> None:
    rows = [_row(s.name, found) for s in found.statistics]
    print_rows(rows, ["statistic", "independent", "distance", "limit", "p", "reference", "log", "moved"])
    for one in found.classes:
        low, high = one.difference_ci_pp
        print_text(
            f"class {one.label_name}: {one.reference_pct:.2f} % -> {one.log_pct:.2f} % "
            f"({one.difference_pp:+.2f} pp [{low:.2f}, {high:.2f}])"
        )
    if found.least_certain:
        print_line("least certain:")
        for image in found.least_certain:
            told = "not finite" if image.confidence is None else f"{100 * image.confidence:5.1f} %"
            print_line(f"  {told}  {image.image}")
    for note in found.notes:
        print_text(note)
    if found.verdict == "drift":
        print_line(f"drift: {', '.join(found.moved)}")
    elif found.verdict == "too few":
        print_text(f"too few images to say: {found.n_reference} and {found.n_log}")
    else:
        print_text(f"no drift (at {100 * found.level:g} % for all statistics together)")


def _row(name: str, found: Drift) -> dict[str, str]:
    s = next(row for row in found.statistics if row.name == name)
    return {
        "statistic": s.name,
        "independent": f"{s.independent_reference}, {s.independent_log}",
        "distance": f"{s.distance:.3f}",
        "limit": f"{s.resolvable_distance:.3f}",
        "p": f"{s.p:.4f}",
        "reference": "-" if s.median_reference is None else f"{s.median_reference:.4g}",
        "log": "-" if s.median_log is None else f"{s.median_log:.4g}",
        "moved": "yes" if s.moved else "no",
    }
