"""Layers of an engine from the inspector's JSON, of 10.x and of 11.x.

10.x lists the I/O by name under `Bindings` and gives a tensor `Format/Datatype` ("Thirty-two wide channel vectorized
row major Int8 format"); 11.x has objects under `I/O Tensors`, and `Format` and `DataType` apart (NVIDIA's migration
page for IEngineInspector). Both say "N/A due to dynamic shapes" until an execution context with shapes is set, and
name layers only unless the engine was built with detailed profiling verbosity.

Names of kernels, kinds and fields are as NVIDIA's recorded engines have them (TensorRT Engine Explorer's examples).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgecnn.backends.trt.network import ONNX_NODE
from edgecnn.backends.trt.profiles import records_of_profile
from edgecnn.errors import BackendError
from edgecnn.records import parse_json
from edgecnn.results.layers import EngineLayer, Precision, Role

Json = Mapping[str, Any]

DATATYPES: tuple[tuple[str, Precision], ...] = (
    (r"\b(int4|fp4|fp8|e8m0|bf16|bfloat16|int32|int64|uint8|bool)\b", "other"),
    (r"\bint8\b", "int8"),
    (r"\b(half|fp16|float16)\b", "fp16"),
    (r"\b(float|fp32|float32)\b", "fp32"),
)
KERNEL_TYPES: tuple[tuple[str, Precision], ...] = (  # of what a kernel multiplies, from its name
    (r"(^|_)i8(i8|f16|f32|i32)_|int8x4|icudnn|i8816", "int8"),
    (r"(^|_)f16f16|(^|_)f16f32_|(^|_)h\d+(gemm|cudnn)", "fp16"),
    (r"(^|_)f32f32|(^|_)(scudnn|sgemm)", "fp32"),
    (r"(^|_)(bf16|e4m3|e5m2)", "other"),
)
CONVOLUTION = re.compile(r"convolution|convactpool|^conv$", re.IGNORECASE)
GEMM = re.compile(r"gemm|matrixmultiply|fullyconnected", re.IGNORECASE)
FUSED_KINDS = re.compile(r"kgen|myelin|foreignnode|fusion", re.IGNORECASE)
WEIGHTED_KERNEL = re.compile(r"gemm|fprop|dgrad|cudnn|conv", re.IGNORECASE)
FREE_KINDS = {"noop", "constant", "shapecall", "signal", "wait"}


def layers_from_inspector(
    text: str, macs_by_node: Mapping[str, int | None] | None = None, profile: int = 0
) -> list[EngineLayer]:
    """The layers of one optimization profile in the order of execution; raises `BackendError` for text that is not the
    inspector's JSON.

    `macs_by_node` names the ONNX nodes that weigh multiply-adds: by it fused blocks are known, whose records tell
    neither. A node counts once: in the first convolution or gemm that names it, else in the first fused block, since a
    cast or a reduction that shares its metadata may come before.
    """
    try:
        records = records_of_profile(parse_json(text, unique=False)["Layers"], profile)
    except (ValueError, KeyError, TypeError) as exc:
        raise BackendError(
            f"the engine inspector's answer is not understood: {text[:80]!r}",
            "report it with the TensorRT version: its schema may have changed",
        ) from exc
    macs = _macs_by_layer(records, macs_by_node or {})
    return [_layer(record, mine) for record, mine in zip(records, macs, strict=True)]


def io_tensors(text: str) -> list[str]:
    """Names of the engine's inputs and outputs, of either schema."""
    content = parse_json(text, unique=False)
    return [
        t["Name"] if isinstance(t, dict) else t for t in content.get("I/O Tensors") or content.get("Bindings") or []
    ]


def _macs_by_layer(records: Sequence[Json | str], weighing: Mapping[str, int | None]) -> list[list[int | None] | None]:
    """What each layer takes of the nodes' multiply-adds; None for one that names no node of them."""
    taken: list[list[int | None] | None] = [None] * len(records)
    left = dict(weighing)
    for wanted in ("compute", "other"):
        for k, record in enumerate(records):
            if isinstance(record, str) or _role(record) != wanted:
                continue
            if named := [node for node in _nodes(record) if node in weighing]:
                taken[k] = [left.pop(node) for node in named if node in left]
    return taken


