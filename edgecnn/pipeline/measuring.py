"""Validate and bench within a run: an engine that takes its process down is a result, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecnn.errors import CrashError
from edgecnn.remote import engines as isolated
from edgecnn.steps.crash import crash_path, crashed_in, keep_crash


def validate_or_crash(engine: Path, reference: Path, output: Path, *, name: str, **settings: Any) -> None:
    """`validate`, or the crash of the engine beside `output`, in place of its accuracy."""
    _validate_or_crash(isolated.validate, engine, reference, output, name, settings)


def verify_or_crash(engine: Path, reference: Path, output: Path, *, name: str, **settings: Any) -> None:
    """The same of an embedding engine."""
    _validate_or_crash(isolated.validate_verification, engine, reference, output, name, settings)


def _validate_or_crash(
    step: Callable[..., object], engine: Path, reference: Path, output: Path, name: str, settings: Mapping[str, Any]
) -> None:
    crash_path(output.parent, name).unlink(missing_ok=True)
    try:
        step(engine, reference, output, name=name, **settings)
    except CrashError as exc:
        output.unlink(missing_ok=True)
        keep_crash(output.parent, name, engine, "validate", exc)


def bench_or_crash(engines: Mapping[str, Path], output: Path, **settings: Any) -> None:
    """`bench_all` of the engines that run; beside `output` the crashes of the others.

    Which of them took their process down is not known where they run in turn: each is then run alone, and where none
    crashes so, none of them has a latency.
    """
    folder = output.parent
    for name in engines:
        if crashed_in(folder, name) == "bench":
            crash_path(folder, name).unlink()
    running = {name: path for name, path in engines.items() if not crashed_in(folder, name)}
    while running:
        try:
            isolated.bench_all(running, output, **settings)
            return
        except CrashError as exc:
            alone = {name: crash for name, path in running.items() if (crash := _alone(name, path, output, settings))}
            for name, crash in (alone or dict.fromkeys(running, exc)).items():
                keep_crash(folder, name, running.pop(name), "bench", crash)
    output.unlink(missing_ok=True)


def _alone(name: str, path: Path, output: Path, settings: Mapping[str, Any]) -> CrashError | None:
    try:
        isolated.bench_all({name: path}, output, **settings)
    except CrashError as exc:
        return exc
    return None
