"""Questions of the enterprise TensorRT."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.first_contact.answer import LARGEST, PRECISIONS, Answer, Work
from benchmarks.first_contact.engines import (
    batch_settings,
    benched,
    built,
    by_command_line,
    cosine,
    input_shape,
    inspected,
    known,
    measured_ratio,
    small_plans,
)

OPENS = 30
TARGETS = 'targets=["gpu"]'


def trt_build(work: Work, answer: Answer) -> None:
    """Each precision: what was obtained, and in which time."""
    for precision in PRECISIONS:
        plan = work.engine(f"{precision}.plan")
        answer.ask(precision, built, work.graph(work.small, precision), plan, target="gpu")


def trt_logits(work: Work, answer: Answer) -> None:
    """The cosine between the logits of each plan and of its graph on a CPU."""
    for plan in small_plans(work, "{}.plan"):
        answer.ask(plan.stem, cosine, work.graph(work.small, plan.stem), plan)


def graph_capture(work: Work, answer: Answer) -> None:
    """Whether an engine is replayed as a CUDA graph, and computes the same then."""
    for plan in small_plans(work, "{}.plan"):
        for batch in (1, LARGEST):
            answer.ask(f"{plan.stem}_batch{batch}", _replayed, plan, batch)


def _replayed(plan: Path, batch: int) -> dict[str, Any]:
    from edgecnn.backends import open_engine
    from edgecnn.steps.bench import input_for

    with open_engine(plan) as session:
        images = input_for(session, plan, batch)
        first = session.run(images)
        again = [session.run(images) for _ in range(3)][-1]
        info = session.info
    return {"graph": info.graph, "why_not": info.graph_fallback, "largest_difference": float(abs(first - again).max())}


def trt_bench(work: Work, answer: Answer) -> None:
    """Single-shot and pipelined; without copies, on two streams, with nothing timed on the device; their logits."""
    from tests.fakes.device_flow import ways_to_bench

    for plan in small_plans(work, "{}.plan"):
        answer.ask(plan.stem, ways_to_bench, plan, LARGEST, min(100.0, 1000 * work.seconds), work.seconds)


def trtexec(work: Work, answer: Answer) -> str | None:
    """The same plan by trtexec and by us, in turn."""
    from tests.fakes.device_flow import find_trtexec, our_latency, trtexec_latency

    if find_trtexec() is None:
        return "trtexec is neither on PATH nor where JetPack has it"
    major = int(str(work.earlier("tensorrt")["version"]).split(".")[0])
    limits = {"warmup_ms": 200.0, "duration_s": max(1.0, work.seconds)}

    def both(plan: Path) -> dict[str, Any]:
        ours, theirs = [], []
        for _ in range(2):
            theirs.append(trtexec_latency(plan, (1, *input_shape(plan)), major, **limits))
            ours.append(our_latency(plan, 1, **limits))
        ratio = {k: float(np.median([o[k] for o in ours]) / np.median([t[k] for t in theirs])) for k in ours[0]}
        return {"ours": ours, "trtexec": theirs, "ratio": ratio}

    for plan in small_plans(work, "{}.plan"):
        answer.ask(plan.stem, both, plan)
    return None


def contexts(work: Work, answer: Answer) -> None:
    """USER_MANAGED contexts: memory with one stream and with two, and whether all of it comes back."""
    from edgecnn.backends import open_engine
    from edgecnn.backends._cuda import load_cuda
    from edgecnn.session import PipelinedSession, PipelineOptions
    from edgecnn.steps.bench import input_for

    cuda = load_cuda()

    def memory_mb(plan: Path, streams: int) -> float:
        before = cuda.memory_info()[0]
        with open_engine(plan) as session:
            assert isinstance(session, PipelinedSession)
            images = input_for(session, plan, LARGEST)
            with session.pipeline(images, PipelineOptions(streams=streams)) as pipeline:
                for _ in range(4):
                    pipeline.turn()
                pipeline.drain()
                return round((before - cuda.memory_info()[0]) / 1e6, 3)

    def kept_mb(plan: Path) -> float:
        for turn in range(OPENS):
            with open_engine(plan) as session:
                session.run(input_for(session, plan, 1))
            if turn == 2:
                before = cuda.memory_info()[0]
        return round((before - cuda.memory_info()[0]) / 1e6, 3)

    for plan in small_plans(work, "{}.plan"):
        for streams in (1, 2):
            answer.ask(f"{plan.stem}_streams{streams}_mb", memory_mb, plan, streams)
        answer.ask(f"{plan.stem}_kept_after_{OPENS}_opens_mb", kept_mb, plan)


def inspector(work: Work, answer: Answer) -> None:
    """The schema and the words of the inspector's JSON, and how much of it we read."""
    for plan in small_plans(work, "{}.plan"):
        answer.ask(plan.stem, inspected, plan)
        answer.ask(f"{plan.stem}_times", _layer_times, plan)


def _layer_times(plan: Path) -> dict[str, Any]:
    from edgecnn.inspection.layers import layer_table
    from edgecnn.records import to_plain

    table = layer_table(plan, timed=True, batch=LARGEST, queries=20, trust=False)
    return {"time_ms": table.time_ms, **known(to_plain(table.shares))}


def locked(work: Work, answer: Answer) -> None:
    """By the lock and the timing cache of a plan: the same kernels?"""
    from edgecnn.backends.trt.lock import lock_path, locked_cache_path

    for plan in small_plans(work, "{}.plan"):
        again = work.engine(f"locked.{plan.name}")
        for path in (lock_path, locked_cache_path):
            shutil.copy(path(plan), path(again))
        if answer.ask(plan.stem, built, work.graph(work.small, plan.stem), again, target="gpu", locked=True):
            answer.ask(f"{plan.stem}_ratio", measured_ratio, again, plan, work.seconds)


