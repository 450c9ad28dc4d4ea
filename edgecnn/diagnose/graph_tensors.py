"""The tensors of a graph on some images, and how much each may differ where only the rounding does.

Runtimes round at other places than ONNX Runtime: within a fused layer not at all, in sums of another order, and a value
that lies near the middle of two INT8 steps falls to the other one. How much of that a tensor shows is measured on the
graph itself: it is run twice, once with every activation rounded to FP16 and once with none, and the power of the
difference is the tensor's noise. It holds what came from all the layers before, steps of INT8 that fell to the other
side among it. A graph of FP32 alone is rounded at 2^-24 in place of 2^-11, and has that part of the noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgecnn.diagnose.engine_bisect import Suspect
from edgecnn.errors import MeasurementError
from edgecnn.results.divergence import TensorDifference
from edgecnn.session import Array

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from edgecnn.graph.onnx_graph import OnnxGraph

NOISE_MARGIN = 30.0  # a tensor may differ by so many times the power of its noise: sums in FP16 are not in it
FLOOR = 1e-7  # noise over signal that float32 arithmetic in another order explains
FP32_OF_FP16 = 2.0**-26  # the noise of rounding at 2^-24 over that at 2^-11, in power
FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Add", "Mul"})

Tensor = npt.NDArray[Any]
Values = Mapping[str, Tensor]


class GraphTensors:
    """The graph in `path`, with its suspects in their order; values and noise are those of `measure`."""

    def __init__(self, path: Path) -> None:
        from edgecnn.backends._half import rounded_to_fp16
        from edgecnn.graph.load import load_graph
        from edgecnn.graph.onnx_graph import flat_graph

        model = load_graph(path)
        index = flat_graph(model)
        self.path, self.input, self.output = path, index.input, index.output
        wide = _without_fp16(model)
        is_half = wide is not model
        self._types = _types_of(model)
        self.suspects = tuple(_suspects(index, self._types))
        names = [suspect.tensor for suspect in self.suspects]
        self._rounded = _session(path, rounded_to_fp16(_with_outputs(model, names)))
        other = wide if is_half else _rounding_each(wide, index, self._types)
        self._other = _session(path, _with_outputs(other, names))
        only_float = not is_half and not any(n.op_type == "QuantizeLinear" for n in index.nodes)
        self._scale = FP32_OF_FP16 if only_float else 1.0
        self._signal: dict[str, float] = {}
        self._noise: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        """The tensors that can be compared."""
        return [suspect.tensor for suspect in self.suspects]

    def values(self, names: Sequence[str], batch: Array) -> Values:
        """What the graph gives for a batch."""
        return dict(zip(names, self._run(self._rounded, names, batch), strict=True))

    def measure(self, batches: Iterable[Array]) -> None:
        """Signal and noise of every tensor, in power. Raises `MeasurementError` where the graph itself gives what is
        not finite."""
        self._signal, self._noise = dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0.0)
        for batch in batches:
            pairs = zip(*(self._run(s, self.names, batch) for s in (self._rounded, self._other)), strict=True)
            for name, (ours, theirs) in zip(self.names, pairs, strict=True):
                self._signal[name] += _power(ours)
                self._noise[name] += _power_of_difference(ours, theirs)
        if not np.isfinite(self._signal[self.output]):
            raise MeasurementError(
                f"{self.path}: the graph itself gives logits that are not finite",
                "`edgecnn validate GRAPH --stages` names the layer at which they begin",
            )

    def difference(self, build: int, name: str, pairs: Iterable[tuple[Tensor, Tensor]]) -> TensorDifference:
        """Of the (engine's, graph's) values of a tensor in every batch that was measured."""
        error = 0.0
        for theirs, ours in pairs:
            error += _power_of_difference(theirs, ours)
        signal = max(self._signal[name], 1e-30)
        share = error / signal
        allowed = NOISE_MARGIN * self._scale * self._noise[name] / signal + FLOOR
        return TensorDifference(
            build=build,
            tensor=name,
            sqnr_db=_db(share) if np.isfinite(share) else None,
            explained_db=_db(allowed),
            differs=not share <= allowed,
        )

    def _run(self, session: onnxruntime.InferenceSession, names: Sequence[str], batch: Array) -> list[Any]:
        from edgecnn.backends._onnxruntime import onnxruntime_errors

        with onnxruntime_errors(self.path, "fails", "`edgecnn inspect` shows what is in it", MeasurementError):
            return list(session.run(list(names), {self.input: batch}))


def _suspects(index: OnnxGraph, types: Mapping[str, int]) -> list[Suspect]:
    """Every tensor of numbers that depends on the input, in the order of the nodes."""
    from onnx import TensorProto

    numbers = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8}
    before: dict[str, frozenset[str]] = {index.input: frozenset()}
    found = []
    for node in index.nodes:
        read = [before[name] for name in node.input if name in before]
        if not read:
            continue
        for name in filter(None, node.output):
            before[name] = frozenset().union(*read)
            if types.get(name) not in numbers:
                continue
            before[name] |= {name}
            readers = [reader.op_type for reader, _ in index.readers.get(name, [])]
            fused = len(readers) == 1 and (readers[0] in FUSED or readers[0] == "QuantizeLinear")
            quantized = types[name] in (TensorProto.INT8, TensorProto.UINT8)
            made_by = node.name or name
            found.append(Suspect(name, made_by, node.op_type, before[name], not fused, not quantized))
    return found


def _types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor, inferred."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {o.name for o in made.graph.output}
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return made


def _without_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its FP16 weights as they are, and nothing else in FP16; `model` where it has none."""
    import onnx
    from onnx import TensorProto, numpy_helper

    def wide(tensor: onnx.TensorProto) -> onnx.TensorProto:
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)

    made, found = onnx.ModelProto(), False
    made.CopyFrom(model)
    del made.graph.value_info[:]
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(wide(tensor))
            found = True
    for node in made.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i, found = TensorProto.FLOAT, True
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(wide(attribute.t))
                found = True
    return made if found else model


def _rounding_each(model: onnx.ModelProto, index: OnnxGraph, types: Mapping[str, int]) -> onnx.ModelProto:
    """The graph with every float32 tensor that depends on the input rounded to FP16, but for its output."""
    import onnx
    from onnx import TensorProto, helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    moving = {index.input}
    for node in model.graph.node:
        made.graph.node.append(node)
        if moving.isdisjoint(node.input):
            continue
        moving |= set(node.output)
        own = made.graph.node[-1]
        for k, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT and name != index.output and node.op_type != "QuantizeLinear":
                own.output[k] = f"{name}/unrounded"
                casts = (
                    (own.output[k], f"{name}/half", TensorProto.FLOAT16),
                    (f"{name}/half", name, TensorProto.FLOAT),
                )
                for source, target, kind in casts:
                    made.graph.node.append(helper.make_node("Cast", [source], [target], f"{target}/cast", to=kind))
    return made


def _session(path: Path, model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session

    with onnxruntime_errors(path, "refuses it", "`edgecnn inspect` shows what is in it", MeasurementError):
        return open_session(model, optimization="none")


def _power(values: Tensor) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.square(values, dtype=np.float64).sum())


def _power_of_difference(one: Tensor, other: Tensor) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return _power(one.astype(np.float32) - other.astype(np.float32))


def _db(share: float) -> float:
    return float(-10 * np.log10(max(share, 1e-30)))
