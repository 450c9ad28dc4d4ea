"""A float graph and its ranges -> an INT8 graph, and the report of what every tensor got."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from edgecnn.artifact import Sidecar, parents_of, tool_versions, write_artifact
from edgecnn.dataset import Dataset
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.int8.codes import (
    FP16_SMALLEST,
    FP32_SMALLEST,
    Scale,
    WeightCodes,
    as_fp16,
    grouped,
    rounded,
    scale_by_method,
    weight_codes,
)
from edgecnn.graph.int8.insert import insert_pairs
from edgecnn.graph.obtained import assert_placed, int8_share_pct, integer_kernels
from edgecnn.graph.placement import Placement, Style, place
from edgecnn.graph.prepare import GraphIndex, prepared
from edgecnn.graph.ranges.collect import Progress
from edgecnn.graph.ranges.statistics import Ranges

Around = Literal["fp16", "fp32"]


@dataclass
class Report:
    """What was done: `rows` per tensor; `int8_share_pct` of the multiply-adds; `left_out` what `auto` could not do."""

    style: Style
    method: str
    around: Around
    int8_share_pct: float = 0.0
    integer_kernels: int | None = None
    weighted_nodes: int = 0
    kept_float32: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As `quantize --json` prints it."""
        return asdict(self)


def quantize_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    style: Style,
    *,
    method: str = "auto",
    around: Around = "fp16",
    data: Dataset | None = None,
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, Report]:
    """The INT8 graph of the float graph `model`, with what is not INT8 in `around` (`cpu` is always FP32).

    Raises `GraphError` naming the node or tensor that cannot be quantised.
    """
    ready = prepared(model)
    placement = place(ready, style)
    around = "fp32" if style == "cpu" else around
    report = Report(style=style, method=method, around=around)
    scales, weights = _by_method(ready, placement, ranges, method, around)
    made = insert_pairs(ready, placement, scales, weights)
    _describe(report, made, placement, scales, method)
    if around == "fp16":
        made, kept = to_fp16(made, ranges)
        report.kept_float32 = list(kept)
    return made, report


def write_int8(path: Path, model: onnx.ModelProto, report: Report, sidecar: Sidecar, *parents: Path) -> Sidecar:
    """Write the INT8 graph with its sidecar; `sidecar` brings the recipe's facts, preprocessing and labels."""
    facts = {
        **sidecar.facts,
        "style": report.style,
        "method": report.method,
        "around": report.around,
        "int8_share_pct": report.int8_share_pct,
        "weighted_nodes": report.weighted_nodes,
    }
    if report.integer_kernels is not None:
        facts["integer_kernels"] = report.integer_kernels
    whole = report.integer_kernels is None or report.integer_kernels == report.weighted_nodes
    done = replace(
        sidecar,
        kind="graph",
        precision_requested="int8",
        precision_obtained="int8" if whole and report.int8_share_pct > 0 else "mixed",
        parents=sidecar.parents or parents_of(path, *parents),
        tools=sidecar.tools or tool_versions("numpy", "onnx", "onnxruntime"),
        facts=facts,
    )
    return write_artifact(path, lambda temporary: onnx.save(model, str(temporary)), done)


def _by_method(
    model: onnx.ModelProto, placement: Placement, ranges: Ranges, method: str, around: Around
) -> tuple[dict[str, Scale], dict[str, WeightCodes]]:
    chosen = "mse" if method == "auto" else method
    smallest = FP16_SMALLEST if around == "fp16" else FP32_SMALLEST
    groups = grouped(placement, ranges.tensors)
    scales = {n: scale_by_method(s, chosen, placement.style, smallest) for n, s in groups.items()}
    index = GraphIndex(model)
    weights = {
        w.initializer: weight_codes(index.array(w.initializer), w.axis, smallest, search=chosen != "minmax")
        for w in placement.weights
    }
    if around == "fp16":
        scales = {n: replace(s, scale=as_fp16(s.scale)) for n, s in scales.items()}
        weights = {n: _fp16_weight(index, n, w) for n, w in weights.items()}
    return scales, weights


def _fp16_weight(index: GraphIndex, name: str, weight: WeightCodes) -> WeightCodes:
    scale = weight.scale.astype("float16").astype("float32")
    return rounded(index.array(name), scale, weight.axis)


def _describe(
    report: Report, made: onnx.ModelProto, placement: Placement, scales: dict[str, Scale], method: str
) -> None:
    """Check that what was asked is in the graph, and fill in the report."""
    assert_placed(made, placement)
    report.weighted_nodes = len(placement.weights)
    report.int8_share_pct = round(int8_share_pct(made), 2)
    if placement.style == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            onnx.save(made, str(path))
            report.integer_kernels, report.weighted_nodes = integer_kernels(path)
    for quantized in placement.activations:
        scale = scales[quantized.group]
        report.rows.append(
            {
                "name": quantized.tensor,
                "group": quantized.group,
                "readers": len(quantized.edges),
                "method": method,
                "scale": scale.scale,
                "zero_point": scale.zero,
                "type": "uint8" if scale.unsigned else "int8",
                "low": scale.bounds[0],
                "high": scale.bounds[1],
            }
        )
