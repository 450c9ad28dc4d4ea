"""CSV: one row for each engine of a target, by columns that stay."""

from __future__ import annotations

from edgecnn.report.rows import Cell, csv_lines
from edgecnn.results.report import Measurement, RunReport

FIGURES = (
    "latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "throughput_images_per_s", "device_memory_mb", "size_mb", "n",
    "top1_pct", "top1_drop_pp", "agreement_pct", "power_w", "joules_per_inference",
)  # fmt: skip
COLUMNS = (  # programs of others read them: none is renamed, moved or taken away, and new ones come at the end
    "model", "target", "device", "device_key", "engine", "precision", "scheme", "simulated", "mode", "batch",
    "latency_ms_p50", "latency_ms_p90", "latency_ms_p99", "throughput_images_per_s", "device_memory_mb", "size_mb",
    "data", "n", "top1_pct", "top1_ci_low_pct", "top1_ci_high_pct", "top1_drop_pp", "top1_drop_ci_low_pp",
    "top1_drop_ci_high_pp", "agreement_pct", "verdict", "power_w", "joules_per_inference",
    "joules_per_inference_ci_low", "joules_per_inference_ci_high",
)  # fmt: skip


def csv_report(results: RunReport) -> str:
    """The engines of a report; what was not measured, and the speed of a simulated engine, is empty."""
    return "".join(csv_lines(COLUMNS, (_row(results, m) for m in results.measurements)))


def _row(results: RunReport, m: Measurement) -> dict[str, Cell]:
    latency, accuracy = m.own_latency, m.accuracy
    top1 = (accuracy.top1_ci_pct if accuracy else None) or (None, None)
    joules = (m.own_energy.joules_per_inference_ci if m.own_energy else None) or (None, None)
    drop = (accuracy.top1_drop_ci_pp if accuracy else None) or (None, None)
    return {
        "model": results.recipe,
        "target": results.target,
        "device": str(results.device) if results.device else None,
        "device_key": results.device_key or None,
        "engine": m.name,
        "precision": m.engine.precision_obtained or m.engine.precision_requested,
        "scheme": m.engine.scheme or None,
        "simulated": m.simulated,
        "mode": latency.mode if latency else None,
        "batch": latency.batch if latency else None,
        **{key: m.figure(key) for key in FIGURES},
        "data": accuracy.data if accuracy else None,
        "top1_ci_low_pct": top1[0],
        "top1_ci_high_pct": top1[1],
        "top1_drop_ci_low_pp": drop[0],
        "top1_drop_ci_high_pp": drop[1],
        "joules_per_inference_ci_low": joules[0],
        "joules_per_inference_ci_high": joules[1],
        "verdict": results.verdict.outcome_of(m.name),
    }
