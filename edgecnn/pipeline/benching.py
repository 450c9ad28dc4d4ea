"""Latency of one engine at one or more batch sizes, alone or in turn with another."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path
from edgecnn.artifact.write import check_output, write_json_artifact
from edgecnn.backends import load_backend
from edgecnn.errors import MeasurementError
from edgecnn.measure.comparison import compare_latency
from edgecnn.measure.latency import Mode, measure_latency
from edgecnn.pipeline.validation import opened, sidecar_of
from edgecnn.pipeline.verdicts import engine_facts
from edgecnn.recipe.schema import BenchSettings


@dataclass(frozen=True)
class Options:
    """How a bench is run; the defaults are the recipe's."""

    batches: Sequence[int] = (BenchSettings().batch,)
    warmup_ms: float = BenchSettings().warmup_ms
    duration_s: float = BenchSettings().duration_s
    mode: Mode = "latency"
    threads: int | None = None
    trust: bool = False


def bench_engine(engine: Path, versus: Path | None, options: Options, output: Path | None = None) -> dict[str, Any]:
    """`device`, `reference` and one flat measurement per batch size; against `versus` also the ratio of medians.

    Raises `MeasurementError` for a batch that a frozen graph does not take, and the errors of the engines.
    """
    if output is not None:
        check_output(output, ".json", engine, versus)
    sidecar = sidecar_of(engine)
    for path in [engine] if versus is None else [engine, versus]:
        sidecar_of(path)
    rows = []
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(opened(engine, options.threads, options.trust))
        other = stack.enter_context(opened(versus, options.threads, options.trust)) if versus else None
        for batch in options.batches:
            frozen = session.input.shape[0]
            if frozen not in (None, batch):
                raise MeasurementError(f"{engine}: its batch is frozen at {frozen}", f"bench it with --batch {frozen}")
            shape = (batch, *(n or 1 for n in session.input.shape[1:]))
            images = np.random.default_rng(0).standard_normal(shape, np.float32)
            warmup_ms, duration_s = options.warmup_ms, options.duration_s
            alone = measure_latency(
                engine.stem, session, images, warmup_ms=warmup_ms, duration_s=duration_s, mode=options.mode
            )
            row = alone.to_json() | (engine_facts(engine) if sidecar_path(engine).exists() else {})
            if other is not None and versus is not None:
                pair = {_other_name(engine, versus): other, engine.stem: session}
                (ratio,) = compare_latency(pair, images, warmup_ms=warmup_ms, duration_s=duration_s)
                row |= {**ratio.to_json(), "reference_latency_ms_p50": ratio.reference_latency_ms_p50}
            rows.append(row)
    result = {"device": _device(engine, options.threads), "reference": versus and str(versus), "measurements": rows}
    if output is not None:
        parents = parents_of(output, *[p for p in (engine, versus) if p is not None])
        made_by = f"edgecnn bench --engine {engine.name}"
        write_json_artifact(
            output, result, Sidecar(kind="latency", made_by=made_by, recipe=sidecar.recipe, parents=parents)
        )
    return result


def _other_name(engine: Path, versus: Path) -> str:
    return versus.stem if versus.stem != engine.stem else str(versus)


def _device(engine: Path, threads: int | None) -> dict[str, Any]:
    backend = "trt" if engine.suffix in {".plan", ".engine"} else "ort"
    return load_backend(backend).device(threads)
