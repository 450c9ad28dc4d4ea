"""Options and arguments that several commands share."""

from __future__ import annotations

import typer

DATA = typer.Option(help="digits, mnist:DIR, cifar10:DIR, an image folder, a manifest, or an .npz.")
IMAGES = typer.Option(help="Images: a manifest, a data set, a folder, or an .npz.")
MOST_IMAGES = typer.Option(min=1, help="Use at most this many.")
JSON = typer.Option("--json", help="For machines.")
RECIPE = typer.Argument(help="A recipe's name, or a path to its TOML.")
RUN = typer.Argument(help="A run folder, one of its targets, or a recipe (its run is ./runs/RECIPE).")
RUN_RECIPE = typer.Option(help="The recipe of a run folder.  [default: the one that its results name]")
SET = typer.Option("--set", help="KEY=VALUE, such as train.epochs=3.")
THREADS = typer.Option(min=1, max=1024, help="CPU threads.")
TRUST = typer.Option("--trust", help="Load a plan without a sidecar: it is native code.")
