"""A network of the zoo whose outputs, scaled to unit length, are an embedding."""

from __future__ import annotations

from torch import Tensor, nn

EPSILON = 1e-6  # FP16 can hold it; of an embedding of zeros it makes zeros


class EmbeddingNetwork(nn.Module):
    """[N, C, H, W] -> [N, D] of unit length: the D outputs of the `backbone`'s last layer over their norm. In train
    mode a backbone with auxiliary heads gives (embedding, auxiliary, ...)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = self.backbone(x)
        return tuple(map(scale_to_unit, made)) if isinstance(made, tuple) else scale_to_unit(made)


def scale_to_unit(x: Tensor) -> Tensor:
    """Rows [N, D] over their Euclidean norm. Squares and their sum are tensors of the graph, where FP16 may not hold
    them: then they stay FP32, and are named."""
    return x / ((x * x).sum(1, keepdim=True) + EPSILON).sqrt()
