"""`edgecnn models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.completion import complete_family
from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import print_line, say

EXAMPLES = """
edgecnn models --family resnet
edgecnn models --plot zoo.svg
edgecnn models --plot memory.svg --against memory
edgecnn models --plot deeper.svg --against year
edgecnn models --plot runs.svg --runs runs/lenet5-digits
"""


def models(
    family: Annotated[str, typer.Option(help="List only this family.", autocompletion=complete_family)] = "",
    as_json: Annotated[bool, JSON] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw top-1 against multiply-adds to this .svg instead.")] = None,
    against: Annotated[
        Literal["macs", "memory", "year"],
        typer.Option(help="With --plot: top-1 against multiply-adds or memory, or layers against the paper's year."),
    ] = "macs",
    runs: Annotated[
        list[Path] | None, typer.Option(help="With --plot: draw the latency that this run measured; repeatable.")
    ] = None,
) -> None:
    """List the networks of the zoo, or plot them.

    The plot shows accuracy against complexity, or against the latency that runs measured, or depth over the years.
    """
    from edgecnn.errors import ModelError, RecipeError, nearest
    from edgecnn.zoo import cards

    if runs and (plot is None or family):
        raise RecipeError("--runs goes with --plot and without --family", "give --plot FILE.svg")

    if against != "macs" and (plot is None or runs):
        raise RecipeError(f"--against {against} goes with --plot and without --runs", "give --plot FILE.svg")

    families = {card.family for card in cards().values()}
    if family and family not in families:
        raise ModelError(
            f"no family {family!r}", nearest(family, families) or f"families: {', '.join(sorted(families))}"
        )
    if plot is not None:
        _draw(plot, runs, family, against, as_json)
        return
    rows = [
        {
            "name": card.name,
            "family": card.family,
            "year": card.year,
            "params": card.params,
            "macs": card.macs,
            "peak_activation_bytes": card.peak_activation_bytes,
            "weight_layers": card.weight_layers,
            "input_shape": list(card.input_shape),
            "classes": card.classes,
            "top1_pct": card.top1_pct,
            "top5_pct": card.top5_pct,
            "weights": card.weights.url if card.weights else None,
            "weights_source": card.weights.source if card.weights else None,
            "weights_sha256": card.weights.sha256 or None if card.weights else None,
            "weights_license": card.weights.license if card.weights else None,
            "preprocessing": card.preprocessing,
            "min_size": card.min_size,
            "fixed_size": card.fixed_size,
            "aliases": list(card.aliases),
            "paper": card.paper,
            "notes": card.notes,
        }
        for card in cards().values()
        if family in ("", card.family)
    ]
    if as_json:
        print_json(rows)
    else:
        shown = [{**row, "weights": "yes" if row["weights"] else None} for row in rows]
        print_rows(shown, ["name", "year", "params", "macs", "input_shape", "top1_pct", "weights"])


def _draw(
    plot: Path, runs: list[Path] | None, family: str, against: Literal["macs", "memory", "year"], as_json: bool
) -> None:
    from edgecnn.report.charts.complexity import write_run_plot, write_zoo_plot
    from edgecnn.zoo import cards

    left_out = list[str]()
    if runs:
        write_run_plot(plot, runs)
    else:
        left_out = write_zoo_plot(plot, (card for card in cards().values() if family in ("", card.family)), against)
        if left_out:
            say(f"without a published ImageNet top-1, and so not drawn: {', '.join(left_out)}")
    if as_json:
        print_json({"path": str(plot), "left_out": left_out})
    else:
        print_line(plot)
