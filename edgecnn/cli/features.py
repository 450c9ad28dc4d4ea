"""`edgecnn features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, THREADS, TRUST
from edgecnn.cli.printing import print_json, print_rows, stdout_kept
from edgecnn.cli.progress import Counter
from edgecnn.output import say

EXAMPLES = """
edgecnn features pool.fp32.onnx imgs -o imgs.features.npz  # needs a features graph
"""


def features(
    engine: Annotated[Path, typer.Argument(help="A features engine or graph: `edgecnn export --features pool`.")],
    folder: Annotated[str, typer.Argument(help="A data set, a folder of classes, or an .npz.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The vectors to write, F.npz.")],
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images that run at once.  [default: what the engine serves, up to 64]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write one vector for each image of a folder.

    Training and test images where there are both. Interrupted, the same command goes on where it stopped.
    """
    from edgecnn.steps.features import features as step

    with stdout_kept():
        found = step(
            engine,
            output,
            data=folder,
            batch=batch,
            threads=threads,
            strict=strict,
            trust=trust,
            progress=Counter("features", "images"),
        )
    if found.unreadable:
        say(f"{len(found.unreadable)} images left out, the first: {found.unreadable[0]}")
    row = {"path": str(output), "n": len(found.ids), "n_train": found.splits.count("train")}
    row |= {"n_test": found.splits.count("test"), "dimensions": found.vectors.shape[1]}
    row |= {"unreadable": list(found.unreadable)}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "n", "n_train", "n_test", "dimensions"])
