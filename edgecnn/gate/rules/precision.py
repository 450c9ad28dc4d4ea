"""Precision obtained against precision requested, as read back from the engine's own layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecnn.gate.rules.rule import UNREAD, Rule, judge_exact
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check, Outcome

LOST_SHARE_PP_MAX = 5.0  # INT8 multiply-adds that the graph has and the engine may lack: fusions blur the count


def _share(measurement: Measurement) -> float | None:
    """None for an engine of which other precision was asked: an FP16 engine owes no INT8."""
    if measurement.facts is None or measurement.engine.precision_requested in ("fp16", "fp32"):
        return None
    return measurement.facts.int8_share_pct


def _owes_share(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    return measurement.engine.precision_requested == "int8"


def _judge_share(measurement: Measurement, rule: Rule, limit: float) -> Check:
    value = _share(measurement)
    assert value is not None
    return judge_exact(measurement, rule, limit, value, at_most=False)


def check_precision(measurement: Measurement) -> Iterator[Check]:
    """The precision of an engine whose layers were read back, whatever the tolerances are.

    FAIL when no multiply-add has the requested precision, when much of what the graph has in INT8 is not INT8 in the
    engine, and when the layers do not tell: a recipe may let pass what is open, and this must not be.
    """
    facts, requested = measurement.facts, measurement.engine.precision_requested
    if not requested or facts is None or not facts.shares_by:
        return
    if facts.shares_by == "compiled_at_load" and requested != "int8":
        return  # the network is strongly typed: there is nothing to fall back from
    outcome, evidence = _precision(measurement)
    yield Check(measurement.name, "precision_obtained", None, None, None, outcome, evidence)


def _precision(measurement: Measurement) -> tuple[Outcome, str]:
    facts, requested = measurement.facts, measurement.engine.precision_requested
    assert facts is not None
    if facts.shares_by == "compiled_at_load":
        return "INCONCLUSIVE", f"int8 was requested; {UNREAD}"
    if facts.shares_by == "untold":
        return "FAIL", f"{requested} was requested; the engine's layers do not tell their precision: it is unproven"
    shares = {"int8": facts.int8_share_pct, "fp16": facts.fp16_share_pct, "fp32": facts.fp32_share_pct}
    share = shares.get(requested) or 0.0
    unit = {"macs": "multiply-adds", "layers": "Conv and Gemm layers"}[facts.shares_by]
    evidence = f"{requested} was requested; {share:.1f} % of the engine's {unit} are {requested}"
    if not share:
        return "FAIL", f"{evidence}: it is {measurement.engine.precision_obtained}"
    asked = facts.graph_int8_share_pct
    if requested == "int8" and facts.shares_by == "macs" and asked is not None and share < asked - LOST_SHARE_PP_MAX:
        return "FAIL", f"{evidence}, of the graph's {asked:.1f} %"
    return "PASS", evidence


RULES = (
    Rule(
        "int8_share_pct_min",
        "INT8 share",
        "%",
        lambda m: _share(m) is not None,
        _judge_share,
        owes=_owes_share,
        needs_kernels=True,
    ),
)
