"""ATen operators as ONNX nodes, for the operators that classic CNNs are made of; `OPERATORS` is the table.

ONNX semantics at opset 19: https://onnx.ai/onnx/operators/. What PyTorch means by its defaults is read from the
operator's own schema.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgecnn.errors import ModelError
from edgecnn.pytorch.export.aten_to_onnx import ADVICE, Translate, Translation, arguments, node_name, shape

INT64_MAX = 2**63 - 1


def pair(value: Any) -> list[int]:
    """Two spatial numbers from one or two."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * 2 if len(numbers) == 1 else numbers


def _conv(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    weight = t.array(a["weight"])
    inputs = [t.value(a["input"]), t.value(a["weight"])] + ([t.value(a["bias"])] if a["bias"] is not None else [])
    kernel, stride, dilation = list(weight.shape[2:]), pair(a["stride"]), pair(a["dilation"])
    if isinstance(a["padding"], str):
        total = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        pads = [n // 2 for n in total] + [n - n // 2 for n in total]
    else:
        pads = pair(a["padding"]) * 2
    before = t.producer(inputs[0])
    if before is not None and before.op_type == "Pad" and t.sole_user(a["input"]) and len(before.input) == 2:
        extra = t.initializers[before.input[1]].tolist()
        if extra[:2] == [0, 0] == extra[4:6] and min(extra) >= 0:
            pads = [p + e for p, e in zip(pads, extra[2:4] + extra[6:8], strict=True)]
            t.nodes.remove(before)
            inputs[0] = before.input[0]
    return t.add(
        node, "Conv", inputs, kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation, group=a["groups"]
    )[0]


def _linear(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    if len(shape(a["input"])) != 2:
        raise ModelError(
            f"{node_name(node)}: a linear layer on {len(shape(a['input']))} axes; [N, K] is needed", ADVICE
        )
    inputs = [t.value(a["input"]), t.value(a["weight"])] + ([t.value(a["bias"])] if a["bias"] is not None else [])
    return t.add(node, "Gemm", inputs, transB=1)[0]


def _batch_norm(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    """Folded into the Conv that alone feeds it (in float64), else a BatchNormalization."""
    if a["training"]:
        raise ModelError(f"{node_name(node)}: batch normalization in training mode", "export the network in eval mode")
    mean, var = t.array(a["running_mean"]).double(), t.array(a["running_var"]).double()
    one = torch.ones_like(mean)
    gamma = one if a["weight"] is None else t.array(a["weight"]).double()
    beta = one * 0 if a["bias"] is None else t.array(a["bias"]).double()
    before = t.producer(t.value(a["input"]))
    if before is not None and before.op_type == "Conv" and t.sole_user(a["input"]) and _alone(t, a["input"]):
        scale = gamma / torch.sqrt(var + a["eps"])
        weight = t.initializers[before.input[1]]
        bias = t.initializers[before.input[2]].double() if len(before.input) > 2 else torch.zeros_like(mean)
        bias_name = f"{before.input[1].removesuffix('weight')}bias"
        t.initializers[before.input[1]] = (weight.double() * scale.reshape(-1, 1, 1, 1)).float()
        t.initializers[bias_name] = (beta + (bias - mean) * scale).float()
        del before.input[2:]
        before.input.append(bias_name)
        return str(before.output[0])
    path = node_name(node)
    inputs = [t.value(a["input"])]
    for key, default in (("weight", one), ("bias", one * 0)):
        if a[key] is None:
            t.initializers[f"{path}.{key}"] = default.float()
        inputs.append(f"{path}.{key}" if a[key] is None else t.value(a[key]))
    inputs += [t.value(a["running_mean"]), t.value(a["running_var"])]
    return t.add(node, "BatchNormalization", inputs, epsilon=float(a["eps"]))[0]


def _alone(t: Translation, conv: fx.Node) -> bool:
    """Whether the weights of `conv` are used by it alone, so that folding harms nobody."""
    named = arguments(conv) if "conv2d" in str(conv.target) else {}
    return all(isinstance(p := named.get(k), fx.Node) and t.sole_user(p) for k in ("weight",)) and (
        named.get("bias") is None or t.sole_user(named["bias"])
    )


def _clip(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    bounds = [a["min_val"], a["max_val"]] if "min_val" in a else [a.get("min", 0), a.get("max", 6)]
    return t.add(node, "Clip", [t.value(a["self"]), *("" if b is None else t.scalar(float(b)) for b in bounds)])[0]


def _unary(operator: str, **attributes: Any) -> Translate:
    def translate(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
        return t.add(node, operator, [t.value(a["self"])], **attributes)[0]

    return translate


def _silu(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    x = t.value(a["self"])
    return t.add(node, "Mul", [x, *t.add(node, "Sigmoid", [x], suffix=".sigmoid")])[0]


def _leaky_relu(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    return t.add(node, "LeakyRelu", [t.value(a["self"])], alpha=float(a["negative_slope"]))[0]


def _softmax(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    return t.add(node, "Softmax", [t.value(a["self"])], axis=a["dim"])[0]


def _binary(operator: str) -> Translate:
    def translate(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
        if a.get("alpha", 1) != 1 or a.get("rounding_mode") is not None:
            raise ModelError(f"{node_name(node)}: {node.target} with alpha or rounding", ADVICE)
        operands: list[Any] = [a["self"], a["other"] if "other" in a else a["exponent"]]
        sides = [t.value(v) if isinstance(v, fx.Node) else t.scalar(float(v)) for v in operands]
        return t.add(node, operator, sides)[0]

    return translate


def _max_pool(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    return t.add(
        node,
        "MaxPool",
        [t.value(a["self"])],
        kernel_shape=pair(a["kernel_size"]),
        strides=pair(a["stride"] or a["kernel_size"]),
        pads=pair(a["padding"]) * 2,
        dilations=pair(a["dilation"]),
        ceil_mode=int(a["ceil_mode"]),
    )[0]


def _avg_pool(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    if a["divisor_override"] is not None:
        raise ModelError(f"{node_name(node)}: average pooling with a divisor of its own", ADVICE)
    kernel, pads = pair(a["kernel_size"]), pair(a["padding"])
    if kernel == shape(a["self"])[2:] and pads == [0, 0]:
        return t.add(node, "GlobalAveragePool", [t.value(a["self"])])[0]
    return t.add(
        node,
        "AveragePool",
        [t.value(a["self"])],
        kernel_shape=kernel,
        strides=pair(a["stride"] or kernel),
        pads=pads * 2,
        ceil_mode=int(a["ceil_mode"]),
        count_include_pad=int(a["count_include_pad"]),
    )[0]


def _adaptive_avg_pool(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    found, wanted = shape(a["self"])[2:], pair(a["output_size"])
    if found == wanted:
        return t.value(a["self"])
    if wanted == [1, 1]:
        return t.add(node, "GlobalAveragePool", [t.value(a["self"])])[0]
    sizes = [int(f or 0) for f in found]
    if not any(f % w for f, w in zip(sizes, wanted, strict=True)):
        kernel = [f // w for f, w in zip(sizes, wanted, strict=True)]
        return t.add(node, "AveragePool", [t.value(a["self"])], kernel_shape=kernel, strides=kernel)[0]
    # ONNX has no windows of unequal size: each map, as one row of pixels, times a constant matrix
    channels = int(shape(a["self"])[1] or 0)
    rows, columns = (_averaging(f, w) for f, w in zip(sizes, wanted, strict=True))
    name = "average.{}x{}.{}x{}".format(*sizes, *wanted)
    weight = t.constant(name, torch.kron(rows, columns).T.contiguous(), torch.float32)
    flat = _reshaped(t, t.value(a["self"]), node, ".pixels", [0, channels, sizes[0] * sizes[1]])
    return _reshaped(t, t.add(node, "MatMul", [flat, weight])[0], node, ".cells", [0, channels, *wanted])


def _reshaped(t: Translation, value: str, node: fx.Node, suffix: str, sizes: list[int]) -> str:
    return t.add(node, "Reshape", [value, t.constant("shape." + ".".join(map(str, sizes)), sizes)], suffix=suffix)[0]


def _averaging(size: int, cells: int) -> torch.Tensor:
    """[cells, size]: row i averages the window from floor(i * size / cells) to ceil((i + 1) * size / cells)."""
    matrix = torch.zeros(cells, size)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:stop] = 1 / (stop - start)
    return matrix


def _mean(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    rank = len(shape(a["self"]))
    axes = sorted(d % rank for d in a["dim"])
    if rank == 4 and axes == [2, 3]:
        if a["keepdim"]:
            return t.add(node, "GlobalAveragePool", [t.value(a["self"])])[0]
        return t.add(node, "Flatten", t.add(node, "GlobalAveragePool", [t.value(a["self"])]), suffix=".flatten")[0]
    inputs = [t.value(a["self"]), t.constant(f"axes.{'.'.join(map(str, axes))}", axes)]
    return t.add(node, "ReduceMean", inputs, keepdims=int(a["keepdim"]))[0]


def _reshape(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    """Flatten, view, squeeze and unsqueeze: all are known by the shape that they make."""
    source, target = shape(a["self"]), shape(node)
    if source == target:
        return t.value(a["self"])
    if len(target) == 2 and target[0] is None and source[0] is None:
        return t.add(node, "Flatten", [t.value(a["self"])], axis=1)[0]
    sizes = [-1 if n is None else n for n in target]
    if target[0] is None and source[0] is None:
        sizes[0] = 0 if _same_batch(a["self"], node) else -1
    if sizes.count(-1) > 1:
        raise ModelError(f"{node_name(node)}: a reshape to {target} with two unknown sizes", ADVICE)
    name = "shape." + ".".join(map(str, sizes))
    return t.add(node, "Reshape", [t.value(a["self"]), t.constant(name, sizes)])[0]


def _same_batch(source: fx.Node, target: fx.Node) -> bool:
    return str(source.meta["val"].shape[0]) == str(target.meta["val"].shape[0])


def _permute(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    rank = len(shape(a["self"]))
    if "dims" in a:
        order = [d % rank for d in a["dims"]]
    else:
        order = list(range(rank))
        first, second = a["dim0"] % rank, a["dim1"] % rank
        order[first], order[second] = order[second], order[first]
    return t.add(node, "Transpose", [t.value(a["self"])], perm=order)[0]


def _cat(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    parts = [t.value(v) for v in a["tensors"]]
    return parts[0] if len(parts) == 1 else t.add(node, "Concat", parts, axis=a["dim"] % len(shape(node)))[0]


def _split(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    axis = a["dim"] % len(shape(a["self"]))
    sizes = [int(v.shape[axis]) for v in node.meta["val"]]
    inputs = [t.value(a["self"]), t.constant("split." + ".".join(map(str, sizes)), sizes)]
    return t.add(node, "Split", inputs, outputs=len(sizes), axis=axis)[0].removesuffix(".0")


def _slice(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    """One Slice for a chain of them over different axes; a slice that takes everything vanishes."""
    source, axis = t.value(a["self"]), a["dim"] % len(shape(node))
    size = shape(a["self"])[axis]
    start, end = a["start"] or 0, INT64_MAX if a["end"] is None else a["end"]
    if size is None or isinstance(start, fx.Node) or isinstance(end, fx.Node):
        if start == 0 and not isinstance(end, fx.Node) and end >= INT64_MAX and a["step"] == 1:
            return source
        raise ModelError(f"{node_name(node)}: a slice of the batch", ADVICE)
    start, end = max(start + size, 0) if start < 0 else start, min(end + size if end < 0 else end, size)
    if (start, end, a["step"]) == (0, size, 1):
        return source
    bounds = [[start], [end], [axis], [a["step"]]]
    before = t.producer(source)
    if before is not None and before.op_type == "Slice" and t.sole_user(a["self"]):
        earlier = [t.initializers[name].tolist() for name in before.input[1:]]
        if axis not in earlier[2]:
            bounds = [e + b for e, b in zip(earlier, bounds, strict=True)]
            source = before.input[0]
            t.nodes.remove(before)
    keys = ("starts", "ends", "axes", "steps")
    constants = [t.constant(f"{k}.{'.'.join(map(str, v))}", v) for k, v in zip(keys, bounds, strict=True)]
    return t.add(node, "Slice", [source, *constants])[0]


def _pad(t: Translation, node: fx.Node, a: dict[str, Any]) -> str:
    if a.get("mode", "constant") != "constant":
        raise ModelError(f"{node_name(node)}: padding by {a['mode']}", ADVICE)
    rank, amounts = len(shape(node)), list(a["pad"])
    pads = [0] * (2 * rank)
    for k in range(len(amounts) // 2):
        pads[rank - 1 - k], pads[2 * rank - 1 - k] = amounts[2 * k], amounts[2 * k + 1]
    value = float(a.get("value") or 0)
    inputs = [t.value(a["self"]), t.constant("pads." + ".".join(map(str, pads)), pads)]
    return t.add(node, "Pad", inputs + ([t.scalar(value)] if value else []))[0]


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
