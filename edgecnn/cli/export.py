"""`edgecnn export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_json, print_rows, say


def export(
    model: Annotated[str, typer.Argument(help="A network of the zoo; `edgecnn models` lists them.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors or .pth of your own.")] = None,
    weights: Annotated[str, typer.Option(help="default (published), none (random), a path or a URL.")] = "default",
    classes: Annotated[int | None, typer.Option(min=1, help="Of the head; the zoo's number when left out.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of class names: one a line, or JSON.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Input height and width.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="MODEL.fp32.onnx when left out.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a network with its weights to ONNX, proven equal to PyTorch in ONNX Runtime."""
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.steps.export import export as step
    from edgecnn.zoo import find_model

    path = step(model, output, checkpoint=checkpoint, weights=weights, classes=classes, labels=labels, size=size)
    made = read_sidecar(path)
    source = weights if checkpoint is None else str(checkpoint)
    for note in made.facts.get("weights_notes", []):
        say(f"{source}: {note}")
    keys = ("classes", "params", "nodes", "max_difference", "seconds", "weights")
    row = {"path": str(path), "name": find_model(model).name, **{k: made.facts[k] for k in keys}}
    row |= {"input_shape": made.facts["input_shape"], "size_mb": path.stat().st_size / 1e6, "sha256": made.sha256}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "input_shape", "params", "nodes", "max_difference", "seconds", "size_mb"])
