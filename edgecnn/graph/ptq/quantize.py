"""A float graph and its ranges -> an INT8 graph, and the report of what every tensor got."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.data.dataset import Dataset
from edgecnn.errors import GraphError
from edgecnn.graph.calibration.familiarity import measure_told
from edgecnn.graph.calibration.histogram import Ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.onnx_graph import count_multiply_adds, flat_graph
from edgecnn.graph.ptq.candidates import (
    Candidate,
    compute_logits,
    give_own_constants,
    insert_candidate,
    round_candidate,
)
from edgecnn.graph.ptq.headroom import judging_images
from edgecnn.graph.ptq.judging import FEWEST_IMAGES, judge_candidates
from edgecnn.graph.ptq.layer_reconstruction import LayerResult
from edgecnn.graph.qdq.exclude import find_by_rules, find_float_convolutions, with_own_weights
from edgecnn.graph.qdq.float_products import describe_float_products
from edgecnn.graph.qdq.placement import place
from edgecnn.graph.qdq.verify import assert_placed, count_integer_kernels, measure_int8_share_pct
from edgecnn.graph.simplify import simplify_graph
from edgecnn.quantization import Placement, QuantizedTensor
from edgecnn.results.engine import Scheme
from edgecnn.results.quantization import CandidateRow, QuantizationReport, TensorRow

Around = Literal["fp16", "fp32"]
LOOKED_AT = 64  # images, for whether they are the network's
ALIKE = 0.1  # of the contrast within the images: what differs between frames of a still camera is less, its noise


@dataclass(frozen=True)
class QuantizedGraph:
    """An INT8 graph, the report of it, and what it was made of: where its pairs stand, and the numbers behind them."""

    model: onnx.ModelProto
    report: QuantizationReport
    placement: Placement
    candidate: Candidate


def quantize_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    scheme: Scheme,
    *,
    method: str = "auto",
    around: Around = "fp16",
    excluded: Collection[str] = (),
    pools: bool = False,
    data: Dataset | None = None,
    features: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> QuantizedGraph:
    """The INT8 graph of the float graph `model`, with what is not INT8 in `around` (`ort-cpu` is always FP32);
    the nodes `excluded` are not, TensorRT's global average pools are with `pools`. One that gives `features` has no
    logits to judge by: "auto" takes the ranges of mse.

    Raises `GraphError` naming the node or tensor that cannot be quantized.
    """
    ready = simplify_graph(model, features=features)
    ready = give_own_constants(ready) if method == "auto" else ready
    ready = with_own_weights(ready, excluded)
    spans = {name: max(one.high, 0.0) - min(one.low, 0.0) for name, one in ranges.tensors.items()}
    placement = place(ready, scheme, excluded, pools=pools, spans=spans)
    if not placement.weights:
        raise GraphError("no Conv, Gemm or MatMul of it can be INT8", "take the FP16 graph (--precision fp16)")
    around = "fp32" if scheme == "ort-cpu" else around
    half = around == "fp16"
    left_out = [*describe_float_products(ready), *find_dead(ready, placement, ranges)]
    data = None if data is None else distinct_images(data)
    seen_as, why = (None, "without images") if data is None else _look_at_images(ready, data, features)
    doubt = "" if seen_as is None else measure_told(seen_as).reason
    compared: list[CandidateRow] = []
    if method != "auto":
        chosen = round_candidate(ready, placement, ranges.tensors, method, half)
    elif data is None or seen_as is None or doubt:
        chosen = round_candidate(ready, placement, ranges.tensors, "mse", half, offsets=not doubt)
        parts = ("equalization", "reconstruction")
        left_out += [f"{what} ({why or doubt})" for what in parts]
    else:
        judged = judge_candidates(ready, placement, ranges.tensors, half, data, progress, expected=seen_as)
        chosen, compared = judged.best, judged.rows()
        left_out += judged.fallen
    made = insert_candidate(chosen, placement)
    assert_placed(made, placement)
    lost = find_float_convolutions(ready, placement) if scheme == "ort-cpu" else ()
    counts = count_multiply_adds(ready)  # inference in `made` would have to find again what was measured
    by_node = {node.name: counts[node.output[0]] for node in flat_graph(ready).products()}
    share = round(measure_int8_share_pct(made, lost, by_node), 2)
    kernels, weighted = _count_kernels(made) if scheme == "ort-cpu" else (None, _count_weighted(made))
    kept: tuple[str, ...] = ()
    if half:
        seen = None if ranges.imported else replace(ranges, tensors=dict(chosen.tensors))
        left_out += [] if seen else ["which activations leave FP16 (a calibration cache has clipped ranges)"]
        made, kept = to_fp16(made, seen)
    report = QuantizationReport(
        scheme=scheme,
        method=method,
        around=around,
        int8_share_pct=share,
        integer_kernels=kernels,
        weighted_nodes=weighted,
        kept_float32=kept,
        excluded=tuple(n.name for n in ready.graph.node if n.name in placement.excluded),
        little_gain=_find_little_gain(ready, placement) if scheme == "tensorrt" else (),
        left_out=tuple(left_out),
        images_doubted=doubt or None,
        candidates=tuple(compared),
        tensors=tuple(_describe(quantized, chosen) for quantized in placement.activations),
    )
    return QuantizedGraph(made, report, placement, chosen)


def _look_at_images(
    model: onnx.ModelProto, data: Dataset, features: bool
) -> tuple[npt.NDArray[np.float32] | None, str]:
    """The float graph's logits of the images to judge on, then of others, `LOOKED_AT` in all or each; or None and why
    these are too few or too much alike."""
    if why := "of a features graph, which has no logits" if features else _why_too_few(data):
        return None, why
    judged = judging_images(len(data))
    others = sorted(set(range(len(data))) - set(judged))[: max(0, LOOKED_AT - len(judged))]
    return compute_logits(model, data.subset([*judged, *others])), ""


def distinct_images(data: Dataset) -> Dataset:
    """Each image once: what was fitted to one and judged by its copy would look better than it is."""
    first = {data.sha256(k): k for k in reversed(range(len(data)))}
    return data if len(first) == len(data) else data.subset(sorted(first.values()))


def _why_too_few(data: Dataset) -> str:
    """Why regressions on these images would hold for nothing but them; "" when they are many and different enough."""
    if len(data) < FEWEST_IMAGES:
        return f"with {len(data)} different image{'s' * (len(data) != 1)} (at least {FEWEST_IMAGES} are needed)"
    some = np.stack([data.tensor(int(k)) for k in np.linspace(0, len(data) - 1, FEWEST_IMAGES).round()])
    between = float(np.sqrt(some.var(axis=0, dtype=np.float64).mean()))
    return "with images of one scene" if between < ALIKE * float(some.std(dtype=np.float64)) else ""


def find_dead(model: onnx.ModelProto, placement: Placement, ranges: Ranges) -> list[str]:
    """The tensors to be quantized that held one value throughout, as sentences.

    They are dead branches of a live network where its logits follow the images; where those stand still too, nothing
    can be learned from these images. Raises `GraphError` then, and for a tensor without statistics.
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
    outputs = [ranges.tensors.get(output.name) for output in model.graph.output]
    if found and all(one is None or np.array_equal(one.channel_low, one.channel_high) for one in outputs):
        raise GraphError(
            f"tensor {found[0][0]!r} was {found[0][1]:g} everywhere on the calibration images, and so were the logits",
            "the layers before it are dead, or the images are all alike: calibrate with other images",
        )
    return [
        f"the range of {tensor!r} ({value:g} everywhere on the calibration images: a dead layer, or images all alike)"
        for tensor, value in found
    ]


