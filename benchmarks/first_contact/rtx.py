"""Questions of TensorRT-RTX, whose plans the GPU compiles that loads them."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.first_contact.answer import LARGEST, PRECISIONS, Answer, Work
from benchmarks.first_contact.engines import benched, built, cosine, inspected, measured_ratio, small_plans


def rtx_build(work: Work, answer: Answer) -> None:
    """Each precision, ahead of time."""
    for precision in PRECISIONS:
        answer.ask(
            precision,
            built,
            work.graph(work.small, precision),
            work.engine(f"{precision}.rtx.plan"),
            backend="trt-rtx",
        )


def rtx_run(work: Work, answer: Answer) -> None:
    """The first start: compile time, CUDA graph, latency, logits, and what the inspector says."""
    for plan in small_plans(work, "{}.rtx.plan"):
        precision = plan.name.split(".")[0]
        for mode in ("pipelined", "single-shot"):
            answer.ask(f"{precision}_{mode}", benched, plan, work.seconds, mode=mode, batches=(1, LARGEST))
        answer.ask(f"{precision}_cosine", cosine, work.graph(work.small, precision), plan)
        answer.ask(f"{precision}_inspector", inspected, plan)


def rtx_cache(work: Work, answer: Answer) -> None:
    """The second start, in another process: compile time with the runtime cache that the first one left."""
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "edgecnn" / "runtime"
    answer.put("cache_bytes", sorted(path.stat().st_size for path in cache.rglob("*") if path.is_file()))
    for plan in small_plans(work, "{}.rtx.plan"):
        precision = plan.name.split(".")[0]
        rows = answer.ask(precision, benched, plan, work.seconds, mode="pipelined", batches=(1, LARGEST))
        first = work.earlier("rtx_run").get(f"{precision}_pipelined")
        if rows and isinstance(first, list):
            answer.put(f"{precision}_jit_ms", {"first_start": first[0].get("jit_ms"), "second": rows[0].get("jit_ms")})


def rtx_speed(work: Work, answer: Answer) -> None:
    """FP16 over FP32 of the large network."""
    plans = {precision: work.engine(f"large.{precision}.rtx.plan") for precision in ("fp32", "fp16")}
    for precision, plan in plans.items():
        answer.ask(precision, built, work.graph(work.large, precision), plan, backend="trt-rtx")
    if all(plan.exists() for plan in plans.values()):
        for batch in (1, LARGEST):
            answer.ask(f"batch{batch}", measured_ratio, plans["fp16"], plans["fp32"], work.seconds, batch)
