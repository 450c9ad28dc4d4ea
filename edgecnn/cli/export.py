"""`edgecnn export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.options import ACCEPT_HASH, EMA, GIVES, JSON, NETWORK, PREPROCESS, TAKES, TRUST_CODE
from edgecnn.cli.printing import print_json, print_rows, stdout_kept
from edgecnn.output import print_text, say

EXAMPLES = """
edgecnn export lenet5 --checkpoint runs/lenet5-digits/model.safetensors -o lenet5.fp32.onnx
edgecnn export lenet5 --checkpoint runs/lenet5-digits/model.safetensors --input uint8-nhwc --output top-k -o five.onnx
edgecnn export lenet5 --checkpoint runs/lenet5-digits/model.safetensors --features conv2,pool
edgecnn export mobilenet_v2  # needs network access, for its published weights
edgecnn export resnet18 --checkpoint mine.pth --classes 37  # needs weights
edgecnn export net.py:make --trust-code --checkpoint net.pth --preprocess imagenet-224  # needs a network of yours
edgecnn export resnet50 --checkpoint last.pth.tar --ema  # needs weights
edgecnn export hf://timm/resnet18.a1_in1k  # needs network access, and edgecnn[hub]
"""


def export(
    model: Annotated[str, NETWORK],
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors or .pth of your own.")] = None,
    weights: Annotated[
        str, typer.Option(help="Of the network: default (published), none (random), a path or a URL.")
    ] = "default",
    ema: Annotated[bool, EMA] = False,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes.  [default: the checkpoint's, or the zoo's]")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of class names: one a line, or JSON.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width, pixels.  [default: the network's]")
    ] = None,
    preprocess: Annotated[str, PREPROCESS] = "",
    trust_code: Annotated[bool, TRUST_CODE] = False,
    takes: Annotated[Literal["normalised", "raw-nchw", "uint8-nhwc"], TAKES] = "normalised",
    gives: Annotated[Literal["logits", "probabilities", "top-k"], GIVES] = "logits",
    opset: Annotated[
        int, typer.Option(help="19, or 17 for a float32 graph that TensorRT 8 is to build.", show_default=False)
    ] = 19,
    features: Annotated[
        str,
        typer.Option(
            help="Outputs in place of logits: C3,C4,C5 or pool, names that `edgecnn summary` lists; of an own network "
            "its parts."
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", help="The graph to write.  [default: MODEL.fp32.onnx]")] = None,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a network with its weights to ONNX.

    The graph is proven equal to PyTorch in ONNX Runtime before it is written.
    """
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.steps.export import export as step

    started = time.perf_counter()
    with stdout_kept():
        path = step(
            model,
            output,
            checkpoint=checkpoint,
            weights=weights,
            ema=ema,
            classes=classes,
            labels=labels,
            size=size,
            preprocess=preprocess,
            trust_code=trust_code,
            takes=takes,
            gives=gives,
            opset=opset,
            features=[name.strip() for name in features.split(",")] if features else (),
        )
    seconds, made = round(time.perf_counter() - started, 3), read_sidecar(path)
    source = weights if checkpoint is None else str(checkpoint)
    for note in made.facts.get("weights_notes", []):
        say(f"{source}: {note}")
    for change in made.facts.get("changes", []):
        say(f"{model}: {change}")
    keys = ("classes", "params", "nodes", "max_difference", "weights")
    row = {"path": str(path), "name": made.facts["model"], **{k: made.facts[k] for k in keys}, "seconds": seconds}
    row |= {"input_shape": made.facts["input_shape"], "size_mb": path.stat().st_size / 1e6, "sha256": made.sha256}
    row |= {"features": made.facts["features"]} if made.features else {}
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["path", "input_shape", "params", "nodes", "max_difference", "seconds", "size_mb"])
        for name, shape in made.facts.get("features", {}).items():
            print_text(f"{name}: {'x'.join(map(str, shape))}")
