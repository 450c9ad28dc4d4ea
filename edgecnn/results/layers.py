"""Layers of an engine, whichever runtime and version told of them, their shares by precision, and where time goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgecnn.records import FLAT, STRICT, to_plain

Precision = Literal["fp32", "fp16", "int8", "other", "unknown"]
Role = Literal["compute", "quantize", "reformat", "free", "other"]
ShareOf = Literal["layers", "macs", "time"]
LayerTimes = list[tuple[str, float]]  # name and ms of each layer of one run, as told; a name can come several times
MOVING: tuple[Role, ...] = ("quantize", "reformat")  # layers that compute nothing, and take time
COMPUTE_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32", "other", "unknown")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    `role` is "compute" for layers that weigh multiply-adds (Conv, Gemm), "quantize" for a Q or DQ of the graph that
    stands alone, "reformat" for those that only change layout or type, "free" for those that launch nothing, else
    "other". `precision` is that in which it computes; `macs` its
    multiply-adds for one image, None where the runtime does not tell; `nodes` the ONNX nodes it came from.
    """

    __pydantic_config__ = STRICT

    name: str
    kind: str
    role: Role
    precision: Precision
    macs: int | None = None
    nodes: tuple[str, ...] = ()
    tactic: str = ""


@dataclass(frozen=True)
class LayerShares:
    """Shares in percent by precision: of compute layers, of their multiply-adds, and of the measured time of all
    layers; layers that quantize or dequantize and layers that change the layout, by number and time.

    What was not measured is None. Shares of multiply-adds are None unless those of every compute layer are known: a
    share of a part would flatter.
    """

    __pydantic_config__ = STRICT

    compute_layers: float
    int8_layers_pct: float | None
    int8_macs_pct: float | None
    int8_time_pct: float | None
    fp16_layers_pct: float | None
    fp16_macs_pct: float | None
    fp16_time_pct: float | None
    fp32_layers_pct: float | None
    fp32_macs_pct: float | None
    fp32_time_pct: float | None
    other_layers_pct: float | None
    other_macs_pct: float | None
    other_time_pct: float | None
    unknown_layers_pct: float | None
    unknown_macs_pct: float | None
    unknown_time_pct: float | None
    quantize_layers: float
    quantize_time_pct: float | None
    reformat_layers: float
    reformat_time_pct: float | None

    def pct(self, precision: str, of: ShareOf) -> float | None:
        """The share of one precision in layers, multiply-adds or time."""
        share: float | None = getattr(self, f"{precision}_{of}_pct")
        return share


@dataclass(frozen=True)
class LayerRow:
    """A layer as it is listed; `time_pct` is its share of the time of all layers. Times are None unless measured."""

    __pydantic_config__ = STRICT

    name: str
    kind: str
    role: Role
    precision: Precision
    macs: int | None
    time_ms: float | None
    time_pct: float | None
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class LayerTable:
    """Every layer of an engine, their time together where it was measured, and their shares."""

    __pydantic_config__ = STRICT

    layers: tuple[LayerRow, ...]
    time_ms: float | None
    shares: LayerShares = field(metadata=FLAT)


def layers_to_json(layers: Iterable[EngineLayer]) -> list[dict[str, Any]]:
    """Records for a sidecar."""
    return [to_plain(layer) for layer in layers]


def layers_from_json(records: Iterable[Mapping[str, Any]]) -> list[EngineLayer]:
    """The layers of a sidecar."""
    return [EngineLayer(**{**record, "nodes": tuple(record["nodes"])}) for record in records]


def obtained_precision(layers: Sequence[EngineLayer]) -> str:
    """The precision of most multiply-adds: "int8", "fp16", "fp32", "other", or "unknown" when it cannot be told."""
    facts = share_facts(layers)
    if facts["shares_by"] is None:
        return "unknown"
    return max(COMPUTE_PRECISIONS[:-1], key=lambda p: facts[f"{p}_share_pct"] or 0.0)


def share_facts(layers: Sequence[EngineLayer]) -> dict[str, Any]:
    """Shares as an engine's sidecar and a measurement carry them: by multiply-adds where all are known, else by the
    number of compute layers (`shares_by` says which; None when the precision of none is known)."""
    told = any(layer.role == "compute" and layer.precision != "unknown" for layer in layers)
    shares = shares_of(layers)
    by: ShareOf | None = None if not told else "macs" if shares.int8_macs_pct is not None else "layers"
    values = {f"{p}_share_pct": shares.pct(p, by) if by else None for p in COMPUTE_PRECISIONS[:-1]}
    moving = {"quantize_layers": int(shares.quantize_layers), "reformat_layers": int(shares.reformat_layers)}
    return {"shares_by": by, **values, **moving}


def shares_of(layers: Sequence[EngineLayer], times_ms: Mapping[str, float] | None = None) -> LayerShares:
    """Shares by precision; those of the time from `times_ms` by the name of a layer."""
    compute = [layer for layer in layers if layer.role == "compute"]
    macs = [layer.macs for layer in compute if layer.macs is not None]
    total_macs = sum(macs) if len(macs) == len(compute) else 0
    times = times_ms or {}
    total_ms = sum(times.values())
    shares: dict[str, float | None] = {}
    for precision in COMPUTE_PRECISIONS:
        mine = [layer for layer in compute if layer.precision == precision]
        shares[f"{precision}_layers_pct"] = _percent(len(mine), len(compute))
        shares[f"{precision}_macs_pct"] = _percent(sum(m.macs or 0 for m in mine), total_macs)
        ms = sum(times.get(m.name, 0.0) for m in layers if m.precision == precision and m.role not in MOVING)
        shares[f"{precision}_time_pct"] = _percent(ms, total_ms)
    for role in MOVING:
        theirs = [layer for layer in layers if layer.role == role]
        shares[f"{role}_layers"] = float(len(theirs))
        shares[f"{role}_time_pct"] = _percent(sum(times.get(layer.name, 0.0) for layer in theirs), total_ms)
    return LayerShares(compute_layers=float(len(compute)), **shares)  # type: ignore[arg-type]


def mean_times(runs: Sequence[LayerTimes]) -> dict[str, float]:
    """Mean milliseconds of each layer by its name."""
    totals: dict[str, float] = {}
    for run in runs:
        for name, ms in run:
            totals[name] = totals.get(name, 0.0) + ms
    return {name: total / len(runs) for name, total in totals.items()}


def table_of(layers: Sequence[EngineLayer], times_ms: Mapping[str, float]) -> LayerTable:
    """Layers with the times measured of them, by their names."""
    total = sum(times_ms.values())
    rows = tuple(
        LayerRow(
            name=layer.name,
            kind=layer.kind,
            role=layer.role,
            precision=layer.precision,
            macs=layer.macs,
            time_ms=times_ms.get(layer.name),
            time_pct=_percent(times_ms[layer.name], total) if layer.name in times_ms else None,
            nodes=layer.nodes,
        )
        for layer in layers
    )
    return LayerTable(rows, total or None, shares_of(layers, times_ms))


def _percent(part: float, whole: float) -> float | None:
    return 100.0 * part / whole if whole else None
