"""Why an engine is worse than its reference: one page of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.output import fit, inert, shell_lines, wrap
from edgecnn.results.accuracy import Interval
from edgecnn.results.explanation import Explanation, Stage

MOST_CHECKS, MOST_LAYERS, MOST_CLASSES, MOST_IMAGES, MOST_STEPS = 3, 5, 5, 5, 4
STAGES: dict[Stage, str] = {
    "export": "the export",
    "fp16": "FP16",
    "int8": "INT8",
    "engine": "the engine",
    "serving": "the serving geometry",
}


def explanation_page(found: Explanation) -> str:
    """The whole page."""
    parts = [_headline, _drop, _stages, _layers, _classes, _images, _next_steps]
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part(found))))


def _headline(found: Explanation) -> Iterator[str]:
    yield from wrap(f"{found.recipe} on {found.target}, {found.name}: {found.verdict}")
    for check in found.checks[:MOST_CHECKS]:
        limit = "" if check.limit is None else f" (limit {check.limit:g})"
        yield from _cut(f"{check.verdict} {check.tolerance}: {check.evidence}{limit}", "  ", 3)
    if more := len(found.checks) - MOST_CHECKS:
        yield from [f"  and {more} more checks: edgecnn gate"] if more > 0 else []
    yield from wrap(found.simulation, "  ") if found.simulation else []
    for finding in found.findings[:2]:
        yield from _cut(finding, "  ", 2)


def _drop(found: Explanation) -> Iterator[str]:
    if not found.n:
        yield "The drop: no accuracy was measured"
    elif found.top1_drop_pp is None or found.top1_pct is None or found.reference_top1_pct is None:
        yield from wrap(
            f"The drop: not known, {found.data} has no labels; {len(found.images)} of {found.n} predictions changed"
        )
    else:
        yield from wrap(
            f"The drop: {_interval(found.top1_drop_pp, found.top1_drop_ci_pp)} pp [95 %], paired: top-1 "
            f"{found.top1_pct:.2f} %, reference {found.reference_top1_pct:.2f} %"
        )
        yield from wrap(
            f"{found.top1_lost} lost, {found.top1_gained} gained of {found.n_labelled} images of {found.data}; "
            f"McNemar p = {found.mcnemar_p:.2g}; agreement {found.agreement_pct:.2f} %",
            "  ",
        )


def _stages(found: Explanation) -> Iterator[str]:
    if not found.stages and not found.not_compared:
        return
    told = f"{STAGES[found.lost_by]}" if found.lost_by else "none can be told from no loss"
    yield f"Which stage lost it: {told}"
    if found.stages:
        yield f"  {'stage':8} {'from -> to':35} {'lost':>5} {'gained':>6}  drop pp [95 %]"
    for loss in found.stages:
        counts = ("-", "-") if loss.lost is None else (str(loss.lost), str(loss.gained))
        drop = f"{loss.changed} changed" if loss.drop_pp is None else _interval(loss.drop_pp, loss.drop_ci_pp)
        mark = "*" if loss.told else " "
        where = fit(f"{loss.before} -> {loss.after}", 35)
        yield f"{mark} {loss.stage:8} {where} {counts[0]:>5} {counts[1]:>6}  {drop}"
    if any(loss.told for loss in found.stages):
        yield f"  * told from no loss, at 5 % for all {len(found.stages)} stages together (Holm)"
    for line in found.not_compared:
        yield from wrap(f"not compared: {line}", "  ")


def _layers(found: Explanation) -> Iterator[str]:
    if found.kept_float32:
        yield from _cut(f"Kept in FP32: {', '.join(found.kept_float32)}", "", 2)
    if not found.layers:
        return
    yield from wrap(f"Which layers: share of the noise in the logits, each scale alone ({found.layers_from})")
    rows = [(row.logit_noise_pct, ", ".join(row.nodes) or row.tensor) for row in found.layers[:MOST_LAYERS]]
    if found.weights_logit_noise_pct is not None:
        rows.append((found.weights_logit_noise_pct, "all weights"))
    for share, names in rows:
        yield f"  {share:6.2f} %  {fit(names, 68).rstrip()}"


def _classes(found: Explanation) -> Iterator[str]:
    if not found.classes:
        return
    told = sum(c.told for c in found.classes)
    yield from wrap(
        f"Which classes: {told} of {found.classes_n} can be told from no loss; the intervals hold for all "
        f"{found.classes_n} together with 95 % (Bonferroni)"
    )
    yield f"  {'class':33} {'n':>6} {'lost':>5} {'gained':>6}  drop pp"
    for c in found.classes[:MOST_CLASSES]:
        mark = "*" if c.told else " "
        drop = _interval(c.drop_pp, c.drop_ci_pp, 1)
        yield f"{mark} {fit(c.label_name, 33)} {c.n:>6} {c.lost:>5} {c.gained:>6}  {drop}"


def _images(found: Explanation) -> Iterator[str]:
    if not found.images:
        return
    shown = found.images[:MOST_IMAGES]
    yield f"Which images: {len(found.images)} of {found.n} changed, {len(shown)} shown (--json has all)"
    for row in shown:
        label = f" (is {row.label_name})" if row.label_name else ""
        yield f"  {row.change:6} {fit(row.id, 34)} {fit(f'{row.reference} -> {row.engine}{label}', 36).rstrip()}"


def _next_steps(found: Explanation) -> Iterator[str]:
    if not found.next_steps:
        yield "What to try next: nothing that is known to help"
        return
    yield "What to try next, the largest expected gain first"
    for k, step in enumerate(found.next_steps[:MOST_STEPS], 1):
        about = "about" if step.estimated else "up to"
        gain = "gain not known" if step.expected_gain_pp is None else f"{about} {step.expected_gain_pp:.2f} pp"
        lost = f"; gives up {step.gives_up}" if step.gives_up else ""
        yield from wrap(f"{k}. {gain}: {step.why}{lost}", " ")
        yield from shell_lines(step.command, "      ")
    if more := found.next_steps[MOST_STEPS:]:
        yield from wrap(f"  and {len(more)} more ({', '.join(step.remedy for step in more)}): --json")


def _interval(value: float, interval: Interval | None, digits: int = 2) -> str:
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _cut(text: str, indent: str, most: int) -> list[str]:
    lines = wrap(text, indent, cut_words=True)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{inert(lines[most - 1][:76])} .."]
