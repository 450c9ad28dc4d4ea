"""`edgecnn probe`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.options import ACCEPT_HASH, EMA, JSON, MODEL
from edgecnn.cli.printing import print_json, print_rows

EXAMPLES = """
edgecnn probe squeezenet1_1 --data /data/flowers  # needs data, network access
"""


def probe(
    model: Annotated[str, MODEL],
    data: Annotated[str, typer.Option(help="Labelled images: a data set or an image folder.")],
    weights: Annotated[
        str, typer.Option(help="Of the network: default (published), none (random), a path or a URL.")
    ] = "default",
    ema: Annotated[bool, EMA] = False,
    images: Annotated[int | None, typer.Option(min=2, help="Use at most this many training images.")] = None,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Find which stage of a network suits your data best.

    A linear classifier is trained on the features of each stage.
    """
    from edgecnn.machine.threads import passive_openmp

    with passive_openmp():
        from edgecnn.pytorch.probe import probe as run_probe
    from edgecnn.pytorch.training.progress import Lines
    from edgecnn.records import to_plain

    rows = [to_plain(row) for row in run_probe(model, data, weights, ema=ema, images=images, progress=Lines())]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "features", "validation_top1_pct", "n", "top1_pct", "test_n"])