def _layer(record: Json | str, mine: list[int | None] | None) -> EngineLayer:
    """One layer, which has `mine` of the nodes' multiply-adds: [] when others have all of those that it names."""
    if isinstance(record, str):  # built with layer names only
        return EngineLayer(record, "", "other", "unknown")
    role, tactic = _role(record), str(record.get("TacticName", ""))
    inputs, outputs = _tensors(record, "Inputs"), _tensors(record, "Outputs")
    macs = None
    if mine or role == "compute":
        role = "compute"
        known = mine is not None and None not in mine
        macs = sum(m or 0 for m in mine or ()) if known else _macs(record, inputs, outputs)
    told = [_precision(tensor) for tensor in (*inputs[:1], *outputs)]
    told = [_first_match(KERNEL_TYPES, tactic), *told] if role == "compute" else told
    precision: Precision = next((p for p in told if p != "unknown"), "unknown")
    name, kind = str(record.get("Name", "")), str(record.get("LayerType", ""))
    return EngineLayer(name, kind, role, precision, macs, _nodes(record), tactic)


def _nodes(record: Json) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ONNX_NODE.findall(str(record.get("Metadata", "")))))


def _tensors(record: Json, key: str) -> Sequence[Json]:
    return [t for t in record.get(key) or [] if isinstance(t, dict)]


def _role(record: Json) -> Role:
    """A NoOp that is named as a reformat launches nothing; a fused kind computes when its kernel says so."""
    kind, parameters = str(record.get("LayerType", "")), str(record.get("ParameterType", ""))
    if kind.lower().replace("_", "") in FREE_KINDS:
        return "free"
    if "reformat" in (kind.lower(), parameters.lower()) or str(record.get("Name")).startswith("Reformatting CopyNode"):
        return "quantize" if _quantizes(record) else "reformat"
    weighted = any(CONVOLUTION.search(text) or GEMM.search(text) for text in (kind, parameters))
    weighted |= bool(FUSED_KINDS.search(kind) and WEIGHTED_KERNEL.search(str(record.get("TacticName", ""))))
    return "compute" if weighted else "other"


def _quantizes(record: Json) -> bool:
    """Whether a reformat is a Q or DQ of the graph: it says so, or one side alone is INT8."""
    if origin := str(record.get("Origin", "")):
        return origin == "QDQ"
    sides = [[_precision(t) for t in _tensors(record, key)[:1]] for key in ("Inputs", "Outputs")]
    return all(side and side != ["unknown"] for side in sides) and (["int8"] in sides) and sides[0] != sides[1]


def _precision(tensor: Json) -> Precision:
    """Type of a tensor; the type's own field goes before the format's text."""
    texts = (str(tensor.get(key, "")) for key in ("DataType", "Datatype", "Format/Datatype", "Format"))
    return next((p for text in texts if (p := _first_match(DATATYPES, text)) != "unknown"), "unknown")


def _first_match(patterns: Sequence[tuple[str, Precision]], text: str) -> Precision:
    return next((precision for pattern, precision in patterns if re.search(pattern, text.lower())), "unknown")


def _macs(record: Json, inputs: Sequence[Json], outputs: Sequence[Json]) -> int | None:
    """Multiply-adds for one image, from the shapes; None when they do not tell (fused blocks, dynamic shapes)."""
    if not inputs or not outputs:
        return None
    taken, given = list(inputs[0].get("Dimensions") or []), list(outputs[0].get("Dimensions") or [])
    if len(taken) < 2 or len(given) < 2 or any(n < 1 for n in taken + given):
        return None
    kind = str(record.get("LayerType", ""))
    if record.get("Kernel"):
        maps, groups = record.get("OutMaps") or given[1], record.get("Groups") or 1
        points = taken[2:] if "deconv" in kind.lower() else given[2:]
        return int(maps * (taken[1] // groups) * math.prod(record["Kernel"]) * math.prod(points))
    if record.get("ConvKernel"):
        return _macs_before_pooling(record, taken)
    if FUSED_KINDS.search(kind) or not GEMM.search(kind) or any(n > 1 for n in given[2:]):
        return None
    return int(math.prod(taken[1:]) * math.prod(given[1:]))


def _macs_before_pooling(record: Json, taken: Sequence[int]) -> int | None:
    """Those of a ConvActPool, whose output is the pooled one: the convolution's own follows from its parameters."""
    kernel = record["ConvKernel"]
    plain = {"ConvStride": 1, "ConvDilation": 1, "ConvPrePadding": 0, "ConvPostPadding": 0}
    stride, dilation, before, after = (record.get(key) or [value] * len(kernel) for key, value in plain.items())
    points = [
        (n + a + b - d * (k - 1) - 1) // s + 1
        for n, k, s, d, a, b in zip(taken[2:], kernel, stride, dilation, before, after, strict=True)
    ]
    maps, groups = record.get("ConvOutMaps"), record.get("ConvGroups") or 1
    return int(maps * (taken[1] // groups) * math.prod(kernel) * math.prod(points)) if maps else None
