"""`edgecnn bench`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecnn.cli.on import ON, run_on
from edgecnn.cli.options import ALLOWED, JSON, PROVIDER, REQUIRE_SIGNATURE, THREADS, TRUST, TRUST_CODE
from edgecnn.cli.printing import print_json, print_rows, stdout_kept
from edgecnn.cli.progress import Counter
from edgecnn.output import print_text, say
from edgecnn.recipe.schema import OrtProvider

if TYPE_CHECKING:
    from edgecnn.results.latency import LatencyFile

EXAMPLES = """
edgecnn bench --engine runs/lenet5-digits/cpu/int8.onnx --vs runs/lenet5-digits/cpu/fp32.onnx --duration 0.2
edgecnn bench --engine runs/lenet5-digits/cpu/int8.onnx --end-to-end --data digits --fps 30 --duration 0.5
edgecnn bench --engine int8.plan --batch 1,8 --throughput  # needs a GPU with TensorRT
edgecnn bench --engine int8.plan --streams 2 --no-transfers  # needs a GPU with TensorRT
edgecnn bench --engine int8.plan --mode single-shot --export analysis  # needs a GPU with TensorRT
edgecnn bench --engine int8.plan --power-modes  # needs a GPU with TensorRT
edgecnn bench --engine int8.plan --on jetson --on desk --json  # needs devices in the network
"""


def bench(
    context: typer.Context,
    engine: Annotated[Path, typer.Option(help="A .plan, an .onnx, or a checkpoint.")],
    vs: Annotated[Path | None, typer.Option("--vs", help="Another engine, to run in turn with it.")] = None,
    batch: Annotated[str, typer.Option(help="Batch size, or several: 1,8,32.  [default: 1]")] = "",
    duration: Annotated[
        float | None, typer.Option(min=0.01, help="How long to measure, seconds.  [default: 3]")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0, help="How long to run before that, milliseconds.  [default: 200]")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Pipelined (two queries in flight) or single-shot.  [default: pipelined on TensorRT]")
    ] = "",
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Measure throughput: no device timing between queries.")
    ] = False,
    streams: Annotated[int, typer.Option(min=1, max=64, help="Pipelines at once, on one GPU.")] = 1,
    transfers: Annotated[
        bool, typer.Option("--transfers/--no-transfers", help="Copy in and out with each query, or compute alone.")
    ] = True,
    export: Annotated[
        Path | None, typer.Option(help="Folder for layers_*.json and profile_*.json, which NVIDIA's analysis reads.")
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
    provider: Annotated[OrtProvider | None, PROVIDER] = None,
    trust: Annotated[bool, TRUST] = False,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Measure from the picture's file: decode, resize, normalize, run.")
    ] = False,
    data: Annotated[str, typer.Option(help="With --end-to-end: the pictures, as for validate.")] = "",
    fps: Annotated[
        float | None, typer.Option(min=0.01, help="Frames a second that arrive in each process, ready or not.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that run the engine at once.")] = 1,
    soak: Annotated[
        float | None, typer.Option(min=0.1, help="Minutes to run, to tell the burst from the heat-soaked machine.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="On a Jetson: refuse unless its clocks are locked and not throttled."),
    ] = False,
    power_modes: Annotated[
        bool,
        typer.Option("--power-modes", help="On a Jetson: measure in each mode of nvpmodel, as root or by sudo -n."),
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write latency.json.")] = None,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    on: Annotated[list[str] | None, ON] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure latency and throughput, end to end too.

    Latency is trtexec's, or with --end-to-end from the picture's file on. Engines of TensorRT are pipelined as trtexec
    does: two queries in flight, copies beside compute. Others run one query after the other.

    Against another engine the ratio of the medians is measured too, on the same input in turn.
    """
    if on:
        run_on(context, on, files=("engine", "vs"), outputs=("output", "export"), refused=("end_to_end", "trust_code"))
    _restore_power_mode()
    if end_to_end or data or fps is not None or processes > 1 or soak is not None:
        other = [power_modes, vs is not None, throughput, bool(mode), streams > 1, not transfers, export is not None]
        _require_end_to_end(end_to_end, data, any(other), duration if soak is not None else None)
        _refuse_provider(provider)
        _bench_end_to_end(
            engine, output, data, as_json, strict,
            batch=_one_size(batch), duration_s=60 * soak if soak is not None else duration, warmup_ms=warmup,
            fps=fps, processes=processes, soak=soak is not None, threads=threads, trust=trust, trust_code=trust_code,
        )  # fmt: skip
        return
    from edgecnn.recipe.schema import BenchSettings
    from edgecnn.records import to_plain
    from edgecnn.remote.engines import bench as step

    defaults, batches = BenchSettings(), _sizes(batch)

    def measure() -> LatencyFile:
        return step(
            engine,
            output,
            versus=vs,
            batches=batches,
            warmup_ms=defaults.warmup_ms if warmup is None else warmup,
            duration_s=defaults.duration_s if duration is None else duration,
            mode=_mode(mode),
            throughput=throughput,
            streams=streams,
            transfers=transfers,
            export=export,
            threads=threads,
            provider=provider,
            trust=trust,
            trust_code=trust_code,
            strict=strict,
            progress=Counter("bench", "s"),
        )

    if power_modes:
        _bench_power_modes(measure, output or export, as_json)
        return
    with stdout_kept():
        found = measure()
    if as_json:
        print_json(to_plain(found))
    else:
        _print(found)


