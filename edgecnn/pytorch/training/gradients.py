"""The norm of each layer's gradient, averaged over an epoch, and the file of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from edgecnn.artifact.run_folder import GRADIENTS
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.records import to_plain
from edgecnn.results.gradients import GradientNorms
from edgecnn.results.training import Epoch


class GradientMeter:
    """Sums the norms of the gradients of all weights that learn, on their device; nothing is waited for."""

    def __init__(self, network: nn.Module) -> None:
        weights = {name: p for name, p in network.named_parameters() if p.dim() > 1 and p.requires_grad}
        self.layers = [name.removesuffix(".weight") for name in weights]
        self._weights = list(weights.values())
        self._sums: torch.Tensor | None = None
        self._steps: torch.Tensor | None = None

    def add(self) -> None:
        """Count one step, after `backward`. One whose gradients are not all finite, as a loss scaler's are at times,
        is left out: no update comes of it."""
        norms = torch.stack(
            [p.new_zeros(()) if p.grad is None else torch.linalg.vector_norm(p.grad) for p in self._weights]
        ).double()
        finite = norms.isfinite().all()
        kept, one = torch.where(finite, norms, 0.0), finite.double()
        self._sums = kept if self._sums is None else self._sums + kept
        self._steps = one if self._steps is None else self._steps + one

    def take_means(self) -> dict[str, float]:
        """The mean of each layer since the last call, rounded to six digits."""
        if self._sums is None or self._steps is None or not self._steps:
            return dict.fromkeys(self.layers, 0.0)
        means = (self._sums / self._steps).tolist()
        self._sums = self._steps = None
        return {layer: float(f"{mean:.6g}") for layer, mean in zip(self.layers, means, strict=True)}


def write_gradient_norms(folder: Path, history: Sequence[Epoch], sidecar: Sidecar) -> None:
    """Write the norms of the epochs that have some; where none has, a file of an earlier training goes."""
    rows = [(done.epoch, done.gradient_norms) for done in history if done.gradient_norms]
    if not rows:
        (folder / GRADIENTS).unlink(missing_ok=True)
        return
    layers = tuple(rows[-1][1])
    found = GradientNorms(
        recipe=sidecar.recipe,
        model=str(sidecar.facts["model"]),
        layers=layers,
        epochs=tuple(epoch for epoch, _ in rows),
        norms=tuple(tuple(norms[layer] for layer in layers) for _, norms in rows),
    )
    write_json_artifact(folder / GRADIENTS, to_plain(found), dataclasses.replace(sidecar, kind="gradients", facts={}))
