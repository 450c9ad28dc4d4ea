"""`--method auto`: offsets, equalisation and layer-by-layer reconstruction, judged on images held out from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.data.dataset import Dataset, batches
from edgecnn.graph.calibration.collect import collect_from_model, run_session
from edgecnn.graph.calibration.histogram import TensorStatistics
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.ptq.channel_tolerance import tolerated_shares
from edgecnn.graph.ptq.equalization import equalized
from edgecnn.graph.ptq.layer_reconstruction import LayerResult, reconstruct
from edgecnn.graph.ptq.zero_point_folding import folded, offset_groups, with_offset
from edgecnn.graph.qdq.codes import Scale, WeightCodes, grouped, scale_by_method, scaled_for, weight_codes
from edgecnn.graph.qdq.insert import insert_pairs
from edgecnn.graph.qdq.placement import Placement
from edgecnn.graph.simplify import GraphIndex, attribute, session_options

STRENGTH = 0.5  # of the equalisation
ADJUSTED_IMAGES, JUDGED_IMAGES = 192, 64
FEWEST_IMAGES = 16
Progress = Callable[[int, int], None]


NOTHING_LEFT_DB = -300.0  # of a candidate whose logits are not finite: never taken, and still JSON


@dataclass
class Candidate:
    """One way to quantise: the float graph, the one to insert pairs into (other biases), the pairs' numbers, and how it
    did."""

    name: str
    float_model: onnx.ModelProto
    model: onnx.ModelProto
    scales: dict[str, Scale]
    weights: dict[str, WeightCodes]
    tensors: Mapping[str, TensorStatistics]
    equalised: dict[str, float]
    layers: dict[str, LayerResult]
    sqnr_db: float = 0.0
    agreement_pct: float = 0.0

    def step(self) -> dict[str, Any]:
        """A row of the report."""
        return {"name": self.name, "sqnr_db": round(self.sqnr_db, 2), "agreement_pct": round(self.agreement_pct, 1)}


def plain(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    method: str,
    half: bool,
    *,
    offsets: bool = False,
    name: str = "",
) -> Candidate:
    """Scales by a range method, weights rounded to the nearest; with offsets where they are free."""
    groups = grouped(placement, tensors)
    scales = {n: scale_by_method(s, method, placement.style) for n, s in groups.items()}
    if offsets and placement.style == "tensorrt":
        for group in offset_groups(model, placement):
            if groups[group].low >= 0 and groups[group].largest > 0:
                scales[group] = with_offset(scales[group])
    scales = {n: scaled_for(s, half) for n, s in scales.items()}
    index = GraphIndex(model)
    weights = {
        w.initializer: weight_codes(
            index.array(w.initializer),
            w.axis,
            half,
            search=method != "minmax",
            tolerated=tolerated_shares(index, placement, w, tensors, scales),
        )
        for w in placement.weights
    }
    return Candidate(name or method, model, model, scales, weights, tensors, {}, {})


def inserted(candidate: Candidate, placement: Placement) -> onnx.ModelProto:
    """The graph with the pairs of `candidate`, offsets folded away."""
    model, scales = candidate.model, candidate.scales
    if placement.style == "tensorrt":
        model, scales = folded(model, placement, scales, candidate.weights)
    return insert_pairs(model, placement, scales, candidate.weights)


def chosen_automatically(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    progress: Progress | None = None,
) -> tuple[Candidate, list[dict[str, Any]], list[str]]:
    """The best of several candidates on images that none of them has seen, how each did there, and which fell away."""
    made, fallen = candidates(model, placement, tensors, half, data, progress)
    best = max(made, key=lambda c: c.sqnr_db)
    steps = [{**c.step(), "n": len(_judged(data)), "taken": "yes" if c is best else ""} for c in made]
    return best, steps, fallen


def candidates(
    model: onnx.ModelProto,
    placement: Placement,
    tensors: Mapping[str, TensorStatistics],
    half: bool,
    data: Dataset,
    progress: Progress | None = None,
) -> tuple[list[Candidate], list[str]]:
    """All candidates, each judged on every fourth image and made from others; and those that could not be made, with
    the reason."""
    unseen = data.subset(_judged(data))
    rest = sorted(set(range(len(data))) - set(_judged(data)))
    spread = np.linspace(0, len(rest) - 1, min(len(rest), ADJUSTED_IMAGES)).round().astype(int)
    adjusted = data.subset([rest[k] for k in dict.fromkeys(spread.tolist())])
    exact = logits_of(model, unseen)
    made = [plain(model, placement, tensors, "mse", half, name="least squared error")]
    if placement.style == "tensorrt":
        made.append(plain(model, placement, tensors, "mse", half, offsets=True, name="with offsets"))
    flat, factors = equalized(model, placement, tensors, STRENGTH)
    seen = collect_from_model(flat, "", adjusted).tensors if factors else tensors
    start = plain(flat, placement, seen, "mse", half, offsets=True)
    start = replace(start, name="reconstructed" + (", equalised" if factors else ""), equalised=factors)
    tell = _parts_of(progress, 2)
    names = {False: start.name, True: f"{start.name}, scales by output error"}

    def attempted(search: bool) -> Candidate | str:
        try:
            made = _reconstructed(start, placement, half, adjusted, tell[search], search=search)
        except np.linalg.LinAlgError as exc:
            return f"{names[search]} (the images leave its equations without a solution: {exc})"
        return replace(made, name=names[search])

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(attempted, names))
    made += [c for c in done if isinstance(c, Candidate)]
    for candidate in made:
        _judge(candidate, placement, exact, unseen, half)
    return made, [c for c in done if isinstance(c, str)]


def _judged(data: Dataset) -> list[int]:
    return list(range(3, len(data), 4))[:JUDGED_IMAGES]


def _judge(
    candidate: Candidate, placement: Placement, exact: npt.NDArray[np.float32], unseen: Dataset, half: bool
) -> None:
    """Fill in how the logits of `candidate`, as it will be built, compare with the float graph's."""
    made = inserted(candidate, placement)
    rough = logits_of(rounded_to_fp16(to_fp16(made, candidate)[0]) if half else made, unseen)
    if not np.isfinite(rough).all():
        candidate.sqnr_db, candidate.agreement_pct = NOTHING_LEFT_DB, 0.0
        return
    signal, noise = (float(np.square(v, dtype=np.float64).sum()) for v in (exact, exact - rough))
    candidate.sqnr_db = 10 * float(np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    candidate.agreement_pct = 100 * float((exact.argmax(1) == rough.argmax(1)).mean())


def _reconstructed(
    start: Candidate,
    placement: Placement,
    half: bool,
    data: Dataset,
    progress: Progress | None,
    *,
    search: bool = False,
) -> Candidate:
    """`start` with weights and biases made up layer by layer; with `search`, scales by the error at layer outputs."""
    flat, made, seen = start.model, start, start.tensors
    caps = {n: max(s.high, 0.0) - min(s.low, 0.0) if made.scales[n].zero else s.largest
            for n, s in grouped(placement, seen).items()}  # fmt: skip
    rounded = {n for n, codes in made.weights.items() if half and codes.in_fp16}
    scales, layers = reconstruct(flat, placement, made.scales, caps, data, half, rounded, progress, search=search)
    done = onnx.ModelProto()
    done.CopyFrom(flat)
    held = {i.name: i for i in done.graph.initializer}
    nodes = {n.name: n for n in done.graph.node}
    for name, layer in layers.items():
        if layer.bias is not None:
            held[nodes[name].input[2]].CopyFrom(numpy_helper.from_array(layer.bias, nodes[name].input[2]))
    weights = {**made.weights, **{nodes[name].input[1]: layer.codes for name, layer in layers.items()}}
    return replace(made, model=done, float_model=flat, scales=scales, weights=weights, layers=layers)


def with_own_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv, Gemm and MatMul has a weight of its own, and a bias where it can (zeros where there
    was none): each is made up for what came before it, so that no two can share them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    index = GraphIndex(made)
    for node in made.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in index.initializer:
            continue
        weight = index.initializer[node.input[1]]
        if len(index.readers[weight.name]) > 1:
            node.input[1] = f"{node.name}_own_weight"
            made.graph.initializer.append(numpy_helper.from_array(index.array(weight.name), node.input[1]))
        name = node.input[2] if len(node.input) > 2 else ""
        if node.op_type == "MatMul" or (name and (name not in index.initializer or len(index.readers[name]) == 1)):
            continue
        turned = node.op_type == "Gemm" and not attribute(node, "transB", 0)
        values = index.array(name) if name else np.zeros(weight.dims[1 if turned else 0], np.float32)
        own = f"{node.name}_own_bias"
        made.graph.initializer.append(numpy_helper.from_array(values, own))
        del node.input[2:]
        node.input.append(own)
    return made


def logits_of(model: onnx.ModelProto, data: Dataset) -> npt.NDArray[np.float32]:
    """Logits [N, classes] of all images under ONNX Runtime."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return np.concatenate([run_session(session, {name: part.input})[0] for part in batches(data, 8)])


def _parts_of(progress: Progress | None, parts: int) -> list[Progress | None]:
    """The progress of each of `parts` equal parts, which may run at the same time."""
    if progress is None:
        return [None] * parts
    tell, finished = progress, [0] * parts

    def told(number: int, done: int, total: int) -> None:
        finished[number] = done
        tell(sum(finished), parts * total)

    return [partial(told, number) for number in range(parts)]
