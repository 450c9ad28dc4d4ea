"""Latency of engines: each alone, then all in turn on the same input."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, tool_versions
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.backends import backend_for
from edgecnn.errors import MeasurementError
from edgecnn.machine.clocks import require_ready
from edgecnn.machine.cpu import available_cores, cpu_device
from edgecnn.machine.power_sensor import open_power_sensor
from edgecnn.machine.threads import spin_while_waiting, torch_is_passive
from edgecnn.measure.comparison import compare_latency, find_fp16_engines
from edgecnn.measure.energy import measure_with_energy
from edgecnn.measure.latency import PLAIN, measure_latency, require_plain
from edgecnn.measure.pipelined import mode_of
from edgecnn.recipe.schema import BenchSettings, OrtProvider, fields_of
from edgecnn.records import to_plain
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineFacts, EngineInfo, SharesBy
from edgecnn.results.latency import LatencyFile, LatencyRatio, LatencyRow, Mode
from edgecnn.results.startup import Startup
from edgecnn.session import Array, PipelineOptions, Session
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_batches, require_one_of
from edgecnn.steps._fresh import run_in_fresh_process
from edgecnn.steps._layer_files import require_layers, write_layer_files
from edgecnn.steps._planned import Planned, Progress
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import CHECKPOINT, engine_info, open_any
from edgecnn.steps._startup import open_measured

SHORTEST_S = 0.01


def bench(
    engine: FilePath,
    output: FilePath | None = None,
    *,
    versus: FilePath | None = None,
    batch: int = BenchSettings.batch,
    batches: Sequence[int] = (),
    duration_s: float = BenchSettings.duration_s,
    warmup_ms: float = BenchSettings.warmup_ms,
    mode: Mode | None = None,
    throughput: bool = False,
    streams: int = 1,
    transfers: bool = True,
    export: FilePath | None = None,
    threads: int | None = None,
    provider: OrtProvider | None = None,
    trust: bool = False,
    trust_code: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> LatencyFile:
    """The latency of an engine, a graph or a checkpoint, by trtexec's definitions.

        import edgecnn as ec
        lat = ec.bench("m.int8.plan", versus="m.fp16.plan")
        lat.p50, lat.p99, lat.measurements[0].ratio

    Queries of `batch` images [N, C, H, W], or of each of `batches` in turn, run for `duration_s` seconds after
    `warmup_ms` milliseconds; latencies are in milliseconds, throughput in images per second. With `versus` both run in
    turn on the same input, and the ratio of the medians is measured. `provider` is what of ONNX Runtime runs graphs
    (cpu or cuda; an engine has its own).

    Engines of TensorRT are measured in trtexec's `mode` "pipelined" (two queries in flight on each of `streams`,
    without `transfers` the compute alone), others "single-shot"; with `throughput` nothing is timed on the device, and
    a latency is the host's. `export` is a folder for the layers and the profile of a plan, as NVIDIA's analysis reads
    them. `trust` loads a plan that has no sidecar,
    `trust_code` runs the Python file that the network of a checkpoint is made by. With an `output` the result is
    written there. Raises `MeasurementError` for a batch that a frozen graph does not take, and
    the errors of the engines. With `strict` it raises that too before anything runs on a Jetson whose power mode cannot
    be read, whose clocks are not locked, or which is throttled; without it they are among the warnings. `progress`,
    which can be pickled, is told of the seconds gone and planned where they are more than three.
    """
    if strict:
        require_ready()
    engine, output, versus = Path(engine), path_or_none(output), path_or_none(versus)
    if mode is not None:
        require_one_of("mode", mode, Mode)
    if provider is not None:
        require_one_of("provider", provider, OrtProvider)
    require_batches((batch, *batches))
    require_at_least(1, threads=threads, streams=streams)
    require_at_least(SHORTEST_S, duration_s=duration_s)
    require_at_least(0.0, warmup_ms=warmup_ms)
    settings = BenchSettings(batch=batches[0] if batches else batch, duration_s=duration_s, warmup_ms=warmup_ms)
    if output is not None:
        check_output(output, ".json", engine, versus)
    paths = [engine] if versus is None else [engine, versus]
    options = PipelineOptions(streams, transfers, timed=not throughput)
    how = _How(mode, options, path_or_none(export), threads, provider, trust, trust_code, progress)
    work = partial(_bench, paths, output, batches or (batch,), settings, how)
    if torch_is_passive() and CHECKPOINT in {path.suffix for path in paths}:
        return run_in_fresh_process(work)
    return work()


@dataclasses.dataclass(frozen=True)
class _How:
    """How engines are opened and queried."""

    mode: Mode | None
    options: PipelineOptions
    export: Path | None
    threads: int | None
    provider: OrtProvider | None
    trust: bool
    trust_code: bool
    progress: Progress | None


def _bench(
    paths: Sequence[Path], output: Path | None, sizes: Sequence[int], settings: BenchSettings, how: _How
) -> LatencyFile:
    engine, *compared = paths
    versus = next(iter(compared), None)
    mode, options, export = how.mode, how.options, how.export
    threads, provider = how.threads, how.provider
    sidecars = [sidecar_of(path) for path in paths]
    rows = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(spin_while_waiting())

        def first(path: Path, opened: Session) -> Array:
            require_batch(path, opened, sizes[0])
            return input_for(opened, path, sizes[0])

        opening = partial(open_any, threads=threads, trust=how.trust, trust_code=how.trust_code, provider=provider)
        (session, startup), *others = [
            open_measured(stack, p, partial(opening, p), partial(first, p), provider) for p in paths
        ]
        if mode_of(mode, session, *(other for other, _ in others)) == "single-shot":
            require_plain(options)
        if export is not None:
            require_layers(engine, session)
        planned = Planned(how.progress, settings, len(sizes) * (1 + len(paths) * (versus is not None)))
        for size in sizes:
            require_batch(engine, session, size)
            images = input_for(session, engine, size)
            row = _alone(engine.stem, engine, session, images, settings, startup, planned, mode, options, provider)
            if versus is not None:
                other = versus.stem if versus.stem != engine.stem else str(versus)
                sessions = {other: others[0][0], engine.stem: session}
                inputs = {other: input_for(others[0][0], versus, size), engine.stem: images}
                infos = {
                    name: engine_info(path, known, provider)
                    for name, path, known in zip((engine.stem, other), paths, sidecars, strict=True)
                }
                row = _with_ratios([row], _compared(sessions, inputs, settings, infos, planned, mode, options))[0]
            rows.append(row)
            if export is not None:
                label = engine.stem if len(sizes) == 1 else f"{engine.stem}_batch{size}"
                write_layer_files(export, label, session, images)
        planned.finish()
    found = LatencyFile(
        device=_at_clocks(device_of(engine, threads, provider), rows),
        reference=None if versus is None else str(versus),
        measurements=tuple(rows),
    )
    if output is not None:
        _write(output, found, paths, sidecars[0].recipe, {**sidecars[0].fields, **fields_of("bench", settings)}, None)
    return found


def bench_all(
    engines: Mapping[str, Path],
    output: Path,
    *,
    checkpoint: Path | None = None,
    on_gpu: bool = False,
    settings: BenchSettings | None = None,
    threads: int | None = None,
    device: Device | None = None,
    facts: Mapping[str, str] | None = None,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> LatencyFile:
    """Each engine, by its name in reports, alone; then all of them and PyTorch (where the `checkpoint` and it are here)
    in turn on the same input. Without PyTorch the others are compared with the first engine that is not INT8.

    On a GPU the reference is PyTorch with CUDA: a ratio against a CPU would flatter. Engines of TensorRT are pipelined
    alone, and in turn with PyTorch single-shot as PyTorch is.
    """
    settings = settings or BenchSettings()
    paths = list(engines.values())
    if torch_is_passive() and not on_gpu and checkpoint is not None and checkpoint.exists():
        again = partial(bench_all, engines, output, checkpoint=checkpoint, settings=settings, threads=threads)
        more = {"device": device, "facts": facts, "trust_code": trust_code, "progress": progress}
        return run_in_fresh_process(partial(again, **more))
    with contextlib.ExitStack() as stack:
        stack.enter_context(spin_while_waiting())
        reference, first = _pytorch(checkpoint, on_gpu, threads, trust_code)
        sessions = {reference: stack.enter_context(first)} if first is not None else {}
        starts = dict[str, Startup]()
        for name, path in engines.items():
            sessions[name], starts[name] = open_measured(
                stack, path, partial(open_any, path, threads), partial(input_for, engine=path, batch=settings.batch)
            )
        inputs = {name: input_for(s, engines.get(name), settings.batch) for name, s in sessions.items()}
        planned = Planned(progress, settings, len(engines) + len(sessions) * (len(sessions) > 1))
        rows = [
            _alone(name, path, sessions[name], inputs[name], settings, starts[name], planned)
            for name, path in engines.items()
        ]
        compared_with = reference or _first_to_compare_with(engines)
        if len(sessions) > 1:
            sessions = {compared_with: sessions[compared_with], **sessions}
            infos = {row.latency.name: row.engine for row in rows}
            rows = _with_ratios(rows, _compared(sessions, inputs, settings, infos, planned))
        planned.finish()
    found = LatencyFile(
        device=_at_clocks(device or device_of(paths[0], threads), rows),
        reference=compared_with,
        measurements=tuple(rows),
    )
    fields = {key: value for path in paths for key, value in sidecar_of(path).fields.items()}
    recipe = sidecar_of(paths[0]).recipe
    _write(output, found, paths, recipe, {**fields, **fields_of("bench", settings)}, device, facts)
    return found


def _first_to_compare_with(engines: Mapping[str, Path]) -> str:
    """An INT8 engine is held against an FP16 one, and what all are compared with has no ratio."""
    others = (name for name, path in engines.items() if sidecar_of(path).precision_requested != "int8")
    return next(others, next(iter(engines)))


def device_of(engine: Path, threads: int | None, provider: OrtProvider | None = None) -> Device:
    """What an engine, or a graph by a `provider`, runs on here; a checkpoint runs on the processor."""
    return cpu_device(threads) if engine.suffix == CHECKPOINT else backend_for(engine, provider).device(threads)


def _at_clocks(device: Device, rows: Sequence[LatencyRow]) -> Device:
    """The device with what the rows say of its clocks: a latency at locked ones is compared with its like."""
    on_cpu = not device.gpu_name
    locked = {row.latency.clocks.cpu_locked if on_cpu else row.latency.clocks.locked for row in rows}
    return dataclasses.replace(device, clocks_locked=False if False in locked else None if None in locked else True)


def engine_facts(engine: Path) -> EngineFacts | None:
    """Size and precision of an engine, as its sidecar tells them; None without one."""
    if not sidecar_path(engine).exists():
        return None
    facts = read_sidecar(engine).facts
    shares = ("int8_share_pct", "fp16_share_pct", "fp32_share_pct", "graph_int8_share_pct")
    counts = ("quantize_layers", "reformat_layers", "integer_kernels", "weighted_nodes", "cpu_nodes", "graph_nodes")
    known = {key: facts[key] for key in (*shares, *counts) if key in facts}
    told: SharesBy = facts.get("shares_by") or "untold"
    return EngineFacts(
        size_mb=round(engine.stat().st_size / 1e6, 6), shares_by=told if "shares_by" in facts else "", **known
    )


def _alone(
    name: str,
    path: Path,
    session: Session,
    images: Array,
    settings: BenchSettings,
    startup: Startup,
    planned: Planned,
    mode: Mode | None = None,
    options: PipelineOptions = PLAIN,
    provider: OrtProvider | None = None,
) -> LatencyRow:
    measure = partial(
        measure_latency,
        name,
        session,
        images,
        warmup_ms=settings.warmup_ms,
        duration_s=settings.duration_s,
        mode=mode,
        options=options,
        clocks=planned.clocks(session),
    )
    found, energy = measure_with_energy(measure, partial(open_power_sensor, session.info.pci_bus_id))
    info = engine_info(path, sidecar_of(path), provider)
    return LatencyRow(latency=found, engine=info, facts=engine_facts(path), startup=startup, energy=energy)


def _compared(
    sessions: Mapping[str, Session],
    inputs: Mapping[str, Array],
    settings: BenchSettings,
    engines: Mapping[str, EngineInfo | None],
    planned: Planned,
    mode: Mode | None = None,
    options: PipelineOptions = PLAIN,
) -> Mapping[str, LatencyRatio]:
    return compare_latency(
        sessions,
        inputs,
        warmup_ms=settings.warmup_ms,
        duration_s=settings.duration_s,
        fp16_of=find_fp16_engines(engines),
        mode=mode,
        options=options,
        clocks=planned.clocks(*sessions.values()),
    )


def _with_ratios(rows: Sequence[LatencyRow], ratios: Mapping[str, LatencyRatio]) -> list[LatencyRow]:
    return [dataclasses.replace(row, ratio=ratios.get(row.latency.name)) for row in rows]


def input_for(session: Session, engine: Path | None, batch: int) -> Array:
    """A batch for `session`: seeded noise, or seeded pixels where the serving contract of `engine` takes those."""
    shape = (batch, *(n or 1 for n in session.input.shape[1:]))
    rng = np.random.default_rng(0)
    known = None if engine is None else sidecar_of(engine)
    if known is None or known.embeds or known.contract.input == "normalised":
        return rng.standard_normal(shape, np.float32)
    return rng.integers(0, 256, shape, np.uint8).astype(session.input.dtype)


def require_batch(engine: Path, session: Session, batch: int) -> None:
    """Raise `MeasurementError` for a batch that a frozen graph does not take."""
    frozen = session.input.shape[0]
    if frozen not in (None, batch):
        raise MeasurementError(f"{engine}: its batch is frozen at {frozen}", f"bench it with --batch {frozen}")


def _pytorch(
    checkpoint: Path | None, on_gpu: bool, threads: int | None, trust_code: bool
) -> tuple[str, Session | None]:
    if checkpoint is None or not checkpoint.exists() or importlib.util.find_spec("torch") is None:
        return "", None
    if not all(
        (checkpoint.parent / name).exists() for name in read_sidecar(checkpoint).parents if name.endswith(".py")
    ):
        return "", None  # an own network whose code stayed behind
    from edgecnn.pytorch.reference import cuda_is_available, open_cuda_reference, open_reference

    if on_gpu:
        if not cuda_is_available():
            return "", None
        return "pytorch-cuda", open_cuda_reference(checkpoint, trust_code=trust_code)
    return "pytorch", open_reference(checkpoint, threads or available_cores(), trust_code=trust_code)


def _write(
    output: Path,
    found: LatencyFile,
    engines: Sequence[Path],
    recipe: str,
    fields: Mapping[str, Any],
    device: Device | None,
    facts: Mapping[str, str] | None = None,
) -> None:
    made = Sidecar(
        kind="latency",
        made_by="edgecnn bench",
        recipe=recipe,
        parents=parents_of(output, *engines),
        fields=dict(fields),
        tools=tool_versions(*TOOLS["bench"]),
        device=device or dataclasses.replace(found.device, clocks_locked=None),
        facts=dict(facts or {}),
    )
    write_json_artifact(output, to_plain(found), made)
