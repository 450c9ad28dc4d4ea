"""What a run came to, in words: the first thing on the page."""

from __future__ import annotations

from edgecnn.report.page.elements import Html, bullets, element, folded, join, outcome, table_of
from edgecnn.report.page.glossary import term
from edgecnn.report.tables import check_table, headline
from edgecnn.results.report import Measurement, RunReport
from edgecnn.results.verdict import Check

SAID = {
    "PASS": "Every check passed: what was measured keeps the recipe's tolerances.",
    "FAIL": "At least one figure is beyond its tolerance, and not by chance.",
    "INCONCLUSIVE": "Nothing failed, but not everything is proved: some checks stay open.",
}
IN_SIGHT = 6  # engines: more sentences than these are read on demand
UNJUDGED = "No tolerance is set: nothing was judged."


def verdict_section(results: RunReport) -> Html:
    """Verdict, what it means, what failed and what is open, and each engine in one sentence."""
    verdict, checks = results.verdict, results.verdict.checks
    counts = [f"{sum(c.verdict == o for c in checks)} {w}" for o, w in _WORDS if any(c.verdict == o for c in checks)]
    said = SAID[verdict.verdict] if checks else UNJUDGED
    first = element("p", f"{said} Checks: {', '.join(counts)}." if checks else said)
    open_ones = [_check_in_words(c) for c in checks if c.verdict != "PASS"]
    mapped = [c for c in checks if verdict.counts_as(c) != c.verdict]
    note = f"The recipe counts what is open as a {verdict.counts_as(mapped[0]).lower()}." if mapped else ""
    return join(
        [
            element("header", element("h1", headline(results)), first, class_=verdict.verdict),
            element("p", results.title, class_="note") if results.title else Html(),
            bullets(open_ones),
            element("p", note) if note else Html(),
            _engines(results),
            folded(f"All {len(checks)} checks with their evidence", table_of(check_table(results)))
            if checks
            else Html(),
        ],
        "\n",
    )


def _engines(results: RunReport) -> Html:
    said = bullets(engine_in_words(m) for m in results.measurements)
    many = len(results.measurements) > IN_SIGHT
    return folded(f"The {len(results.measurements)} engines in words", said) if many else said


_WORDS = (("PASS", "passed"), ("FAIL", "failed"), ("INCONCLUSIVE", "open"))


def _check_in_words(check: Check) -> Html:
    limit = "" if check.limit is None else f" (limit {check.limit:g})"
    word = term("INCONCLUSIVE") if check.verdict == "INCONCLUSIVE" else check.verdict
    said = element("bdi", f"{check.name}: {check.tolerance}{limit}: {check.evidence}")
    return join([element("strong", word, class_=check.verdict), " ", said])


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
