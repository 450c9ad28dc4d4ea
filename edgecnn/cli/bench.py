"""`edgecnn bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, THREADS, TRUST
from edgecnn.cli.printing import print_json, print_rows, say

EXAMPLES = """
edgecnn bench --engine runs/lenet5-digits/cpu/int8.onnx --vs runs/lenet5-digits/cpu/fp32.onnx --duration 0.2
edgecnn bench --engine int8.plan --batch 1,8 --throughput  # needs a GPU with TensorRT
"""


def bench(
    engine: Annotated[Path, typer.Option(help="A .plan, an .onnx, or a checkpoint.")],
    vs: Annotated[Path | None, typer.Option("--vs", help="Another engine, to run in turn with it.")] = None,
    batch: Annotated[str, typer.Option(help="Batch size, or several: 1,8,32.  [default: 1]")] = "",
    duration: Annotated[
        float | None, typer.Option(min=0.01, help="How long to measure, seconds.  [default: 3]")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, help="How long to run before that, milliseconds.  [default: 200]")
    ] = None,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Measure throughput: no wait between queries.")
    ] = False,
    threads: Annotated[int | None, THREADS] = None,
    trust: Annotated[bool, TRUST] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write latency.json.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure latency and throughput as trtexec does.

    Against another engine the ratio of the medians is measured too, on the same input in turn.
    """
    from edgecnn.recipe.schema import BenchSettings
    from edgecnn.records import to_plain
    from edgecnn.steps.bench import bench as step

    defaults, batches = BenchSettings(), _sizes(batch)
    found = step(
        engine,
        output,
        versus=vs,
        batches=batches,
        warmup_ms=defaults.warmup_ms if warmup is None else warmup,
        duration_s=defaults.duration_s if duration is None else duration,
        mode="throughput" if throughput else "latency",
        threads=threads,
        trust=trust,
    )
    if as_json:
        print_json(to_plain(found))
        return
    columns = ["name", "batch", "n_queries", *(f"latency_ms_{p}" for p in ("p50", "p90", "p95", "p99", "mean"))]
    rows = [to_plain(row) for row in found.measurements]
    print_rows(rows, [*columns, "latency_ms_cov_pct", "throughput_images_per_s"])
    said: list[str] = []
    for row in found.measurements:
        said += row.latency.warnings
        if ratio := row.ratio:
            said += ratio.latency_ratio_warnings
            low, high = ratio.latency_ratio_ci
            print(
                f"batch {row.latency.batch}: {ratio.latency_ratio:.3f} x {ratio.latency_reference}, "
                f"95 % interval [{low:.3f}, {high:.3f}], {ratio.latency_ratio_rounds} interleaved rounds"
            )
    last = found.measurements[-1].latency
    clocks = "".join(f", {k} {v}" for k, v in to_plain(last.clocks).items())
    say(f"{found.device}; {last.mode} mode, clock {last.clock}, {last.sync}{clocks}")
    for warning in dict.fromkeys(said):
        say(f"warning: {warning}")


def _sizes(text: str) -> tuple[int, ...]:
    from edgecnn.errors import RecipeError

    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise RecipeError(
            f"--batch {text}: not a list of batch sizes", "give whole numbers, for example --batch 1,8,32"
        )
    return tuple(int(p) for p in parts)
