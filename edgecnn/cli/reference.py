"""`edgecnn reference`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import DATA, JSON, PREPROCESS, THREADS, TRUST_CODE
from edgecnn.cli.printing import print_json, stdout_kept
from edgecnn.cli.progress import Counter
from edgecnn.output import say

EXAMPLES = """
edgecnn reference runs/lenet5-digits/model.safetensors --data digits -o lenet5.reference.npz
edgecnn reference mobilenet_v2 --data /data/imagenet -o mobilenet.reference.npz  # needs data, network access
edgecnn reference net.py:make --trust-code --preprocess imagenet-224 --data /data/val  # needs data, a network of yours
"""


def reference(
    source: Annotated[str, typer.Argument(help="A checkpoint, a graph, a network of the zoo, or FILE.py:FUNCTION.")],
    data: Annotated[str, DATA],
    output: Annotated[Path, typer.Option("-o", "--output", help="The predictions to write.")] = Path("reference.npz"),
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of an own network.")] = None,
    preprocess: Annotated[str, PREPROCESS] = "",
    labels: Annotated[Path | None, typer.Option(help="Classes of an own network: one a line, or JSON.")] = None,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    threads: Annotated[int | None, THREADS] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Save the predictions that engines are compared with."""
    from edgecnn.measure.predict import read_predictions
    from edgecnn.steps._shared import is_first
    from edgecnn.steps.reference import reference as step

    with stdout_kept():
        step(
            source,
            output,
            data=data,
            threads=threads,
            progress=Counter("reference", "images"),
            preprocess=preprocess,
            labels=labels,
            checkpoint=checkpoint,
            trust_code=trust_code,
        )
    if not is_first():
        return
    made = read_predictions(output)
    say(f"{output}: {len(made.ids)} predictions of {source}")
    if made.unreadable:
        say(f"{len(made.unreadable)} unreadable images left out, the first is {min(made.unreadable)}")
    if as_json:
        print_json({"output": str(output), "n": len(made.ids), "classes": made.classes})
