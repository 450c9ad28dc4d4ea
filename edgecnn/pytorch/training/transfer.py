"""Transfer learning: weights to start from, what of them is trained, and the features of the rest computed once.

| | very similar data | very different data |
|---|---|---|
| little data | `train = "head"` | `edgecnn probe`: a linear classifier on several stages |
| much data | `train = "last-N"` | `train = "all"`, or `"last-N"` with a large N |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.errors import RecipeError
from edgecnn.pytorch.models import build_model, build_model_to_fill
from edgecnn.pytorch.training.augment import key
from edgecnn.pytorch.training.epoch import DataSplits, Learner
from edgecnn.pytorch.training.loader import CachedFeatures, Source
from edgecnn.pytorch.training.optimizer import ParameterGroup, initialize
from edgecnn.pytorch.training.progress import Progress
from edgecnn.pytorch.weights import load_weights, read_fitting
from edgecnn.recipe.schema import AugmentSettings, Recipe, TransferSettings
from edgecnn.zoo import ModelCard, find_model

CACHE_BYTES = 4 << 30  # frozen features up to this size are kept
FEATURE_BATCH = 64
RANDOM = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


def known_labels(weights: str) -> list[str]:
    """The classes of a checkpoint with a sidecar (wnids where it has them), in its order; empty for other weights."""
    path = Path(weights)
    if not path.is_file() or not sidecar_path(path).exists():
        return []
    sidecar = read_sidecar(path)
    return list(sidecar.wnids or sidecar.labels or ())


def start_network(recipe: Recipe, labels: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """The recipe's network with `len(labels)` classes, and what is worth saying: fresh, or with the weights it names.

    A head is kept when the weights know the same classes, else it is new (under the recipe's seed). Raises `ModelError`
    when the weights do not fit.
    """
    card, settings = find_model(recipe.model.name), recipe.train
    torch.manual_seed(key(settings.seed, "weights"))
    network = build_model(card.name, len(labels))
    initialize(network, settings)
    if recipe.model.weights == "none":
        return network, []
    classes = count_classes(recipe.model.weights, card, recipe.model.ema)
    source = build_model(card.name, classes)
    info = load_weights(source, card, recipe.model.weights, ema=recipe.model.ema)
    known = known_labels(recipe.model.weights)
    keeps_head = classes == len(labels) and (known == list(labels) or (not known and not recipe.transfer.train))
    state, heads = source.state_dict(), tuple(f"{name}." for name in head_names(network))
    if not keeps_head:
        state = {k: v for k, v in state.items() if not k.startswith(heads)}
    missing = network.load_state_dict(state, strict=False).missing_keys
    assert all(k.startswith(heads) for k in missing)
    head = "kept" if keeps_head else f"new, for {len(labels)} classes"
    return network, [f"weights from {info.weights}; the head is {head}", *info.weights_notes]


def head_names(network: nn.Module) -> tuple[str, ...]:
    """The classifier layers of a network of the zoo."""
    names: tuple[str, ...] = tuple(network.head_names)  # type: ignore[arg-type]
    return names


def stage_names(network: nn.Module) -> tuple[str, ...]:
    """The other submodules with parameters, in forward order."""
    names: tuple[str, ...] = tuple(network.stage_names)  # type: ignore[arg-type]
    return names


def make_learner(recipe: Recipe, network: nn.Module) -> Learner:
    """Which part of `network` learns, at which share of the learning rate, by `[transfer]`.

    Pretrained layers learn at `rate_factor` times the rate of a new head; BN statistics of frozen layers are frozen.
    """
    mode, settings = recipe.transfer.train, recipe.train
    auxiliary = settings.auxiliary_weight
    if not mode:
        return Learner(network, network, [ParameterGroup(list(network.parameters()))], [], auxiliary)
    heads, stages = head_names(network), stage_names(network)
    trained = stages if mode == "all" else stages[_first_trained(recipe.transfer, stages) :]
    extra: tuple[str, ...] = tuple(getattr(network, "aux_names", ()))
    if mode != "all":
        auxiliary = 0.0
    else:
        trained = (*trained, *extra)
    head_parameters = {id(p) for name in heads for p in network.get_submodule(name).parameters()}
    if mode != "all":  # the heads of auxiliary branches stand still with them
        heads = tuple(h for h in heads if not h.startswith(tuple(f"{name}." for name in extra)))
    head = [p for name in heads for p in network.get_submodule(name).parameters()]
    slow = [p for name in trained for p in network.get_submodule(name).parameters() if id(p) not in head_parameters]
    learning = {id(p) for p in (*head, *slow)}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in learning)
    frozen = [network.get_submodule(name) for name in (*stages, *extra) if name not in trained]
    groups = [ParameterGroup(head)]
    if slow:
        groups.append(ParameterGroup(slow, recipe.transfer.rate_factor))
    return Learner(network, network, groups, frozen, auxiliary)


def count_parameters(recipe: Recipe, classes: int) -> tuple[int, int]:
    """How many parameters the recipe's network has with `classes`, auxiliary branches included, and how many of them
    learn; raises `RecipeError` where it has fewer stages than are to learn."""
    network = build_model_to_fill(recipe.model.name, classes)
    learner = make_learner(recipe, network)
    learning = [p for group in learner.groups for p in group.params]
    return sum(p.numel() for p in network.parameters()), sum(p.numel() for p in learning)


def cache_features(
    recipe: Recipe, learner: Learner, splits: DataSplits, progress: Progress
) -> tuple[Learner, DataSplits]:
    """Where a part is frozen and no augmentation varies its input: its features, computed once, and the rest of the
    network as what is trained on them; else both as they came."""
    if not recipe.transfer.cache or not learner.frozen:
        return learner, splits
    settings = recipe.train
    if settings.augment != AugmentSettings() or settings.mixup or settings.cutmix:
        progress.note("augmentation varies the images: the features of the frozen layers are computed in each epoch")
        return learner, splits
    parts = split_frozen(learner.network, [g.params for g in learner.groups])
    if parts is None:
        progress.note("the frozen layers cannot be cut off in one place: their features are computed in each epoch")
        return learner, splits
    prefix, body = parts
    one = next(iter(splits.train.batches([splits.train.readable[:1]])))
    prefix.eval()
    with torch.no_grad():
        shape = prefix(splits.train.inputs(one)).shape[1:]
    images = len(splits.train.readable) + (len(splits.validation.readable) if splits.validation else 0)
    if images * shape.numel() * 4 > CACHE_BYTES:
        progress.note(f"{images} x {list(shape)} features exceed {CACHE_BYTES >> 30} GiB: computed in each epoch")
        return learner, splits
    progress.note(f"features of the frozen layers, {list(shape)}, are computed once for {images} images")
    cached = replace(
        splits,
        train=compute_frozen_features(prefix, splits.train),
        validation=compute_frozen_features(prefix, splits.validation) if splits.validation else None,
    )
    return replace(learner, body=body), cached


@torch.no_grad()
def compute_frozen_features(prefix: nn.Module, source: Source) -> CachedFeatures:
    """`prefix`, in eval mode, of every readable image."""
    order = np.array_split(source.readable, -(-len(source.readable) // FEATURE_BATCH))
    features, labels = [], []
    for batch in source.batches(order):
        features.append(prefix(source.inputs(batch)).contiguous())
        labels.append(batch.label)
    return CachedFeatures(torch.cat(features), torch.cat(labels), source.corrupt, source.sha256)


def split_frozen(network: nn.Module, trained: Sequence[Sequence[Tensor]]) -> tuple[nn.Module, nn.Module] | None:
    """(frozen part, the rest), both made of the network's own modules; None when more than one tensor crosses the cut,
    or when nothing stands before it. Dropout belongs to the rest: it differs at every step."""
    learning = {id(p) for group in trained for p in group}
    roots = (*stage_names(network), *head_names(network))
    was_training = network.training
    network.eval()
    graph = fx.GraphModule(network, _Stages(roots).trace(network))
    network.train(was_training)
    late: set[fx.Node] = set()
    for node in graph.graph.nodes:
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        learns = module is not None and any(id(p) in learning for p in module.parameters())
        if learns or isinstance(module, RANDOM) or any(n in late for n in node.all_input_nodes):
            late.add(node)
    if all(node in late for node in graph.graph.nodes if node.op == "call_module"):
        return None
    halves = split_module(graph, network, lambda node: int(node in late))
    first, second = (getattr(halves, f"submod_{k}", None) for k in (0, 1))
    if first is None or second is None or len([n for n in second.graph.nodes if n.op == "placeholder"]) != 1:
        return None
    [returned] = (n for n in first.graph.nodes if n.op == "output")
    return (first, second) if isinstance(returned.args[0], fx.Node) else None


class _Stages(fx.Tracer):
    """Traces the top of a network only: stages, heads and everything without them are called as they are."""

    def __init__(self, roots: Sequence[str]) -> None:
        super().__init__()
        self.roots = roots

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(root.startswith(f"{module_qualified_name}.") for root in self.roots)


def _first_trained(transfer: TransferSettings, stages: Sequence[str]) -> int:
    count = 0 if transfer.train == "head" else int(transfer.train.partition("-")[2])
    if count > len(stages):
        raise RecipeError(
            f"transfer.train = {transfer.train!r}: the network has {len(stages)} stages ({', '.join(stages)})",
            f"at most 'last-{len(stages)}'",
        )
    return len(stages) - count


def count_classes(weights: str, card: ModelCard, ema: bool = False) -> int:
    """How many classes the weights were trained for; raises `ModelError` where they are of another network."""
    path = Path(weights)
    if not path.is_file():
        return card.classes
    network = build_model(card.name)
    state, _ = read_fitting(path, network, ema)
    return int(state[f"{head_names(network)[0]}.weight"].shape[0])
