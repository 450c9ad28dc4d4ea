"""Commands that make what is measured: reference, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.printing import print_json, say

DATA = typer.Option(help="digits, mnist:DIR, cifar10:DIR, an image folder, a manifest, or an .npz.")


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(reference)
    app.command()(build)


def reference(
    source: Annotated[Path, typer.Argument(help="A checkpoint (.safetensors), or a graph (.onnx).")],
    data: Annotated[str, DATA],
    output: Annotated[Path, typer.Option("-o", "--output", help="The predictions.")] = Path("reference.npz"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Save the predictions that engines are compared with."""
    from edgecnn.pipeline.single import make_reference

    facts = make_reference(source, data, output, threads)
    say(f"{output}: {facts['n']} predictions of {source}")
    if as_json:
        print_json(facts)


def build(
    graph: Annotated[Path, typer.Argument(help="An ONNX graph; its precision is in the graph.")],
    backend: Annotated[str, typer.Option(help="ort or trt.")] = "ort",
    target: Annotated[str, typer.Option(help="`edgecnn targets` lists them.  [default: cpu, or gpu for trt]")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The engine.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest batch.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Build an engine for a target, and check that it runs."""
    from edgecnn.pipeline.single import build_engine

    facts = build_engine(graph, backend, target, output, max_batch, threads)
    say(f"{facts['engine']}: built for {facts['target']}")
    if as_json:
        print_json(facts)
