"""`edgecnn build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, THREADS
from edgecnn.cli.printing import print_json, say
from edgecnn.recipe.schema import HardwareCompatibility


def build(
    graph: Annotated[Path, typer.Argument(help="An ONNX graph; its precision is in the graph.")],
    backend: Annotated[str, typer.Option(help="ort or trt.  [default: the target's, or ort]")] = "",
    target: Annotated[str, typer.Option(help="`edgecnn targets` lists them.  [default: cpu, or gpu for trt]")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The engine.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest batch.")] = None,
    threads: Annotated[int | None, THREADS] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="TensorRT's limit; from free memory if left out.")
    ] = None,
    optimization_level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT's; 5 builds longest.")] = None,
    hardware_compatibility: Annotated[
        HardwareCompatibility, typer.Option(help="On which other GPUs the plan shall run too, slower.")
    ] = "none",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs on newer TensorRTs too: slower, loads with --trust only.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT's, to pin a build; kept per device if left out.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Build an engine for a target, and check that it runs."""
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.recipe.schema import BatchSettings
    from edgecnn.records import to_plain
    from edgecnn.steps.build import build as step

    engine = step(
        graph,
        output,
        target=target,
        backend=backend,
        batch=BatchSettings(max=max_batch or BatchSettings().max),
        threads=threads,
        workspace_mb=workspace_mb,
        optimization_level=optimization_level,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    made = read_sidecar(engine)
    say(f"{engine}: built for {made.target}")
    if as_json:
        print_json(
            {"engine": str(engine), "target": made.target, "sha256": made.sha256, "device": to_plain(made.device)}
        )
