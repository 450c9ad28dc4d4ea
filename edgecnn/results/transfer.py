"""What a transfer table says: how much of a network to train on other images."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT
from edgecnn.results.accuracy import Interval
from edgecnn.results.engine import Scheme

HEAD, ALL, SCRATCH, PROBE = "head", "all", "scratch", "probe"


@dataclass(frozen=True, kw_only=True)
class TransferInt8:
    """What INT8 costs one row: its drop from that row's PyTorch network, in percentage points, on the same images."""

    __pydantic_config__ = STRICT

    scheme: Scheme
    simulated: bool
    top1_pct: float
    top1_drop_pp: float
    top1_drop_ci_pp: Interval
    agreement_pct: float


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """One way to use a network. `trains` is "head" (a new classifier), "last-N" (the last N stages and the head) or
    "all", each from weights that are there; "scratch" (every layer, from random weights); or "probe", a linear
    classifier on the globally averaged output of one `stage` and nothing else.

    The float32 graph's top-1 on the `n` test images, a probe's in PyTorch. `folder` holds the run, as seen from the
    table's; a probe has none, and no INT8. `minutes` of training by the clock and `cpu_minutes` of processor time,
    epochs of an interrupted run included in the first; None where nobody took them. `top1_bits` are packed bits of
    which images are right, in the order of their ids; `images_sha256` says which images those are. `failed` says why
    no INT8 could be made of what training came to: `int8` is empty then, and top-1 is PyTorch's where there is no
    float32 graph either.
    """

    __pydantic_config__ = STRICT

    name: str
    model: str
    trains: str
    stage: str
    folder: str
    params: int
    params_trained: int
    minutes: float | None
    cpu_minutes: float | None
    n: int
    top1_n: int
    top1_pct: float
    top1_ci_pct: Interval
    int8: tuple[TransferInt8, ...]
    images_sha256: str
    top1_bits: str
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class TransferPair:
    """Two rows on the same images: what top-1 gains from `first` to `second`, in percentage points, with its two-sided
    95 % interval; `gained` images are right in `second` alone, `lost` in `first` alone. With `differs` the two are told
    apart at 5 % for all pairs of runs together, or for all probes against the heads (Holm)."""

    __pydantic_config__ = STRICT

    first: str
    second: str
    gain_pp: float
    gain_ci_pp: Interval
    gained: int
    lost: int
    mcnemar_p: float
    differs: bool


@dataclass(frozen=True, kw_only=True)
class TransferAnswer:
    """Of a network's runs the one that trains least of those that no other is told to be better than; `better_than`
    are those that train less, each of which some run was told to be better than; a run that failed is neither. Against
    the run `against` it may lose up to `lost_pp_max`, the largest upper end of the 95 % intervals."""

    __pydantic_config__ = STRICT

    model: str
    name: str
    better_than: tuple[str, ...]
    against: str
    lost_pp_max: float


@dataclass(frozen=True, kw_only=True)
class TransferTable:
    """The rows of one or several networks on the same split, how they differ, and the answer for each network that has
    a run that did not fail."""

    __pydantic_config__ = STRICT

    data: str
    recipe: str
    classes: int
    n_train: int
    n: int
    epochs: int
    threads: int
    rows: tuple[TransferRow, ...]
    pairs: tuple[TransferPair, ...]
    answers: tuple[TransferAnswer, ...]
