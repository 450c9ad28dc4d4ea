"""What each node costs in INT8: a table of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from edgecnn.output import fit, wrap
from edgecnn.results.sensitivity import NodeSensitivity, Sensitivity

NAME = 25
PARTS = {"weights": "W", "activation": "A"}
HEADING = (
    f"{'':36}{'alone':^20} {'left out':^20}".rstrip(),
    f"{'#':>3} {'gain':>4} {'node':{NAME}}   {'dB':>6} {'KL':>7} {'agree':>5}  {'dB':>7} {'KL':>7} {'agree':>5}",
)


def sensitivity_table(found: Sensitivity) -> str:
    """The whole page."""
    return "\n".join(
        [*_headline(found), "", *HEADING, *(line for row in found.rows for line in _lines(row)), "", *_legend()]
    )


def _headline(found: Sensitivity) -> Iterator[str]:
    yield from wrap(f"{found.graph} in INT8 for TensorRT by {found.method}, {found.n} images of {found.data}")
    yield from wrap(
        f"all of it: {found.sqnr_db:.2f} dB, KL {1000 * found.kl_nats:.3g} millinats, agreement "
        f"{found.agreement_pct:.1f} %",
        "  ",
    )
    if found.predicted_sqnr_db is not None:
        yield f"  the sum of all nodes' noise alone: {found.predicted_sqnr_db:.2f} dB"


def _lines(row: NodeSensitivity) -> Iterator[str]:
    yield (
        f"{row.cost_rank:>3} {row.gain_rank:>4} {fit(row.node, NAME)} {PARTS[row.part]} "
        f"{row.alone_sqnr_db:6.2f} {_short(1000 * row.alone_kl_nats):>7} {row.alone_agreement_pct:5.1f}  "
        f"{row.gain_db:+7.2f} {_short(1000 * row.without_kl_nats):>7} {row.without_agreement_pct:5.1f}"
    )
    if row.layer not in ("", row.node):
        yield f"{'':9}{fit(row.layer, 70).rstrip()}"


def _short(value: float) -> str:
    """Three digits, in at most seven columns."""
    return f"{value:.1e}" if 0 < value < 1e-3 or value >= 1e5 else f"{value:.3g}"


def _legend() -> Iterator[str]:
    yield from wrap(
        "alone: the float graph with this one in INT8 (SQNR of its logits); left out: the INT8 graph without it, dB is "
        "what it wins; W: weights, A: the activations that the node reads; KL in millinats; #: rank by cost, gain: "
        "rank by what leaving it out wins"
    )
