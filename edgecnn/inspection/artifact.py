"""What a file is, from its own header and its sidecar; looks without changing, and without torch."""

from __future__ import annotations

import math
import struct
import zipfile
from collections import Counter
from pathlib import Path

from edgecnn.artifact.sidecar import read_json, sidecar_path, verified_sidecar
from edgecnn.artifact.signature import require_signature
from edgecnn.backends import recognizing_backend
from edgecnn.errors import ArtifactError
from edgecnn.limits import DAMAGED_ZIP, npy_header, require_regular, what_lacks
from edgecnn.records import parse_json, to_plain


def describe(path: Path) -> dict[str, object]:
    """Facts about an artifact from its own header, then from its sidecar.

    Raises `ArtifactError` when the file is missing, damaged, or not what its sidecar describes.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "check the path")
    read = {".safetensors": _safetensors, ".npz": _npz, ".json": _json}.get(path.suffix)
    if read is None and (backend := recognizing_backend(path)) is not None:
        read = backend.describe
    if read is None:
        raise ArtifactError(f"{path}: {path.suffix or 'no suffix'} is no artifact of edgecnn", "see --help")
    facts: dict[str, object] = {"file": str(path), "size_mb": round(path.stat().st_size / 1e6, 3)}
    facts.update(read(path))
    require_signature(path if path.suffix == ".json" else sidecar_path(path))
    if path.suffix == ".json":
        return facts
    if not sidecar_path(path).exists():
        facts["sidecar"] = "none: it did not come from edgecnn, or its sidecar was left behind"
        return facts
    shown = {k: v for k, v in to_plain(verified_sidecar(path)).items() if v not in (None, "", {}, [])}
    facts.setdefault("sidecar", shown)  # a plan was described with its sidecar
    return facts


def _safetensors(path: Path) -> dict[str, object]:
    """The header: 8 bytes of length, then JSON with dtype, shape and offsets of each tensor."""
    try:
        size = require_regular(path)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(length)) if length < size else {}
    except (OSError, ValueError, struct.error) as exc:
        raise ArtifactError(f"{path}: not a safetensors file ({exc})", "copy it again, or make it again") from exc
    if not isinstance(header, dict):
        raise ArtifactError(f"{path}: not a safetensors file: its header is no object", "copy it again")
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    try:
        end = max((t["data_offsets"][1] for t in tensors.values()), default=-1)
        found: dict[str, object] = {
            "tensors": len(tensors),
            "parameters": sum(math.prod(t["shape"]) for t in tensors.values()),
            "types": dict(Counter(t["dtype"] for t in tensors.values())),
        }
    except (TypeError, KeyError, IndexError) as exc:
        raise ArtifactError(f"{path}: not a safetensors file: its header says no tensors", "copy it again") from exc
    if end + 8 + length != size:
        raise ArtifactError(f"{path}: truncated, or not a safetensors file", "copy it again, or make it again")
    return found


def _npz(path: Path) -> dict[str, object]:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    shape, _, dtype = npy_header(member)
                    arrays[name.removesuffix(".npy")] = f"{dtype} {list(shape)}"
    except DAMAGED_ZIP as exc:
        raise ArtifactError(f"{path}: not a whole .npz ({exc})", "copy it again, or make it again") from exc
    return {"arrays": arrays}


def _json(path: Path) -> dict[str, object]:
    content = read_json(path)
    if "provenance" in content:
        return content
    if "kind" in content and "sha256" in content:
        return {"sidecar": content}
    return {"keys": sorted(content)}
