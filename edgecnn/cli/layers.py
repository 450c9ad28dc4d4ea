"""`edgecnn layers`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.on import ON, run_on
from edgecnn.cli.options import ALLOWED, JSON, REQUIRE_SIGNATURE, TRUST
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.output import print_line

EXAMPLES = """
edgecnn layers int8.plan --times  # needs a GPU with TensorRT
edgecnn layers int8.plan --times --on jetson  # needs a device in the network
"""


def layers(
    context: typer.Context,
    engine: Annotated[Path, typer.Argument(help="A .plan with its sidecar.")],
    times: Annotated[bool, typer.Option("--times", help="Run it here and time every layer (needs the GPU).")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Batch size to time.")] = 1,
    queries: Annotated[int, typer.Option(min=1, help="Runs to average over.")] = 50,
    trust: Annotated[bool, TRUST] = False,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    on: Annotated[list[str] | None, ON] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List an engine's layers, their precision and their time."""
    if on:
        run_on(context, on, files=("engine",))
    from edgecnn.inspection.layers import layer_table
    from edgecnn.records import to_plain
    from edgecnn.results.layers import COMPUTE_PRECISIONS, ShareOf

    table = layer_table(engine, timed=times, batch=batch, queries=queries, trust=trust)
    if as_json:
        print_json(to_plain(table))
        return
    columns = ["name", "kind", "precision", "macs", *(["time_ms", "time_pct"] if times else [])]
    print_rows([to_plain(row) for row in table.layers], columns)
    print_line()
    by: list[ShareOf] = ["layers", "macs", "time"] if times else ["layers", "macs"]
    shares = [{"precision": p, **{f"{b} %": table.shares.pct(p, b) for b in by}} for p in COMPUTE_PRECISIONS]
    print_rows([row for row in shares if any(row[f"{b} %"] for b in by)], ["precision", *(f"{b} %" for b in by)])
    print_line(f"layers that quantize or dequantize: {table.shares.quantize_layers:.0f}")
    print_line(f"reformat layers: {table.shares.reformat_layers:.0f}")
