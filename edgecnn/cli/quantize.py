"""`edgecnn quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgecnn.cli.options import JSON, MAKING_THREADS, MOST_IMAGES, SKIP_CORRUPT
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.cli.progress import step_counter
from edgecnn.output import say
from edgecnn.recipe.schema import Around, RangeMethod
from edgecnn.steps import CALIBRATION_IMAGES

if TYPE_CHECKING:
    from edgecnn.steps.quantize import Quantized
EXAMPLES = """
edgecnn quantize runs/lenet5-digits/model.fp32.onnx --precision fp16 -o lenet5.fp16.onnx
edgecnn quantize runs/lenet5-digits/model.fp32.onnx --precision int8 --data digits -o lenet5.int8.onnx
edgecnn quantize runs/lenet5-digits/model.fp32.onnx --precision int8 --data digits --exclude gemv -o some.int8.onnx
"""

FP16_FACTS = ("kept_float32", "range_check")  # of this step: the sidecar has those of the steps before too


def quantize(
    graph: Annotated[Path, typer.Argument(help="A float32 graph, X.onnx.")],
    precision: Annotated[Literal["fp16", "int8"], typer.Option(help="Precision of the graph to make.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The graph to write.")],
    scheme: Annotated[
        Literal["tensorrt", "ort-cpu"],
        typer.Option(help="Whose placement of Q/DQ pairs: TensorRT's, or that of ONNX Runtime's CPU kernels."),
    ] = "tensorrt",
    around: Annotated[
        Around | None,
        typer.Option(help="Precision of what does not become INT8.  [default: fp16, or fp32 for ort-cpu]"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep a node out of INT8: its name or a pattern ('/layer4/*'), or by a rule on what TensorRT runs no "
            "faster: few-channels, odd-depthwise, gemv; repeatable."
        ),
    ] = None,
    global_pool: Annotated[
        Literal["float", "int8"] | None,
        typer.Option(help="What a global average pool reads under TensorRT's scheme.  [default: float]"),
    ] = None,
    ranges: Annotated[Path | None, typer.Option(help="The ranges of this graph, X.calib.json.")] = None,
    data: Annotated[str, typer.Option(help="Calibration images (as in calibrate).")] = "",
    images: Annotated[int, MOST_IMAGES] = CALIBRATION_IMAGES,
    method: Annotated[
        RangeMethod | None,
        typer.Option(help="How ranges become scales.  [default: auto]"),
    ] = None,
    threads: Annotated[int | None, MAKING_THREADS] = None,
    skip_corrupt: Annotated[bool, SKIP_CORRUPT] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what every tensor got, and its share of the noise.")
    ] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Make the FP16 or INT8 graph.

    INT8 takes ranges, images, or both (`auto` uses both); FP16 one of them, or none.
    """
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.schema import QuantizeSettings
    from edgecnn.steps.quantize import quantize as step

    if scheme == "ort-cpu" and around == "fp16":
        raise RecipeError(
            "--around fp16: the integer kernels of a CPU take float32", "leave it out, or --scheme tensorrt"
        )
    if scheme == "ort-cpu" and global_pool:
        raise RecipeError("--global-pool is of TensorRT's scheme", "leave it out, or --scheme tensorrt")
    for option, given in (
        ("--method", method),
        ("--around", around),
        ("--global-pool", global_pool),
        ("--explain", explain),
    ):
        if precision == "fp16" and given:
            raise RecipeError(f"{option} says nothing about an FP16 graph", "leave it out, or give --precision int8")
    defaults = QuantizeSettings()
    made = step(
        graph,
        output,
        precision=precision,
        scheme=scheme,
        method=method or defaults.method,
        exclude=exclude or (),
        global_pool=global_pool,
        around=around or ("fp32" if scheme == "ort-cpu" else defaults.around),
        ranges=ranges,
        data=data,
        images=images,
        threads=threads,
        explain=explain,
        skip_corrupt=skip_corrupt,
        progress=step_counter("quantize"),
    )
    if as_json:
        print_json(_result(made))
    else:
        _show(_result(made), explain)


def _result(made: Quantized) -> dict[str, Any]:
    from edgecnn.records import to_plain

    sidecar = made.sidecar
    return {
        "path": str(made.path),
        "size_mb": round(made.path.stat().st_size / 1e6, 3),
        "precision_requested": sidecar.precision_requested,
        "precision_obtained": sidecar.precision_obtained,
        "sha256": sidecar.sha256,
        **({k: sidecar.facts[k] for k in FP16_FACTS} if made.report is None else to_plain(made.report)),
        "warnings": list(made.warnings),
    }


def _show(result: dict[str, Any], explain: bool) -> None:
    if explain and result.get("tensors"):
        print_rows(result["tensors"], list(result["tensors"][0]))
    if result.get("candidates"):
        print_rows(result["candidates"], list(result["candidates"][0]))
    print_rows([result], [k for k in result if not isinstance(result[k], list) and k != "sha256"])
    for name in result["kept_float32"]:
        say(f"kept in FP32: {name}")
    for name in result.get("excluded", []):
        say(f"not INT8: {name}, as asked")
    for line in result.get("little_gain", []):
        rule, _, nodes = line.partition(": ")
        first, *rest = nodes.split(", ")
        more = f" and {len(rest)} more" if rest else ""
        say(f"little gain from INT8 on a GPU: {first}{more}; --exclude {rule} keeps {'them' if rest else 'it'} out")
    for line in result.get("left_out", []):
        say(f"left out: {line}")
    for line in result["warnings"]:
        say(f"warning: {line}")
