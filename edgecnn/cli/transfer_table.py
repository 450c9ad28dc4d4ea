"""`edgecnn transfer-table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.completion import complete_model, complete_recipe
from edgecnn.cli.options import ACCEPT_HASH, JSON, MAKING_THREADS, SET
from edgecnn.cli.printing import print_json, stdout_kept
from edgecnn.cli.progress import step_counter
from edgecnn.output import print_lines, say

EXAMPLES = """
edgecnn transfer-table /data/flowers --model resnet18  # needs images, network access
edgecnn transfer-table DIR --model squeezenet1_1 --weights FILE --last-stages 3  # needs images, weights
"""


def transfer_table(
    data: Annotated[str, typer.Argument(help="Labelled images with a training and a test split, as --data of `run`.")],
    model: Annotated[list[str], typer.Option(help="A network of the zoo; repeatable.", autocompletion=complete_model)],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A start for each --model, in order: a path or a URL.  [default: the published ones]"),
    ] = None,
    last_stages: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Also fine-tune the last N stages and the head; repeatable.  [default: 2]"),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="Whose settings all rows share.  [default: transfer-hymenoptera]",
            autocompletion=complete_recipe,
            show_default=False,
        ),
    ] = "",
    override: Annotated[list[str] | None, SET] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the table and its runs.  [default: runs/transfer-table]"),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw the rows: X.svg.")] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again where finished weights are not those of the settings.")
    ] = False,
    threads: Annotated[int | None, MAKING_THREADS] = None,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Find whether to fine-tune on your images, and how much.

    For each network: a new head on frozen features, the last N stages, every layer,
    and every layer from scratch, on the same split: top-1 with paired intervals,
    minutes, parameters, what INT8 loses; and a linear classifier on each stage.
    Interrupted, the same command goes on with what is complete.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.pipeline.transfer_table import LAST_STAGES, RECIPE
    from edgecnn.pipeline.transfer_table import transfer_table as make_table
    from edgecnn.records import to_plain
    from edgecnn.report.charts.transfer import transfer_svg
    from edgecnn.report.transfer import transfer_text

    if svg is not None:
        check_output(svg, ".svg", option="--svg")
    with stdout_kept():
        found = make_table(
            data,
            out,
            models=model,
            weights=weights or (),
            last_stages=last_stages or LAST_STAGES,
            recipe=recipe or RECIPE,
            overrides=override or (),
            threads=threads,
            retrain=retrain,
            say=say,
            progress=step_counter,
        )
    if svg is not None:
        write_bytes(svg, transfer_svg(found).encode())
    if as_json:
        print_json(to_plain(found))
    else:
        print_lines(transfer_text(found))
