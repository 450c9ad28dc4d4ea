"""`edgecnn search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgecnn.cli.completion import complete_recipe
from edgecnn.cli.options import JSON, THREADS
from edgecnn.cli.printing import print_json
from edgecnn.cli.progress import Counter
from edgecnn.output import print_lines, say
from edgecnn.recipe.schema import RangeMethod

EXAMPLES = """
edgecnn search lenet5-digits --max-drop 1.5 --objective coverage --target gpu
edgecnn search resnet20-cifar10-orin --data DIR --max-drop 0.5 --target cpu  # needs its run, and images
edgecnn search resnet20.fp32.onnx --data cifar10:DIR --max-drop 0.5  # needs a graph with ranges, and images
edgecnn search mobilenet_v2-orin --data DIR --max-drop 0.3 --on jetson  # needs a device in the network
edgecnn search mobilenet_v2-orin --data DIR --max-drop 0.3 --objective energy  # needs a Jetson, or a GPU with NVML
"""


def search(
    source: Annotated[
        str,
        typer.Argument(
            help="A recipe's name or TOML, or its run folder; or a float32 graph, X.onnx.",
            autocompletion=complete_recipe,
        ),
    ],
    max_drop: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="What top-1 may drop by, in percentage points: the upper end of its 95 % interval."
        ),
    ],
    objective: Annotated[
        Literal["latency", "coverage", "energy"],
        typer.Option(
            help="The least latency or energy on this machine, or the largest share of multiply-adds in INT8."
        ),
    ] = "latency",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The graph to write.  [default: X.int8-SCHEME-search.onnx beside the input]",
            show_default=False,
        ),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also draw what was tried: X.svg.")] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: the training images choose, the test images judge.  [default: the recipe's]",
            show_default=False,
        ),
    ] = "",
    held_out: Annotated[
        str, typer.Option(help="Images to choose by.  [default: training images that do not calibrate]")
    ] = "",
    test: Annotated[str, typer.Option(help="Images to judge by.  [default: the test images of --data]")] = "",
    images: Annotated[int, typer.Option(min=16, help="Choose by at most this many images.")] = 4096,
    ranges: Annotated[
        Path | None,
        typer.Option(help="The ranges of a graph.  [default: X.calib.json beside it]", show_default=False),
    ] = None,
    method: Annotated[
        RangeMethod | None,
        typer.Option(help="How ranges become scales.  [default: the recipe's, or auto]", show_default=False),
    ] = None,
    target: Annotated[
        str, typer.Option(help="A device of `edgecnn targets`.  [default: the recipe's first, or cpu]")
    ] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, help="The batch that is timed.  [default: the recipe's, or 1]")
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
    on: Annotated[
        str, typer.Option(help="Build, judge and time on this machine, as ssh knows it.  [default: this one]")
    ] = "",
    routes: Annotated[
        str,
        typer.Option(
            help="Build routes of TensorRT 11.1 and later to try on the best graph: all, none, or "
            "'-knob=[a|b] -knob=c'.  [default: the first 32]",
            show_default=False,
        ),
    ] = "",
    as_json: Annotated[bool, JSON] = False,
) -> int:
    """Find what to keep out of INT8 for a budget of accuracy.

    Graphs are tried with more and more of their most sensitive nodes in float, and
    judged on images that neither calibrate nor give the verdict. Every trial is
    kept: interrupted, the same command goes on where it stopped.

    Exit code 0: found (all float is an answer), 1: nothing meets the budget.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.records import to_plain
    from edgecnn.report.charts.search import search_svg
    from edgecnn.report.search import recipe_line, search_page
    from edgecnn.tuning.search import search as find

    given = {"held_out": held_out, "method": method, "target": target, "batch": batch, "threads": threads}
    given |= {"host": on, "routes": routes}
    own = _arguments(source, data, test, ranges, target)
    arguments = {**own, **{name: value for name, value in given.items() if value}}
    if svg is not None:
        check_output(svg, ".svg", arguments["graph"], arguments["ranges"], option="--svg")
    found = find(
        arguments.pop("graph"),
        output,
        max_drop_pp=max_drop,
        objective=objective,
        images=images,
        say=say,
        progress=Counter("search", "trials of nodes"),
        **arguments,
    )
    if svg is not None:
        write_bytes(svg, search_svg(found).encode())
    if as_json:
        print_json(to_plain(found))
    else:
        print_lines(search_page(found).split("\n"))
        if line := recipe_line(found):
            say(f"for a recipe: {line}")
    return 1 if found.answer == "none" else 0


def _arguments(source: str, data: str, test: str, ranges: Path | None, target: str) -> Mapping[str, Any]:
    """Those that come of a graph, or of a recipe and its run."""
    from edgecnn.errors import RecipeError
    from edgecnn.pipeline.find import find_recipe_and_folder
    from edgecnn.pipeline.searched import search_arguments

    if source.endswith(".onnx"):
        if not data:
            raise RecipeError(f"{source}: whose images are not named", "name labelled images with --data")
        return {"graph": Path(source), "ranges": ranges, "data": data, "test": test}
    if ranges is not None:
        raise RecipeError(f"--ranges {ranges}: a recipe has its own", "leave it out, or name a graph in its place")
    recipe, folder = find_recipe_and_folder(source, data=data, say=say, write=False)
    found = search_arguments(recipe, folder, target)
    return {**found, "test": test} if test else found
