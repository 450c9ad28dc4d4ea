"""Layers and their times in the files that NVIDIA's analysis reads: `layers_LABEL.json` beside `profile_LABEL.json`,
with the content of trtexec's --exportLayerInfo and --exportProfile."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.write import write_bytes
from edgecnn.errors import MeasurementError
from edgecnn.results.layers import LayerTimes
from edgecnn.session import Array, LayerTimer, Session

PROFILED_QUERIES = 50


def require_layers(engine: Path, session: Session) -> None:
    """Raise `MeasurementError` for an engine whose runtime does not time layers."""
    if not isinstance(session, LayerTimer):
        raise MeasurementError(f"{engine}: its runtime does not time layers", "leave --export out; TensorRT plans do")


def write_layer_files(folder: Path, label: str, session: Session, images: Array) -> None:
    """Run `session` under its profiler, after everything that is timed, and write both files."""
    assert isinstance(session, LayerTimer)
    runs = session.layer_runs_ms(images, PROFILED_QUERIES)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"layers_{label}.json", session.layers_json(len(images)).encode())
    write_bytes(folder / f"profile_{label}.json", (json.dumps(profile_records(runs), indent=1) + "\n").encode())


def profile_records(runs: Sequence[LayerTimes]) -> list[dict[str, str | float]]:
    """trtexec's records: the number of runs, then each layer in the order told. A name that comes twice in a run has
    two records."""
    ms: dict[tuple[str, int], list[float]] = defaultdict(list)
    for run in runs:
        seen: dict[str, int] = defaultdict(int)
        for name, one in run:
            ms[name, seen[name]].append(one)
            seen[name] += 1
    total = sum(map(sum, ms.values()))
    layers: list[dict[str, str | float]] = [
        {
            "name": name,
            "timeMs": sum(times),
            "averageMs": sum(times) / len(runs),
            "medianMs": statistics.median(times),
            "percentage": 100 * sum(times) / total if total else 0.0,
        }
        for (name, _), times in ms.items()
    ]
    return [{"count": len(runs)}, *layers]
