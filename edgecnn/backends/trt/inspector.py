"""Layers of an engine from the inspector's JSON, of 10.x and of 11.x.

10.x lists the I/O by name under `Bindings` and gives a tensor `Format/Datatype` ("Thirty-two wide channel vectorized
row major Int8 format"); 11.x has objects under `I/O Tensors`, and `Format` and `DataType` apart (NVIDIA's migration
page for IEngineInspector). Both say "N/A due to dynamic shapes" until an execution context with shapes is set, and
name layers only unless the engine was built with detailed profiling verbosity.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgecnn.backends.trt.network import ONNX_NODE
from edgecnn.errors import BackendError
from edgecnn.results.layers import EngineLayer, Precision, Role

Json = Mapping[str, Any]

DATATYPES: tuple[tuple[str, Precision], ...] = (
    (r"\b(int4|fp4|fp8|e8m0|bf16|bfloat16|int32|int64|uint8|bool)\b", "other"),
    (r"\bint8\b", "int8"),
    (r"\b(half|fp16|float16)\b", "fp16"),
    (r"\b(float|fp32|float32)\b", "fp32"),
)
WEIGHTED = re.compile(r"convolution|deconvolution|gemm|matrixmultiply|fullyconnected", re.IGNORECASE)
FUSED_KINDS = re.compile(r"kgen|myelin|foreignnode", re.IGNORECASE)
FREE_KINDS = {"noop", "constant", "shapecall", "signal", "wait"}


def layers_from_inspector(text: str, macs_by_node: Mapping[str, int | None] | None = None) -> list[EngineLayer]:
    """The layers in the order of execution; raises `BackendError` for text that is not the inspector's JSON.

    `macs_by_node` names the ONNX nodes that weigh multiply-adds: by it fused blocks are known, whose records tell
    neither. A node counts once, in the first layer that names it.
    """
    try:
        records = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as exc:
        raise BackendError(
            f"the engine inspector's answer is not understood: {text[:80]!r}",
            "report it with the TensorRT version: its schema may have changed",
        ) from exc
    left = dict(macs_by_node or {})
    return [_layer(record, left) for record in records]


def io_tensors(text: str) -> list[str]:
    """Names of the engine's inputs and outputs, of either schema."""
    content = json.loads(text)
    return [
        t["Name"] if isinstance(t, dict) else t for t in content.get("I/O Tensors") or content.get("Bindings") or []
    ]


def _layer(record: Json | str, left: dict[str, int | None]) -> EngineLayer:
    if isinstance(record, str):  # built with layer names only
        return EngineLayer(record, "", "other", "unknown")
    name, kind = str(record.get("Name", "")), str(record.get("LayerType", ""))
    inputs, outputs = _tensors(record, "Inputs"), _tensors(record, "Outputs")
    nodes = tuple(dict.fromkeys(ONNX_NODE.findall(str(record.get("Metadata", "")))))
    role = _role(name, kind, str(record.get("ParameterType", "")))
    mine = [left.pop(n) for n in nodes if n in left] if role != "reformat" else []
    told = [p for p in map(_precision, (*inputs[:1], *outputs)) if p != "unknown"]
    macs = None
    if mine or role == "compute":
        role = "compute"
        macs = sum(m or 0 for m in mine) if mine and None not in mine else _macs(record, inputs, outputs)
    return EngineLayer(name, kind, role, told[0] if told else "unknown", macs, nodes, str(record.get("TacticName", "")))


def _tensors(record: Json, key: str) -> Sequence[Json]:
    return [t for t in record.get(key) or [] if isinstance(t, dict)]


def _role(name: str, kind: str, parameters: str) -> Role:
    if kind.lower() == "reformat" or parameters.lower() == "reformat" or name.startswith("Reformatting CopyNode"):
        return "reformat"
    if kind.lower() in FREE_KINDS:
        return "free"
    return "compute" if WEIGHTED.search(kind) or WEIGHTED.search(parameters) else "other"


def _precision(tensor: Json) -> Precision:
    """Type of a tensor; the type's own field goes before the format's text."""
    for key in ("DataType", "Datatype", "Format/Datatype", "Format"):
        text = str(tensor.get(key, "")).lower()
        for pattern, precision in DATATYPES:
            if re.search(pattern, text):
                return precision
    return "unknown"


def _macs(record: Json, inputs: Sequence[Json], outputs: Sequence[Json]) -> int | None:
    """Multiply-adds for one image, from the shapes; None when they do not tell (fused blocks, dynamic shapes)."""
    if not inputs or not outputs:
        return None
    taken, given = list(inputs[0].get("Dimensions") or []), list(outputs[0].get("Dimensions") or [])
    if len(taken) < 2 or len(given) < 2 or any(n < 1 for n in taken + given):
        return None
    kernel, groups = record.get("Kernel"), record.get("Groups") or 1
    if kernel:
        maps = record.get("OutMaps") or given[1]
        return int(maps * (taken[1] // groups) * math.prod(kernel) * math.prod(given[2:]))
    if FUSED_KINDS.search(str(record.get("LayerType", ""))):
        return None
    return int(math.prod(taken[1:]) * math.prod(given[1:]))