def profiles(work: Work, answer: Answer) -> None:
    """Two optimization profiles: how the inspector tells their layers apart, and which one serves."""
    from edgecnn.recipe.schema import BatchSettings

    plan, batch = work.engine("profiles.plan"), BatchSettings(1, 1, LARGEST, ((1, 1, 1), (2, 4, LARGEST)))
    if answer.ask("build", built, work.graph(work.small, "fp16"), plan, target="gpu", batch=batch):
        answer.ask("inspector", inspected, plan)
        answer.ask("bench", benched, plan, work.seconds, batches=(1, LARGEST))


def rebuilds(work: Work, answer: Answer) -> None:
    """Three builds of one graph, each timed anew: kernels and latency."""
    from edgecnn.backends.trt.lock import read_lock
    from edgecnn.steps.build import rebuild

    def band(precision: str) -> dict[str, Any]:
        output = work.engine(f"rebuilt.{precision}.plan")
        plans = rebuild(work.graph(work.small, precision), output, rebuilds=3, target="gpu", batch=batch_settings())
        ms = [benched(plan, work.seconds)[0]["latency_ms_p50"] for plan in plans]
        kernels = {read_lock(plan).kernels_sha256 for plan in plans}
        return {"latency_ms_p50": ms, "band_pct": 100 * (max(ms) / min(ms) - 1), "different_engines": len(kernels)}

    for precision in ("fp16", "int8"):
        answer.ask(precision, band, precision)


def routes(work: Work, answer: Answer) -> str | None:
    """Build routes: what a configuration says once one is set, and what the first knob's other value does to a plan."""
    from edgecnn.backends import build_routes
    from edgecnn.backends.trt.lock import read_lock

    found = build_routes("gpu")
    single = [f"{knob.name}={value}" for knob in found.knobs for value in knob.values if value != knob.default]
    if not single:
        return f"{found.by} has no build routes"
    answer.ask("knobs", lambda: {"count": len(found.knobs), "closed_sets": sum(bool(k.values) for k in found.knobs)})
    for name, route in (("known", single[0]), ("joined", " ".join(single[::-1][:2])), ("unknown", "-no_such_knob=on")):
        answer.ask(name, _read_back, route)
    plain, routed = work.engine("int8.plan"), work.engine("routed.plan")
    how = {"target": "gpu", "batch": batch_settings(), "build_route": single[0]}
    if answer.ask("build", built, work.graph(work.small, "int8"), routed, **how) and plain.exists():
        answer.ask("kernels", lambda: {"same": read_lock(plain).kernels_sha256 == read_lock(routed).kernels_sha256})
        answer.ask("ratio", measured_ratio, routed, plain, work.seconds)
    return None


def _read_back(route: str) -> dict[str, Any]:
    from edgecnn.backends.trt.build import make_builder
    from edgecnn.backends.trt.library import errors_in, load_tensorrt, recording

    trt = load_tensorrt()
    with recording(trt) as messages:
        settings = make_builder(trt, None, messages).create_builder_config()
        before = settings.build_route
        settings.build_route = route
        return {"before": before, "set": route, "after": settings.build_route, "said": errors_in(messages)}


def weakly_typed(work: Work, answer: Answer) -> str | None:
    """The INT8 of old by our ranges, against the explicit one and against FP16."""
    if int(str(work.earlier("tensorrt")["version"]).split(".")[0]) > 10:
        return "implicit quantization ended with TensorRT 10"
    for network in (work.small, work.large):
        plan, ranges = work.engine(f"{network}.implicit.plan"), work.graphs / f"{network}.calib.json"
        made = answer.ask(
            network, built, work.graph(network, "fp32"), plan, target="gpu", weakly_typed=True, ranges=ranges
        )
        for precision in ("int8", "fp16") if made else ():
            name = f"{precision}.plan" if network == work.small else f"large.{precision}.plan"
            if work.engine(name).exists():
                answer.ask(f"{network}_over_{precision}", measured_ratio, plan, work.engine(name), work.seconds)
    return None


def int8_speed(work: Work, answer: Answer) -> None:
    """INT8 over FP16 of the large network, at batch 1 and 8."""
    plans = {precision: work.engine(f"large.{precision}.plan") for precision in ("fp16", "int8")}
    for precision, plan in plans.items():
        answer.ask(precision, built, work.graph(work.large, precision), plan, target="gpu")
    if all(plan.exists() for plan in plans.values()):
        for batch in (1, LARGEST):
            answer.ask(f"batch{batch}", measured_ratio, plans["int8"], plans["fp16"], work.seconds, batch)


def run(work: Work, answer: Answer) -> None:
    """A whole recipe with two builds of each engine, to its verdict."""
    changes = ("--set", f"bench.duration_s={work.seconds}", "--rebuilds", 2)
    epochs = ("--set", "train.epochs=3") if work.recipe == "lenet5-digits" else ()
    out = work.folder / "run"
    answer.ask("run", by_command_line, "run", work.recipe, "--set", TARGETS, "--out", out, *changes, *epochs, "--json")


def qualify(work: Work, answer: Answer) -> str | None:
    """The run's engines under another environment; without one, under this one again."""
    folder = work.folder / "run"
    if not folder.is_dir():
        return "there is no run"
    answer.put("other_environment", work.python != sys.executable)
    answer.ask("qualify", by_command_line, "qualify", folder, "--python", work.python, "--json")
    return None
