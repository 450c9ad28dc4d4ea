"""ONNX operators in PyTorch, for the nodes of which graphs of classic CNNs are made; `OPERATORS` is the table.

Semantics of opset 19: https://onnx.ai/onnx/operators/. An operator is given its attributes and its inputs (None for one
that is left out) and returns its outputs. Raises `GraphError` for a form that PyTorch does not compute alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecnn.errors import GraphError

Attributes: TypeAlias = "dict[str, Any]"
Operator = Callable[..., "Tensor | Sequence[Tensor]"]
ADVICE = "train the network before it is quantized, or quantize it without training (--method auto)"


def _refuse(what: str) -> GraphError:
    return GraphError(f"{what} is not something that can be trained here", ADVICE)


def _list(x: Tensor) -> list[int]:
    return [int(n) for n in x.reshape(-1).tolist()]


def _pads(a: Attributes, spatial: int = 2) -> list[int]:
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _refuse(f"padding by auto_pad {a['auto_pad'].decode()!r}")
    return list(a.get("pads", [0] * 2 * spatial))


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    top, left, bottom, right = pads
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if weight.ndim != 4:
        raise _refuse(f"a Conv over {weight.ndim - 2} axes")
    pads = _pads(a)
    if pads[:2] != pads[2:]:
        x, pads = _padded(x, pads), [0] * 4
    stride, dilation = a.get("strides", (1, 1)), a.get("dilations", (1, 1))
    return F.conv2d(x, weight, bias, tuple(stride), tuple(pads[:2]), tuple(dilation), a.get("group", 1))


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.t() if a.get("transA", 0) else x
    weight = weight.t() if a.get("transB", 0) else weight
    made = a.get("alpha", 1.0) * (x @ weight) if a.get("alpha", 1.0) != 1.0 else x @ weight
    return made if bias is None else made + (bias if a.get("beta", 1.0) == 1.0 else a["beta"] * bias)


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, pads = a["kernel_shape"], _pads(a)
    if len(kernel) != 2 or a.get("storage_order", 0):
        raise _refuse("a MaxPool over other than two axes")
    if pads[:2] != pads[2:] or any(2 * pad > k for pad, k in zip(pads, kernel, strict=False)):
        x, pads = _padded(x, pads, float("-inf")), [0] * 4
    stride, dilation = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    return F.max_pool2d(x, tuple(kernel), stride, tuple(pads[:2]), dilation, bool(a.get("ceil_mode", 0)))


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, stride, pads = a["kernel_shape"], tuple(a.get("strides", (1, 1))), _pads(a)
    counts, ceil = bool(a.get("count_include_pad", 0)), bool(a.get("ceil_mode", 0))
    if len(kernel) != 2 or set(a.get("dilations", (1,))) != {1}:
        raise _refuse("an AveragePool over other than two axes, or with dilations,")
    if pads[:2] == pads[2:]:
        return F.avg_pool2d(x, tuple(kernel), stride, tuple(pads[:2]), ceil, counts)
    if ceil:
        raise _refuse("an AveragePool with ceil_mode and uneven padding")
    made = F.avg_pool2d(_padded(x, pads), tuple(kernel), stride)
    return made if counts else made / F.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), pads), tuple(kernel), stride)


def _mean(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = list(range(x.ndim)) if axes is None else _list(axes)
    return x.mean(over, keepdim=bool(a.get("keepdims", 1)))


def _lrn(a: Attributes, x: Tensor) -> Tensor:
    if a["size"] % 2 == 0:
        raise _refuse(f"an LRN over {a['size']} channels")
    return F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))


def _batch_norm(a: Attributes, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, gamma, beta, False, eps=a.get("epsilon", 1e-5))


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = _list(shape)
    if not a.get("allowzero", 0):
        wanted = [x.shape[k] if size == 0 else size for k, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1) % (x.ndim + 1)
    first = 1
    for size in x.shape[:axis]:
        first *= size
    return x.reshape(first, -1)


def _transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(tuple(a.get("perm", tuple(reversed(range(x.ndim))))))


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_list(axes)))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(n % rank for n in _list(axes)):
        x = x.unsqueeze(axis)
    return x


def _concat(a: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, a["axis"])


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    if sizes is None:
        return torch.chunk(x, a["num_outputs"], a.get("axis", 0))
    return torch.split_with_sizes(x, _list(sizes), a.get("axis", 0))


def _slice(
    a: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = _list(starts), _list(ends)
    over = list(range(len(first))) if axes is None else _list(axes)
    step = [1] * len(first) if steps is None else _list(steps)
    if min(step) < 1:
        raise _refuse("a Slice that runs backwards")
    index = [slice(None)] * x.ndim
    for axis, begin, end, by in zip(over, first, last, step, strict=True):
        index[axis % x.ndim] = slice(begin, end, by)
    return x[tuple(index)]


def _pad(a: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    if a.get("mode", b"constant") != b"constant":
        raise _refuse(f"padding by {a['mode'].decode()!r}")
    amounts = _list(pads)
    over = range(x.ndim) if axes is None else [n % x.ndim for n in _list(axes)]
    by_axis = dict(zip(over, zip(amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :], strict=True), strict=True))
    flat = [n for axis in reversed(range(x.ndim)) for n in by_axis.get(axis, (0, 0))]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


OPERATORS: dict[str, Operator] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": lambda a, x, y: x / y,
    "Erf": lambda a, x: torch.erf(x),
    "Exp": lambda a, x: torch.exp(x),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax((2, 3), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda a, x: x * (x / 6 + 0.5).clamp(0, 1),
    "Identity": lambda a, x: x,
    "LRN": _lrn,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Neg": lambda a, x: -x,
    "PRelu": lambda a, x, slope: torch.where(x < 0, x * slope, x),
    "Pad": _pad,
    "Pow": lambda a, x, y: x**y,
    "ReduceMean": _mean,
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Slice": _slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda a, x: x.sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
