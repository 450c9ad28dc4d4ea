"""Commands on the zoo: models."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.printing import print_json, print_rows


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(models)


def models(
    family: Annotated[str, typer.Option(help="Only this family.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the networks of the zoo."""
    from edgecnn.errors import ModelError, nearest
    from edgecnn.zoo import cards

    families = {card.family for card in cards().values()}
    if family and family not in families:
        raise ModelError(
            f"no family {family!r}", nearest(family, families) or f"families: {', '.join(sorted(families))}"
        )
    rows = [
        {
            "name": card.name,
            "family": card.family,
            "year": card.year,
            "params": card.params,
            "macs": card.macs,
            "input_shape": list(card.input_shape),
            "top1_pct": card.top1_pct,
            "weights": card.weights.url if card.weights else None,
            "paper": card.paper,
        }
        for card in cards().values()
        if family in ("", card.family)
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "family", "year", "params", "macs", "input_shape", "top1_pct"])
