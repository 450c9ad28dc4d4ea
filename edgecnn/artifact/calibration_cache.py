"""TensorRT's calibration cache: the scale of each tensor for implicit INT8, as text.

The first line is `TRT-<version>-<algorithm>`, the version as one integer (8602 is 8.6.2, 100300 is 10.3.0); each line
after it is `tensor: hex`, a big-endian float32, largest absolute value / 127. TensorRT pads no leading zeros.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import ArtifactError
from edgecnn.limits import read_file

ALGORITHMS = ("EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration")
AGAIN = "take the cache as TensorRT wrote it, or make one: edgecnn calibrate X.fp32.onnx --data DIR --trt-cache X.cache"
SHOWN = 3
LARGEST_BYTES = 64 << 20
LARGEST_SCALE = 2.0**120  # 127 times that is still a float32


@dataclass(frozen=True)
class CalibrationCache:
    """The scales of a cache by tensor; 0 for one that was always zero. `tensorrt` is the version in its header."""

    tensorrt: int
    algorithm: str
    scales: dict[str, float]


def read_calibration_cache(path: Path) -> CalibrationCache:
    """A cache from its file; raises `ArtifactError` that names the line for another file, for hex that is no finite
    scale, and for a tensor with two scales."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ArtifactError(f"{path}: {path.stat().st_size} bytes are no calibration cache", AGAIN)
        lines = read_file(path).decode().splitlines()
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: no such file", "make it first, or check the path") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    except UnicodeDecodeError as exc:
        raise ArtifactError(f"{path}: not a calibration cache: it is not text", AGAIN) from exc
    header = re.fullmatch(r"TRT-(\d{1,9})-(\w+)", lines[0].strip()) if lines else None
    if header is None:
        raise ArtifactError(f"{path}: not a calibration cache: its first line is not TRT-VERSION-ALGORITHM", AGAIN)
    if header[2] not in ALGORITHMS:
        raise ArtifactError(f"{path}: a cache of {header[2]}; read are those of {', '.join(ALGORITHMS)}", AGAIN)
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, code = line.rpartition(":")
        scale = _scale(code.strip()) if colon and name.strip() else None
        if scale is None:
            raise ArtifactError(
                f"{path}, line {number}: {line.strip()[:80]!r} is not `tensor: hex` with a finite scale of at least 0",
                AGAIN,
            )
        if scales.setdefault(name.strip(), scale) != scale:
            raise ArtifactError(f"{path}, line {number}: {name.strip()!r} has two scales", AGAIN)
    if not scales:
        raise ArtifactError(f"{path}: a calibration cache without a tensor", AGAIN)
    return CalibrationCache(int(header[1]), header[2], scales)


def calibration_cache_text(version: int, scales: Mapping[str, float]) -> str:
    """The text of a cache for `version`, by the algorithm that is the only one for CNNs on GPU and DLA alike."""
    lines = [f"TRT-{version}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join(lines) + "\n"


def require_tensors(path: Path, scales: Mapping[str, float], wanted: Mapping[str, str], of: str) -> None:
    """Raise `ArtifactError` unless `path` has a scale above 0 for every `wanted` tensor (the value says who reads it)
    of `of`."""
    lacking = [name for name in wanted if not scales.get(name)]
    if not lacking:
        return
    if not any(name in scales for name in wanted):
        theirs = ", ".join(repr(name) for name in list(scales)[:SHOWN])
        ours = ", ".join(repr(name) for name in list(wanted)[:SHOWN])
        raise ArtifactError(
            f"{path}: of another graph: it has {theirs} ..., and {of} has {ours} ...",
            "give the cache that was made from this graph, or calibrate this one",
        )
    shown = ", ".join(f"{name!r} ({wanted[name]})" for name in lacking[:SHOWN])
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    raise ArtifactError(
        f"{path}: {len(lacking)} of {len(wanted)} tensors of {of} have no scale above 0 in it: {shown}{more}",
        "they would fall back from INT8 without a word: calibrate this graph anew",
    )


def _scale(code: str) -> float | None:
    if not re.fullmatch(r"[0-9a-fA-F]{1,8}", code):
        return None
    value: float = struct.unpack(">f", bytes.fromhex(code.zfill(8)))[0]
    return value if math.isfinite(value) and 0 <= value <= LARGEST_SCALE else None
