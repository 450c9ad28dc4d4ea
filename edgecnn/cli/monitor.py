"""`edgecnn monitor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import print_text

EXAMPLES = """
edgecnn monitor rows.jsonl -o camera.jsonl  # needs rows, such as `edgecnn predict --jsonl` prints
edgecnn monitor logits.fifo --classes 10 -o camera.jsonl --prometheus camera.prom  # needs a pipe of float32
"""


def monitor(
    source: Annotated[
        str, typer.Argument(help="Logits: lines of JSON in a file, a named pipe or - (standard input); .npy, .npz.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The log, X.jsonl; continued where it is there.")],
    prometheus: Annotated[
        Path | None, typer.Option(help="Also write all counts as Prometheus's text, X.prom, with each line of the log.")
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="The engine whose logits they are: its sidecar names classes and outputs.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=1 << 20, help="The source is bare float32, so many values a row.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Count predictions hour by hour, without keeping images.

    Histograms of the predicted class, its confidence and statistics of the input, until
    the source ends or the process is stopped.
    """
    from edgecnn.inspection.monitor import monitor as count
    from edgecnn.records import to_plain

    found = count(source, output, prometheus=prometheus, engine=engine, classes=classes)
    if as_json:
        print_json(to_plain(found))
        return
    print_text(
        f"{found.log}: {found.n} images of {found.hours} hours, {found.n_new} of them new"
        + (f", {found.not_finite} without finite logits" if found.not_finite else "")
        + (f", {found.backwards} with a time before their predecessor's" if found.backwards else "")
    )
