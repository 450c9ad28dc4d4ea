"""ATen operators as ONNX nodes, for the operators that classic CNNs are made of; `OPERATORS` is the table.

ONNX semantics at opset 19: https://onnx.ai/onnx/operators/. What PyTorch means by its defaults is read from the
operator's own schema.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgecnn.errors import ModelError
from edgecnn.pytorch.export.aten_to_onnx import Translate, Translation
from edgecnn.pytorch.export.call import ADVICE, Call

INT64_MAX = 2**63 - 1


def _conv(c: Call) -> str:
    weight = c.array("weight")
    inputs = [c.value("input"), c.value("weight")] + ([c.value("bias")] if c.has("bias") else [])
    kernel, stride, dilation = list(weight.shape[2:]), c.pair("stride"), c.pair("dilation")
    if isinstance(padding := c.get("padding"), str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        pads = [n // 2 for n in total] + [n - n // 2 for n in total]
    else:
        pads = c.pair("padding") * 2
    before = c.graph.producer(inputs[0])
    if before is not None and before.op_type == "Pad" and c.is_only_use("input") and len(before.input) == 2:
        extra = c.graph.initializers[before.input[1]].tolist()
        if extra[:2] == [0, 0] == extra[4:6] and min(extra) >= 0:
            pads = [p + e for p, e in zip(pads, extra[2:4] + extra[6:8], strict=True)]
            c.graph.nodes.remove(before)
            inputs[0] = before.input[0]
    return c.add(
        "Conv", inputs, kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation, group=c.integer("groups")
    )[0]


def _linear(c: Call) -> str:
    if len(c.shape("input")) != 2:
        raise ModelError(f"{c.name}: a linear layer on {len(c.shape('input'))} axes; [N, K] is needed", ADVICE)
    inputs = [c.value("input"), c.value("weight")] + ([c.value("bias")] if c.has("bias") else [])
    return c.add("Gemm", inputs, transB=1)[0]


def _batch_norm(c: Call) -> str:
    """Folded into the Conv that alone feeds it (in float64), else a BatchNormalization."""
    if c.flag("training"):
        raise ModelError(f"{c.name}: batch normalization in training mode", "export the network in eval mode")
    mean, var = c.array("running_mean").double(), c.array("running_var").double()
    one = torch.ones_like(mean)
    gamma = one if not c.has("weight") else c.array("weight").double()
    beta = one * 0 if not c.has("bias") else c.array("bias").double()
    before = c.graph.producer(c.value("input"))
    source = c.node_of("input")
    if before is not None and before.op_type == "Conv" and c.is_only_use("input") and _alone(c.graph, source):
        scale = gamma / torch.sqrt(var + c.number("eps"))
        weight = c.graph.initializers[before.input[1]]
        bias = c.graph.initializers[before.input[2]].double() if len(before.input) > 2 else torch.zeros_like(mean)
        bias_name = f"{before.input[1].removesuffix('weight')}bias"
        c.graph.initializers[before.input[1]] = (weight.double() * scale.reshape(-1, 1, 1, 1)).float()
        c.graph.initializers[bias_name] = (beta + (bias - mean) * scale).float()
        del before.input[2:]
        before.input.append(bias_name)
        return str(before.output[0])
    path = c.name
    inputs = [c.value("input")]
    for key, default in (("weight", one), ("bias", one * 0)):
        if not c.has(key):
            c.graph.initializers[f"{path}.{key}"] = default.float()
        inputs.append(f"{path}.{key}" if not c.has(key) else c.value(key))
    inputs += [c.value("running_mean"), c.value("running_var")]
    return c.add("BatchNormalization", inputs, epsilon=c.number("eps"))[0]


def _alone(graph: Translation, conv: fx.Node) -> bool:
    """Whether the weights of `conv` are used by it alone, so that folding harms nobody."""
    if "conv2d" not in str(conv.target):
        return False
    call = Call(graph, conv)
    return call.is_only_use("weight") and (not call.has("bias") or call.is_only_use("bias"))


def _clip(c: Call) -> str:
    low, high = ("min_val", "max_val") if c.has("min_val") else ("min", "max")
    return c.add("Clip", [c.value("self"), _bound(c, low, 0.0), _bound(c, high, 6.0)])[0]


def _bound(c: Call, name: str, default: float) -> str:
    """A bound as a constant, "" where it is None; `default`, that of ReLU6, where the operator has no bounds."""
    if c.get(name, default) is None:
        return ""
    return c.graph.scalar(c.number(name) if c.has(name) else default)


def _unary(operator: str, **attributes: Any) -> Translate:
    def translate(c: Call) -> str:
        return c.add(operator, [c.value("self")], **attributes)[0]

    return translate


def _silu(c: Call) -> str:
    x = c.value("self")
    return c.add("Mul", [x, *c.add("Sigmoid", [x], suffix=".sigmoid")])[0]


def _gelu(c: Call) -> str:
    """x * Phi(x) (Hendrycks and Gimpel 2016), which ONNX has as one operator from opset 20 on only."""
    x = c.value("self")
    if c.get("approximate", "none") == "tanh":
        cube = c.add("Pow", [x, c.graph.scalar(3.0)], suffix=".cube")
        small = c.add("Mul", [*cube, c.graph.scalar(0.044715)], suffix=".small")
        inner = c.add(
            "Mul", [*c.add("Add", [x, *small], suffix=".sum"), c.graph.scalar((2 / math.pi) ** 0.5)], ".inner"
        )
        sigmoidal = c.add("Tanh", inner, suffix=".tanh")
    else:
        sigmoidal = c.add("Erf", c.add("Mul", [x, c.graph.scalar(0.5**0.5)], suffix=".inner"), suffix=".erf")
    share = c.add("Add", [*sigmoidal, c.graph.scalar(1.0)], suffix=".shifted")
    half = c.add("Mul", [x, c.graph.scalar(0.5)], suffix=".half")
    return c.add("Mul", [*half, *share])[0]


def _leaky_relu(c: Call) -> str:
    return c.add("LeakyRelu", [c.value("self")], alpha=c.number("negative_slope"))[0]


def _softmax(c: Call) -> str:
    return c.add("Softmax", [c.value("self")], axis=c.integer("dim"))[0]


def _binary(operator: str) -> Translate:
    def translate(c: Call) -> str:
        if c.get("alpha", 1) != 1 or c.has("rounding_mode"):
            raise ModelError(f"{c.name}: {c.node.target} with alpha or rounding", ADVICE)
        return c.add(operator, [c.operand("self"), c.operand("other" if c.has("other") else "exponent")])[0]

    return translate


def _max_pool(c: Call) -> str:
    return c.add(
        "MaxPool",
        [c.value("self")],
        kernel_shape=c.pair("kernel_size"),
        strides=c.pair("stride") or c.pair("kernel_size"),
        pads=c.pair("padding") * 2,
        dilations=c.pair("dilation"),
        ceil_mode=c.integer("ceil_mode"),
    )[0]


def _avg_pool(c: Call) -> str:
    if c.has("divisor_override"):
        raise ModelError(f"{c.name}: average pooling with a divisor of its own", ADVICE)
    kernel, pads = c.pair("kernel_size"), c.pair("padding")
    if kernel == c.shape("self")[2:] and pads == [0, 0]:
        return c.add("GlobalAveragePool", [c.value("self")])[0]
    return c.add(
        "AveragePool",
        [c.value("self")],
        kernel_shape=kernel,
        strides=c.pair("stride") or kernel,
        pads=pads * 2,
        ceil_mode=c.integer("ceil_mode"),
        count_include_pad=c.integer("count_include_pad"),
    )[0]


def _adaptive_avg_pool(c: Call) -> str:
    found, wanted = c.shape("self")[2:], c.pair("output_size")
    if found == wanted:
        return c.value("self")
    if wanted == [1, 1]:
        return c.add("GlobalAveragePool", [c.value("self")])[0]
    sizes = [int(f or 0) for f in found]
    if not any(f % w for f, w in zip(sizes, wanted, strict=True)):
        kernel = [f // w for f, w in zip(sizes, wanted, strict=True)]
        return c.add("AveragePool", [c.value("self")], kernel_shape=kernel, strides=kernel)[0]
    # ONNX has no windows of unequal size: each map, as one row of pixels, times a constant matrix
    channels = int(c.shape("self")[1] or 0)
    rows, columns = (_averaging(f, w) for f, w in zip(sizes, wanted, strict=True))
    name = "average.{}x{}.{}x{}".format(*sizes, *wanted)
    weight = c.graph.constant(name, torch.kron(rows, columns).T.contiguous(), torch.float32)
    flat = _reshape_to(c, c.value("self"), ".pixels", [0, channels, sizes[0] * sizes[1]])
    return _reshape_to(c, c.add("MatMul", [flat, weight])[0], ".cells", [0, channels, *wanted])


def _reshape_to(c: Call, value: str, suffix: str, sizes: list[int]) -> str:
    return c.add("Reshape", [value, c.graph.constant("shape." + ".".join(map(str, sizes)), sizes)], suffix=suffix)[0]


def _averaging(size: int, cells: int) -> torch.Tensor:
    """[cells, size]: row i averages the window from floor(i * size / cells) to ceil((i + 1) * size / cells)."""
    matrix = torch.zeros(cells, size)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:stop] = 1 / (stop - start)
    return matrix


def _mean(c: Call) -> str:
    rank = len(c.shape("self"))
    axes = sorted(d % rank for d in c.integers("dim"))
    if rank == 4 and axes == [2, 3]:
        if c.flag("keepdim"):
            return c.add("GlobalAveragePool", [c.value("self")])[0]
        return c.add("Flatten", c.add("GlobalAveragePool", [c.value("self")]), suffix=".flatten")[0]
    inputs = [c.value("self"), c.graph.constant(f"axes.{'.'.join(map(str, axes))}", axes)]
    return c.add("ReduceMean", inputs, keepdims=c.integer("keepdim"))[0]


def _sum(c: Call) -> str:
    rank = len(c.shape("self"))
    axes = sorted(d % rank for d in c.integers("dim"))
    inputs = [c.value("self"), c.graph.constant(f"axes.{'.'.join(map(str, axes))}", axes)]
    return c.add("ReduceSum", inputs, keepdims=c.integer("keepdim"))[0]


def _reshape(c: Call) -> str:
    """Flatten, view, squeeze and unsqueeze: all are known by the shape that they make."""
    source, target = c.shape("self"), c.shape()
    if source == target:
        return c.value("self")
    if len(target) == 2 and target[0] is None and source[0] is None:
        return c.add("Flatten", [c.value("self")], axis=1)[0]
    sizes = [-1 if n is None else n for n in target]
    if target[0] is None and source[0] is None:
        sizes[0] = 0 if _same_batch(c.node_of("self"), c.node) else -1
    if sizes.count(-1) > 1:
        raise ModelError(f"{c.name}: a reshape to {target} with two unknown sizes", ADVICE)
    name = "shape." + ".".join(map(str, sizes))
    return c.add("Reshape", [c.value("self"), c.graph.constant(name, sizes)])[0]


def _same_batch(source: fx.Node, target: fx.Node) -> bool:
    return str(source.meta["val"].shape[0]) == str(target.meta["val"].shape[0])


def _permute(c: Call) -> str:
    rank = len(c.shape("self"))
    if c.has("dims"):
        order = [d % rank for d in c.integers("dims")]
    else:
        order = list(range(rank))
        first, second = c.integer("dim0") % rank, c.integer("dim1") % rank
        order[first], order[second] = order[second], order[first]
    return c.add("Transpose", [c.value("self")], perm=order)[0]


def _cat(c: Call) -> str:
    parts = c.values("tensors")
    return parts[0] if len(parts) == 1 else c.add("Concat", parts, axis=c.integer("dim") % len(c.shape()))[0]


def _split(c: Call) -> str:
    axis = c.integer("dim") % len(c.shape("self"))
    sizes = [int(v.shape[axis]) for v in c.node.meta["val"]]
    inputs = [c.value("self"), c.graph.constant("split." + ".".join(map(str, sizes)), sizes)]
    return c.add("Split", inputs, outputs=len(sizes), axis=axis)[0].removesuffix(".0")


def _slice(c: Call) -> str:
    """One Slice for a chain of them over different axes; a slice that takes everything vanishes."""
    source, axis = c.value("self"), c.integer("dim") % len(c.shape())
    size = c.shape("self")[axis]
    if any(isinstance(c.get(name), fx.Node) for name in ("start", "end")):
        raise ModelError(f"{c.name}: a slice of the batch", ADVICE)
    start = c.integer("start") if c.has("start") else 0
    end = c.integer("end") if c.has("end") else INT64_MAX
    step = c.integer("step")
    if size is None:
        if (start, step) == (0, 1) and end >= INT64_MAX:
            return source
        raise ModelError(f"{c.name}: a slice of the batch", ADVICE)
    start, end = max(start + size, 0) if start < 0 else start, min(end + size if end < 0 else end, size)
    if (start, end, step) == (0, size, 1):
        return source
    bounds = [[start], [end], [axis], [step]]
    before = c.graph.producer(source)
    if before is not None and before.op_type == "Slice" and c.is_only_use("self"):
        earlier = [c.graph.initializers[name].tolist() for name in before.input[1:]]
        if axis not in earlier[2]:
            bounds = [e + b for e, b in zip(earlier, bounds, strict=True)]
            source = before.input[0]
            c.graph.nodes.remove(before)
    keys = ("starts", "ends", "axes", "steps")
    constants = [c.graph.constant(f"{k}.{'.'.join(map(str, v))}", v) for k, v in zip(keys, bounds, strict=True)]
    return c.add("Slice", [source, *constants])[0]


def _pad(c: Call) -> str:
    if c.get("mode", "constant") != "constant":
        raise ModelError(f"{c.name}: padding by {c.get('mode')}", ADVICE)
    rank, amounts = len(c.shape()), c.integers("pad")
    pads = [0] * (2 * rank)
    for k in range(len(amounts) // 2):
        pads[rank - 1 - k], pads[2 * rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
    value = c.number("value") if c.has("value") else 0.0
    inputs = [c.value("self"), c.graph.constant("pads." + ".".join(map(str, pads)), pads)]
    return c.add("Pad", inputs + ([c.graph.scalar(value)] if value else []))[0]


OPERATORS: dict[str, Translate] = {
    "aten.conv2d": _conv,
    "aten.linear": _linear,
    "aten.batch_norm": _batch_norm,
    "aten.relu": _unary("Relu"),
    "aten.relu6": _clip,
    "aten.hardtanh": _clip,
    "aten.clamp": _clip,
    "aten.sigmoid": _unary("Sigmoid"),
    "aten.tanh": _unary("Tanh"),
    "aten.hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "aten.hardswish": _unary("HardSwish"),
    "aten.sqrt": _unary("Sqrt"),
    "aten.silu": _silu,
    "aten.gelu": _gelu,
    "aten.leaky_relu": _leaky_relu,
    "aten.softmax": _softmax,
    "aten.add": _binary("Add"),
    "aten.sub": _binary("Sub"),
    "aten.mul": _binary("Mul"),
    "aten.div": _binary("Div"),
    "aten.pow": _binary("Pow"),
    "aten.max_pool2d": _max_pool,
    "aten.avg_pool2d": _avg_pool,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool,
    "aten.mean": _mean,
    "aten.sum": _sum,
    "aten.flatten": _reshape,
    "aten.view": _reshape,
    "aten.reshape": _reshape,
    "aten.squeeze": _reshape,
    "aten.unsqueeze": _reshape,
    "aten.transpose": _permute,
    "aten.permute": _permute,
    "aten.cat": _cat,
    "aten.concat": _cat,
    "aten.chunk": _split,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.slice": _slice,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
}
