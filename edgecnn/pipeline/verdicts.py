"""From the measurements of one target folder to its verdict and its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import read_json, read_sidecar
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.gate import MEASURED, Judgement, Verdict, judge
from edgecnn.measure.classification import Accuracy
from edgecnn.measure.latency import Latency
from edgecnn.pipeline.tasks import accepted_path, device_key, variants
from edgecnn.recipe.schema import Recipe
from edgecnn.targets import find_target

ACCURACY_SUFFIX = ".accuracy.json"
OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE")
KINDS = {f.name: f.type for kind in (Accuracy, Latency) for f in dataclasses.fields(kind)}
KINDS |= {"size_mb": "float", "latency_ratio": "float", "latency_ratio_ci": "tuple[float, float]"}
KINDS |= {f"{name}_share_pct": "float | None" for name in ("int8", "fp16", "fp32", "graph_int8")}


def measurements_of(folder: Path) -> list[dict[str, Any]]:
    """One flat object for each engine of a target folder: accuracy, latency, size and precision together.

    Raises `MeasurementError` when nothing was measured there.
    """
    latency_path = folder / "latency.json"
    latencies = {m["name"]: m for m in read_latency(latency_path)["measurements"]} if latency_path.exists() else {}
    accuracies = {p.name.removesuffix(ACCURACY_SUFFIX): p for p in folder.glob(f"*{ACCURACY_SUFFIX}")}
    if not latencies and not accuracies:
        raise MeasurementError(f"{folder}: no measurements", "run `edgecnn run`, or `edgecnn validate` and `bench`")
    rows = []
    for name in [*latencies, *sorted(set(accuracies) - set(latencies))]:
        row: dict[str, Any] = {"name": name}
        if name in accuracies:
            row |= _read_accuracy(accuracies[name])
        row |= latencies.get(name, {})
        rows.append(row | {"name": name})
    return rows


def read_latency(path: Path) -> dict[str, Any]:
    """A file of `edgecnn run` or `edgecnn bench`; raises `ArtifactError` for another, `MeasurementError` where it has
    several measurements of one engine, of which none can be judged for all."""
    content = read_json(path)
    rows, device = content.get("measurements"), content.get("device")
    whole = isinstance(rows, list) and isinstance(device, dict)
    if not whole or not all(isinstance(r, dict) and isinstance(r.get("name"), str) for r in rows or ()):
        raise ArtifactError(f"{path}: not a latency.json of edgecnn", "measure again: `edgecnn run` or `edgecnn bench`")
    names = [_checked(path, row)["name"] for row in rows or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        batches = ", ".join(str(row.get("batch")) for row in rows or () if row["name"] == twice)
        raise MeasurementError(
            f"{path}: {twice} was measured more than once (batch {batches})", "bench one batch size to be judged"
        )
    return content


def _read_accuracy(path: Path) -> dict[str, Any]:
    content = {k: v for k, v in read_json(path).items() if k != "provenance"}
    if missing := next((f.name for f in dataclasses.fields(Accuracy) if f.name not in content), None):
        raise ArtifactError(f"{path}: damaged: it has no {missing}", "measure again: `edgecnn validate`")
    return _checked(path, content)


def read_verdict(path: Path) -> dict[str, Any]:
    """A verdict.json; raises `ArtifactError` when it is damaged."""
    content = {k: v for k, v in read_json(path).items() if k != "provenance"}
    rows = content.get("judgements")
    keys = {f.name: f.type for f in dataclasses.fields(Judgement)}
    whole = content.get("verdict") in OUTCOMES and isinstance(rows, list) and "inconclusive" in content
    if not whole or not all(isinstance(r, dict) and keys.keys() <= r.keys() for r in rows or ()):
        raise ArtifactError(f"{path}: not a verdict.json of edgecnn", "judge again: `edgecnn gate`")
    for row in rows or ():
        _checked(path, row, keys)
    return content


def _checked(path: Path, row: dict[str, Any], kinds: Mapping[str, Any] = KINDS) -> dict[str, Any]:
    """`row`, where each value has the type that it was written with; else raises `ArtifactError`."""
    for key, value in row.items():
        if not _is_of(str(kinds.get(key, "")), value):
            raise ArtifactError(f"{path}: damaged: {key} is {str(value)[:40]!r}", "measure and judge again")
    return row


def _is_of(kind: str, value: Any) -> bool:
    """Whether a value from JSON is of a type as it stands in a dataclass; what has no type may be anything."""
    if value is None:
        return not kind or "None" in kind
    if kind.startswith("tuple[float"):
        kind = "float | None" if "float | None" in kind else "float"
        return isinstance(value, list) and len(value) == 2 and all(_is_of(kind, v) for v in value)
    if kind.startswith("Outcome"):
        return value in OUTCOMES
    types = {"int": (int, float), "float": (int, float), "str": (str,), "tuple": (list,), "dict": (dict,)}
    return next((isinstance(value, t) for name, t in types.items() if kind.startswith(name)), True)


def engine_facts(engine: Path) -> dict[str, Any]:
    """Size and precision of an engine, as a measurement carries them."""
    sidecar = read_sidecar(engine)
    facts = {
        "size_mb": round(engine.stat().st_size / 1e6, 6),
        "precision_requested": sidecar.precision_requested,
        "precision_obtained": sidecar.precision_obtained,
    }
    shares = ("shares_by", "int8_share_pct", "fp16_share_pct", "fp32_share_pct", "graph_int8_share_pct")
    for key in (*shares, "reformat_layers", "integer_kernels", "weighted_nodes"):
        if key in sidecar.facts:
            facts[key] = sidecar.facts[key]
    return facts


def judge_target(recipe: Recipe, folder: Path, *, against_accepted: bool = True) -> Verdict:
    """Judge a target folder by the recipe's tolerances and by the numbers accepted for its device, if any.

    An engine that the recipe asks for and that was not measured leaves the verdict open.
    """
    rows = [{**row, "device_key": device_key(_device(folder))} for row in measurements_of(folder)]
    accepted = accepted_used(recipe, folder)
    old = read_json(accepted) if against_accepted and accepted is not None else None
    verdict = judge(recipe.tolerances, rows, old)
    target, measured = find_target(folder.name), {row["name"] for row in rows}
    missing = tuple(
        Judgement(
            name=v.name,
            tolerance=MEASURED,
            value=None,
            interval=None,
            limit=None,
            verdict="INCONCLUSIVE",
            evidence="the recipe asks for it; nothing was measured",
            mappable=False,
        )
        for v in variants(recipe, target)
        if v.name not in measured
    )
    return dataclasses.replace(verdict, judgements=verdict.judgements + missing, notes=tuple(_notes(target.kind)))


def accepted_used(recipe: Recipe, folder: Path) -> Path | None:
    """The accepted numbers that a target folder is judged against, if there are any."""
    path = accepted_path(recipe, _device(folder))
    return path if path.exists() else None


def _device(folder: Path) -> dict[str, Any]:
    latency = folder / "latency.json"
    found: dict[str, Any] = read_latency(latency)["device"] if latency.exists() else {}
    return found


def report_of(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Everything that a report shows of one target: measurements, verdict, what made each artifact, notes."""
    verdict = read_verdict(folder / "verdict.json")
    latency: dict[str, Any] = {"device": {}, "reference": None}
    if (folder / "latency.json").exists():
        latency = read_latency(folder / "latency.json")
    target = find_target(folder.name)
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "target": folder.name,
        "device": latency["device"],
        "device_key": device_key(latency["device"]),
        "reference": latency.get("reference"),
        "measurements": measurements_of(folder),
        "verdict": verdict,
        "artifacts": [_artifact(p, folder) for p in _artifacts(folder)],
        "notes": _notes(target.kind),
    }


