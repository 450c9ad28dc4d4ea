"""What a run came to, in words: the first thing on the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from edgecnn.gate.rules import RULES
from edgecnn.report.page.elements import Html, bullets, element, folded, join, outcome, table_of
from edgecnn.report.page.glossary import term
from edgecnn.report.tables import check_table, headline
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import Check, Verdict
from edgecnn.results.verification import Verification

SAID = {
    "PASS": "Every check passed: what was measured keeps the recipe's tolerances.",
    "FAIL": "At least one check failed, and not by chance.",
    "INCONCLUSIVE": "Nothing failed, but not everything is proved: some checks stay open.",
}
MAPPED = {"PASS": "Nothing failed.", "FAIL": "Nothing is proved to be beyond its tolerance."}
IN_SIGHT = 6  # engines or checks: more sentences than these are read on demand
UNJUDGED = "No tolerance is set: nothing was judged."


def verdict_in_words(verdict: Verdict) -> str:
    """What a verdict means, and whether the recipe made it of checks that stay open."""
    if not verdict.checks:
        return UNJUDGED
    proved = {check.verdict for check in verdict.checks}
    counted = {verdict.counts_as(check) for check in verdict.checks if check.verdict == "INCONCLUSIVE"}
    mapped = counted - {"INCONCLUSIVE"}
    said = SAID if verdict.verdict in proved and not (verdict.verdict == "PASS" and mapped) else MAPPED
    return said[verdict.verdict] + "".join(f" The recipe counts what is open as a {m.lower()}." for m in mapped)


def verdict_section(results: RunReport) -> Html:
    """Verdict, what it means, what failed and what is open, and each engine in one sentence."""
    verdict, checks = results.verdict, results.verdict.checks
    counts = [f"{sum(c.verdict == o for c in checks)} {w}" for o, w in _WORDS if any(c.verdict == o for c in checks)]
    said = verdict_in_words(verdict)
    first = element("p", f"{said} Checks: {', '.join(counts)}." if checks else said)
    return join(
        [
            element("header", element("h1", headline(results)), first, class_=verdict.verdict),
            element("p", results.title, class_="note") if results.title else Html(),
            _unproved(checks),
            _engines(results),
            folded(f"All {len(checks)} checks with their evidence", table_of(check_table(results))),
        ],
        "\n",
    )


def _unproved(checks: Sequence[Check]) -> Html:
    """What failed, then what is open: engines of which the same is said stand together."""
    names = defaultdict[tuple[str, str, float | None, str], list[str]](list)
    for check in sorted(checks, key=lambda c: c.verdict != "FAIL"):
        if check.verdict != "PASS":
            names[check.verdict, check.tolerance, check.limit, check.evidence].append(check.name)
    said = [_check_in_words(", ".join(engines), *rest) for rest, engines in names.items()]
    more = said[IN_SIGHT:]
    return join([bullets(said[:IN_SIGHT]), folded(f"{len(more)} more", bullets(more))])


def _engines(results: RunReport) -> Html:
    said = bullets(engine_in_words(m) for m in results.measurements)
    many = len(results.measurements) > IN_SIGHT
    return folded(f"The {len(results.measurements)} engines in words", said) if many else said


_WORDS = (("PASS", "passed"), ("FAIL", "failed"), ("INCONCLUSIVE", "open"))


def _check_in_words(engines: str, verdict: str, tolerance: str, limit: float | None, evidence: str) -> Html:
    word = term("INCONCLUSIVE") if verdict == "INCONCLUSIVE" else verdict
    said = element("bdi", f"{engines}: {_tolerance_in_words(tolerance, limit)}: {evidence}")
    return join([element("strong", word, class_=verdict), " ", said])


def _tolerance_in_words(tolerance: str, limit: float | None) -> str:
    """`top-1 drop, limit 1 pp (top1_drop_pp_max)`; what is no tolerance of a recipe by its own name."""
    rule = RULES.get(tolerance)
    if rule is None or limit is None:
        return tolerance + ("" if limit is None else f" (limit {limit:g})")
    return f"{f'{rule.label}, limit {limit:g} {rule.unit}'.rstrip()} ({tolerance})"


def engine_in_words(m: Measurement) -> Html:
    """One engine's accuracy and latency as a sentence."""
    parts = [_accuracy_in_words(m), _latency_in_words(m)]
    if m.crash:
        parts.append(f"took its process down in {m.crash.crash_step} ({m.crash.crash_ended})")
    return join(
        [element("b", element("bdi", m.name)), ": ", join([p for p in parts if p], "; ") or "nothing was measured", "."]
    )


def _accuracy_in_words(m: Measurement) -> str:
    found = m.accuracy
    if m.verification is not None:
        return _verification_in_words(m.verification)
    if found is None:
        return ""
    if found.top1_pct is None or found.top1_drop_pp is None or found.top1_drop_ci_pp is None:
        return f"the reference's class on {found.agreement_pct:.2f} % of {found.n} images (no labels)"
    low, high = found.top1_drop_ci_pp
    way = "below" if found.top1_drop_pp > 0 else "above"
    against = f"{abs(found.top1_drop_pp):.2f} pp {way}" if found.top1_drop_pp else "as many as"
    return (
        f"{found.top1_pct:.2f} % of {found.n_labelled} images right, {against} its reference "
        f"(95 % interval of the drop: {low:.2f} to {high:.2f} pp)"
    )


def _verification_in_words(found: Verification) -> str:
    low, high = found.verification_drop_ci_pp
    return (
        f"tells pairs of one class from pairs of two in {found.verification_pct:.2f} % (drop "
        f"{found.verification_drop_pp:.2f} pp, 95 % interval {low:.2f} to {high:.2f} pp), ROC AUC {found.roc_auc:.3f}"
    )


def _latency_in_words(m: Measurement) -> Html | str:
    if m.simulated:
        return join([term("simulated"), ", so no latency is shown"])
    if m.own_latency is None:
        return ""
    ratio = (
        f", {m.own_ratio.latency_ratio:.3g} times that of {m.own_ratio.latency_reference}"
        if m.own_ratio and m.own_ratio.latency_reference != m.name
        else ""
    )
    return f"median latency {m.own_latency.p50:.4g} ms{ratio}"


def verdict_word(results: RunReport) -> Html:
    """The verdict in its color, for tables of several runs."""
    return outcome(results.verdict.verdict)
