"""What a search tried and found: a page of 80 columns."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from edgecnn.output import fit, inert, wrap
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.search import Search, SearchPoint

NAME = 30
HEADING = (
    f"{'':{NAME}} {'INT8 %':>6} {'held-out':^19} {'expected':>8} {'test bound':>10}",
    f"{'in float':{NAME}} {'':>6} {'drop pp, 95 %':^19} {'bound pp':>8} {'pp':>10}",
)


def search_page(found: Search) -> str:
    """The whole page."""
    rows = (line for point in found.points for line in _lines(found, point))
    return "\n".join([*_headline(found), "", *HEADING, *rows, "", *_legend(found)])


def _headline(found: Search) -> Iterator[str]:
    yield from wrap(f"{found.graph} for {found.target}: top-1 may drop by {found.max_drop_pp:g} pp")
    yield from wrap(_answer(found), "  ")
    if found.top1_drop_ci_pp is not None:
        low, high = found.top1_drop_ci_pp
        yield from wrap(
            f"drop {found.top1_drop_pp:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}], on {found.n} test images", "  "
        )
    if found.latency_ratio is not None and found.latency_ratio_ci is not None:
        low, high = found.latency_ratio_ci
        yield from wrap(
            f"{found.latency_ms_p50:.3g} ms at batch {found.latency_batch}, {found.latency_ratio:.3f} x the float "
            f"graph, 95 % interval [{low:.3f}, {high:.3f}]",
            "  ",
        )
    if found.energy_ratio is not None and found.energy_ratio_ci is not None:
        low, high = found.energy_ratio_ci
        yield from wrap(
            f"{found.joules_per_inference:.4g} J per inference above idle at batch {found.latency_batch}, "
            f"{found.energy_ratio:.3f} x the float graph, 95 % interval [{low:.3f}, {high:.3f}]",
            "  ",
        )
    if found.build_route:
        yield from wrap(f"built by {found.build_route}", "  ")
        yield inert(f"    {build_command(found)}")  # to be copied
    if found.power_sensor:
        yield from wrap(f"energy: {found.power_sensor}; a meter at the wall reads more", "  ")


def _answer(found: Search) -> str:
    float_name = found.around.upper()
    if found.answer == "none":
        return f"nothing meets it, not even {float_name} all over"
    if found.answer == "float":
        return f"all {float_name}: no graph with INT8 is both proven and better; take {found.output}"
    share = f"{found.int8_share_pct:.1f} % of the multiply-adds"
    if not found.kept:
        return f"{found.output}: all INT8 ({share})"
    return f"{found.output}: INT8 ({share}) but for {len(found.kept)} nodes in {float_name}"


def build_command(found: Search) -> str:
    """What builds the answer by its route."""
    batch = found.latency_batch or 1
    sizes = (
        [] if batch == 1 or found.batch_is_frozen else ["--profile", f"{batch}:{batch}:{max(batch, BatchSettings.max)}"]
    )
    by = [f"--build-route={found.build_route}"] if found.build_route else []
    return shlex.join(["edgecnn", "build", found.output, "--target", found.target, *sizes, *by])


def recipe_line(found: Search) -> str:
    """What makes the same engine in a recipe; "" where it needs nothing said."""
    lines = []
    if found.answer == "int8" and found.kept:
        lines.append(f"[quantize] exclude = {json.dumps(list(found.kept), ensure_ascii=False)}")
    if found.build_route:
        precision = "int8" if found.answer == "int8" else "fp16"  # that is the float graph where there are routes
        lines.append(f"[build.routes] {precision} = {json.dumps(found.build_route)}")
    return "; ".join(lines)


def _lines(found: Search, point: SearchPoint) -> Iterator[str]:
    low, high = point.top1_drop_ci_pp
    interval = f"{point.top1_drop_pp:+.2f} [{low:+.2f}, {high:+.2f}]"
    test = "" if point.test_top1_drop_ci_pp is None else f"{point.test_top1_drop_ci_pp[1]:.2f}"
    name = fit(_name(found, point), NAME)
    yield f"{name} {point.int8_share_pct:6.1f} {interval:>19} {point.expected_bound_pp:8.2f} {test:>10}".rstrip()
    if point.latency_ratio is not None and point.latency_ratio_ci is not None:
        low, high = point.latency_ratio_ci
        yield f"{'':{NAME}} {point.latency_ratio:.3f} x [{low:.3f}, {high:.3f}], {point.latency_ms_p50:.3g} ms"
    if point.route:
        yield from wrap(f"by {point.route}", "    ")
    if point.energy_ratio is not None and point.energy_ratio_ci is not None:
        low, high = point.energy_ratio_ci
        yield f"{'':{NAME}} {point.energy_ratio:.3f} x [{low:.3f}, {high:.3f}], {point.joules_per_inference:.4g} J"


def _name(found: Search, point: SearchPoint) -> str:
    mark = "* " if found.answer != "none" and point.candidate == found.candidate else "  "
    if point.all_float:
        return f"{mark}all"
    if not point.kept:
        return f"{mark}none"
    return f"{mark}{point.kept[0]}" if len(point.kept) == 1 else f"{mark}{len(point.kept)}: {', '.join(point.kept)}"


def _legend(found: Search) -> Iterator[str]:
    yield from wrap(
        f"*: the answer; held-out: {found.held_out_n} images that chose among the graphs; expected bound: the upper "
        f"end of the 95 % interval that {found.n} images would give; test bound: what the test images gave, which were "
        "asked from the safest graph to the best one until one failed"
    )
    if found.routes_tried:
        yield from wrap(
            f"build routes: {found.routes_tried} of {found.routes_known} tried, on the best graph"
            + ("" if found.routes_tried == found.routes_known else "; --routes all tries each")
        )
    for line in found.failed:
        yield from wrap(f"could not be made: {line}")
