"""Weights of a network: published ones, a checkpoint from elsewhere, or seeded random ones. No pickle is ever run."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.errors import ModelError
from edgecnn.pytorch.checkpoint_file import State, read_copies
from edgecnn.pytorch.download import fetch
from edgecnn.pytorch.state_keys import fit_keys
from edgecnn.results.training import WeightsInfo
from edgecnn.zoo import ModelCard

BN_PASSES, BN_BATCH, BN_BIAS = 2, 3, 1.0


def load_weights(module: nn.Module, card: ModelCard, source: str, seed: int = 0, *, ema: bool = False) -> WeightsInfo:
    """Fill `module` from `source`: `default` (the published weights), `none` (seeded random ones), a path or a URL,
    behind which its hash may stand (`#sha256=HEX`).

    With `ema` the averaged copy in a file is taken. Raises `ModelError` when they cannot be had or do not fit,
    `ArtifactError` when a file is not weights.
    """
    if source in ("none", "default") and ema:
        raise ModelError(
            f"{card.name}: --ema takes the averaged copy of a checkpoint, and the weights are {source!r}",
            "name a checkpoint, or leave --ema (model.ema in a recipe) out",
        )
    if source == "none":
        randomize(module, card.input_shape, seed)
        return WeightsInfo("none", weights_notes=(f"random weights (seed {seed}): its logits mean nothing",))
    if source == "default":
        if card.weights is None:
            raise ModelError(
                f"{card.name}: nobody publishes weights that fit it",
                "train it, give a --checkpoint, or take --weights none for random ones",
            )
        path = fetch(card.weights.url, card.weights.sha256)
        info = load_checkpoint(path, module, card.weights.background)
        return WeightsInfo("default", info.weights_sha256, card.weights.url, card.weights.license, info.weights_notes)
    if re.match(r"(https?|file)://", source):
        info = load_checkpoint(fetch(source), module, ema=ema)
        return WeightsInfo(source, info.weights_sha256, source, weights_notes=info.weights_notes)
    return load_checkpoint(Path(source), module, ema=ema)


def load_checkpoint(path: Path, module: nn.Module, background: bool = False, *, ema: bool = False) -> WeightsInfo:
    """Fill `module` from a safetensors or PyTorch file; raises as `load_weights` does, and names the keys.

    With `background` a classifier of one class more than the module's loses its first: TensorFlow's networks count
    from a class "background" that no image has. With `ema` the averaged copy in the file is taken.
    """
    state, said = read_fitting(path, module, ema)
    if background:
        said += _drop_background(state, module)
    _check_shapes(path, state, module)
    module.load_state_dict(state, strict=False)
    return WeightsInfo(path.name, sha256_of(path), weights_notes=tuple(said))


def read_fitting(path: Path, module: nn.Module, ema: bool = False) -> tuple[State, list[str]]:
    """The tensors of a checkpoint under the module's keys, their shapes not looked at, and what was done to find them.

    With `ema` the averaged copy is taken. Nothing in the file is ever executed. Raises `ArtifactError` and
    `ModelError`, which names what differs.
    """
    state, said = fit_keys(path, read_copies(path), module, ema)
    kinds = sorted({str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point()} - {"float32"})
    return state, said + [f"its {' and '.join(kinds)} weights were converted to float32"] * bool(kinds)


def randomize(module: nn.Module, input_shape: tuple[int, int, int], seed: int) -> None:
    """He initialization (He et al. 2015, fan in) from `seed`, then BN statistics from a few passes on seeded noise.

    Without the passes a deep random network gives logits near zero, or 1e8, and no comparison on it proves anything. BN
    biases of `BN_BIAS` keep most ReLUs open: with zeros each of them amplifies a difference (Yang et al. 2019, "A mean
    field theory of batch normalization"), and rounding alone moves the logits of Inception-v4 by 5e-4 of the largest.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.01, generator=generator)
        momenta = [norm.momentum for norm in norms]
        was_training = module.training
        module.eval()
        for norm in norms:
            norm.reset_parameters()
            norm.bias.fill_(BN_BIAS)
            norm.momentum = None  # the plain average of all passes
            norm.train()
        for _ in range(BN_PASSES if norms else 0):
            module(torch.randn(BN_BATCH, *input_shape, generator=generator))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.train(was_training)


def _drop_background(state: State, module: nn.Module) -> list[str]:
    wanted = module.state_dict()
    keys = [f"{head}.{kind}" for head in module.head_names for kind in ("weight", "bias")]  # type: ignore[union-attr]
    longer = [key for key in keys if key in state and len(state[key]) == len(wanted[key]) + 1]
    state.update({key: state[key][1:] for key in longer})
    return ["the class 'background' was left out"] if longer else []


def _check_shapes(path: Path, state: State, module: nn.Module) -> None:
    """Raise `ModelError` that names what does not fit."""
    wanted = module.state_dict()
    other = {k: (list(v.shape), list(wanted[k].shape)) for k, v in state.items() if v.shape != wanted[k].shape}
    if not other:
        return
    name, (found, here) = next(iter(other.items()))
    heads = {(f[0], h[0]) for f, h in other.values() if f and h and f[1:] == h[1:]}
    if len(heads) == 1 and all(f and h and f[1:] == h[1:] for f, h in other.values()):
        classes, ours = heads.pop()
        raise ModelError(
            f"{path}: its head {name} is {found}, this network's is {here}: {classes} classes, not {ours}",
            f"give --classes {classes} (model.classes in a recipe)",
        )
    raise ModelError(
        f"{path}: {len(other)} tensors of another shape, first {name}: {found} there, {here} in this network",
        "it is a checkpoint of another variant: `edgecnn models` lists them",
    )
