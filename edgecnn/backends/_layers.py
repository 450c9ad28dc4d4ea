"""Layers of an engine as neutral records, whichever runtime and version told of them, and their shares by precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["fp32", "fp16", "int8", "other", "unknown"]
Role = Literal["compute", "reformat", "free", "other"]
COMPUTE_PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32", "other", "unknown")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of a built engine.

    `role` is "compute" for layers that weigh multiply-adds (Conv, Gemm), "reformat" for those that only change layout
    or type, "free" for those that launch nothing, else "other". `precision` is that in which it computes; `macs` its
    multiply-adds for one image, None where the runtime does not tell; `nodes` the ONNX nodes it came from.
    """

    name: str
    kind: str
    role: Role
    precision: Precision
    macs: int | None = None
    nodes: tuple[str, ...] = ()
    tactic: str = ""


def layers_to_json(layers: Iterable[EngineLayer]) -> list[dict[str, Any]]:
    """Records for a sidecar."""
    return [{**dataclasses.asdict(layer), "nodes": list(layer.nodes)} for layer in layers]


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
    compute = [layer for layer in layers if layer.role == "compute"]
    told = any(layer.precision != "unknown" for layer in compute)
    shares = shares_of(layers)
    by = None if not told else "macs" if shares["int8_macs_pct"] is not None else "layers"
    values = {f"{p}_share_pct": shares[f"{p}_{by}_pct"] if by else None for p in COMPUTE_PRECISIONS[:-1]}
    return {"shares_by": by, **values, "reformat_layers": int(shares["reformat_layers"] or 0)}


def shares_of(layers: Sequence[EngineLayer], times_ms: Mapping[str, float] | None = None) -> dict[str, float | None]:
    """Shares in percent by precision: of compute layers, of their multiply-adds, and of the measured time of all
    layers (None without `times_ms`); reformat layers by number and time.

    Shares of multiply-adds are None unless those of every compute layer are known: a share of a part would flatter.
    """
    compute = [layer for layer in layers if layer.role == "compute"]
    macs = [layer.macs for layer in compute if layer.macs is not None]
    total_macs = sum(macs) if len(macs) == len(compute) else 0
    times = times_ms or {}
    total_ms = sum(times.values())
    shares: dict[str, float | None] = {"compute_layers": float(len(compute))}
    for precision in COMPUTE_PRECISIONS:
        mine = [layer for layer in compute if layer.precision == precision]
        shares[f"{precision}_layers_pct"] = _percent(len(mine), len(compute))
        shares[f"{precision}_macs_pct"] = _percent(sum(m.macs or 0 for m in mine), total_macs)
        ms = sum(times.get(m.name, 0.0) for m in layers if m.precision == precision and m.role != "reformat")
        shares[f"{precision}_time_pct"] = _percent(ms, total_ms)
    reformats = [layer for layer in layers if layer.role == "reformat"]
    shares["reformat_layers"] = float(len(reformats))
    shares["reformat_time_pct"] = _percent(sum(times.get(r.name, 0.0) for r in reformats), total_ms)
    return shares


def _percent(part: float, whole: float) -> float | None:
    return 100.0 * part / whole if whole else None
