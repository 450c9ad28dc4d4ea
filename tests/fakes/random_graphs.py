"""Random valid float32 CNN classifiers, as no exporter would write them; a seed always makes the same graph.

Every graph has one input [N, C, H, W] and one output [N, classes], and is within the rules of its opset (7 to 23).
What can come together: groups, dilation, asymmetric pads, auto_pad, ceil_mode, count_include_pad, residuals,
broadcasts, shared weights, parallel edges, batch normalization in odd places, constants as nodes, external data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = range(7, 24)
_IR = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
_MOST_CHANNELS, _LEAST_SIDE = 24, 3


class Tensor(NamedTuple):
    """A tensor [N, channels, height, width]."""

    name: str
    channels: int
    height: int
    width: int


@dataclass
class RandomGraph:
    """A graph, the shape of its images, whether its weights lie in a file beside it, and the kinds of blocks in it."""

    model: onnx.ModelProto
    shape: tuple[int, int, int]
    external: bool
    batch: int | None
    kinds: list[str]

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the output is probabilities."""
        return self.model.graph.node[-1].op_type == "Softmax"


@dataclass
class Net:
    """What is being written: nodes and constants, with what a random choice is made by."""

    rng: np.random.Generator
    opset: int
    listed: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """As an initializer, or now and then as a Constant node."""
        name = f"k{len(self.nodes)}_{len(self.constants)}"
        tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        if self.chance(0.1):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(tensor)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node, with a name in two of three cases; returns its first output."""
        made = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        name = f"{op}_{len(self.nodes)}" if self.chance(0.66) else ""
        self.nodes.append(helper.make_node(op, inputs, made, name, **attributes))
        return made[0]

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        fan = max(1, int(np.prod(shape[1:])))
        return self.rng.normal(0, scale * (2 / fan) ** 0.5, shape)

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)


def random_graph(seed: int) -> RandomGraph:
    """The graph of a seed."""
    rng = np.random.default_rng([27, seed])
    opset = int(rng.integers(OPSETS.start, OPSETS.stop))
    ir = int(rng.integers(_IR.get(opset, 10), 11)) if opset > 8 or rng.random() < 0.2 else 3
    net = Net(rng, opset, listed=ir == 3 or rng.random() < 0.05)
    channels = net.pick(1, 3, 3, 3, 4)
    height = int(rng.integers(6, 17))
    width = height if net.chance(0.5) else int(rng.integers(6, 17))
    x = Tensor("image", channels, height, width)
    if net.chance(0.8):
        x = conv(net, x)
    for _ in range(int(rng.integers(2, 6))):
        kind = BLOCKS[int(rng.integers(len(BLOCKS)))]
        net.kinds.append(kind.__name__)
        x = kind(net, x)
    classes = int(rng.integers(2, 12))
    output = write_head(net, x, classes)
    batch = net.pick(None, None, None, 1, 1, 4)
    first = batch or net.pick("n", "batch", "n", -1 if net.chance(0.3) else "N")
    return RandomGraph(finish(net, (channels, height, width), first, output, classes, ir), (channels, height, width),
                       net.chance(0.1), batch, net.kinds)  # fmt: skip


def finish(net: Net, shape: Sequence[int], batch: Any, output: str, classes: int, ir: int) -> onnx.ModelProto:
    """The model, checked."""
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *shape])]
    if net.listed:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in net.constants]
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, classes])
    graph = helper.make_graph(net.nodes, "random", inputs, [made], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=ir)
    onnx.checker.check_model(model)
    return model


# --- blocks: a tensor -> a tensor ------------------------------------------------------------------------------------


def conv(net: Net, x: Tensor, channels: int = 0, keep: bool = False, plain: bool = False) -> Tensor:
    """Any convolution; `keep` keeps height and width, `plain` has no groups."""
    out = channels or int(net.rng.integers(2, _MOST_CHANNELS))
    group = 1
    if not plain and net.chance(0.4):
        group = net.pick(*[g for g in range(1, x.channels + 1) if x.channels % g == 0])
        out = channels if channels and channels % group == 0 else group * max(1, out // group)
        if channels and out != channels:
            group, out = 1, channels
    sizes = (1, 3, 5) if keep else (1, 2, 3, 3, 5)
    kernel = [
        k if k <= s else 1 for k, s in zip((net.pick(*sizes), net.pick(*sizes)), (x.height, x.width), strict=True)
    ]
    dilation = [1 if keep or (k - 1) * 2 >= s else net.pick(1, 1, 2) for k, s in zip(kernel, x[2:], strict=True)]
    stride = [1 if keep or s <= _LEAST_SIDE else net.pick(1, 1, 2) for s in x[2:]]
    attributes: dict[str, Any] = {"kernel_shape": kernel} if net.chance(0.8) else {}
    attributes |= {"strides": stride, "group": group}
    if keep:
        attributes["pads"] = [k // 2 for k in kernel] * 2
        size = [x.height, x.width]
    elif net.chance(0.3):
        attributes["auto_pad"] = way = net.pick("SAME_UPPER", "SAME_LOWER", "VALID")
        attributes |= {"dilations": dilation} if way == "VALID" else {}  # SAME with dilation: runtimes differ
        dilation = dilation if way == "VALID" else [1, 1]
        size = [
            -(-s // t) if way != "VALID" else (s - (k - 1) * d - 1) // t + 1
            for s, k, d, t in zip(x[2:], kernel, dilation, stride, strict=True)
        ]
    else:
        pads = [int(net.rng.integers(0, k)) for k in kernel * 2]
        attributes |= {"pads": pads, "dilations": dilation}
        size = [
            (s + pads[i] + pads[i + 2] - (k - 1) * d - 1) // t + 1
            for i, (s, k, d, t) in enumerate(zip(x[2:], kernel, dilation, stride, strict=True))
        ]
    weights = [net.constant(net.normal(out, x.channels // group, *kernel))]
    weights += [net.constant(net.rng.normal(0, 0.1, out))] if net.chance(0.6) else []
    return Tensor(net.add("Conv", x.name, *weights, **attributes), out, size[0], size[1])


def norm(net: Net, x: Tensor) -> Tensor:
    """Batch normalization: wherever it falls."""
    return Tensor(normalize(net, x.name, x.channels), *x[1:])


def normalize(net: Net, name: str, channels: int) -> str:
    rng = net.rng
    values = (rng.uniform(0.3, 1.5, channels), *rng.normal(0, 0.2, (2, channels)), rng.uniform(0.3, 2, channels))
    if net.opset < 9:
        return net.add("BatchNormalization", name, *map(net.constant, values), epsilon=1e-3)
    return net.add("BatchNormalization", name, *map(net.constant, values))


def conv_norm_act(net: Net, x: Tensor) -> Tensor:
    return activation(net, norm(net, conv(net, x)))


def activation(net: Net, x: Tensor) -> Tensor:
    kinds = ["Relu", "Relu", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Elu", "PRelu", "Tanh", "swish", "HardSigmoid"]
    kinds += ["hard swish", "Selu", "Softplus"] + ["HardSwish"] * (net.opset >= 14) + ["Gelu"] * (net.opset >= 20)
    kinds += ["Mish"] * (net.opset >= 18) + ["Celu"] * (net.opset >= 12)
    kinds += ["ThresholdedRelu"] * (net.opset >= 10)
    kind = kinds[int(net.rng.integers(len(kinds)))]
    return Tensor(activate(net, x, kind), *x[1:])


def activate(net: Net, x: Tensor, kind: str) -> str:
    if kind == "Clip":
        low, high = net.pick((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0))
        if net.opset < 11:
            return net.add("Clip", x.name, min=low, max=high)
        return net.add("Clip", x.name, net.constant(low), net.constant(high))
    if kind == "PRelu":
        return net.add("PRelu", x.name, net.constant(net.rng.uniform(0, 0.5, (x.channels, 1, 1))))
    if kind == "ThresholdedRelu":
        return net.add(kind, x.name, alpha=0.2)
    if kind == "swish":
        return net.add("Mul", x.name, net.add("Sigmoid", x.name))
    if kind == "hard swish":
        return net.add("Mul", net.add("HardSigmoid", x.name, alpha=1 / 6, beta=0.5), x.name)
    return net.add(kind, x.name)


def pool(net: Net, x: Tensor) -> Tensor:
    """MaxPool or AveragePool: pads, ceil_mode, count_include_pad, dilation, auto_pad."""
    op = net.pick("MaxPool", "AveragePool")
    kernel = [min(net.pick(2, 3), s) for s in x[2:]]
    stride = [1 if s <= _LEAST_SIDE else net.pick(1, 2, 2) for s in x[2:]]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride}
    if net.chance(0.2):
        attributes["auto_pad"] = net.pick("SAME_UPPER", "SAME_LOWER")
        return Tensor(
            net.add(op, x.name, **attributes), x.channels, *(-(-s // t) for s, t in zip(x[2:], stride, strict=True))
        )
    if op == "MaxPool" and net.opset >= 10 and min(x[2:]) > _LEAST_SIDE and net.chance(0.04):
        name = net.add(op, x.name, kernel_shape=[2, 2], dilations=[2, 2])
        return Tensor(name, x.channels, x.height - 2, x.width - 2)
    pads = [int(net.rng.integers(0, k)) if net.chance(0.5) else 0 for k in kernel * 2]
    steps = [(s + pads[i] + pads[i + 2] - k, t) for i, (s, k, t) in enumerate(zip(x[2:], kernel, stride, strict=True))]
    up = [-(-left // t) for left, t in steps]
    behind = any(n * t >= s + pads[i] for i, (n, t, s) in enumerate(zip(up, stride, x[2:], strict=True)))
    ceil = net.opset >= 10 and net.chance(0.4) and not behind  # of windows that begin behind the image runtimes differ
    size = [1 + (n if ceil else left // t) for n, (left, t) in zip(up, steps, strict=True)]
    attributes |= {"pads": pads} | ({"ceil_mode": 1} if ceil else {})
    if op == "AveragePool" and net.chance(0.5):
        attributes["count_include_pad"] = 1
    return Tensor(net.add(op, x.name, **attributes), x.channels, *size)


def residual(net: Net, x: Tensor) -> Tensor:
    """One branch beside the identity, joined by Add, Sub, Mul or Sum."""
    y = conv(net, activation(net, x) if net.chance(0.5) else x, x.channels, keep=True)
    y = norm(net, y) if net.chance(0.5) else y
    pair = (x.name, y.name) if net.chance(0.5) else (y.name, x.name)
    joined = Tensor(net.add(net.pick("Add", "Add", "Add", "Sub", "Mul", "Sum", "Max"), *pair), *x[1:])
    return activation(net, joined) if net.chance(0.6) else joined


def two_branches(net: Net, x: Tensor) -> Tensor:
    """Two convolutions of the same tensor, or of it and of itself activated, added or concatenated."""
    if net.chance(0.5):
        parts = [conv(net, x, keep=True) for _ in range(net.pick(2, 2, 3))] + [x] * net.chance(0.3)
        name = net.add("Concat", *(p.name for p in parts), axis=1)
        return Tensor(name, sum(p.channels for p in parts), *x[2:])
    a = conv(net, x, keep=True)
    b = conv(net, x, a.channels, keep=True)
    return Tensor(net.add(net.pick("Add", "Mul", "Sub"), a.name, b.name), *a[1:])


def broadcast(net: Net, x: Tensor) -> Tensor:
    """Arithmetic with a constant of any shape that fits, on either side."""
    c = x.channels
    shape = net.pick((), (1,), (c, 1, 1), (1, c, 1, 1), (1, 1, 1, 1), (1, 1, x.width), (c, x.height, x.width))
    value, op = net.constant(net.rng.uniform(0.5, 1.5, shape)), net.pick("Mul", "Add", "Sub", "Div")
    pair = (value, x.name) if op != "Div" and net.chance(0.3) else (x.name, value)
    return Tensor(net.add(op, *pair), *x[1:])


def squeeze_excite(net: Net, x: Tensor) -> Tensor:
    """Hu et al., 2018: the pooled vector, as [N, C, 1, 1], scales the channels."""
    hidden = max(1, x.channels // 2)
    s = net.add("GlobalAveragePool", x.name)
    for given, made, act in ((x.channels, hidden, "Relu"), (hidden, x.channels, net.pick("Sigmoid", "HardSigmoid"))):
        s = net.add("Conv", s, net.constant(net.normal(made, given, 1, 1)), net.constant(net.rng.normal(0, 0.1, made)))
        s = net.add(act, s)
    return Tensor(net.add("Mul", *((x.name, s) if net.chance(0.5) else (s, x.name))), *x[1:])


def parallel_edges(net: Net, x: Tensor) -> Tensor:
    """Both inputs of a node are one tensor."""
    a = conv(net, x, keep=True) if net.chance(0.6) else x
    if net.chance(0.3):
        return Tensor(net.add("Concat", a.name, a.name, axis=1), 2 * a.channels, *a[2:])
    return Tensor(net.add(net.pick("Mul", "Add"), a.name, a.name), *a[1:])


def shared_weights(net: Net, x: Tensor) -> Tensor:
    """One weight for two convolutions, one behind the other or side by side."""
    k = net.pick(1, 3)
    weight = net.constant(net.normal(x.channels, x.channels, k, k, scale=0.7))
    same: dict[str, Any] = {"pads": [k // 2] * 4}
    a = net.add("Conv", x.name, weight, **same)
    bias = [net.constant(net.rng.normal(0, 0.1, x.channels))] if net.chance(0.5) else []
    if net.chance(0.5):
        return Tensor(net.add("Conv", net.add("Relu", a), weight, *bias, **same), *x[1:])
    return Tensor(net.add("Add", a, net.add("Conv", net.add("Relu", x.name), weight, *bias, **same)), *x[1:])


def shuffle(net: Net, x: Tensor) -> Tensor:
    """Channels split, one part convolved, concatenated and shuffled (Ma et al., 2018); all shapes are constants."""
    if x.channels % 2:
        x = conv(net, x, 2 * int(net.rng.integers(1, 9)), keep=True)
    half = x.channels // 2
    first = len(net.nodes)
    names = [f"s{first}_0", f"s{first}_1"]
    if net.opset < 13:
        net.nodes.append(helper.make_node("Split", [x.name], names, axis=1, split=[half, half]))
    elif net.opset >= 18 and net.chance(0.5):
        net.nodes.append(helper.make_node("Split", [x.name], names, axis=1, num_outputs=2))
    else:
        net.nodes.append(helper.make_node("Split", [x.name, net.integers(half, half)], names, axis=1))
    a, b = (Tensor(name, half, *x[2:]) for name in names)
    b = conv(net, b, half, keep=True) if net.chance(0.7) else activation(net, b)
    if net.chance(0.2):
        return b  # the other half is read by nothing
    joined = net.add("Concat", a.name, b.name, axis=1)
    five = net.add("Reshape", joined, net.integers(net.pick(-1, 0), 2, half, *x[2:]))
    turned = net.add("Transpose", five, perm=[0, 2, 1, 3, 4])
    return Tensor(net.add("Reshape", turned, net.integers(net.pick(-1, 0), *x[1:])), *x[1:])


def pad(net: Net, x: Tensor) -> Tensor:
    """A Pad node in front of a convolution: constant, edge or reflect."""
    top, left, bottom, right = (int(n) for n in net.rng.integers(0, 3, 4))
    wide = min(x[2:]) > 2  # reflection takes fewer rows than there are
    pads = [0, 0, top, left, 0, 0, bottom, right]
    mode = net.pick("constant", "constant", "reflect" if wide else "edge", "edge")
    if net.opset < 11:
        name = net.add("Pad", x.name, pads=pads, mode=mode)
    elif mode == "constant" and net.chance(0.5):
        name = net.add("Pad", x.name, net.integers(*pads), net.constant(0.0))
    else:
        name = net.add("Pad", x.name, net.integers(*pads), mode=mode)
    padded = Tensor(name, x.channels, x.height + top + bottom, x.width + left + right)
    return conv(net, padded) if net.chance(0.7) else padded


def crop(net: Net, x: Tensor) -> Tensor:
    """A Slice of the rows."""
    if x.height <= _LEAST_SIDE:
        return activation(net, x)
    if net.opset < 10:
        name = net.add("Slice", x.name, axes=[2], starts=[1], ends=[x.height])
    else:
        name = net.add("Slice", x.name, net.integers(1), net.integers(2**31 - 1), net.integers(2))
    return Tensor(name, x.channels, x.height - 1, x.width)


def upsample(net: Net, x: Tensor) -> Tensor:
    """ConvTranspose, or Resize by 2, of small maps."""
    if max(x[2:]) > 10:
        return conv(net, x)
    if net.opset < 11 or net.chance(0.5):
        out = int(net.rng.integers(2, 9))
        weight = net.constant(net.normal(x.channels, out, 2, 2))
        name = net.add("ConvTranspose", x.name, weight, strides=[2, 2], kernel_shape=[2, 2])
        return Tensor(name, out, 2 * x.height, 2 * x.width)
    scales = net.constant([1, 1, 2, 2])
    roi = "" if net.opset >= 13 else net.constant(np.zeros(0))
    name = net.add(
        "Resize", x.name, roi, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return Tensor(name, x.channels, 2 * x.height, 2 * x.width)


def other_norm(net: Net, x: Tensor) -> Tensor:
    """Local response or instance normalization, Dropout, Identity."""
    kind = net.pick("LRN", "InstanceNormalization", "Dropout", "Identity")
    if kind == "LRN":
        return Tensor(net.add("LRN", x.name, size=net.pick(3, 5)), *x[1:])
    if kind == "InstanceNormalization" and x.height * x.width > 4:
        values = (net.rng.uniform(0.5, 1.5, x.channels), net.rng.normal(0, 0.2, x.channels))
        return Tensor(net.add(kind, x.name, *map(net.constant, values)), *x[1:])
    return Tensor(net.add("Dropout" if kind == "Dropout" else "Identity", x.name), *x[1:])


BLOCKS: tuple[Callable[[Net, Tensor], Tensor], ...] = (
    conv, conv_norm_act, conv_norm_act, conv_norm_act, norm, activation, pool, pool, residual, residual, two_branches,
    broadcast, squeeze_excite, parallel_edges, shared_weights, shuffle, pad, crop, upsample, other_norm,
)  # fmt: skip


# --- the head --------------------------------------------------------------------------------------------------------


def write_head(net: Net, x: Tensor, classes: int) -> str:
    """A convolution and a pool, or a pool (or none) and linear layers; now and then with a Softmax behind it."""
    if net.chance(0.2):
        weights = net.constant(net.normal(classes, x.channels, 1, 1)), net.constant(net.rng.normal(0, 0.1, classes))
        output = flatten(
            net, net.add(net.pick("GlobalAveragePool", "GlobalMaxPool"), net.add("Conv", x.name, *weights)), classes
        )
    else:
        width = x.channels
        if x.channels * x.height * x.width <= 600 and net.chance(0.3):
            width *= x.height * x.width
            vector = flatten(net, x.name, width)
        elif net.chance(0.3):
            vector = mean(net, x)
        else:
            vector = flatten(
                net, net.add(net.pick("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"), x.name), width
            )
        if net.chance(0.3):
            hidden = int(net.rng.integers(4, 17))
            vector = linear(net, vector, width, hidden)
            vector = normalize(net, vector, hidden) if net.chance(0.4) else vector
            vector, width = net.add("Relu", vector), hidden
        output = linear(net, vector, width, classes)
        output = normalize(net, output, classes) if net.chance(0.1) else output
    return net.add("Softmax", output, axis=1) if net.chance(0.15) else output


def flatten(net: Net, name: str, width: int) -> str:
    kind = net.pick("Flatten", "Flatten", "Reshape", "Reshape")
    if kind == "Flatten":
        return net.add("Flatten", name, axis=1)
    return net.add("Reshape", name, net.integers(*net.pick((0, -1), (-1, width), (0, width))))


def mean(net: Net, x: Tensor) -> str:
    keep = net.pick(0, 1)
    if net.opset < 18:
        name = net.add(
            "ReduceMean", x.name, axes=net.pick([2, 3], [-2, -1] if net.opset >= 11 else [2, 3]), keepdims=keep
        )
    else:
        name = net.add("ReduceMean", x.name, net.integers(2, 3), keepdims=keep)
    return flatten(net, name, x.channels) if keep else name


def linear(net: Net, name: str, given: int, made: int) -> str:
    """Gemm of any form, or MatMul with or without an Add."""
    weight = net.normal(made, given)
    bias = net.rng.normal(0, 0.1, made)
    if net.chance(0.3):
        product = net.add("MatMul", name, net.constant(weight.T))
        return (
            net.add("Add", *net.pick((product, net.constant(bias)), (net.constant(bias), product)))
            if net.chance(0.7)
            else product
        )
    turned = net.pick(0, 1)
    attributes: dict[str, Any] = {"transB": turned}
    attributes |= {"alpha": 0.5} if net.chance(0.15) else {}
    attributes |= {"beta": 0.7} if net.chance(0.15) else {}
    c = net.pick(bias, bias, bias, bias.reshape(1, -1), bias[:1], bias[0])
    inputs = [net.constant(weight if turned else weight.T)]
    inputs += [net.constant(c)] if net.opset < 11 or net.chance(0.85) else []
    return net.add("Gemm", name, *inputs, **attributes)
