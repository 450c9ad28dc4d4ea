"""Where two stages of a deployment part, by their predictions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgecnn.errors import MeasurementError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.session import Array

if TYPE_CHECKING:
    import onnx


# The least SQNR of logits, in dB, at which a hop still counts as explained by the precision it goes to.
EXPLAINED_DB = {"fp32": 60.0, "fp16": 35.0, "int8": 10.0}


SAME_PRECISION_DB = {"fp32": 50.0, "fp16": 30.0, "int8": 15.0}  # the same graph under another runtime
NODE_MARGIN = 10.0  # a node's noise power may be this many times that of an ideal representation
EQUALIZED_MARGIN = 40.0  # where channels are scaled, weight precision is spent on purpose, and weights are fitted anew
NODE_FLOOR = 1e-7  # noise over signal that float32 arithmetic in another order explains
RESCALED = 0.15  # a channel whose factor differs by more than this from 1, and by more than noise does, is equalized
NOISE_OF_FACTOR = 8.0  # standard errors


@dataclass(frozen=True)
class Rung:
    """One stage: its name, its precision, its predictions; `graph` where there is an ONNX file to look into."""

    name: str
    precision: str
    predictions: Predictions
    graph: Path | None = None


@dataclass(frozen=True)
class Parting:
    """The first node whose tensor parts from the other graph's by more than its precision explains; an SQNR is None
    where a value is not finite."""

    node: str
    operator: str
    tensor: str
    sqnr_db: float | None
    explained_db: float | None


@dataclass(frozen=True)
class Hop:
    """From one stage to the next, on the same `n` images; `explained` says whether precision alone can be the cause."""

    source: str
    target: str
    n: int
    changed: int
    agreement_pct: float
    agreement_ci_pct: tuple[float, float]
    top1_drop_pp: float | None
    sqnr_db: float | None
    nan_count: int
    explained: bool
    parting: Parting | None = None


def climb(rungs: Sequence[Rung], images: Array) -> list[Hop]:
    """Compare each stage with the one before it; between two graphs also node by node, on `images` [N, C, H, W]. A hop
    to logits that are not finite is the last.

    Raises `MeasurementError` for fewer than two stages or predictions on different images.
    """
    if len(rungs) < 2:
        raise MeasurementError("one stage alone has no hops", "keep the graphs beside the engine, with their sidecars")
    hops: list[Hop] = []
    for a, b in itertools.pairwise(rungs):
        if hops and hops[-1].nan_count:  # nothing can be compared with logits that are not finite
            break
        hops.append(_hop(a, b, images))
    return hops


def moved(hops: Sequence[Hop]) -> Hop | None:
    """The hop at which predictions moved: the first that precision does not explain, else the one that changed most;
    None when no prediction changed."""
    unexplained = [h for h in hops if not h.explained]
    changed = [h for h in hops if h.changed]
    return unexplained[0] if unexplained else max(changed, key=lambda h: h.changed, default=None)


def _hop(source: Rung, target: Rung, images: Array) -> Hop:
    found = measure_accuracy(target.name, target.predictions, source.predictions)
    table = SAME_PRECISION_DB if source.precision == target.precision else EXPLAINED_DB
    floor = EXPLAINED_DB["fp32"] if target.precision == "fp32" and source.graph is None else table[target.precision]
    parting = None
    if source.graph is not None and target.graph is not None:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is said in words
            parting = first_parting(source.graph, target.graph, images)
    return Hop(
        source=source.name,
        target=target.name,
        n=found.n,
        changed=len(found.changed),
        agreement_pct=found.agreement_pct,
        agreement_ci_pct=found.agreement_ci_pct,
        top1_drop_pp=found.top1_drop_pp,
        sqnr_db=found.sqnr_db,
        nan_count=found.nan_count,
        explained=found.nan_count == 0 and (found.sqnr_db is None or found.sqnr_db >= floor),
        parting=parting,
    )


def first_parting(first: Path, second: Path, images: Array) -> Parting | None:
    """The first node, in the order of the graph, after which `second` parts from `first`; None when there is none.

    Tensors are matched by name: quantization keeps the names of what it quantizes. Raises `GraphError` for a graph that
    cannot be read, `MeasurementError` when no tensor has its counterpart.
    """
    from edgecnn.graph.serving import load_body
    from edgecnn.graph.simplify import simplify_graph

    ours, theirs = load_body(second), simplify_graph(load_body(first))
    made = {name for node in ours.graph.node for name in node.output}
    shared = [name for node in theirs.graph.node for name in node.output if name in made]
    if not shared:
        raise MeasurementError(
            f"{second}: none of its tensors has the name of one of {first}",
            "compare graphs of which one was made from the other",
        )
    a, b = _Graph(theirs, shared, images), _Graph(ours, shared, images)
    scaling = {name: _channel_factors(a.values[name], b.values[name]) for name in a.values}
    for name in shared:
        parting = _judge(name, a, b, scaling)
        if parting is None:
            continue
        origin, unscaled = _origin(name, b, scaling), dict.fromkeys(scaling)
        if origin != name and _judge(name, a, b, unscaled) is None:
            return _judge(origin, a, b, unscaled) or parting
        return parting
    return None


def _origin(name: str, graph: _Graph, scaling: Mapping[str, Array | None]) -> str:
    """Where the scaling of the channels that `name` reads came in; `name` itself when they have none."""
    while scaled := [i for i in graph.part(name).inputs if scaling[i] is not None]:
        name = scaled[0]
    return name


def _judge(name: str, a: _Graph, b: _Graph, scaling: Mapping[str, Array | None]) -> Parting | None:
    """Run both graphs' parts that make tensor `name` on the first graph's tensors, and compare."""
    part, ideal_part = b.part(name), a.part(name)
    if not part.nodes or not set(part.inputs) <= a.values.keys():
        return None
    feeds = {i: _scaled(a.values[i], scaling[i]) for i in part.inputs}
    made = b.run(part, feeds)
    factors = None if scaling[name] is None else _channel_factors(a.values[name], made)
    wanted = _scaled(a.values[name], factors).astype(np.float64)
    noise = _power(made.astype(np.float64) - wanted)
    signal = _power(wanted)
    half = any(v.dtype == np.float16 for v in (b.values[name], *(b.values[i] for i in part.inputs)))
    kinds = {i: "int8" if part.quantizes(i) else "fp16" if half else "" for i in ideal_part.inputs}
    ideal_feeds = {i: _rounded(a.values[i], kinds[i]) for i in ideal_part.inputs}
    weights = "int8" if part.has_integer_weights() else "fp16" if half else ""
    ideal = a.run(ideal_part, ideal_feeds, weights).astype(np.float64)
    if half:
        ideal = _rounded(ideal.astype(np.float32), "fp16").astype(np.float64)
    margin = NODE_MARGIN if all(f is None for f in scaling.values()) else EQUALIZED_MARGIN
    allowed = margin * _power(ideal - a.values[name]) / max(_power(a.values[name]), 1e-30) + NODE_FLOOR
    share = noise / max(signal, 1e-30)
    if np.isfinite(share) and share <= allowed:
        return None
    return Parting(
        node=part.node.name or name,
        operator=part.node.op_type,
        tensor=name,
        sqnr_db=_db(share),
        explained_db=_db(allowed),
    )


@dataclass(frozen=True)
class _Part:
    """The nodes of a graph that make one shared tensor from other shared tensors."""

    nodes: list[onnx.NodeProto]
    inputs: list[str]
    output: str
    initializers: Mapping[str, onnx.TensorProto] = field(repr=False)

    @property
    def node(self) -> onnx.NodeProto:
        """The node that computes: the last that is not there for its types alone."""
        around = {"QuantizeLinear", "DequantizeLinear", "Cast"}
        return next((n for n in reversed(self.nodes) if n.op_type not in around), self.nodes[-1])

    def quantizes(self, name: str) -> bool:
        """Whether input `name` goes through QuantizeLinear, directly or behind a Cast."""
        names = {name, *(n.output[0] for n in self.nodes if n.op_type == "Cast" and n.input[0] == name)}
        return any(n.op_type == "QuantizeLinear" and n.input[0] in names for n in self.nodes)

    def has_integer_weights(self) -> bool:
        """Whether a constant goes through DequantizeLinear."""
        constants = {n.output[0] for n in self.nodes if n.op_type == "QuantizeLinear"} - set(self.inputs)
        dequantized = (n.input[0] for n in self.nodes if n.op_type == "DequantizeLinear")
        return any(i in self.initializers or i in constants for i in dequantized)


class _Graph:
    """A graph with the values of its shared tensors on some images."""

    def __init__(self, model: onnx.ModelProto, shared: Sequence[str], images: Array) -> None:
        self.model = model
        from edgecnn.graph.onnx_graph import OnnxGraph

        self._index = OnnxGraph(model)
        self._input = self._index.input
        self._shared = set(shared)
        values = _run(self._with_outputs(shared), {self._input: images}, shared)
        self.values: dict[str, npt.NDArray[Any]] = {self._input: images, **dict(zip(shared, values, strict=True))}

    def part(self, name: str) -> _Part:
        """Walk back from `name` to shared tensors, the input and constants."""
        needed: set[int] = set()
        inputs: dict[str, None] = {}
        queue = [name]
        while queue:
            node = self._index.producer[queue.pop()]
            if id(node) in needed:
                continue
            needed.add(id(node))
            for source in node.input:
                if source in self._shared or source == self._input:
                    inputs[source] = None
                elif source in self._index.producer:
                    queue.append(source)
        nodes = [n for n in self.model.graph.node if id(n) in needed]
        return _Part(nodes, list(inputs), name, self._index.initializers)

    def run(self, part: _Part, feeds: Mapping[str, npt.NDArray[Any]], weights: str = "") -> npt.NDArray[Any]:
        """The part alone; `weights` rounds its float constants of two axes or more to that precision."""
        from onnx import helper, numpy_helper

        read = {i for n in part.nodes for i in n.input}
        constants = [t for name, t in self._index.initializers.items() if name in read]
        if weights:
            axes = {n.input[1]: _channel_axis(n) for n in part.nodes if n.op_type in ("Conv", "Gemm", "MatMul")}
            constants = [
                numpy_helper.from_array(_rounded(numpy_helper.to_array(t), weights, axes[t.name]), t.name)
                if t.name in axes
                else t
                for t in constants
            ]
        graph = helper.make_graph(
            part.nodes,
            "part",
            [self._info(name) for name in part.inputs],
            [self._info(part.output)],
            constants,
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        typed = {name: feeds[name].astype(self.values[name].dtype) for name in part.inputs}
        return _run(model, typed, [part.output])[0]

    def _info(self, name: str) -> onnx.ValueInfoProto:
        from onnx import helper

        value = self.values[name]
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)

    def _with_outputs(self, names: Sequence[str]) -> onnx.ModelProto:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        known = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
        return model


def _run(model: onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Run without graph optimization and with FP16 rounded, so that every tensor is what the file says."""
    from edgecnn.backends._half import rounded_to_fp16
    from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session

    with onnxruntime_errors(
        "the graphs cannot be compared node by node",
        "fails",
        "`edgecnn validate` without --stages still measures the engine",
        MeasurementError,
    ):
        session = open_session(rounded_to_fp16(model), threads=1, optimization="none")
        return list(session.run(list(names), dict(feeds)))


