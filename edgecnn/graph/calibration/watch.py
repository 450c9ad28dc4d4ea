"""What leaves the graph while its ranges are collected.

ONNX Runtime keeps the maps of convolutions in a blocked layout, in which pooling runs where they lie; to fetch the maps
and look at them costs more than the network. So of a large map come the extremes of each channel, exact to the bit, and
every step-th row and column (MaxPool with a 1x1 kernel). The extremes are GlobalMaxPool of it, and of its negative made
by a depthwise convolution; or reductions, where the channels are no whole blocks and the map is in no such layout.
Everything else comes whole; of a map of few rows and columns every step^2-th value is counted, which is another place
in each channel.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgecnn.graph.onnx_graph import OnnxGraph, attribute, clip_bounds

COUNTED = 1 << 20  # values of a large tensor that are counted over all images, about
BLOCK = 16  # channels in the blocked layout with AVX-512
FEWEST = 4  # rows and columns of a map that are counted
FEWEST_VALUES = 12  # of one channel of a map that comes whole
# With constants up to LARGEST_CONSTANT and sums of up to 2^20 terms, what the operators below make of finite values up
# to LARGEST_VALUE is finite: GlobalMaxPool, which passes over a NaN, has passed over none.
LARGEST_CONSTANT, LARGEST_VALUE = 2.0**40, 2.0**50
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
_ARITHMETIC = frozenset(
    {"Add", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"}
)
_MOVES = frozenset({"Concat", "Pad", "Resize", "Slice", "Split"})
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_STAYS_FINITE = _ARITHMETIC | _POOLS | _MOVES | _RESHAPES | {"Conv", "Gemm", "MatMul"}
_ON_MAPS = _POOLS | {"Conv", "ConvTranspose", "LRN"}
_KEEPS_LAYOUT = _ARITHMETIC | _MOVES | {"BatchNormalization", "Div", "Elu", "Erf", "PRelu", "Pow", "Softplus", "Sqrt"}
_KEEPS_BOUND = frozenset({"MaxPool", "Slice", "Split"})


@dataclass(frozen=True)
class Watched:
    """One tensor and the outputs that it is seen by: `whole`; or `high`, `sample`, `low` unless its lower bound was
    reached already, and `mean` where a NaN could hide."""

    name: str
    step: int = 1
    whole: str = ""
    high: str = ""
    low: str = ""
    sample: str = ""
    mean: str = ""


def choose_steps(
    graph: OnnxGraph, watched: Sequence[str], groups: Sequence[Collection[str]], images: int
) -> dict[str, int]:
    """The step with which each of `watched` is counted in every part of a calibration set of so many `images`.

    It depends on the whole set, so that parts add up. Tensors of one of `groups` have one step, the smallest.
    """
    maps = _find_maps(graph) if _has_small_constants(graph) else set()
    steps = dict.fromkeys(watched, 1)
    for name in maps.intersection(watched):
        shape = graph.shapes[name]
        if None not in shape[1:]:
            channels, height, width = (n or 1 for n in shape[1:])
            wanted = round(math.sqrt(channels * height * width * images / COUNTED))
            steps[name] = max(s for s in allowed_steps(height, width) if s <= max(wanted, 1))
    before = None
    while steps != before:
        before = dict(steps)
        for group in groups:
            steps.update(dict.fromkeys(group, min(steps[name] for name in group)))
    return steps


def is_pooled(shape: Sequence[int | None], step: int) -> bool:
    """Whether a tensor of this shape does not leave the graph whole."""
    return step > 1 and _is_large(*(n or 1 for n in shape[2:]))


def take_counted(values: npt.NDArray[np.float32], step: int) -> npt.NDArray[np.float32]:
    """Those of a whole batch [N, C, ...] that are counted."""
    if is_pooled(values.shape, step):
        return values[:, :, ::step, ::step]
    return values.reshape(len(values), -1)[:, :: step**2]


def add_watches(
    graph: OnnxGraph, steps: Mapping[str, int], settled: Collection[str] = ()
) -> tuple[bytes, list[Watched]]:
    """The model, serialized, with further outputs, and how each tensor of `steps` is seen in them. Those `settled` have
    reached, in every channel, the value below which they cannot be."""
    extra = onnx.ModelProto()
    hiding = _find_hiding(graph, steps)
    mark = "watched"
    while any(name.startswith(mark) for name in graph.producer):
        mark += "_"

    def emit(operator: str, inputs: Sequence[str], what: str, **attributes: Any) -> str:
        name = f"{mark}_{what}_{inputs[0]}"
        extra.graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    watches = []
    for name, step in reversed(list(steps.items())):  # what is looked at first comes last: see `earliest_first`
        channels = graph.shapes[name][1] or 0
        if not is_pooled(graph.shapes[name], step):
            watches.append(Watched(name, step, whole=name))
            continue
        blocked = channels % BLOCK == 0
        low, needed = "", f"{mark}_minus_{channels}" if blocked else f"{mark}_axes"
        if all(i.name != needed for i in extra.graph.initializer):
            constant = np.full((channels, 1, 1, 1), -1, np.float32) if blocked else np.array([2, 3])
            extra.graph.initializer.append(numpy_helper.from_array(constant, needed))
        if blocked:
            high = emit("GlobalMaxPool", [name], "high")
            if name not in settled:
                negative = emit("Conv", [name, needed], "negative", group=channels, kernel_shape=[1, 1])
                low = emit("GlobalMaxPool", [negative], "high")
        else:
            high = emit("ReduceMax", [name, needed], "high")
            low = "" if name in settled else emit("Neg", [emit("ReduceMin", [name, needed], "low")], "negative")
        sample = emit("MaxPool", [name], "sample", kernel_shape=[1, 1], strides=[step, step])
        mean = emit("GlobalAveragePool", [name], "mean") if name in hiding else ""
        watches.append(Watched(name, step, "", high, low, sample, mean))
    for name in outputs_of(watches):
        if name not in graph.outputs:
            extra.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    serialized: bytes = graph.model.SerializeToString() + extra.SerializeToString()  # protobuf joins the two
    return serialized, watches[::-1]


def outputs_of(watches: Sequence[Watched]) -> list[str]:
    """The outputs that `watches` are seen by."""
    return [name for w in watches for name in (w.whole, w.high, w.low, w.sample, w.mean) if name]


def lower_bound(graph: OnnxGraph, name: str) -> float:
    """What no value of `name` is below, whatever the image; minus infinite where the graph does not say."""
    node = graph.producer.get(name)
    if node is not None and node.op_type in ("Relu", "Clip"):
        return clip_bounds(graph, node)[0]
    return lower_bound(graph, node.input[0]) if node is not None and node.op_type in _KEEPS_BOUND else -np.inf


def _is_large(height: int, width: int) -> bool:
    return min(height, width) >= 2 * FEWEST


def allowed_steps(height: int, width: int) -> Sequence[int]:
    """The steps with which enough of a map is counted, in ascending order; where every step^2-th value is, all places
    of the map must take their turn."""
    if _is_large(height, width):
        return range(1, min(height, width) // FEWEST + 1)
    largest = math.isqrt(max(height * width // FEWEST_VALUES, 1))
    return [s for s in range(1, largest + 1) if math.gcd(s, height * width) == 1]


def _find_maps(graph: OnnxGraph) -> set[str]:
    """The activations whose last two axes are rows and columns: what convolutions and pools read and make, and what
    stands in the same layout."""
    maps: set[str] = set()
    same = []
    for node in graph.nodes:
        varying = [*(name for _, name in graph.varying(node)), *node.output]
        flat = [name for name in varying if graph.is_activation(name) and len(graph.shapes[name]) == 4]
        if node.op_type in _ON_MAPS:
            maps.update(name for name in (node.input[0], *node.output) if name in flat)
        elif node.op_type in _KEEPS_LAYOUT and attribute(node, "axis", 1) == 1:
            same.append(flat)
    before = -1
    while len(maps) != before:
        before = len(maps)
        for flat in (*same, *reversed(same)):
            if not maps.isdisjoint(flat):
                maps.update(flat)
    return maps


def _has_small_constants(graph: OnnxGraph) -> bool:
    """Whether every constant but the bounds of a Clip is a number whose products cannot overflow."""
    for name, tensor in graph.initializers.items():
        bounds = all(node.op_type == "Clip" for node, _ in graph.readers.get(name, ()))
        if tensor.data_type == onnx.TensorProto.FLOAT and not bounds:
            values = graph.array(name)
            if values.size and not max(values.max(), -values.min()) <= LARGEST_CONSTANT:
                return False
    return True


def _find_hiding(graph: OnnxGraph, steps: Mapping[str, int]) -> set[str]:
    """The sampled tensors that may hold a NaN although nothing before them was large."""
    sound, hiding = {*graph.inputs, *graph.initializers}, set()
    for node in graph.nodes:
        finite = node.op_type in _STAYS_FINITE and sound.issuperset(filter(None, node.input))
        for name in node.output:
            if finite or name in steps:
                sound.add(name)
            if not finite and steps.get(name, 1) > 1:
                hiding.add(name)
    return hiding