def _bench_power_modes(measure: Callable[[], LatencyFile], written: Path | None, as_json: bool) -> None:
    from edgecnn.errors import RecipeError
    from edgecnn.pipeline.power_modes import sweep_power_modes
    from edgecnn.records import to_plain

    if written is not None:
        raise RecipeError(
            "--power-modes with -o or --export: each mode has its own result", "take --json, which has all"
        )
    with stdout_kept():
        found = sweep_power_modes(measure)
    if as_json:
        print_json(to_plain(found))
        return
    rows = []
    for run in found.modes:
        if run.refused:
            say(f"warning: {run.refused}")
        for row in run.result.measurements if run.result else ():
            told = row.energy
            rows.append(
                {
                    "power mode": run.power_mode,
                    "batch": row.latency.batch,
                    "p50 ms": row.latency.p50,
                    "images/s": row.latency.throughput_images_per_s,
                    "W": told.power_w if told else None,
                    "J/inference": told.joules_per_inference if told else None,
                }
            )
            for warning in row.latency.warnings:
                say(f"warning: {run.power_mode}: {warning}")
    print_rows(rows, ["power mode", "batch", "p50 ms", "images/s", "W", "J/inference"])
    say(f"{found.restored} is set again")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _print(found: LatencyFile) -> None:
    from edgecnn.records import to_plain

    columns = {"name": "name", "mode": "mode", "batch": "batch", "queries": "n_queries"}
    columns |= {f"{p} ms": f"latency_ms_{p}" for p in ("p50", "p90", "p99")}
    if any(row.latency.enqueue_ms_p50 is not None for row in found.measurements):
        columns["enqueue ms"] = "enqueue_ms_p50"
    columns["images/s"] = "throughput_images_per_s"
    rows = [to_plain(row) for row in found.measurements]
    print_rows([{label: row.get(key) for label, key in columns.items()} for row in rows], list(columns))
    said: list[str] = []
    for row in found.measurements:
        said += row.latency.warnings
        if row.latency.profile:
            say(f"batch {row.latency.batch}: optimization profile {row.latency.profile}")
        if ratio := row.ratio:
            said += ratio.latency_ratio_warnings
            low, high = ratio.latency_ratio_ci
            print_text(
                f"batch {row.latency.batch}: {ratio.latency_ratio:.3f} x {ratio.latency_reference}, "
                f"95 % interval [{low:.3f}, {high:.3f}], {ratio.latency_ratio_rounds} interleaved rounds of "
                f"{ratio.latency_ratio_mode} queries"
            )
    if start := found.measurements[0].startup:
        memory = "" if start.device_memory_mb is None else f", device memory {start.device_memory_mb:.1f} MB"
        say(f"load {start.load_s:.3f} s, first query {start.first_query_ms:.3f} ms{memory}")
    _print_energy(found)
    last = found.measurements[-1].latency
    clocks = "".join(f", {k} {v}" for k, v in to_plain(last.clocks).items())
    say(f"{found.device}; {last.mode} mode, {last.in_words}{clocks}")
    if last.jit_ms is not None:
        say(f"compiled for this GPU in {last.jit_ms:.0f} ms, before the queries")
    for warning in dict.fromkeys(said):
        say(f"warning: {warning}")


def _restore_power_mode() -> None:
    from edgecnn.machine.power import restore_power_mode

    if (restored := restore_power_mode()) is not None:
        say(f"power mode {restored.name} is set again: a sweep of the modes was killed before it did so")


