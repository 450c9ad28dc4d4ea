"""What a file is, from its own header and its sidecar; looks without changing, and without torch."""

from __future__ import annotations

import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import read_json, sidecar_path, verified_sidecar
from edgecnn.errors import ArtifactError
from edgecnn.records import parse_json


def describe(path: Path) -> dict[str, Any]:
    """Facts about an artifact from its own header, then from its sidecar.

    Raises `ArtifactError` when the file is missing, damaged, or not what its sidecar describes.
    """
    readers = {".onnx": _onnx, ".safetensors": _safetensors, ".npz": _npz, ".json": _json, ".plan": _plan}
    suffix = ".plan" if path.suffix == ".engine" else path.suffix
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", "check the path")
    if suffix not in readers:
        raise ArtifactError(f"{path}: {path.suffix or 'no suffix'} is no artifact of edgecnn", "see --help")
    facts: dict[str, Any] = {"file": str(path), "size_mb": round(path.stat().st_size / 1e6, 3)}
    facts.update(readers[suffix](path))
    if suffix == ".json":
        return facts
    if not sidecar_path(path).exists():
        facts["sidecar"] = "none: it did not come from edgecnn, or its sidecar was left behind"
        return facts
    sidecar = verified_sidecar(path)
    if suffix == ".plan":  # described with its sidecar already
        return facts
    shown = {k: v for k, v in vars(sidecar).items() if v not in (None, "", {}, [])}
    facts["sidecar"] = shown
    return facts


def _onnx(path: Path) -> dict[str, Any]:
    try:
        import onnx
    except ModuleNotFoundError:
        return {"graph": "not read: the package onnx is not installed here"}
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as exc:
        raise ArtifactError(f"{path}: not a whole ONNX graph ({exc})", "copy it again, or export it again") from exc
    if not model.graph.node:
        raise ArtifactError(f"{path}: an ONNX graph without nodes", "copy it again, or export it again")
    types = Counter(onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer)
    return {
        "opset": next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": [_value(v) for v in model.graph.input],
        "outputs": [_value(v) for v in model.graph.output],
        "nodes": len(model.graph.node),
        "operators": dict(Counter(n.op_type for n in model.graph.node).most_common()),
        "initializers": dict(types.most_common()),
    }


def _value(value: Any) -> str:
    tensor = value.type.tensor_type
    dims = [d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in tensor.shape.dim]
    names = {1: "float32", 10: "float16", 3: "int8", 2: "uint8", 7: "int64"}
    return f"{value.name} {names.get(tensor.elem_type, tensor.elem_type)} [{', '.join(dims)}]"


def _safetensors(path: Path) -> dict[str, Any]:
    """The header: 8 bytes of length, then JSON with dtype, shape and offsets of each tensor."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(length)) if length < path.stat().st_size else {}
    except (OSError, ValueError, struct.error) as exc:
        raise ArtifactError(f"{path}: not a safetensors file ({exc})", "copy it again, or make it again") from exc
    if not isinstance(header, dict):
        raise ArtifactError(f"{path}: not a safetensors file: its header is no object", "copy it again")
    tensors = {k: v for k, v in header.items() if k != "__metadata__"}
    end = max((t["data_offsets"][1] for t in tensors.values()), default=-1)
    if end + 8 + length != path.stat().st_size:
        raise ArtifactError(f"{path}: truncated, or not a safetensors file", "copy it again, or make it again")
    return {
        "tensors": len(tensors),
        "parameters": int(sum(np.prod(t["shape"], dtype=np.int64) for t in tensors.values())),
        "types": dict(Counter(t["dtype"] for t in tensors.values())),
    }


def _npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2
                    shape, _, dtype = read(member)
                    arrays[name.removesuffix(".npy")] = f"{dtype} {list(shape)}"
    except (OSError, ValueError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"{path}: not a whole .npz ({exc})", "copy it again, or make it again") from exc
    return {"arrays": arrays}


_header_2 = np.lib.format.read_array_header_2_0


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if "provenance" in content:
        return content
    if "kind" in content and "sha256" in content:
        return {"sidecar": content}
    return {"keys": sorted(content)}


def _plan(path: Path) -> dict[str, Any]:
    from edgecnn.backends.trt.plan import describe_plan

    return describe_plan(path)
