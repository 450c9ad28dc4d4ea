"""From a network to three engines and their numbers, on whatever the `trt` backend finds: a GPU, or the fake."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn import cli
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.measure.comparison import compare_latency
from edgecnn.measure.latency import measure_latency
from edgecnn.output import say
from edgecnn.pipeline.run import run_recipe
from edgecnn.recipe.schema import BatchSettings, Recipe
from edgecnn.records import to_plain
from edgecnn.results.report import RunReport
from edgecnn.session import Array, PipelinedSession, PipelineOptions

PRECISIONS = ("fp32", "fp16", "int8")


def graphs_of(model: str, folder: Path, weights: str = "none", images: int = 32) -> dict[str, Path]:
    """FP32, FP16 and INT8 graphs of a network of the zoo, calibrated on seeded noise."""
    made = {p: folder / f"{model}.{p}.onnx" for p in PRECISIONS}
    ranges, data = folder / f"{model}.calib.json", folder / "images.npz"
    command("export", model, "--weights", weights, "-o", made["fp32"])
    with open_engine(made["fp32"]) as session:
        shape = session.input.shape[1:]
    np.savez(data, input=noise((images, *(n or 1 for n in shape))))
    command("calibrate", made["fp32"], "--data", data, "-o", ranges)
    command("quantize", made["fp32"], "--precision", "fp16", "--ranges", ranges, "-o", made["fp16"])
    command(
        *("quantize", made["fp32"], "--precision", "int8", "--ranges", ranges, "--method", "minmax"),
        *("-o", made["int8"]),
    )
    return made


def engines_of(graphs: Mapping[str, Path], batch: BatchSettings) -> dict[str, Path]:
    """A plan for each graph, for the GPU that is here."""
    plans = {p: graph.with_suffix(".plan") for p, graph in graphs.items()}
    for precision, graph in graphs.items():
        load_backend("trt").engine_from_onnx(graph, plans[precision], BuildOptions("gpu", batch))
    return plans


def closeness(graph: Path, plan: Path, batch: int) -> float:
    """Cosine between the centred logits of an engine and of its graph under ONNX Runtime."""
    with open_engine(graph) as reference, open_engine(plan) as engine:
        images = noise((batch, *(n or 1 for n in engine.input.shape[1:])), seed=1)
        ours, theirs = (s.run(images).astype(np.float64) for s in (engine, reference))
    ours, theirs = (x - x.mean(axis=1, keepdims=True) for x in (ours, theirs))
    return float((ours * theirs).sum() / np.sqrt((ours**2).sum() * (theirs**2).sum()))


def speed_ups(plans: Mapping[str, Path], batch: int, warmup_ms: float, duration_s: float) -> list[dict[str, Any]]:
    """Every engine against the first one, interleaved; the ratio is engine / first."""
    sessions = {p: open_engine(plan) for p, plan in plans.items()}
    try:
        (first, *_) = sessions.values()
        images = noise((batch, *(n or 1 for n in first.input.shape[1:])))
        ratios = compare_latency(sessions, images, warmup_ms=warmup_ms, duration_s=duration_s)
        return [{"name": name, "batch": batch, **to_plain(ratio)} for name, ratio in ratios.items()]
    finally:
        for session in sessions.values():
            session.__exit__(None, None, None)


def our_latency(plan: Path, batch: int, warmup_ms: float, duration_s: float) -> dict[str, float]:
    """Medians in milliseconds by edgecnn."""
    with open_engine(plan) as session:
        images = noise((batch, *(n or 1 for n in session.input.shape[1:])))
        found = measure_latency(plan.name, session, images, warmup_ms=warmup_ms, duration_s=duration_s)
    assert found.compute_ms_p50 is not None
    return {"latency_ms_p50": found.latency_ms_p50, "compute_ms_p50": found.compute_ms_p50}


def ways_to_bench(plan: Path, batch: int, warmup_ms: float, duration_s: float) -> list[dict[str, Any]]:
    """The figures of every way to run an engine; its pipelined queries have the logits of a single one."""
    rows = []
    with open_engine(plan) as session:
        assert isinstance(session, PipelinedSession)
        images = noise((batch, *(n or 1 for n in session.input.shape[1:])))
        alone = session.run(images)
        for mode, options in (
            ("single-shot", PipelineOptions()),
            ("pipelined", PipelineOptions()),
            ("pipelined", PipelineOptions(transfers=False)),
            ("pipelined", PipelineOptions(streams=2)),
            ("pipelined", PipelineOptions(timed=False)),
        ):
            limits: dict[str, Any] = {"warmup_ms": warmup_ms, "duration_s": duration_s, "mode": mode}
            rows.append(to_plain(measure_latency(plan.name, session, images, options=options, **limits)))
        with session.pipeline(images, PipelineOptions(streams=2)) as pipeline:
            found = [query for _ in range(8) for query in pipeline.turn()] + pipeline.drain()
            for outputs in pipeline.results():
                np.testing.assert_allclose(outputs[session.output.name], alone, rtol=1e-2, atol=1e-2)
    assert len(found) == 16
    return rows


def find_trtexec() -> str | None:
    """trtexec on PATH, or where JetPack and NVIDIA's Debian packages have it."""
    return shutil.which("trtexec") or shutil.which("trtexec", path="/usr/src/tensorrt/bin")


def trtexec_command(
    trtexec: str, plan: Path, shape: Sequence[int], major: int, times: Path, warmup_ms: float, duration_s: float
) -> list[str]:
    """trtexec on our terms: with transfers, CUDA graph and spin wait, whatever the version's defaults are."""
    flags = ["--useCudaGraph", "--useSpinWait"] if major < 11 else ["--includeDataTransfers"]
    shapes = f"--shapes=input:{'x'.join(map(str, shape))}"
    limits = [f"--warmUp={warmup_ms:.0f}", f"--duration={duration_s:.0f}"]
    return [trtexec, f"--loadEngine={plan}", shapes, *limits, *flags, f"--exportTimes={times}"]


def medians_of_times(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of trtexec's --exportTimes records."""
    return {f"{k}_ms_p50": statistics.median(r[f"{k}Ms"] for r in records) for k in ("latency", "compute")}


def trtexec_latency(plan: Path, shape: Sequence[int], major: int, **limits: float) -> dict[str, float]:
    """Medians in milliseconds by trtexec, which must be here."""
    trtexec = find_trtexec()
    assert trtexec is not None
    times = plan.with_suffix(".times.json")
    ran = subprocess.run(
        trtexec_command(trtexec, plan, shape, major, times, **limits), capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return medians_of_times(json.loads(times.read_text()))


def noise(shape: Sequence[int], seed: int = 0) -> Array:
    """Seeded standard normal float32."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)


def command(*arguments: object) -> None:
    """One command line that must succeed."""
    assert cli.main([str(a) for a in arguments]) == 0, arguments


def recipe_report(recipe: Recipe, folder: Path) -> RunReport:
    """The report of a recipe whose only target is this machine's GPU."""
    outcome = run_recipe(recipe, folder, say)
    assert not outcome.elsewhere, outcome.elsewhere
    (report,) = outcome.reports
    return report
