"""`edgecnn import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.options import GIVES, JSON
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.contract import MAX_DIFFERENCE
from edgecnn.output import say

EXAMPLES = """
edgecnn import runs/lenet5-digits/model.fp32.onnx -o ours.fp32.onnx
edgecnn import theirs.onnx --preprocess imagenet-224 -o ours.fp32.onnx  # needs a graph
edgecnn import theirs.onnx --output-name logits --to-float32            # needs a graph
edgecnn import theirs.onnx --max-difference 2e-4 --simplify             # needs a graph
"""


def import_(
    file: Annotated[Path, typer.Argument(help="An ONNX classifier from elsewhere.")],
    preprocess: Annotated[
        str, typer.Option(help="How its images are preprocessed: a preset (imagenet-224, half-224 ...) or a JSON file.")
    ] = "",
    labels: Annotated[
        str,
        typer.Option(help="`imagenet`, `imagenet-background` (1001), or a file: one a line, JSON, CSV."),
    ] = "",
    takes: Annotated[
        Literal["normalised", "raw-nchw", "uint8-nhwc"] | None,
        typer.Option(
            "--input", help="As in `export`.  [default: uint8-nhwc for a graph of uint8 pixels, else normalised]"
        ),
    ] = None,
    gives: Annotated[Literal["logits", "probabilities", "top-k"], GIVES] = "logits",
    output_name: Annotated[
        str, typer.Option(help="The tensor that holds the logits, where the graph has several outputs or an ArgMax.")
    ] = "",
    to_float32: Annotated[bool, typer.Option("--to-float32", help="Lift a graph in FP16, BF16 or double.")] = False,
    max_difference: Annotated[
        float, typer.Option(min=0, help="From the original, as a share of its largest logit.")
    ] = MAX_DIFFERENCE,
    simplify: Annotated[
        bool, typer.Option("--simplify", help="Let onnxslim simplify a graph that would be refused, and try again.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", help="The graph to write.  [default: FILE.fp32.onnx]")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Check a graph from elsewhere and bring it into the flow.

    What had to be changed for that is said.
    """
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.data.preprocess import doubt_of, preprocessing_from_json
    from edgecnn.steps.import_ import import_onnx

    path = import_onnx(
        file,
        output,
        preprocess=preprocess,
        labels=labels,
        takes=takes,
        gives=gives,
        output_name=output_name,
        to_float32=to_float32,
        max_difference=max_difference,
        simplify=simplify,
    )
    made = read_sidecar(path)
    for change in made.facts["changes"]:
        say(f"{file}: {change}")
    for warning in made.facts["warnings"]:
        say(f"{file}: warning: {warning}")
    if made.preprocessing is None:
        say(f"{file}: how its images are preprocessed is not known; --preprocess says it")
    elif doubt := doubt_of(preprocessing_from_json(made.preprocessing)):
        say(f"{preprocess or file}: warning: {doubt}")
    row = {"path": str(path), **made.facts, "preprocessing": made.preprocessing, "sha256": made.sha256}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "input_shape", "classes", "params", "nodes", "max_difference"])
