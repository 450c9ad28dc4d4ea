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
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Save the predictions that engines are compared with."""
    from edgecnn.pipeline.sharing import is_first
    from edgecnn.pipeline.single import make_reference

    facts = make_reference(source, data, output, threads)
    if not is_first():
        return
    say(f"{output}: {facts['n']} predictions of {source}")
    if as_json:
        print_json(facts)


def build(
    graph: Annotated[Path, typer.Argument(help="An ONNX graph; its precision is in the graph.")],
    backend: Annotated[str, typer.Option(help="ort or trt.")] = "ort",
    target: Annotated[str, typer.Option(help="`edgecnn targets` lists them.  [default: cpu, or gpu for trt]")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The engine.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest batch.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="TensorRT's limit; from free memory if left out.")
    ] = None,
    optimisation_level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT's; 5 builds longest.")] = None,
    hardware_compatibility: Annotated[
        str, typer.Option(help="none, same_compute_capability or ampere_plus: runs on other GPUs too, slower.")
    ] = "none",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs on newer TensorRTs too: slower, loads with --trust only.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT's, to pin a build; kept per device if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Build an engine for a target, and check that it runs."""
    from edgecnn.backends import BuildOptions, hardware_compatibility_from_text
    from edgecnn.pipeline.single import build_engine
    from edgecnn.recipe.schema import BatchSettings

    options = BuildOptions(
        target=target,
        batch=BatchSettings(max=max_batch or BatchSettings().max),
        threads=threads,
        workspace_mb=workspace_mb,
        optimisation_level=optimisation_level,
        hardware_compatibility=hardware_compatibility_from_text(hardware_compatibility),
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    facts = build_engine(graph, backend, output, options)
    say(f"{facts['engine']}: built for {facts['target']}")
    if as_json:
        print_json(facts)
