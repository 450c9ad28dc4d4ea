"""Commands that make FP32 graphs: export, from a network of the zoo; import, from somebody else's graph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.printing import print_json, print_rows, say


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(export)
    app.command("import")(import_)


def export(
    model: Annotated[str, typer.Argument(help="A network of the zoo; `edgecnn models` lists them.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors or .pth of your own.")] = None,
    weights: Annotated[str, typer.Option(help="default (published), none (random), a path or a URL.")] = "default",
    classes: Annotated[int | None, typer.Option(min=1, help="Of the head; the zoo's number when left out.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of class names: one a line, or JSON.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Input height and width.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="MODEL.fp32.onnx when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Export a network with its weights to ONNX, proven equal to PyTorch in ONNX Runtime."""
    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.artifact.write import check_output
    from edgecnn.data.label_file import read_labels
    from edgecnn.errors import ModelError
    from edgecnn.zoo import check_size, find_model

    card = find_model(model)
    if size is not None:
        check_size(card, size, size)
    if checkpoint is not None and weights != "default":
        raise ModelError(
            f"--checkpoint {checkpoint} and --weights {weights} are two sources of one network's weights",
            "give one of them",
        )
    names = None if labels is None else list(read_labels(labels)[0])
    path = output or Path(f"{card.name}.fp32.onnx")
    check_output(path, ".onnx", checkpoint)
    from edgecnn.pytorch.export.exporter import export_model

    source = weights if checkpoint is None else str(checkpoint)
    made: Sidecar = export_model(card.name, path, weights=source, classes=classes, size=size, labels=names)
    for note in made.facts.get("weights_notes", []):
        say(f"{source}: {note}")
    keys = ("classes", "params", "nodes", "max_difference", "seconds", "weights")
    row = {"path": str(path), "name": card.name, **{k: made.facts[k] for k in keys}}
    row |= {"input_shape": made.facts["input_shape"], "size_mb": path.stat().st_size / 1e6, "sha256": made.sha256}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "input_shape", "params", "nodes", "max_difference", "seconds", "size_mb"])


def import_(
    file: Annotated[Path, typer.Argument(help="An ONNX classifier from elsewhere.")],
    preprocess: Annotated[str, typer.Option(help="A preset (imagenet-224, half-224 ...) or a JSON file.")] = "",
    labels: Annotated[str, typer.Option(help="`imagenet`, or a file of class names: one a line, or JSON.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="FILE.fp32.onnx when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check a foreign graph and bring it to edgecnn's contract, saying what was changed."""
    from edgecnn.data.preprocess import doubt_of, preprocessing_from_json
    from edgecnn.graph.importing.foreign import import_graph, named_labels, named_preprocessing

    path = output or Path(f"{file.stem.removesuffix('_fp32').removesuffix('.fp32')}.fp32.onnx")
    made = import_graph(
        file,
        path,
        named_preprocessing(preprocess) if preprocess else None,
        named_labels(labels) if labels else None,
    )
    for change in made.facts["changes"]:
        say(f"{file}: {change}")
    if made.preprocessing is None:
        say(f"{file}: how its images are preprocessed is not known; --preprocess says it")
    elif doubt := doubt_of(preprocessing_from_json(made.preprocessing)):
        say(f"{preprocess or file}: warning: {doubt}")
    row = {"path": str(path), **made.facts, "preprocessing": made.preprocessing, "sha256": made.sha256}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "input_shape", "classes", "params", "nodes", "max_difference"])
