"""`edgecnn train`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ACCEPT_HASH, JSON, MAKING_THREADS, RECIPE, SET, SKIP_CORRUPT
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import say

EXAMPLES = """
edgecnn train lenet5-digits --set train.epochs=1 --out runs/quick
edgecnn train resnet20-cifar10 --data cifar10:/data/cifar10  # needs data
edgecnn train resnet20-cifar10 --qat --set qat.epochs=2  # needs its run, and data
"""


def train(
    recipe: Annotated[str, RECIPE],
    data: Annotated[
        str, typer.Option(help="Train on this data set or folder in place of the recipe's data.source.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/RECIPE]")] = None,
    override: Annotated[list[str] | None, SET] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last completed epoch of an interrupted run.")
    ] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Replace finished weights; they stay as .previous until then.")
    ] = False,
    threads: Annotated[int | None, MAKING_THREADS] = None,
    skip_corrupt: Annotated[bool, SKIP_CORRUPT] = False,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the INT8 graphs of OUT, quantized as the recipe says, for qat.epochs.")
    ] = False,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a recipe's network, or with --qat its INT8 graphs.

    The checkpoint of the best epoch is OUT/model.safetensors. Under torchrun several processes train it. With --qat the
    float32 graph and its ranges must be in OUT (`edgecnn run RECIPE --until calibrate`), and one process trains.
    """
    from edgecnn.artifact.hold import held
    from edgecnn.recipe.load import load_recipe
    from edgecnn.records import to_plain

    settings = load_recipe(recipe, override or (), data=data)
    folder = out or Path("runs") / settings.name
    from edgecnn.pytorch.training.progress import open_progress
    from edgecnn.steps.qat import train_quantized
    from edgecnn.steps.train import train as train_float

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    try:
        with held(folder) if first else contextlib.nullcontext():
            made = (train_quantized if qat else train_float)(
                settings,
                folder,
                resume=resume,
                retrain=retrain,
                threads=threads,
                skip_corrupt=skip_corrupt,
                progress=open_progress() if first else None,
            )
    except KeyboardInterrupt:
        say(f"the completed epochs are in {folder}: go on with --resume")
        raise
    if not first:
        return
    results = made if isinstance(made, tuple) else (made,)
    rows = [{"name": settings.name, **to_plain(result)} for result in results]
    if as_json:
        print_json(rows if qat else rows[0])
        return
    columns = ["best_epoch", "validation_top1_pct", "top1_pct", "n", "seconds"]
    print_rows(
        rows, ["name", *(["scheme"] if qat else []), *columns, *(["sqnr_db", "graph"] if qat else ["checkpoint"])]
    )
