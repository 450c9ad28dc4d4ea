"""`edgecnn build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.completion import complete_target
from edgecnn.cli.on import ON, run_on
from edgecnn.cli.options import ALLOWED, JSON, PROVIDER, REQUIRE_SIGNATURE, THREADS
from edgecnn.cli.printing import print_json
from edgecnn.output import say
from edgecnn.recipe.schema import BatchProfile, BatchSettings, HardwareCompatibility, OrtProvider

EXAMPLES = """
edgecnn build runs/lenet5-digits/model.fp16.onnx --target cpu -o lenet5.fp16.engine.onnx
edgecnn build model.int8-tensorrt.onnx --target agx-orin -o int8.plan  # needs a GPU with TensorRT
edgecnn build model.int8-tensorrt.onnx --target agx-orin -o int8.plan --locked  # needs a GPU with TensorRT
edgecnn build model.fp16.onnx --provider cuda -o fp16.cuda.onnx  # needs a GPU with onnxruntime-gpu
edgecnn build model.int8-tensorrt.onnx --target gpu --profile 1:1:1 --profile 8:16:32  # needs a GPU with TensorRT
edgecnn build model.fp32.onnx --target agx-orin --weakly-typed --ranges m.calib.json  # needs a GPU with TensorRT 10
edgecnn build model.fp16.onnx --backend trt-rtx --sm 86,89,120 -o model.rtx.plan  # needs TensorRT-RTX, and no GPU
edgecnn build model.int8-tensorrt.onnx --target agx-orin --on jetson -o int8.plan  # needs a device in the network
"""


def build(
    context: typer.Context,
    graph: Annotated[Path, typer.Argument(help="An ONNX graph; its precision is in the graph.")],
    backend: Annotated[
        str, typer.Option(help="The runtime: ort, trt or trt-rtx (TensorRT-RTX).  [default: the target's, or ort]")
    ] = "",
    provider: Annotated[OrtProvider | None, PROVIDER] = None,
    target: Annotated[
        str,
        typer.Option(
            help="The device; `edgecnn targets` lists them.  [default: cpu, or gpu for trt]",
            autocompletion=complete_target,
        ),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The engine to write.  [default: beside the graph]")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="The largest batch that the engine must serve.  [default: 8, or the frozen one]"),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="An optimization profile, MIN:OPT:MAX images; several times, in ascending order."),
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Most memory that TensorRT may use, MB.  [default: from what is free]")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How hard TensorRT's builder tries; 5 takes longest.")
    ] = None,
    build_route: Annotated[
        str, typer.Option(help="What TensorRT 11.1 and later is told beside: --build-route='-knob=value -knob=value'.")
    ] = "",
    hardware_compatibility: Annotated[
        HardwareCompatibility, typer.Option(help="On which other GPUs the plan runs too, at the price of speed.")
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Make a plan that newer TensorRTs run too: slower, and loads with --trust only.",
        ),
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT's timing cache, to pin a build.  [default: one per device]")
    ] = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Build by the lock beside the engine, and refuse whatever is not as then.")
    ] = False,
    rebuilds: Annotated[
        int, typer.Option(min=1, help="Build so many engines, each timed anew: X.plan, X.build2.plan ...")
    ] = 1,
    sm: Annotated[
        str, typer.Option(help="GPUs that a trt-rtx plan is for: 75,86,89,120.  [default: 80 and later]")
    ] = "",
    weakly_typed: Annotated[
        bool,
        typer.Option(
            "--weakly-typed",
            help="Let TensorRT 10 choose INT8 or FP16 for each layer of the float32 graph; with --ranges.",
        ),
    ] = False,
    ranges: Annotated[
        Path | None, typer.Option(help="Its scales: X.calib.json, or a calibration cache of TensorRT's.")
    ] = None,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    on: Annotated[list[str] | None, ON] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Build an engine for a target, and check that it runs."""
    if on:
        given, refused = ("graph", "ranges"), ("timing_cache", "locked")
        run_on(context, on, files=given, outputs=("output",), refused=refused, beside="graph")
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.records import to_plain
    from edgecnn.steps.build import rebuild

    engines = rebuild(
        graph,
        output,
        rebuilds=rebuilds,
        locked=locked,
        target=target,
        backend=backend,
        provider=provider,
        batch=_batch(profile or [], max_batch),
        threads=threads,
        workspace_mb=workspace_mb,
        optimization_level=optimization_level,
        build_route=build_route,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
        compute_capabilities=_capabilities(sm),
        weakly_typed=weakly_typed,
        ranges=ranges,
    )
    made = read_sidecar(engines[0])
    for engine in engines:
        say(f"{engine}: built for {made.target}")
    if as_json:
        facts = {"target": made.target, "sha256": made.sha256, "device": to_plain(made.device)}
        more = {"engines": [str(engine) for engine in engines]} if rebuilds > 1 else {}
        print_json({"engine": str(engines[0]), **facts, **more})


def _batch(profiles: list[str], largest: int | None) -> BatchSettings | None:
    """The batch sizes of `--profile` or `--max-batch`, or None; raises `RecipeError` for both, or for other text."""
    from edgecnn.errors import RecipeError

    if not profiles:
        return None if largest is None else BatchSettings(max=largest)
    if largest is not None:
        raise RecipeError("--max-batch and --profile both say which batches are served", "leave one of them out")
    made = [_profile(text) for text in profiles]
    return BatchSettings(made[0][0], made[0][1], made[-1][2], tuple(made))


def _profile(text: str) -> BatchProfile:
    from edgecnn.errors import RecipeError

    sizes = [int(part) for part in text.split(":") if part.isdecimal() and part.isascii() and len(part) < 7]
    if len(sizes) != 3 or text.count(":") != 2 or min(sizes) < 1:
        raise RecipeError(f"--profile {text!r}: not MIN:OPT:MAX", "three batch sizes, for example --profile 8:16:32")
    return sizes[0], sizes[1], sizes[2]


def _capabilities(text: str) -> list[str]:
    """("8.6", "12.0") of "86,120"; raises `RecipeError` for anything else."""
    from edgecnn.errors import RecipeError

    found = [part.strip().replace(".", "") for part in text.split(",")] if text else []
    if not all(part.isdigit() and 2 <= len(part) <= 3 for part in found):
        raise RecipeError(f"--sm {text!r}: not compute capabilities", "write them without the dot: --sm 75,86,89,120")
    return [f"{part[:-1]}.{part[-1]}" for part in found]
