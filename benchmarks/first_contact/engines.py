"""Build, bench and compare one engine, by edgecnn's own steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_contact.answer import LARGEST, PRECISIONS, Work
from edgecnn.errors import EdgecnnError

RECORD_KEYS = ("LayerType", "ParameterType", "Origin", "TacticName")
TENSOR_KEYS = ("Format/Datatype", "Format", "DataType")


def batch_settings() -> Any:
    from edgecnn.recipe.schema import BatchSettings

    return BatchSettings(1, 1, LARGEST)


def built(graph: Path, engine: Path, **settings: Any) -> dict[str, Any]:
    """What a build gave, and the seconds that it took."""
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.records import to_plain
    from edgecnn.steps.bench import engine_facts
    from edgecnn.steps.build import build

    started = time.perf_counter()
    build(graph, engine, **{"batch": batch_settings(), **settings})
    spent, made = time.perf_counter() - started, read_sidecar(engine)
    facts = known(to_plain(engine_facts(engine)))
    said = {key: made.facts[key] for key in ("warnings", "notes") if made.facts.get(key)}
    return {"build_s": round(spent, 2), "precision_obtained": made.precision_obtained, **facts, **said}


def benched(engine: Path, seconds: float, **settings: Any) -> list[dict[str, Any]]:
    from edgecnn.records import to_plain
    from edgecnn.steps.bench import bench

    found = bench(engine, duration_s=seconds, warmup_ms=min(200.0, 1000 * seconds), **settings)
    return [known(to_plain(row)) for row in found.measurements]


def measured_ratio(engine: Path, versus: Path, seconds: float, batch: int = 1) -> dict[str, Any]:
    """The ratio of the medians of two engines in turn, engine / versus, with its interval."""
    (row,) = benched(engine, seconds, versus=versus, batches=(batch,))
    keys = ("latency_ratio", "latency_ratio_ci", "latency_ms_p50", "reference_latency_ms_p50", "unstable", "clocks")
    return {key: row[key] for key in keys if key in row}


def cosine(graph: Path, engine: Path) -> float:
    from tests.fakes.device_flow import closeness

    return closeness(graph, engine, LARGEST)


def small_plans(work: Work, name: str) -> Iterator[Path]:
    """The small network's plans that are there."""
    return (plan for precision in PRECISIONS if (plan := work.engine(name.format(precision))).exists())


def input_shape(plan: Path) -> tuple[int, ...]:
    from edgecnn.backends import open_engine

    with open_engine(plan) as session:
        return tuple(n or 1 for n in session.input.shape[1:])


def known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value not in (None, "", [], ())}


def by_command_line(*words: object) -> dict[str, Any]:
    """The exit code and the JSON of an `edgecnn` command."""
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1, 3):
        errors = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
        raise EdgecnnError(f"exit code {done.returncode}: {' '.join(errors) or done.stderr[-500:]}", "see the words")
    return {"exit_code": done.returncode, "result": json.loads(done.stdout)}


def inspected(plan: Path) -> dict[str, Any]:
    from edgecnn.backends import open_engine
    from edgecnn.session import LayerTimer

    with open_engine(plan) as session:
        assert isinstance(session, LayerTimer)
        text, layers = session.layers_json(1), session.layers(1)
    return {**facts_of_inspector(text), "read": _counts(layers)}


def _counts(layers: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for layer in layers:
        found[f"{layer.role} {layer.precision}"] = found.get(f"{layer.role} {layer.precision}", 0) + 1
    return found


def facts_of_inspector(text: str) -> dict[str, Any]:
    """Of the inspector's JSON the keys, the kinds and the types, without weights, names or shapes."""
    content = json.loads(text)
    records = [record for record in content["Layers"] if isinstance(record, dict)]
    tensors = [t for r in records for side in ("Inputs", "Outputs") for t in r.get(side) or [] if isinstance(t, dict)]
    told = {key: sorted({str(r[key]) for r in records if key in r}) for key in RECORD_KEYS}
    types = {
        key: sorted({str(t[key]) for t in tensors if key in t}) for key in ("Format/Datatype", "Format", "DataType")
    }
    return {
        "top": sorted(content),
        "layers": len(content["Layers"]),
        "layers_by_name_only": len(content["Layers"]) - len(records),
        "layer_keys": sorted({key for record in records for key in record}),
        "tensor_keys": sorted({key for tensor in tensors for key in tensor}),
        **told,
        **{key: values for key, values in types.items() if values},
        "of_profiles": sorted(set(re.findall(r"\[profile \d+\]", text))),
    }
