"""Measurements made by hand: every value that a test does not name is an ordinary one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.energy import Energy
from edgecnn.results.engine import CPU_PROVIDER, EngineFacts, EngineInfo
from edgecnn.results.latency import Clocks, Latency, LatencyRatio
from edgecnn.results.report import Measurement

TENSORRT = {"backend": "trt", "provider": "tensorrt", "target": "gpu"}


def engine(precision: str = "int8", **more: Any) -> EngineInfo:
    """An engine of ONNX Runtime on a CPU; INT8 in integer kernels."""
    scheme = "ort-cpu" if precision == "int8" else ""
    known = {"backend": "ort", "provider": CPU_PROVIDER, "scheme": scheme, "target": "cpu", **more}
    return EngineInfo(precision_requested=precision, precision_obtained=precision, **known)


def accuracy(n: int = 10_000, lost: int = 30, gained: int = 10, **more: Any) -> Accuracy:
    """An engine's accuracy on `n` images with labels, 9 of 10 right in the reference."""
    labels = np.arange(n) % 10
    reference, found = labels.copy(), labels.copy()
    reference[: n // 10] = (labels[: n // 10] + 1) % 10
    found[: n // 10] = reference[: n // 10]
    found[:gained] = labels[:gained]
    found[n - lost :] = (labels[n - lost :] + 2) % 10
    ids = tuple(map(str, range(n)))
    both = [Predictions(ids, labels, np.eye(10, dtype=np.float32)[c], "p", "d") for c in (found, reference)]
    return replace(measure_accuracy("int8", *both), **more)


def latency(name: str = "int8", **more: Any) -> Latency:
    """One millisecond per query, of enough queries for every percentile."""
    known: dict[str, Any] = {
        "mode": "single-shot",
        "clock": "host",
        "batch": 1,
        "n_queries": 1000,
        "warmup_ms": 200.0,
        "duration_s": 3.0,
        "latency_ms_mean": 1.0,
        "latency_ms_min": 0.9,
        "latency_ms_max": 1.3,
        "latency_ms_p50": 1.0,
        "latency_ms_p50_ci": (0.99, 1.01),
        "latency_ms_p90": 1.1,
        "latency_ms_p95": 1.15,
        "latency_ms_p99": 1.2,
        "latency_ms_p99_ci": (1.19, 1.21),
        "latency_ms_cov_pct": 3.0,
        "h2d_ms_p50": None,
        "compute_ms_p50": None,
        "d2h_ms_p50": None,
        "throughput_images_per_s": 1000.0,
        "drift_pct": 0.0,
        "graph": False,
        "transfers": False,
        "sync": "synchronous call",
        "clocks": Clocks(),
        "warnings": (),
    }
    return Latency(name=name, **{**known, **more})


def ratio(value: float = 0.7, ci: tuple[float, float] = (0.68, 0.72), reference: str = "fp32") -> LatencyRatio:
    """The median over that of `reference`, of twenty rounds."""
    return LatencyRatio(reference, value, ci, 20)


def energy(joules: float, ci: tuple[float, float] | None = None, idle_w: float = 3.0) -> Energy:
    """Above 3 W idle, of queries of 5 ms and one image, by a Jetson's only rail."""
    return Energy(
        power_sensor="INA3221 (hwmon)",
        power_rails=("VDD_IN",),
        power_w=idle_w + joules / 0.005,
        power_w_by_rail={"VDD_IN": idle_w + joules / 0.005},
        idle_power_w=idle_w,
        idle_power_w_before=idle_w,
        idle_power_w_after=idle_w,
        joules_per_inference=joules,
        joules_per_inference_ci=ci,
        joules_per_inference_with_idle=joules + idle_w * 0.005,
        joules_per_1000_images=1000 * joules,
        joules_per_1000_images_ci=None if ci is None else (1000 * ci[0], 1000 * ci[1]),
        energy_blocks=6,
        power_samples=51,
        power_sampling_pct=0.4,
    )


def measurement(name: str = "int8", precision: str = "", **parts: Any) -> Measurement:
    """An engine of which nothing was measured but `parts`, whose fields may stand beside them (`size_mb=2.0`)."""
    own = {f.name for f in fields(EngineFacts)}
    facts = {key: parts.pop(key) for key in list(parts) if key in own}
    if facts:
        parts["facts"] = EngineFacts(**facts)
    if precision or "engine" not in parts:
        parts["engine"] = engine(precision or (name if name in ("fp32", "fp16") else "int8"))
    return Measurement(name=name, **parts)


def measured(name: str = "int8", n: int = 10_000, lost: int = 30, gained: int = 10, **more: Any) -> Measurement:
    """An engine whose accuracy was measured; `more` are values of the accuracy or of the measurement."""
    own = {f.name for f in fields(Accuracy)}
    values = {key: more.pop(key) for key in list(more) if key in own}
    return measurement(name, accuracy=accuracy(n, lost, gained, name=name, **values), **more)
