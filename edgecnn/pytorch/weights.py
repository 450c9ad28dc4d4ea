"""Weights of a network: published ones, a checkpoint from elsewhere, or seeded random ones. No pickle is ever run."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.errors import ArtifactError, ModelError
from edgecnn.pytorch.download import fetch
from edgecnn.results.training import WeightsInfo
from edgecnn.zoo import ModelCard

State = dict[str, torch.Tensor]
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")  # where training scripts keep the tensors
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning
BN_PASSES, BN_BATCH, BN_BIAS = 2, 3, 1.0
# DenseNet as published: keys from before a PyTorch that refused dots in a module's name.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def load_weights(module: nn.Module, card: ModelCard, source: str, seed: int = 0) -> WeightsInfo:
    """Fill `module` from `source`: `default` (the published weights), `none` (seeded random ones), a path or a URL.

    Raises `ModelError` when they cannot be had or do not fit, `ArtifactError` when a file is not weights.
    """
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
    if re.match(r"https?://", source):
        info = load_checkpoint(fetch(source), module)
        return WeightsInfo(source, info.weights_sha256, source, weights_notes=info.weights_notes)
    return load_checkpoint(Path(source), module)


def load_checkpoint(path: Path, module: nn.Module, background: bool = False) -> WeightsInfo:
    """Fill `module` from a safetensors or PyTorch file; raises as `load_weights` does, and names the keys.

    With `background` a classifier of one class more than the module's loses its first: TensorFlow's networks count
    from a class "background" that no image has.
    """
    state, said = read_state(path)
    if background:
        said += _drop_background(state, module)
    _fit(path, state, module)
    module.load_state_dict(state, strict=False)
    return WeightsInfo(path.name, sha256_of(path), weights_notes=tuple(said))


def read_state(path: Path) -> tuple[State, list[str]]:
    """The tensors of a checkpoint by name, and what was done to find them; nothing in the file is ever executed."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file", "check the path; weights are a .safetensors or .pth file")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    said: list[str] = []
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            said.append(f"the weights stand under {wrapper!r}")
            break
    tensors = isinstance(content, Mapping) and all(isinstance(v, torch.Tensor) for v in content.values())
    if not tensors or not content:
        found = f"a {type(content).__name__}" if not isinstance(content, Mapping) else "a mapping of other things"
        raise ArtifactError(f"{path}: holds {found}, not tensors by name", "save it with torch.save(net.state_dict())")
    state = {str(k): v for k, v in content.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): v for key, v in state.items()}
            said.append(f"the prefix {prefix!r} of its keys was taken off")
    return {_OLD_DENSENET.sub(r"\1\2", key): v for key, v in state.items()}, said


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


def _is_safetensors(path: Path) -> bool:
    """By name or content: eight bytes of header length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    by_content = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size
    return by_content or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as exc:
        raise ArtifactError(f"{path}: not a whole safetensors file ({exc})", "it is truncated: copy it again") from exc


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(2)
    if head not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ArtifactError(f"{path}: not a whole PyTorch or safetensors file", "weights are a .safetensors or a .pth")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign pickle protocol; what matters is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ArtifactError(
            f"{path}: a pickle that holds more than weights, or is damaged; it was not run",
            "load it where you trust it and save net.state_dict() alone, best as safetensors",
        ) from exc
    except Exception as exc:  # a damaged pickle raises whatever its bytes come to
        why = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
        raise ArtifactError(
            f"{path}: not a whole PyTorch checkpoint ({why})", "it is truncated or of another kind: copy it again"
        ) from exc


def _drop_background(state: State, module: nn.Module) -> list[str]:
    wanted = module.state_dict()
    keys = [f"{head}.{kind}" for head in module.head_names for kind in ("weight", "bias")]  # type: ignore[union-attr]
    longer = [key for key in keys if key in state and len(state[key]) == len(wanted[key]) + 1]
    state.update({key: state[key][1:] for key in longer})
    return ["the class 'background' was left out"] if longer else []


def _fit(path: Path, state: State, module: nn.Module) -> None:
    """Raise `ModelError` that names what does not fit; the counters of BN may be missing."""
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    if missing or unexpected:
        parts = [f"{len(k)} keys {w} ({_some(k)})" for k, w in ((missing, "missing"), (unexpected, "unexpected")) if k]
        raise ModelError(
            f"{path}: {' and '.join(parts)} of {len(wanted)} that the network has",
            "it is a checkpoint of another network or variant: `edgecnn models` lists them",
        )
    other = {k: (list(v.shape), list(wanted[k].shape)) for k, v in state.items() if v.shape != wanted[k].shape}
    if not other:
        return
    name, (found, here) = next(iter(other.items()))
    heads = {(f[0], h[0]) for f, h in other.values() if f and h and f[1:] == h[1:]}
    if len(heads) == 1 and all(f and h and f[1:] == h[1:] for f, h in other.values()):
        classes, ours = heads.pop()
        raise ModelError(
            f"{path}: its head {name} is {found}, this network's is {here}: {classes} classes, not {ours}",
            f"give --classes {classes}",
        )
    raise ModelError(
        f"{path}: {len(other)} tensors of another shape, first {name}: {found} there, {here} in this network",
        "it is a checkpoint of another variant: `edgecnn models` lists them",
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