def _channel_axis(node: onnx.NodeProto) -> int:
    from edgecnn.graph.onnx_graph import attribute

    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _rounded(values: npt.NDArray[Any], kind: str, axis: int | None = None) -> Array:
    """The ideal representation: the nearest FP16 number, or symmetric 8-bit codes over the whole range."""
    if kind == "fp16":
        return np.asarray(np.clip(values, -65504, 65504).astype(np.float16), np.float32)
    if kind == "int8" and values.dtype == np.float32:
        over = None if axis is None else tuple(k for k in range(values.ndim) if k != axis)
        step = np.maximum(np.abs(values).max(axis=over, keepdims=True) / 127, 1e-30)
        return np.asarray(np.rint(values / step) * step, np.float32)
    return values


def _channel_factors(ours: Array, theirs: npt.NDArray[Any]) -> Array | None:
    """Least-squares factor of every channel (axis 1), 1 where it is not a clean scaling; None when none differs from 1
    by more than noise does."""
    if ours.ndim < 2 or ours.shape != theirs.shape or ours.dtype.kind != "f":
        return None
    x, y = (np.moveaxis(v.astype(np.float64), 1, 0).reshape(v.shape[1], -1) for v in (ours, theirs))
    power = np.maximum((x * x).sum(axis=1), 1e-30)
    factor = np.where(power > 1e-30, (x * y).sum(axis=1) / power, 1.0)
    rest = ((y - factor[:, None] * x) ** 2).sum(axis=1)
    samples = power**2 / np.maximum((x**4).sum(axis=1), 1e-30)  # how many values the power comes from
    error = np.sqrt(rest / power / np.maximum(samples, 1.0))
    clean = (factor > 0) & (rest < 0.05 * np.maximum((y * y).sum(axis=1), 1e-30))
    if not (clean & (np.abs(factor - 1) > np.maximum(RESCALED, NOISE_OF_FACTOR * error))).any():
        return None
    return np.asarray(np.where(clean, factor, 1.0), np.float32).reshape(-1, *[1] * (ours.ndim - 2))


def _scaled(values: npt.NDArray[Any], factors: Array | None) -> npt.NDArray[Any]:
    return values if factors is None else values * factors


def _power(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values.astype(np.float64) ** 2))


def _db(share: float) -> float | None:
    return float(-10 * np.log10(max(share, 1e-30))) if np.isfinite(share) else None


def _db_text(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f} dB"


def describe(hops: Sequence[Hop]) -> Iterator[str]:
    """The stages in sentences."""
    for hop in hops:
        quality = "equal logits" if hop.sqnr_db is None else f"{hop.sqnr_db:.1f} dB"
        quality = f"{hop.nan_count} images with NaN" if hop.nan_count else quality
        line = f"{hop.source} -> {hop.target}: {hop.changed} of {hop.n} predictions changed, {quality}"
        yield line + ("" if hop.explained else ": more than its precision explains")
        if hop.parting is not None:
            p = hop.parting
            found, explained = _db_text(p.sqnr_db), _db_text(p.explained_db)
            yield f"  first at {p.operator} {p.node}: {found} where {explained} are explained"
    culprit = moved(hops)
    n = max((hop.n for hop in hops), default=0)
    yield f"moved at {culprit.source} -> {culprit.target}" if culprit else f"no prediction moved on these {n} images"
