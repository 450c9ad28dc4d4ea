"""Commands on the zoo: models, summary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.printing import print_json, print_rows, say


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(models)
    app.command()(summary)


def models(
    family: Annotated[str, typer.Option(help="Only this family.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw top-1 against multiply-adds to this .svg instead.")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option(help="With --plot: draw the latency that this run measured; repeatable.")
    ] = None,
) -> None:
    """List the networks of the zoo, or draw them: accuracy against complexity."""
    from edgecnn.errors import ModelError, RecipeError, nearest
    from edgecnn.zoo import cards

    if runs and (plot is None or family):
        raise RecipeError("--runs goes with --plot and without --family", "give --plot FILE.svg")

    families = {card.family for card in cards().values()}
    if family and family not in families:
        raise ModelError(
            f"no family {family!r}", nearest(family, families) or f"families: {', '.join(sorted(families))}"
        )
    if plot is not None:
        _draw(plot, runs, family)
        return
    rows = [
        {
            "name": card.name,
            "family": card.family,
            "year": card.year,
            "params": card.params,
            "macs": card.macs,
            "input_shape": list(card.input_shape),
            "classes": card.classes,
            "top1_pct": card.top1_pct,
            "top5_pct": card.top5_pct,
            "weights": card.weights.url if card.weights else None,
            "weights_source": card.weights.source if card.weights else None,
            "weights_sha256": card.weights.sha256 or None if card.weights else None,
            "weights_licence": card.weights.licence if card.weights else None,
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
        print_rows(
            rows, ["name", "family", "year", "params", "macs", "input_shape", "top1_pct", "weights_source", "paper"]
        )


def summary(
    model: Annotated[str, typer.Argument(help="A network of the zoo; `edgecnn models` lists them.")],
    classes: Annotated[int | None, typer.Option(min=1, help="Of the head; the zoo's number when left out.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width; the network's when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print a network layer by layer, for one image: shapes, parameters, multiply-adds, activation memory."""
    from edgecnn.zoo import check_size, find_model

    card = find_model(model)
    if size is not None:
        check_size(card, size, size)
    from edgecnn.pytorch.summary import summarise

    found = summarise(card.name, classes, size)
    content = found.to_json()
    if as_json:
        print_json(content)
        return
    columns = ["name", "type", "output_shape", "params", "weights", "macs", "activation_bytes"]
    totals = {"name": "total", **{c: content[c] for c in columns[3:]}}
    print_rows([*content["layers"], totals], columns)
    if found.auxiliary:
        print()
        print("in training only, and in no total:")
        print_rows(content["auxiliary"], ["name", "type", "params", "weights"])
    print()
    print(f"stages, first to last: {' '.join(found.stages)}; head: {' '.join(found.head)}")
    print(
        f"{found.model} for {'x'.join(map(str, found.input_shape))} and {found.classes} classes: "
        f"{found.params / 1e6:.2f} M parameters, {found.macs / 1e6:.1f} M multiply-adds, "
        f"{found.params * 4 / 1e6:.1f} MB of weights and {found.activation_bytes / 1e6:.1f} MB of activations in "
        f"float32, of which at most {found.peak_activation_bytes / 1e6:.1f} MB are needed at once"
    )


def _draw(plot: Path, runs: list[Path] | None, family: str) -> None:
    from edgecnn.report.charts.complexity import write_run_plot, write_zoo_plot
    from edgecnn.zoo import cards

    if runs:
        write_run_plot(plot, runs)
    else:
        left_out = write_zoo_plot(plot, (card for card in cards().values() if family in ("", card.family)))
        if left_out:
            say(f"without a published ImageNet top-1, and so not drawn: {', '.join(left_out)}")
    print(plot)
