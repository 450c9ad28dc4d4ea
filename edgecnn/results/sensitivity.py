"""What each quantizer of a graph costs alone, and what the quantized graph gains without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.engine import Scheme

QuantizedPart = Literal["weights", "activation"]
TrialKind = Literal["alone", "without"]
ENDING = "sensitivity.json"  # of its file: X.sensitivity.json beside X.fp32.onnx


@dataclass(frozen=True, kw_only=True)
class TrialLine:
    """One trial that is done, on the `n` images from the `first` on: sums of the squared differences of the logits and
    of the KL divergences, and how many predictions agree."""

    __pydantic_config__ = STRICT

    first: int
    node: str
    part: QuantizedPart
    kind: TrialKind
    n: int
    noise: float
    kl_nats: float
    agreed: int


@dataclass(frozen=True, kw_only=True)
class NodeSensitivity:
    """One node's weights, or the activations that it reads, against the float graph's logits.

    `alone_*`: the float graph with this quantizer only; `without_*`: the graph with all but this one, `gain_db` the
    SQNR that it wins by that. SQNR = 10 log10(sum f^2 / sum (f - q)^2) over all logits (300 where they are equal),
    `*_kl_nats` the mean KL divergence of the classes' probabilities, agreement the share of equal predictions. Rank 1
    costs most alone (`cost_rank`), or gains most (`gain_rank`). `noise_pct` is the share in the sum of what all that
    were measured cost alone. `layer` is the PyTorch module, "" where the graph does not tell.
    """

    __pydantic_config__ = STRICT

    node: str
    part: QuantizedPart
    operator: str
    layer: str
    cost_rank: int
    gain_rank: int
    noise_pct: float
    alone_sqnr_db: float
    alone_kl_nats: float
    alone_agreement_pct: float
    gain_db: float
    without_sqnr_db: float
    without_kl_nats: float
    without_agreement_pct: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Every quantizer of a graph on `n` images, the costliest first; `nodes` are those that were asked for (none: all).

    `sqnr_db`, `kl_nats` and `agreement_pct` are those of the whole quantized graph, `predicted_sqnr_db` what the sum of
    all quantizers' noise makes of it (None where not all were measured).
    """

    __pydantic_config__ = STRICT

    graph: str
    graph_sha256: str
    data: str
    n: int
    scheme: Scheme
    method: str
    nodes: tuple[str, ...]
    sqnr_db: float
    kl_nats: float
    agreement_pct: float
    predicted_sqnr_db: float | None
    rows: tuple[NodeSensitivity, ...]
