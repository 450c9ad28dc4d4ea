"""`edgecnn export`."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgecnn.cli.options import ACCEPT_HASH, EMA, JSON, NETWORK, PREPROCESS, TAKES, TRUST_CODE
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
edgecnn export --ensemble runs/a runs/b c.fp32.onnx -o ens.onnx  # needs three runs
edgecnn export --ensemble a.onnx b.onnx --member-weights-from val -o ens.onnx  # needs graphs and images
edgecnn export hf://timm/resnet18.a1_in1k  # needs network access, and edgecnn[hub]
"""

OF_ONE_NETWORK = (
    "checkpoint",
    "weights",
    "ema",
    "classes",
    "labels",
    "size",
    "preprocess",
    "trust_code",
    "opset",
    "features",
)
IDLE = 0.01  # a weight
SHOWN = ["path", "input_shape", "params", "nodes", "max_difference", "seconds", "size_mb"]


def export(
    context: typer.Context,
    model: Annotated[list[str], NETWORK],
    checkpoint: Annotated[Path | None, typer.Option(help="A .safetensors or .pth of your own.")] = None,
    weights: Annotated[
        str, typer.Option(help="Of the network: default (published), none (random), a path or a URL.")
    ] = "default",
    ema: Annotated[bool, EMA] = False,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 20, help="Number of classes.  [default: the checkpoint's, or the zoo's]"),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of class names: one a line, or JSON.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Input height and width, pixels.  [default: the network's]")
    ] = None,
    preprocess: Annotated[str, PREPROCESS] = "",
    trust_code: Annotated[bool, TRUST_CODE] = False,
    takes: Annotated[Literal["normalised", "raw-nchw", "uint8-nhwc"], TAKES] = "normalised",
    gives: Annotated[
        Literal["logits", "probabilities", "top-k"] | None,
        typer.Option(
            "--output",
            help="What the graph gives; -o names the file. top-k: the five best classes and their probabilities.  "
            "[default: logits; of an ensemble probabilities]",
            show_default=False,
        ),
    ] = None,
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
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble", help="One graph that averages the probabilities of MODEL...: graphs or run folders."
        ),
    ] = False,
    member_weights: Annotated[
        str, typer.Option(help="How much each member of the ensemble counts: 0.5,0.3,0.2.  [default: all alike]")
    ] = "",
    member_weights_from: Annotated[
        str,
        typer.Option(
            help="Choose them on these validation images: a folder without a split, a manifest, or the members' data "
            "set, of which those count that no member learned from."
        ),
    ] = "",
    output: Annotated[Path | None, typer.Option("-o", help="The graph to write.  [default: MODEL.fp32.onnx]")] = None,
    accept_hash: Annotated[bool, ACCEPT_HASH] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Export a network with its weights to ONNX.

    The graph is proven equal to PyTorch in ONNX Runtime before it is written; an ensemble to its averaged members, of
    one input and one list of classes.
    """
    if ensemble:
        _export_ensemble(context)
        return
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.errors import ModelError
    from edgecnn.steps.export import export as step

    if len(model) > 1 or member_weights or member_weights_from:
        raise ModelError(f"{', '.join(model)}: one network is exported at a time", "several as one graph: --ensemble")
    name = model[0]
    started = time.perf_counter()
    with stdout_kept():
        path = step(
            name,
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
            gives=gives or "logits",
            opset=opset,
            features=[stage.strip() for stage in features.split(",")] if features else (),
        )
    seconds, made = round(time.perf_counter() - started, 3), read_sidecar(path)
    source = weights if checkpoint is None else str(checkpoint)
    for note in made.facts.get("weights_notes", []):
        say(f"{source}: {note}")
    for change in made.facts.get("changes", []):
        say(f"{name}: {change}")
    keys = ("classes", "params", "nodes", "max_difference", "weights")
    row = {"path": str(path), "name": made.facts["model"], **{k: made.facts[k] for k in keys}, "seconds": seconds}
    row |= {"input_shape": made.facts["input_shape"], "size_mb": path.stat().st_size / 1e6, "sha256": made.sha256}
    row |= {"features": made.facts["features"]} if made.features else {}
    if as_json:
        print_json(row)
    else:
        print_rows([row], SHOWN)
        for stage, shape in made.facts.get("features", {}).items():
            print_text(f"{stage}: {'x'.join(map(str, shape))}")


def _export_ensemble(context: typer.Context) -> None:
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.cli.progress import Counter
    from edgecnn.errors import ModelError, WriteError
    from edgecnn.steps.ensemble import export_ensemble

    options, defaults = context.params, inspect.signature(export).parameters
    if given := [name for name in OF_ONE_NETWORK if options[name] != defaults[name].default]:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ModelError(f"{shown} with --ensemble: of one network", "give it where the members are exported")
    if options["output"] is None:
        raise WriteError("--ensemble without -o: its members do not name it", "for example -o ensemble.fp32.onnx")
    started = time.perf_counter()
    with stdout_kept():
        path = export_ensemble(
            options["model"],
            options["output"],
            weights=_weights(options["member_weights"]),
            weights_from=options["member_weights_from"],
            takes=options["takes"],
            gives=options["gives"] or "probabilities",
            progress=Counter("weights", "images"),
        )
    seconds, made = round(time.perf_counter() - started, 3), read_sidecar(path)
    keys = ("classes", "params", "nodes", "max_difference", "input_shape", "ensemble", "member_weights")
    row = {"path": str(path), "name": made.facts["model"], **{k: made.facts[k] for k in keys if k in made.facts}}
    row |= {"seconds": seconds, "size_mb": path.stat().st_size / 1e6, "sha256": made.sha256}
    if chosen := row.get("member_weights"):
        chosen = row["member_weights"] = {key: value for key, value in chosen.items() if key != "images"}
    if options["as_json"]:
        print_json(row)
        return
    print_rows([row], SHOWN)
    alone = chosen["member_log_loss"] if chosen else [None] * len(row["ensemble"])
    print_rows(
        [{**m, "log_loss": loss} for m, loss in zip(row["ensemble"], alone, strict=True)],
        ["name", "weight", *(["log_loss"] if chosen else [])],
    )
    if chosen:
        print_text(
            f"weights chosen on {chosen['n']} images of {chosen['data']}: log loss {chosen['log_loss']:.4f}, with "
            f"equal weights {chosen['equal_log_loss']:.4f}"
        )
    for member in row["ensemble"]:
        if member["weight"] < IDLE:
            print_text(f"{member['name']} adds next to nothing and costs its time: leave it out")


def _weights(text: str) -> list[float] | None:
    from edgecnn.errors import RecipeError

    try:
        return [float(number) for number in text.split(",")] if text else None
    except ValueError:
        raise RecipeError(f"--member-weights {text}: not numbers", "for example --member-weights 0.5,0.3,0.2") from None
