"""An INT8 graph as a PyTorch network: node for node, with every rounding where the graph has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import GraphError
from edgecnn.pytorch.qat.fake_quantize import quantize, round_to_half
from edgecnn.pytorch.qat.operators import ADVICE, OPERATORS, Attributes
from edgecnn.quantization import FP16_LARGEST, FP16_SMALLEST, Dtype, QuantParams

GROWTH = 0.5  # of a scale in one step, as log2
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_KINDS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True)
class _Learned:
    """An initializer that learns, held in float32: int8 codes as the codes before rounding, int32 as the numbers that
    it stands for by its `scale` [one, or one a channel of `axis`], a scale of activations (`grows`) as the log2 of what
    it has grown by, else as FP16 (`half`) or float32. Those with the same `key` learn as one."""

    name: str
    key: str
    scale: str | None
    axis: int | None
    largest: float
    half: bool
    codes: bool
    grows: bool = False


class QuantizedNetwork(nn.Module):
    """An INT8 graph (Q/DQ pairs, FP16 or float32 around them) as a network: images [N, C, H, W] -> logits [N, classes].

    Weights and biases of every Conv, Gemm and MatMul learn, held in float32 and rounded in each pass to what the graph
    holds, quantized weights in steps of their scales. So do the scales of activations, but where an offset in a bias
    may be, or an integer bias is, in units of them; other scales, zero points, and what else the graph has, stand. It
    begins as what the graph computes; a float graph has no roundings and is computed as it is. `normalized` is the
    preprocessing of the images that it is given where the graph itself takes pixels (0 to 255). With fewer `bits` every
    step of 8 bits is 2^(8 - bits) times as large, of as many codes fewer. Raises `GraphError` for a node that cannot be
    trained.
    """

    def __init__(self, model: onnx.ModelProto, *, normalized: Preprocessing | None = None, bits: int = 8) -> None:
        super().__init__()
        self._coarser = 2 ** (8 - bits)
        graph = rounded_to_fp16(model).graph
        self._input, self._output = (graph.input[0].name, graph.output[0].name)
        held = {t.name: t for t in graph.initializer}
        self._casts = _find_casts(graph)
        self._learned = {one.name: one for one in self._find_learned(graph, held)}
        self._integers: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        self._kinds = {t.name: np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)).name for t in graph.initializer}
        for name, tensor in held.items():
            self._keep(name, numpy_helper.to_array(tensor))
        self._nodes = [node for node in graph.node if not self._fold(node)]
        self._attributes = [attributes_of(node) for node in self._nodes]
        for one in self._learned.values():
            if one.key not in self._parameters:
                self.register_parameter(one.key, nn.Parameter(self._start(one)))
        self._last = {name: k for k, node in enumerate(self._nodes) for name in node.input}
        self._pixels = normalized is not None
        if normalized is not None:
            self.register_buffer("mean", torch.tensor(normalized.mean).view(1, -1, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(normalized.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self._pixels:
            x = (x * self.get_buffer("std") + self.get_buffer("mean")) * 255
        return self.graph_logits(x)

    def graph_logits(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images as the graph takes them."""
        values = {self._input: x}
        for k, node in enumerate(self._nodes):
            inputs = [self._read(name, values) for name in node.input]
            made = self._compute(node, self._attributes[k], inputs)
            values.update(zip(node.output, made, strict=False))
            for name in node.input:
                if self._last[name] == k and name != self._output:
                    values.pop(name, None)
        return values[self._output]

    def written_to(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the graph that this was made of, with what was learned."""
        made = onnx.ModelProto()
        made.CopyFrom(model)
        for tensor in made.graph.initializer:
            if tensor.name in self._learned:
                tensor.CopyFrom(numpy_helper.from_array(self.codes(tensor.name), tensor.name))
        return made

    @property
    def learned(self) -> tuple[str, ...]:
        """The initializers that learn."""
        return tuple(self._learned)

    def codes(self, name: str) -> npt.NDArray[Any]:
        """A learned initializer as the graph holds it: int8 codes, int32 biases, FP16 or float32 values."""
        one = self._learned[name]
        held = self._grown(one) if one.grows else self.get_parameter(one.key)
        values = held.detach().cpu().numpy()
        if one.scale is None:
            return values.astype(np.float16 if one.half else np.float32)
        if one.codes:
            return np.asarray(np.rint(values).clip(-self._bound(one), self._bound(one)) * self._coarser, np.int8)
        scale = np.asarray(self._constant(one.scale).cpu(), np.float32).reshape(-1)
        shape = [-1 if k == one.axis else 1 for k in range(values.ndim)]
        return np.asarray(np.rint(values.astype(np.float64) / scale.reshape(shape)), np.int32)

    def steps(self) -> Iterator[tuple[nn.Parameter, float]]:
        """(what learns, the size of a step in its unit): 1 for codes, `GROWTH` for scales, else 1/127 of its largest
        number."""
        for one in {one.key: one for one in self._learned.values()}.values():
            parameter = self.get_parameter(one.key)
            largest = float(parameter.detach().abs().max())
            yield parameter, GROWTH if one.grows else 1.0 if one.codes else largest / 127 or 1 / 127

    def quantizers(self) -> Iterator[tuple[str, QuantParams]]:
        """(tensor, how it is stored) of every QuantizeLinear."""
        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                scale, zero = (self._read(self._casts.get(name, name), {}) for name in node.input[1:3])
                assert scale is not None
                assert zero is not None
                dtype: Dtype = "uint8" if self._kinds[node.input[2]] == "uint8" else "int8"
                yield node.input[0], QuantParams(float(scale.detach()), int(zero), dtype)

    def _find_learned(self, graph: onnx.GraphProto, held: dict[str, TensorProto]) -> Iterator[_Learned]:
        producer = {name: node for node in graph.node for name in node.output}
        found = dict[str, onnx.NodeProto | None]()
        for node in graph.node:
            for name in node.input[1:3] if node.op_type in _WEIGHTED else ():
                integers = None
                while name in producer and producer[name].op_type in ("Cast", "DequantizeLinear", "Identity"):
                    integers = producer[name] if producer[name].op_type == "DequantizeLinear" else integers
                    name = producer[name].input[0]
                if name in held:
                    found[name] = integers
        for name, node in found.items():
            key, kind = name.replace(".", "/"), held[name].data_type
            if node is None:
                yield _Learned(name, key, None, None, 0.0, kind == TensorProto.FLOAT16, False)
                continue
            largest, axis = (127 if kind == TensorProto.INT8 else 2**30), attributes_of(node).get("axis", 1)
            yield _Learned(name, key, node.input[1], axis, largest, False, kind == TensorProto.INT8)
        if not any(held[name].data_type == TensorProto.INT32 for name in found):
            yield from _find_scales(graph, held, self._casts)

    def _start(self, one: _Learned) -> Tensor:
        values = self._constant(one.name).float()
        if one.grows:
            return torch.zeros_like(values)
        if one.scale is None:
            return values
        if one.codes:  # whole: halfway between two codes a weight follows the least of updates, and many do so at once
            return torch.clamp((values / self._coarser).round(), -self._bound(one), self._bound(one))
        return values * along(self._constant(one.scale), one.axis, values.ndim)

    def _grown(self, one: _Learned) -> Tensor:
        """A scale, always positive: its log2 learns (S. Jain et al., "Trained quantization thresholds", MLSys 2020)."""
        made = self._constant(one.name) * torch.exp2(self.get_parameter(one.key))
        return made.clamp(FP16_SMALLEST, FP16_LARGEST) if one.half else made

    def _bound(self, one: _Learned) -> float:
        return (one.largest + 1) / self._coarser - 1 if one.codes else one.largest

    def _keep(self, name: str, values: npt.NDArray[Any]) -> None:
        """A constant: floats and codes move with the network, sizes and axes stay where they are."""
        if values.dtype == np.int64:
            self._integers[name] = torch.from_numpy(values.copy())
        else:
            self._put(name, torch.from_numpy(values.astype(np.float32, copy=True)))

    def _put(self, name: str, values: Tensor) -> None:
        self._names[name] = f"constant_{len(self._names)}"
        self.register_buffer(self._names[name], values, persistent=False)

    def _constant(self, name: str) -> Tensor:
        return self._integers[name] if name in self._integers else self.get_buffer(self._names[name])

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Keep what `node` makes of constants, so that it need not be made again."""
        known = self._integers.keys() | self._names.keys()
        if not known.issuperset(filter(None, node.input)) or not self._learned.keys().isdisjoint(node.input):
            return False
        inputs = [self._constant(name) if name else None for name in node.input]
        for name, made in zip(node.output, self._compute(node, attributes_of(node), inputs), strict=True):
            self._put(name, made)
            self._kinds[name] = "float32"
        return True

    def _read(self, name: str, values: dict[str, Tensor]) -> Tensor | None:
        if name in values or not name:
            return values.get(name)
        one = self._learned.get(name)
        if one is None:
            return self._constant(name)
        if one.grows:
            return round_to_half(self._grown(one)) if one.half else self._grown(one)
        parameter = self.get_parameter(one.key)
        if one.scale is None:
            return round_to_half(parameter) if one.half else parameter
        scale = along(self._constant(one.scale), one.axis, parameter.ndim)
        if one.codes:
            scale = torch.ones_like(scale)
        return quantize(parameter, scale, torch.zeros_like(scale), -self._bound(one), self._bound(one))

    def _compute(self, node: onnx.NodeProto, attributes: Attributes, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
        if node.op_type == "QuantizeLinear":
            return (self._quantize(node, inputs),)
        if node.op_type == "DequantizeLinear":
            return (self._dequantize(node, attributes, inputs),)
        if node.op_type == "Cast" and attributes["to"] in (TensorProto.FLOAT, TensorProto.FLOAT16):
            assert inputs[0] is not None
            return (round_to_half(inputs[0]) if attributes["to"] == TensorProto.FLOAT16 else inputs[0],)
        if node.op_type not in OPERATORS:
            raise GraphError(f"node {node.name!r}: a {node.op_type} is not something that can be trained here", ADVICE)
        try:
            made = OPERATORS[node.op_type](attributes, *inputs)
        except GraphError as exc:
            raise GraphError(f"node {node.name!r}: {exc.message}", exc.hint) from exc
        return (made,) if isinstance(made, Tensor) else tuple(made)

    def _quantize(self, node: onnx.NodeProto, inputs: list[Tensor | None]) -> Tensor:
        x, scale, zero = inputs
        assert x is not None
        assert scale is not None
        assert zero is not None
        low, high = _KINDS[self._kinds[node.input[2]]]
        by = self._coarser
        return quantize(x, scale * by, (zero / by).round(), low / by, (high + 1) / by - 1)

    def _dequantize(self, node: onnx.NodeProto, attributes: Attributes, inputs: list[Tensor | None]) -> Tensor:
        codes, scale, zero = inputs
        assert codes is not None
        assert scale is not None
        assert zero is not None
        by = self._coarser if self._kinds[node.input[2]] in _KINDS else 1
        axis = attributes.get("axis", 1) if scale.ndim else None
        step, offset = (along(value, axis, codes.ndim) for value in (scale * by, (zero / by).round()))
        return (codes - offset) * step


def _find_scales(graph: onnx.GraphProto, held: dict[str, TensorProto], cast: dict[str, str]) -> Iterator[_Learned]:
    """The scales of activations that learn. Equal ones learn as one, since what only moves codes has the same scale
    before and behind. What a product gives without a ReLU may have an offset, in steps, in its bias: the scale stands.
    """
    products = {node.output[0] for node in graph.node if node.op_type in _WEIGHTED}
    found, kept = dict[str, TensorProto](), set[bytes]()
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in held:
            continue
        name = cast.get(node.input[1], node.input[1])
        if name not in held or held[name].dims not in ([], [1]):
            continue
        found[name] = held[name]
        if cast.get(node.input[0], node.input[0]) in products:
            kept.add(numpy_helper.to_array(held[name]).tobytes())
    keys = dict[bytes, str]()
    for name, tensor in found.items():
        if (scale := numpy_helper.to_array(tensor).tobytes()) not in kept:
            key = keys.setdefault(scale, name.replace(".", "/"))
            yield _Learned(name, key, None, None, 0.0, tensor.data_type == TensorProto.FLOAT16, False, grows=True)


def _find_casts(graph: onnx.GraphProto) -> dict[str, str]:
    """What each Cast is made of, over all Casts before it."""
    found = dict[str, str]()
    for node in graph.node:
        if node.op_type == "Cast":
            found[node.output[0]] = found.get(node.input[0], node.input[0])
    return found


def along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    """Scales [channels] in the shape that broadcasts against `rank` axes; one scale as [1, ...]."""
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """A node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
