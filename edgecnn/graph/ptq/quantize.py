"""A float graph and its ranges -> an INT8 graph, and the report of what every tensor got."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from edgecnn.data.dataset import Dataset
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.collect import Progress
from edgecnn.graph.calibration.histogram import Ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.onnx_graph import multiply_adds
from edgecnn.graph.ptq.candidates import (
    FEWEST_IMAGES,
    Candidate,
    chosen_automatically,
    inserted,
    plain,
    with_own_constants,
)
from edgecnn.graph.ptq.sensitivity import WEIGHTS, noise_shares
from edgecnn.graph.qdq.placement import Placement, Style, place
from edgecnn.graph.qdq.verify import assert_placed, int8_share_pct, integer_kernels
from edgecnn.graph.simplify import prepared

Around = Literal["fp16", "fp32"]
ALIKE = 0.1  # of the contrast within the images: what differs between frames of a still camera is less, its noise


@dataclass
class Report:
    """What was done: `rows` per tensor; `int8_share_pct` of the multiply-adds; `left_out` what `auto` could not do, and
    the tensors whose range the images did not show."""

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


def quantize_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    style: Style,
    *,
    method: str = "auto",
    around: Around = "fp16",
    data: Dataset | None = None,
    progress: Progress | None = None,
    explain: bool = False,
) -> tuple[onnx.ModelProto, Report]:
    """The INT8 graph of the float graph `model`, with what is not INT8 in `around` (`cpu` is always FP32).

    `explain` adds to each row of the report its share of the noise in the logits, which needs `data`.

    Raises `GraphError` naming the node or tensor that cannot be quantised.
    """
    ready = with_own_constants(prepared(model)) if method == "auto" else prepared(model)
    placement = place(ready, style)
    multiply_adds(ready)  # the share of INT8 is counted at the end: shapes that are not known are refused at once
    around = "fp32" if style == "cpu" else around
    half = around == "fp16"
    report = Report(style=style, method=method, around=around, left_out=_dead(ready, placement, ranges))
    data = None if data is None else _distinct(data)
    if method != "auto":
        chosen = plain(ready, placement, ranges.tensors, method, half)
    elif data is None or (why := _too_little(data)):
        why = "without images" if data is None else why
        chosen = plain(ready, placement, ranges.tensors, "mse", half, offsets=True)
        report.left_out += [f"{what} ({why})" for what in ("equalisation", "scales by output error", "reconstruction")]
    else:
        chosen, report.steps, fallen = chosen_automatically(ready, placement, ranges.tensors, half, data, progress)
        report.left_out += fallen
    made = inserted(chosen, placement)
    _describe(report, made, placement, chosen)
    if explain and data is not None:
        shares = noise_shares(chosen, placement, data)
        for row in report.rows:
            row["logit_noise_pct"] = shares[row["group"]]
        report.rows.append({"name": WEIGHTS, "type": "int8", "logit_noise_pct": shares[WEIGHTS]})
    if half:
        made, kept = to_fp16(made, replace(ranges, tensors=dict(chosen.tensors)))
        report.kept_float32 = list(kept)
    return made, report


def _distinct(data: Dataset) -> Dataset:
    """Each image once: what was fitted to one and judged by its copy would look better than it is."""
    first = {data.sha256(k): k for k in reversed(range(len(data)))}
    return data if len(first) == len(data) else data.subset(sorted(first.values()))


def _too_little(data: Dataset) -> str:
    """Why regressions on these images would hold for nothing but them; "" when they are many and different enough."""
    if len(data) < FEWEST_IMAGES:
        return f"with {len(data)} different images (at least {FEWEST_IMAGES} are needed)"
    some = np.stack([data.tensor(int(k)) for k in np.linspace(0, len(data) - 1, FEWEST_IMAGES).round()])
    between = float(np.sqrt(some.var(axis=0, dtype=np.float64).mean()))
    return "with images of one scene" if between < ALIKE * float(some.std(dtype=np.float64)) else ""


def _dead(model: onnx.ModelProto, placement: Placement, ranges: Ranges) -> list[str]:
    """The tensors to be quantised that held one value throughout, as sentences.

    They are dead branches of a live network where its logits follow the images; where those stand still too, nothing
    can be learnt from these images. Raises `GraphError` then, and for a tensor without statistics.
    """
    found = []
    for quantized in placement.activations:
        if quantized.tensor not in ranges.tensors:
            raise GraphError(
                f"tensor {quantized.tensor!r} has no calibration range",
                "the ranges were made by another version of edgecnn or ONNX Runtime: calibrate again",
            )
        one = ranges.tensors[quantized.tensor]
        if one.low == one.high:
            found.append((quantized.tensor, one.low))
    output = ranges.tensors.get(model.graph.output[0].name)
    if found and (output is None or np.array_equal(output.channel_low, output.channel_high)):
        raise GraphError(
            f"tensor {found[0][0]!r} was {found[0][1]:g} everywhere on the calibration images, and so were the logits",
            "the layers before it are dead, or the images are all alike: calibrate with other images",
        )
    return [
        f"the range of {tensor!r} ({value:g} everywhere on the calibration images: a dead layer, or images all alike)"
        for tensor, value in found
    ]


def _describe(report: Report, made: onnx.ModelProto, placement: Placement, chosen: Candidate) -> None:
    """Check that what was asked is in the graph, and fill in the report."""
    assert_placed(made, placement)
    report.weighted_nodes = len(placement.weights)
    report.int8_share_pct = round(int8_share_pct(made), 2)
    if placement.style == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            onnx.save(made, str(path))
            report.integer_kernels, report.weighted_nodes = integer_kernels(path)
    readers = {node: layer.row for node, layer in chosen.layers.items()}
    for quantized in placement.activations:
        scale = chosen.scales[quantized.group]
        rows = [readers[e.node] for e in quantized.edges if e.node in readers and e.index == 0]
        low, high = scale.bounds
        report.rows.append(
            {
                "name": quantized.tensor,
                "group": quantized.group,
                "readers": len(quantized.edges),
                "type": "uint8" if scale.unsigned else "int8",
                "method": "least output error" if rows else chosen.name if not chosen.layers else "mse",
                "scale": scale.scale,
                "offset": 0.0 if scale.unsigned else -scale.zero * scale.scale,
                "zero_point": scale.zero if scale.unsigned else 0,
                "low": low,
                "high": high,
                "seen_largest": chosen.tensors[quantized.tensor].largest,
                "equalised_by": chosen.equalised.get(quantized.tensor, 1.0),
                "weights": ", ".join(str(r["weights"]) for r in rows),
                "output_noise_pct": round(100 * max((r["noise_after"] for r in rows), default=0.0), 4)
                if rows
                else None,
            }
        )