def _count_weighted(model: onnx.ModelProto) -> int:
    return sum(1 for _ in flat_graph(model).products())


def _find_little_gain(model: onnx.ModelProto, placement: Placement) -> tuple[str, ...]:
    """Each rule by which some of the nodes that become INT8 would not gain from it, with these nodes."""
    by_rule = {rule: [n for n in nodes if n not in placement.excluded] for rule, nodes in find_by_rules(model).items()}
    return tuple(f"{rule}: {', '.join(nodes)}" for rule, nodes in by_rule.items() if nodes)


def _count_kernels(made: onnx.ModelProto) -> tuple[int, int]:
    with scratch_folder() as scratch:
        onnx.save(made, str(scratch / "int8.onnx"))
        return count_integer_kernels(scratch / "int8.onnx")


def _describe(quantized: QuantizedTensor, chosen: Candidate) -> TensorRow:
    params = chosen.scales[quantized.scale_group]
    layers = [chosen.layers[e.node] for e in quantized.edges if e.node in chosen.layers and e.index == 0]
    low, high = params.bounds
    stored = params.dtype == "uint8"  # else the zero point is folded into the biases
    return TensorRow(
        name=quantized.tensor,
        scale_group=quantized.scale_group,
        readers=len(quantized.edges),
        type=params.dtype,
        method="mse" if chosen.layers else chosen.name,
        scale=params.scale,
        offset=0.0 if stored else -params.zero_point * params.scale,
        zero_point=params.zero_point if stored else 0,
        low=low,
        high=high,
        seen_largest=chosen.tensors[quantized.tensor].largest,
        equalized_by=chosen.equalized.get(quantized.tensor, 1.0),
        rounding=", ".join(layer.rounding for layer in layers),
        output_noise_pct=_worst_noise_pct(layers),
    )


def _worst_noise_pct(layers: list[LayerResult]) -> float | None:
    return round(100 * max(layer.noise_after for layer in layers), 4) if layers else None
