"""Commands that learn: train, from nothing or from weights; probe, linear classifiers on each stage."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.printing import print_json, print_rows, say


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(train)
    app.command()(probe)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or path; `edgecnn recipe list` lists them.")],
    data: Annotated[str, typer.Option(help="In place of the recipe's data.source.")] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as train.epochs=3.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last completed epoch.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; PyTorch's choice when left out.")
    ] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out, counted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Train a recipe's network; the best checkpoint is OUT/model.safetensors."""
    from edgecnn.recipe.load import load_recipe

    overrides = [*(override or ()), *([f"data.source={json.dumps(data, ensure_ascii=False)}"] if data else [])]
    settings = load_recipe(recipe, overrides)
    folder = out or Path("runs") / settings.name
    from edgecnn.pytorch.training.loop import train as run_training
    from edgecnn.pytorch.training.progress import for_terminal

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    try:
        result = run_training(
            settings,
            folder,
            resume=resume,
            threads=threads,
            skip_corrupt=skip_corrupt,
            progress=for_terminal() if first else None,
        )
    except KeyboardInterrupt:
        say(f"the completed epochs are in {folder}: go on with --resume")
        raise
    if not first:
        return
    row = {"name": settings.name, **result.to_json()}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["name", "best_epoch", "validation_top1_pct", "top1_pct", "n", "seconds", "checkpoint"])


def probe(
    model: Annotated[str, typer.Argument(help="A network of the zoo; `edgecnn models` lists them.")],
    data: Annotated[str, typer.Option(help="Labelled images: a data set or an image folder.")],
    weights: Annotated[str, typer.Option(help="default (published), none (random), a path or a URL.")] = "default",
    images: Annotated[int | None, typer.Option(min=2, help="Use at most this many training images.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Linear classifiers on each stage of a trained network: which one knows most about other data."""
    from edgecnn.pytorch.probe import probe as run_probe
    from edgecnn.pytorch.training.progress import Lines

    rows = [row.to_json() for row in run_probe(model, data, weights, images=images, progress=Lines())]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "features", "validation_top1_pct", "n", "top1_pct", "test_n"])
