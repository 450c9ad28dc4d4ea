"""`edgecnn calibrate`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import IMAGES, JSON, MAKING_THREADS, MOST_IMAGES, SKIP_CORRUPT, TRUST_CODE
from edgecnn.cli.printing import print_json, print_rows
from edgecnn.cli.progress import Counter
from edgecnn.output import print_text, say
from edgecnn.steps import CALIBRATION_IMAGES

EXAMPLES = """
edgecnn calibrate runs/lenet5-digits/model.fp32.onnx --data digits -o lenet5.calib.json
edgecnn calibrate lenet5.fp32.onnx --data calibration/mine.txt --check  # needs a graph and a manifest
edgecnn calibrate resnet20.fp32.onnx --data-free -o resnet20.calib.json  # needs a graph with batch normalization
"""

LOADED_OBJECTS = 200_000  # that loading packages leaves, about: to look for garbage among them takes a tenth of that


def calibrate(
    graph: Annotated[Path, typer.Argument(help="A float32 graph, X.onnx.")],
    data: Annotated[str, IMAGES] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The ranges to write, X.calib.json.")] = None,
    images: Annotated[int, MOST_IMAGES] = CALIBRATION_IMAGES,
    batch: Annotated[int | None, typer.Option(min=1, help="Images that run at once.  [default: by their size]")] = None,
    threads: Annotated[int | None, MAKING_THREADS] = None,
    trt_cache: Annotated[Path | None, typer.Option(help="Also write a calibration cache for TensorRT <= 10.")] = None,
    trt_cache_version: Annotated[
        int | None,
        typer.Option(min=4000, max=109999, help="The TensorRT version in its header.  [default: 100300, for 10.3.0]"),
    ] = None,
    skip_corrupt: Annotated[bool, SKIP_CORRUPT] = False,
    data_free: Annotated[
        bool,
        typer.Option(
            "--data-free", help="Without images, as a last resort: 32 are made from the network's batch normalization."
        ),
    ] = False,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Examine the images; 3 if something speaks against them.")
    ] = False,
    test: Annotated[str, typer.Option(help="Test images, for --check.  [default: the test split of --data]")] = "",
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Collect the range of every activation in one pass.

    Interrupted, the same command goes on where it stopped.
    """
    _begin_to_load()
    from edgecnn.artifact.sidecar import sha256_of
    from edgecnn.artifact.write import check_output
    from edgecnn.errors import RecipeError
    from edgecnn.graph.calibration.file import describe_ranges, read_ranges, write_tensorrt_cache
    from edgecnn.steps import calibrate as step
    from edgecnn.steps._shared import is_first

    if data_free == bool(data):
        raise RecipeError(
            "calibrate takes images (--data), or with --data-free none at all", "give one of the two: --data is better"
        )
    for option, given in (
        ("--check", check),
        ("--skip-corrupt", skip_corrupt),
        ("--images", images != CALIBRATION_IMAGES),
    ):
        if data_free and given:
            raise RecipeError(f"calibrate {option} is of images, and --data-free has none", f"leave {option} out")
    if trust_code and not data_free:
        raise RecipeError("calibrate --trust-code: no code is run but with --data-free", "leave it out")
    if check and (output or trt_cache):
        named = "-o" if output else "--trt-cache"
        raise RecipeError(
            f"calibrate --check writes nothing, and {named} names a file", f"leave {named} or --check out"
        )
    if test and not check:
        raise RecipeError("calibrate --test: test images are for --check, nothing else looks at them", "add --check")
    if trt_cache_version is not None and trt_cache is None:
        raise RecipeError("calibrate --trt-cache-version: there is no cache to write", "name it: --trt-cache X.cache")
    if check:
        return _check(graph, data, images, test, skip_corrupt, as_json)
    if output is None:
        raise RecipeError("calibrate: -o is missing", "name the ranges, for example -o X.calib.json; or give --check")
    if trt_cache is not None:
        check_output(trt_cache, trt_cache.suffix, graph, output, option="--trt-cache")
    step.calibrate(
        graph,
        output,
        data=data,
        data_free=data_free,
        trust_code=trust_code,
        images=images,
        batch=batch,
        threads=threads,
        skip_corrupt=skip_corrupt,
        progress=Counter("calibrate", "images"),
    )
    if not is_first():
        return 0
    if trt_cache is not None:
        write_tensorrt_cache(read_ranges(output, sha256_of(graph)), trt_cache, trt_cache_version or 100300)
    made = describe_ranges(output)
    if as_json:
        print_json({"path": str(output), **made})
    else:
        print_rows(made["tensors"], list(made["tensors"][0]))
        said = f"calibrated without images: {made['n']} were made" if data_free else f"over {made['n']} images"
        say(f"{output}: {len(made['tensors'])} tensors {said}")
    return 0


def _begin_to_load() -> None:
    gc.set_threshold(LOADED_OBJECTS)
    from edgecnn.machine.threads import load_numpy

    load_numpy()


def _check(graph: Path, data: str, images: int, test: str, skip_corrupt: bool, as_json: bool) -> int:
    from edgecnn.records import to_plain
    from edgecnn.steps.calibrate import check_images

    shown = Counter("ranges", "parts")
    found = check_images(graph, data, images=images, test=test, skip_corrupt=skip_corrupt, progress=shown)
    row = to_plain(found)
    if as_json:
        print_json(row)
    else:
        print_rows([row], ["n", "test_n", "repeated", "classes_covered", "classes", "suggested_n", "test_distance"])
        columns = ["range_spread_pct_median", "noise_excess_pct_median", "noise_excess_pct_worst", "worst_tensor"]
        print_rows([row], columns)
        for problem in found.problems or ("nothing to complain of",):
            print_text(problem)
        if not found.near_duplicates_checked:
            print_text("near-duplicates were not looked for: these pictures are too small or too alike to tell")
    return 3 if found.problems else 0
