"""Measure an engine from the picture's file to its logits, in one process or several at once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, tool_versions
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.errors import BackendError, EdgecnnError, MeasurementError, RecipeError
from edgecnn.machine.clocks import require_ready
from edgecnn.machine.threads import spin_while_waiting
from edgecnn.measure.end_to_end import Frames, collect_frames, image_query, periodic, summarize
from edgecnn.measure.latency import clock_reader
from edgecnn.recipe.schema import BenchSettings
from edgecnn.records import to_plain
from edgecnn.results.end_to_end import EndToEnd
from edgecnn.session import TimedSession
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import open_any
from edgecnn.steps.bench import SHORTEST_S, device_of

LEAST_FPS = 0.01
MOST_FRAMES = 10_000_000  # of one process: 80 MB of arrivals


@dataclasses.dataclass(frozen=True)
class EndToEndSettings:
    """How pictures reach the engine: `fps` frames a second in each of `processes`, or (None) one after another;
    for `duration_s` seconds after `warmup_ms` milliseconds; with `soak` the run is long enough to heat the machine."""

    batch: int = BenchSettings.batch
    duration_s: float = BenchSettings.duration_s
    warmup_ms: float = BenchSettings.warmup_ms
    fps: float | None = None
    processes: int = 1
    soak: bool = False
    threads: int | None = None
    trust: bool = False
    trust_code: bool = False


def bench_end_to_end(
    engine: FilePath,
    output: FilePath | None = None,
    *,
    data: str,
    settings: EndToEndSettings | None = None,
    strict: bool = False,
) -> EndToEnd:
    """Latency from the files of `data` to the logits of `engine`, and of each stage between, in milliseconds.

    Pictures are decoded, resized and normalized as the engine's sidecar says, on one thread of each process. With an
    `output` the result is written there. Raises `DataError` for data without pictures, `MeasurementError` for a batch
    that a frozen graph does not take, and the errors of the engine, of whichever process; `strict` is `bench`'s.
    """
    if strict:
        require_ready()
    engine, output, settings = Path(engine), path_or_none(output), settings or EndToEndSettings()
    require_at_least(1, batch=settings.batch, processes=settings.processes, threads=settings.threads)
    require_at_least(SHORTEST_S, duration_s=settings.duration_s)
    require_at_least(0.0, warmup_ms=settings.warmup_ms)
    require_at_least(LEAST_FPS, fps=settings.fps)
    if settings.fps is not None:
        _require_stream(settings.fps, settings)
    if output is not None:
        check_output(output, ".json", engine)
    if settings.processes == 1:
        runs = [_run(engine, data, settings, lambda: None)]
    else:
        runs = _run_together(engine, data, settings)
    if not all(len(run.end) for run in runs):
        raise MeasurementError(
            f"{engine}: no frame was served within {settings.duration_s:g} s", "measure longer, with --duration"
        )
    found = summarize(
        engine.stem,
        device_of(engine, settings.threads),
        runs,
        settings.batch,
        fps=settings.fps,
        soak=settings.soak,
    )
    if output is not None:
        made = Sidecar(
            kind="end-to-end",
            made_by="edgecnn bench --end-to-end",
            recipe=sidecar_of(engine).recipe,
            parents=parents_of(output, engine),
            fields={"data.source": data, **{f"bench.{k}": v for k, v in dataclasses.asdict(settings).items()}},
            tools=tool_versions(*TOOLS["bench"]),
            device=found.device,
        )
        write_json_artifact(output, to_plain(found), made)
    return found


def _require_stream(fps: float, settings: EndToEndSettings) -> None:
    """Raise `RecipeError` for frames that do not come one by one, or are too many to be counted."""
    if settings.batch > 1:
        raise RecipeError(
            f"fps = {fps:g} with batch = {settings.batch}: frames come one by one, and none waits for a batch to fill",
            "leave --batch out, or measure batches one after another, without --fps",
        )
    if fps * settings.duration_s > MOST_FRAMES:
        raise RecipeError(
            f"fps = {fps:g} for {settings.duration_s:g} s: {fps * settings.duration_s:.0f} frames, "
            f"allowed {MOST_FRAMES}",
            "measure at fewer frames a second, or shorter",
        )


def _run(engine: Path, data: str, settings: EndToEndSettings, begin: Any) -> Frames:
    """One process's queries; `begin` returns when all may start."""
    with (
        spin_while_waiting(),
        open_any(engine, settings.threads, settings.trust, trust_code=settings.trust_code) as session,
    ):
        frozen = session.input.shape[0]
        if frozen not in (None, settings.batch):
            raise MeasurementError(f"{engine}: its batch is frozen at {frozen}", f"bench it with --batch {frozen}")
        sidecar = sidecar_of(engine)
        images = open_images(sidecar, data, "test", named=False).in_form(sidecar.contract.input)
        query = image_query(images, session, settings.batch)
        clocks = clock_reader(session.info.pci_bus_id)
        collect_frames(query, settings.warmup_ms / 1000, clocks, min_queries=1)
        begin()
        arrivals = None if settings.fps is None else periodic(settings.fps)
        frames = collect_frames(query, settings.duration_s, clocks, arrivals)
        frames.clock = "events" if isinstance(session, TimedSession) else "host"
        return frames


def _run_together(engine: Path, data: str, settings: EndToEndSettings) -> list[Frames]:
    """The same in several processes, which begin together; the first error of any of them is raised here."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(settings.processes)
    ends, workers = [], []
    for _ in range(settings.processes):
        here, there = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(there, barrier, engine, data, settings), daemon=True)
        worker.start()
        there.close()
        ends.append(here)
        workers.append(worker)
    try:
        return _received(ends, workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _received(ends: Sequence[Connection], workers: Sequence[Any]) -> list[Frames]:
    answers: dict[Connection, Frames] = {}
    while len(answers) < len(ends):
        for end in wait([e for e in ends if e not in answers]):
            assert isinstance(end, Connection)
            try:
                answer = end.recv()
            except EOFError:
                worker = workers[ends.index(end)]
                worker.join()
                answer = BackendError(
                    f"one of {len(ends)} processes ended with exit code {worker.exitcode}",
                    "try fewer processes; a script of yours must call it below `if __name__ == '__main__':`",
                )
            if isinstance(answer, EdgecnnError):
                raise answer
            answers[end] = answer
    return [answers[end] for end in ends]


def _work(end: Connection, barrier: Any, engine: Path, data: str, settings: EndToEndSettings) -> None:
    """What each process does; an error travels to the parent, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        end.send(_run(engine, data, settings, barrier.wait))
    except EdgecnnError as exc:
        end.send(exc)
