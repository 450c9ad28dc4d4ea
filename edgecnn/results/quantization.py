"""What quantizing a graph to INT8 gave every tensor, and how the ways of doing it compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT
from edgecnn.results.engine import Scheme


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One Q/DQ pair: `type` of its codes, their `scale`, and the smallest and largest value that they represent.

    `offset` is what a zero point that was folded into biases takes off, `seen_largest` the largest magnitude on the
    calibration images, `equalized_by` the smallest factor of its channels. `rounding` says how the weights behind it
    were rounded, `output_noise_pct` the largest share of their outputs' power that is noise (None: not reconstructed),
    `logit_noise_pct` its share of the noise in the logits (None: not asked for).
    """

    __pydantic_config__ = STRICT

    name: str
    scale_group: str
    readers: int
    type: Literal["int8", "uint8"]
    method: str
    scale: float
    offset: float
    zero_point: int
    low: float
    high: float
    seen_largest: float
    equalized_by: float
    rounding: str
    output_noise_pct: float | None
    logit_noise_pct: float | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """One way to quantize, judged on `n` held-out images: SQNR of the logits, and the share of equal predictions."""

    __pydantic_config__ = STRICT

    name: str
    sqnr_db: float
    agreement_pct: float
    n: int
    taken: bool


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was done. `int8_share_pct` is of the multiply-adds, `integer_kernels` of the `weighted_nodes` (None: the
    scheme has none), `excluded` the nodes that were asked to stay out of INT8, `little_gain` those in INT8 that it does
    not make faster by the rule before the colon ("gemv" at batch 1), `left_out` what `auto` could not do and the
    tensors whose range the images did not show, `images_doubted` why the images are not taken for the network's (None:
    nothing speaks against them, or none were given), `weights_logit_noise_pct` the share of all weights in the noise of
    the logits (None: not asked for)."""

    __pydantic_config__ = STRICT

    scheme: Scheme
    method: str
    around: Literal["fp16", "fp32"]
    int8_share_pct: float
    integer_kernels: int | None
    weighted_nodes: int
    kept_float32: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    little_gain: tuple[str, ...] = ()
    left_out: tuple[str, ...]
    images_doubted: str | None = None
    candidates: tuple[CandidateRow, ...]
    tensors: tuple[TensorRow, ...]
    weights_logit_noise_pct: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """What one scale of activations makes of the noise in the logits, in per cent: the `nodes` read it as INT8."""

    __pydantic_config__ = STRICT

    tensor: str
    nodes: tuple[str, ...]
    logit_noise_pct: float