def _artifacts(folder: Path) -> list[Path]:
    host = [p for p in sorted(folder.parent.iterdir()) if p.suffix in {".safetensors", ".onnx", ".npz"}]
    ranges = sorted(folder.parent.glob("*.calib.json"))
    own = [p for p in sorted(folder.iterdir()) if p.suffix in {".onnx", ".plan"}]
    return [p for p in [*host, *ranges, *own] if p.suffix == ".json" or p.with_name(f"{p.name}.json").exists()]


def _artifact(path: Path, folder: Path) -> dict[str, Any]:
    sidecar = read_sidecar(path)
    return {
        "path": str(path.relative_to(folder.parent)),
        "kind": sidecar.kind,
        "made_by": sidecar.made_by,
        "sha256": sidecar.sha256,
        "parents": sorted(sidecar.parents),
        "tools": sidecar.tools,
        "created": sidecar.created,
        "size_mb": round(path.stat().st_size / 1e6, 6),
    }


def _notes(kind: str) -> list[str]:
    if kind != "cpu":
        return []
    notes = [
        "FP16 is simulated: computed in FP32, every FP16 tensor rounded (storage only); its speed says nothing",
        "int8-tensorrt is simulated: the rounding of the TensorRT placement, exactly, in float arithmetic",
    ]
    from edgecnn.graph.lint import int8_guard

    return [*notes, *([guard] if (guard := int8_guard()) else [])]
