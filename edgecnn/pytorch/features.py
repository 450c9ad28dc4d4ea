"""The maps and vectors inside a network that an export can give in place of its logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from edgecnn.contract import EMBEDDING, INPUT
from edgecnn.errors import ModelError, nearest
from edgecnn.pytorch.receptive_field import Fields, over
from edgecnn.results.summary import FeatureMap

POOL = "pool"
RESERVED = {INPUT: "input", EMBEDDING: "output of unit length, by which `same` compares,"}
_FOLLOWING = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid)


class Made(NamedTuple):
    """What a node of a traced network has made: its name, its shape without the batch, and what it sees."""

    name: str
    shape: tuple[int, ...]
    fields: Fields


def find_features(
    network: nn.Module, made: Mapping[fx.Node, Made], stages: Sequence[str], heads: Sequence[str]
) -> tuple[FeatureMap, ...]:
    """The features of a network whose layers were traced and run, of these `stages` and before the first of `heads`.

    Those of a stage are its output behind the normalization and activation that follow; the last with stride 2^k are
    C<k>, as feature pyramids call them (Lin et al. 2017). `pool` is what the first layer of the head reads, averaged
    over its positions where it is a map. A stage that is called so itself has no feature of its own.
    """
    by_layer = dict[str, FeatureMap]()
    calls = [str(node.target) for node in made if node.op == "call_module"]
    for stage in stages:
        inside = [node for node in made if f"{made[node].name}.".startswith(f"{stage}.")]
        if not inside or not any(stage in (path, str(node.target)) for node in inside for path in _scopes(node)):
            continue
        last, layer = inside[-1], stage
        while (then := _following(network, last, calls)) is not None:
            last, layer = then, str(then.target)
        if last in made:
            by_layer.setdefault(layer, _feature(stage, stage, layer, made[last]))
    found = tuple(by_layer.values())
    pyramid = {f.stride.bit_length() - 1: f for f in found if f.stride > 1 and f.stride.bit_count() == 1}
    named = [FeatureMap(f"C{k}", f.stage, f.layer, f.shape, f.stride, f.receptive_field) for k, f in pyramid.items()]
    pooled = tuple(_pooled(made, heads))
    taken = {feature.name for feature in (*named, *pooled)}
    return (*named, *(feature for feature in found if feature.name not in taken), *pooled)


def name_stages(network: nn.Module, made: Mapping[fx.Node, Made]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages and the head of a network that does not name them: the layer that runs last of those with weights is
    the head, the parts beside it in the outermost module that has several are the stages."""
    weighted = [
        str(node.target)
        for node in made
        if node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), (nn.Linear, nn.Conv2d))
    ]
    if not weighted:
        return (), ()
    prefix, outermost = "", network
    while len(children := dict(outermost.named_children())) == 1:
        (name, outermost) = next(iter(children.items()))
        prefix = f"{prefix}{name}."
    parts = [f"{prefix}{name}" for name in children]
    return tuple(p for p in parts if not f"{weighted[-1]}.".startswith(f"{p}.")), (weighted[-1],)


def choose_features(known: Sequence[FeatureMap], names: Sequence[str]) -> tuple[FeatureMap, ...]:
    """Those of these `names`; raises `ModelError` for a name that is not there, and for two of one layer."""
    by_name = {feature.name: feature for feature in known if feature.name not in RESERVED}
    for name in names:
        if name in RESERVED:
            raise ModelError(
                f"features {name!r}: a graph's {RESERVED[name]} is called so",
                "give this part of the network another name" + (f"; there are {', '.join(by_name)}" if by_name else ""),
            )
        if name not in by_name:
            raise ModelError(f"no features {name!r}", nearest(name, by_name) or f"there are {', '.join(by_name)}")
    chosen = tuple(by_name[name] for name in names)
    for k, one in enumerate(chosen):
        for other in chosen[:k]:
            if (one.layer, bool(one.stage)) == (other.layer, bool(other.stage)):
                raise ModelError(f"features {other.name} and {one.name} are the same map", "name it once")
    if not chosen:
        raise ModelError("no features are named", f"there are {', '.join(by_name)}")
    return chosen


@contextlib.contextmanager
def giving_features(network: nn.Module, features: Sequence[FeatureMap]) -> Iterator[None]:
    """Within it, `network` returns a tuple of these features in place of its logits."""
    seen = dict[str, Tensor]()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    def keep_input(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].mean((2, 3)) if inputs[0].ndim == 4 else inputs[0]

        return hook

    def replace_output(module: nn.Module, inputs: Any, output: Any) -> tuple[Tensor, ...]:
        return tuple(seen.pop(feature.name) for feature in features)

    handles = [
        network.get_submodule(f.layer).register_forward_pre_hook(keep_input(f.name))
        if not f.stage
        else network.get_submodule(f.layer).register_forward_hook(keep(f.name))
        for f in features
    ]
    handles.append(network.register_forward_hook(replace_output))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scopes(node: fx.Node) -> list[str]:
    """The paths of the modules whose forward has this node."""
    return ["", *(path for path, _ in node.meta.get("nn_module_stack", {}).values())]


def _following(network: nn.Module, node: fx.Node, calls: Sequence[str]) -> fx.Node | None:
    """The normalization or activation that alone reads what `node` gives; None where that is no layer of its own."""
    if len(node.users) != 1 or (user := next(iter(node.users))).op != "call_module":
        return None
    layer = network.get_submodule(str(user.target))
    return user if isinstance(layer, _FOLLOWING) and calls.count(str(user.target)) == 1 else None


def _feature(name: str, stage: str, layer: str, made: Made) -> FeatureMap:
    stride = made.fields[0].jump if len(made.shape) == 3 and made.shape[1:] != (1, 1) else 0
    return FeatureMap(name, stage, layer, made.shape, stride, tuple(field.size for field in made.fields))


def _pooled(made: Mapping[fx.Node, Made], heads: Sequence[str]) -> Iterator[FeatureMap]:
    calls = [node for node in made if node.op == "call_module" and node.target in heads]
    if calls and (read := calls[0].all_input_nodes[0]) in made:
        _, shape, fields = made[read]
        seen = over(fields, shape[1:]) if len(shape) == 3 else fields
        yield FeatureMap(POOL, "", str(calls[0].target), shape[:1], 0, tuple(field.size for field in seen))