def _print_energy(found: LatencyFile) -> None:
    for row in found.measurements:
        if row.energy is not None:
            print_text(f"batch {row.latency.batch}: {row.energy.in_words}")
            say(row.energy.source)
    if not any(row.energy or any(w.startswith("energy: ") for w in row.latency.warnings) for row in found.measurements):
        from edgecnn.measure.energy import ABSENT

        say(f"energy: not measured: {ABSENT}")


def _mode(text: str) -> Any:
    from typing import get_args

    from edgecnn.errors import RecipeError
    from edgecnn.results.latency import Mode

    if text and text not in get_args(Mode):
        raise RecipeError(f"--mode {text}: not known", f"one of {', '.join(get_args(Mode))}")
    return text or None


def _sizes(text: str) -> tuple[int, ...]:
    from edgecnn.errors import RecipeError

    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise RecipeError(
            f"--batch {text}: not a list of batch sizes", "give whole numbers, for example --batch 1,8,32"
        )
    return tuple(int(p) for p in parts)


def _one_size(text: str) -> int | None:
    from edgecnn.errors import RecipeError

    sizes = _sizes(text)
    if len(sizes) > 1:
        raise RecipeError(f"--batch {text}: several sizes with --end-to-end", "give one")
    return sizes[0] if sizes else None


def _refuse_provider(provider: OrtProvider | None) -> None:
    from edgecnn.errors import RecipeError

    if provider is not None:
        raise RecipeError(
            f"--provider {provider} with --end-to-end: what is measured from the picture on is an engine",
            f"build one, which carries its provider: edgecnn build GRAPH.onnx --provider {provider}",
        )


def _require_end_to_end(end_to_end: bool, data: str, other: bool, duration: float | None) -> None:
    """Raise `RecipeError` for options that do not go together."""
    from edgecnn.errors import RecipeError

    if not end_to_end:
        raise RecipeError("--data, --fps, --processes and --soak belong to --end-to-end", "add --end-to-end")
    if not data:
        raise RecipeError("--end-to-end without --data: there is nothing to decode", "name pictures with --data")
    if other:
        raise RecipeError(
            "--end-to-end with --power-modes, --vs, --throughput, --mode, --streams, --no-transfers or --export",
            "measure one engine at a time, without them",
        )
    if duration is not None:
        raise RecipeError("--soak and --duration both say how long to measure", "give one of them")


def _bench_end_to_end(engine: Path, output: Path | None, data: str, as_json: bool, strict: bool, **given: Any) -> None:
    from edgecnn.records import to_plain
    from edgecnn.remote.engines import bench_end_to_end
    from edgecnn.steps.end_to_end import EndToEndSettings

    settings = EndToEndSettings(**{key: value for key, value in given.items() if value is not None})
    with stdout_kept():
        found = bench_end_to_end(engine, output, data=data, settings=settings, strict=strict)
    if as_json:
        print_json(to_plain(found))
        return
    quantiles = ("p50", "p90", "p95", "p99")
    total = {"stage": "latency", **{key: getattr(found, f"latency_{key}") for key in ("ms_mean", *_ms(quantiles))}}
    rows = [{**to_plain(stage), "stage": stage.name} for stage in found.stages]
    print_rows([*rows, total], ["stage", "ms_mean", *_ms(quantiles), "share_pct"])
    each = f"{found.processes} processes, " if found.processes > 1 else ""
    print_text(f"{each}{found.n_queries} queries of {found.batch}, {found.throughput_images_per_s:.1f} images/s")
    if stream := found.stream:
        print_text(
            f"{stream.fps:g} frames/s: {stream.deadline_missed} of {stream.n_offered} missed their deadline of "
            f"{stream.deadline_ms:.2f} ms ({stream.deadline_missed_pct:.2f} %), {stream.utilization_pct:.1f} % busy"
        )
    if hot := found.soak:
        for name, part in (("burst", hot.burst), ("heat-soaked", hot.soaked)):
            p99 = "" if part.latency_ms_p99 is None else f", p99 {part.latency_ms_p99:.3f} ms"
            heat = (
                "" if part.clocks is None or part.clocks.temperature_c is None else f", {part.clocks.temperature_c:g} C"
            )
            print_text(
                f"{name} ({part.start_s:.0f} to {part.end_s:.0f} s): p50 {part.latency_ms_p50:.3f} ms{p99}{heat}"
            )
        print_text(f"heat-soaked / burst: {hot.soak_ratio:.3f}")
    say(f"{found.device}; clock {found.clock}, from the picture's file to its logits")
    for warning in found.warnings:
        say(f"warning: {warning}")


def _ms(quantiles: tuple[str, ...]) -> list[str]:
    return [f"ms_{q}" for q in quantiles]
