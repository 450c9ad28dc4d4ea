"""The rounding of `quantization.py` in PyTorch, with gradients.

A rounding passes its gradient on as if it were not there, and none where it saturates: the straight-through estimator
(Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons", arXiv:1308.3432; B. Jacob et al.,
CVPR 2018). With what reads the codes by the same scale that makes the gradient of a learned step size (S. K. Esser et
al., "Learned step size quantization", ICLR 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: float, high: float) -> Tensor:
        codes = (x / scale).round_().add_(zero)
        ctx.save_for_backward((codes >= low) & (codes <= high), scale, x if ctx.needs_input_grad[1] else None)
        return codes.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        inside, scale, x = ctx.saved_tensors
        passed = gradients[0] * inside / scale
        return passed, None if x is None else -((passed * x).sum() / scale).reshape(scale.shape), None, None, None


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return torch.as_tensor(gradients[0])


def quantize(x: Tensor, scale: Tensor, zero: Tensor, low: float, high: float) -> Tensor:
    """The codes of `x`, as whole floats within [low, high]; `scale` and `zero` broadcast against it. A scale with a
    gradient is one number."""
    return torch.as_tensor(_Codes.apply(x, scale, zero, low, high))


def round_to_half(x: Tensor) -> Tensor:
    """`x` as FP16 holds it, float32."""
    return torch.as_tensor(_Half.apply(x))
