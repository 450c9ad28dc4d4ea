"""`X.calib.json`: ranges on disk; and the calibration cache that TensorRT up to 10 reads."""

from __future__ import annotations

import base64
import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.calibration_cache import calibration_cache_text
from edgecnn.artifact.sidecar import Sidecar, read_json, tool_versions
from edgecnn.artifact.write import write_bytes, write_json_artifact
from edgecnn.errors import ArtifactError
from edgecnn.graph.calibration.histogram import BINS, Counts, Ranges, TensorStatistics
from edgecnn.graph.calibration.thresholds import PERCENTILES, filled_bins, percentiles, threshold

KIND = "ranges"
MOST_CHANNELS = 1 << 18  # of a tensor: what is deflated may unpack to a thousand times its size
_Row = dict[str, Any]  # of one tensor, or of all
_Key = tuple[str, str | None, float, float | None]  # counts, largest, the scale of a calibration cache


def write_ranges(ranges: Ranges, path: Path, sidecar: Sidecar) -> None:
    """Write `X.calib.json`; `sidecar` says from which graph and data (its kind and facts are filled in here)."""
    counts = {"images": ranges.images, "tensors": len(ranges.tensors), "data_sha256": ranges.data_sha256}
    facts = {**sidecar.facts, **counts}
    provenance = dataclasses.replace(
        sidecar, kind=KIND, facts=facts, tools=sidecar.tools or tool_versions("numpy", "onnx", "onnxruntime")
    )
    known: dict[_Key, _Row] = {}
    content = {
        "graph_sha256": ranges.graph_sha256,
        "data": ranges.data,
        "data_sha256": ranges.data_sha256,
        "images": ranges.images,
        "tensors": [_tensor_to_json(s, known) for s in ranges.tensors.values()],
    }
    write_json_artifact(path, content, provenance)


def read_ranges(path: Path, graph_sha256: str | None = None) -> Ranges:
    """Ranges from `path`; raises `ArtifactError` when they are damaged or of another graph than `graph_sha256`."""
    content = read_json(path)
    try:
        ranges = Ranges(
            graph_sha256=str(content["graph_sha256"]),
            data=str(content["data"]),
            data_sha256=str(content["data_sha256"]),
            images=int(content["images"]),
            tensors={t["name"]: _tensor_from_json(t, int(content["images"])) for t in content["tensors"]},
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, zlib.error) as exc:
        raise ArtifactError(f"{path}: not calibration ranges ({exc!r})", "make them with `edgecnn calibrate`") from exc
    if graph_sha256 is not None and ranges.graph_sha256 != graph_sha256:
        raise ArtifactError(
            f"{path}: ranges of the graph with sha256 {ranges.graph_sha256[:12]}, not of this one "
            f"({graph_sha256[:12]})",
            "calibrate this graph, or give the graph that the ranges were made from",
        )
    return ranges


def describe_ranges(path: Path) -> _Row:
    """What `edgecnn calibrate` prints of a file that it has just written, for which no counts are read."""
    content = read_json(path)
    kept = ("name", "min", "max", "channels", "counted", "step")
    rows = [{**t, "channels": len(_unpacked(t["channel_min"], "<f4"))} for t in content["tensors"]]
    rows = [{key: row[key] for key in kept} for row in rows]
    return {"n": content["images"], "data_sha256": content["data_sha256"], "tensors": rows}


def write_tensorrt_cache(ranges: Ranges, path: Path, version: int, method: str = "entropy") -> None:
    """A calibration cache for implicit quantization (TensorRT up to 10, DLA): scale = threshold / 127 per tensor.

    `version` is TensorRT's as one integer (8602 for 8.6.2, 100300 for 10.3.0); the reader insists on its own.
    """
    write_bytes(path, calibration_cache_text(version, implicit_scales(ranges, method)).encode())


def implicit_scales(ranges: Ranges, method: str) -> dict[str, float]:
    """threshold / 127 by tensor: what a calibration cache holds."""
    return {s.name: threshold(s, method) / 127 for s in ranges.tensors.values()}


def _tensor_to_json(statistics: TensorStatistics, known: dict[_Key, _Row]) -> _Row:
    """One row of the file; `known` are the thresholds that follow from counts, which moved tensors share."""
    positive = _packed(statistics.positive)
    negative = None if statistics.negative is None else _packed(statistics.negative)
    key = positive, negative, statistics.largest, statistics.scale
    if key not in known:
        known[key] = _thresholds_to_json(statistics)
    return {
        "name": statistics.name,
        "counted": statistics.counted,
        "step": statistics.step,
        "min": statistics.low,
        "max": statistics.high,
        "minmax": statistics.largest,
        "channel_min": _packed(statistics.channel_low),
        "channel_max": _packed(statistics.channel_high),
        **known[key],
        "positive": positive,
        "negative": negative,
        **({} if statistics.scale is None else {"scale": statistics.scale}),
    }


def _thresholds_to_json(statistics: TensorStatistics) -> _Row:
    made: _Row = {}
    statistics = dataclasses.replace(statistics, positive=filled_bins(statistics.magnitudes), negative=None)
    for percent, value in zip(PERCENTILES, percentiles(statistics), strict=True):
        made[f"percentile_{percent}"] = _short(value)
    for method in ("entropy", "mse"):
        made[method] = _short(threshold(statistics, method))
    return made


def _tensor_from_json(content: dict[str, Any], images: int) -> TensorStatistics:
    negative = content["negative"]
    made = TensorStatistics(
        name=content["name"],
        positive=_bins(content["positive"]),
        negative=None if negative is None else _bins(negative),
        channel_low=_unpacked(content["channel_min"], "<f4").astype(np.float32),
        channel_high=_unpacked(content["channel_max"], "<f4").astype(np.float32),
        images=images,
        scale=float(content["scale"]) if "scale" in content else None,
        step=int(content.get("step", 1)),
    )
    counted = content["counted"] if "counted" in content else content["count"]  # as files of before call it
    if not math.isclose(made.high, content["max"]) or made.counted != counted or made.step < 1:
        raise ValueError(f"tensor {made.name!r} contradicts itself")
    return made


def _bins(text: str) -> Counts:
    counts = _unpacked(text, "<i8", BINS).astype(np.int64)
    if len(counts) != BINS:
        raise ValueError(f"{len(counts)} bins, not {BINS}")
    return counts


def _packed(array: np.typing.NDArray[Any]) -> str:
    """Little-endian, deflated, base64."""
    little = array.astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 1)).decode()


def _unpacked(text: str, dtype: str, most: int = MOST_CHANNELS) -> np.typing.NDArray[Any]:
    """Raises `ValueError` for more than so many values."""
    size, inflater = np.dtype(dtype).itemsize, zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text), most * size)
    if inflater.unconsumed_tail or not inflater.eof:
        raise ValueError(f"not deflated numbers, or more than {most}")
    return np.frombuffer(content, dtype)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
