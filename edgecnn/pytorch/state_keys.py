"""The keys of a foreign checkpoint, made those of the network: prefixes off, averages told apart, heads unwrapped.

Whatever is done to them is said; what does not fit after that is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import nn

from edgecnn.errors import ArtifactError, ModelError
from edgecnn.pytorch.checkpoint_file import AVERAGED, Copy, State, shown

PLACES = ("", "state_dict", "model_state_dict", "model", "net", "weights")  # where training scripts keep the tensors
# DataParallel and DDP, torch.compile, Lightning and the like
PREFIX_WORDS = {"module", "_orig_mod", "model", "net", "network", "backbone"}
HEAD_WORDS = PREFIX_WORDS | {"head", "cls_head"}  # a head that stands beside its backbone
# What PyTorch puts around a network or around modules inside it
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
COUNTERS = ("num_batches_tracked", "n_averaged", "steps")
PROFILER = ("total_ops", "total_params")  # thop's
_LOSSES = re.compile(r"criterion|(\w+_)?loss(_\w+)?|(\w+_)?metrics?|(train|val|valid|test)_(acc|accuracy|f1|auroc)")
NEARLY = 0.9  # of the best copy's share of keys: a copy of the same network


@dataclass(frozen=True)
class _Candidate:
    """A copy whose keys below `prefix` are names of the network: key of the file by name in the network."""

    copy: Copy
    prefix: str
    keys: dict[str, str]
    done: str = ""  # to its keys or to the network's names, to make them fit

    @property
    def averaged(self) -> bool:
        dots = re.finditer(r"\.", self.prefix)
        outer = [self.prefix[: dot.start()].rpartition(".")[0] for dot in dots] if self.prefix else [""]
        counters = {f"{name}.n_averaged" if name else "n_averaged" for name in outer}  # torch's AveragedModel
        return self.copy.averaged or bool(AVERAGED.search(self.prefix)) or bool(counters & self.copy.tensors.keys())

    @property
    def where(self) -> str:
        parts = [repr(self.copy.place)] if self.copy.place else []
        return ", ".join([*parts, *([f"prefix {self.prefix!r}"] if self.prefix else [])]) or "the top"

    @property
    def rank(self) -> tuple[int, bool]:
        first = self.copy.place.partition(".")[0]
        known = set(filter(None, self.prefix.split("."))) <= PREFIX_WORDS
        return PLACES.index(first) if first in PLACES else len(PLACES), not known


def fit_keys(path: Path, copies: Sequence[Copy], network: nn.Module, ema: bool = False) -> tuple[State, list[str]]:
    """The tensors of one copy under the network's own keys, and what was done; their shapes are not looked at.

    With `ema` the averaged copy is taken. Raises `ModelError` that names what differs after the best prefix.
    """
    own = network.state_dict()
    wanted = {k: v for k, v in own.items() if not k.endswith(COUNTERS)}  # these may be missing
    heads: Sequence[str] = getattr(network, "head_names", ())
    chosen, others, said = _choose(path, _candidates(copies, wanted), ema, len(wanted))
    keys, tensors = dict(chosen.keys), chosen.copy.tensors
    said += _take_the_head_beside(keys, tensors, wanted)
    said += _unwrap_heads(keys, chosen, wanted, heads)
    keys |= {n: f"{chosen.prefix}{n}" for n in own if n not in wanted and f"{chosen.prefix}{n}" in tensors}
    used = set(keys.values())
    aside = [key for key in tensors if key not in used]
    foreign = [key for key in aside if _is_foreign(key) or key.startswith(tuple(p for p in others if p))]
    unexpected = [key for key in aside if key not in foreign]
    missing = [name for name in wanted if name not in keys]
    if missing or unexpected:
        raise _misfit(path, chosen, missing, unexpected, len(wanted), heads)
    named = [key for key in foreign if not key.endswith(COUNTERS) and not key.startswith(tuple(p for p in others if p))]
    if named:
        said.append(f"left aside, as they are no weights of the network: {_some(named)}")
    for name, key in keys.items():
        _require_plain(path, key, tensors[key], own[name])
    return {name: tensors[key] for name, key in keys.items()}, said


def _candidates(copies: Iterable[Copy], wanted: Iterable[str]) -> list[_Candidate]:
    """Copies of the network, by what stands before its names; those that cover nearly as many names as the best."""
    names, found = list(wanted), list[_Candidate]()
    for copy in copies:
        found += max(_ways(copy, names), key=lambda way: max((len(c.keys) for c in way), default=0))
    most = max((len(c.keys) for c in found), default=0)
    if 2 * most < len(names):  # another network: names that they share by chance tell no prefix
        return sorted((c for c in found if not c.rank[1]), key=lambda c: -len(c.keys))[:1]
    return [c for c in found if len(c.keys) >= NEARLY * most]


def _ways(copy: Copy, names: Sequence[str]) -> Iterator[list[_Candidate]]:
    """The candidates of a copy: as it is; with wrappers inside its keys off (a compiled layer's); with a prefix that
    all names of the network have (a wrapper of one's own) taken as given."""
    yield _by_prefix(copy, names)
    bare = {WRAPPERS.sub("", key): tensor for key, tensor in copy.tensors.items()}
    if bare.keys() != copy.tensors.keys() and len(bare) == len(copy.tensors):
        done = "wrappers inside its keys (_orig_mod and the like) were taken off"
        yield _by_prefix(Copy(copy.place, copy.averaged, bare), names, done=done)
    modules = zip(*(name.split(".")[:-1] for name in names), strict=False)
    own = "".join(f"{m[0]}." for m in takewhile(lambda parts: len(set(parts)) == 1, modules))
    if own and all("." in name.removeprefix(own) for name in names):
        yield _by_prefix(copy, names, own, f"they were taken for the network's {own!r}")


def _by_prefix(copy: Copy, names: Iterable[str], own: str = "", done: str = "") -> list[_Candidate]:
    """The names that the file has below each prefix, those of the network without `own`."""
    inner = {name.removeprefix(own) for name in names}
    longest = max(map(len, inner), default=0)
    found: dict[str, dict[str, str]] = {}
    for key in copy.tensors:
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            if len(key) - start <= longest and key[start:] in inner:
                found.setdefault(key[:start], {})[own + key[start:]] = key
    return [_Candidate(copy, prefix, keys, done) for prefix, keys in found.items()]


def _choose(
    path: Path, candidates: Sequence[_Candidate], ema: bool, count: int
) -> tuple[_Candidate, tuple[str, ...], list[str]]:
    """The copy to take, the prefixes of the others beside it, and what is worth saying."""
    averaged = [c for c in candidates if c.averaged]
    plain = [c for c in candidates if not c.averaged]
    if not candidates:
        raise ModelError(
            f"{path}: none of its keys is one of the {count} that the network has",
            "it is a checkpoint of another network or variant: `edgecnn models` lists them",
        )
    if ema and not averaged:
        raise ModelError(
            f"{path}: no averaged copy of the weights beside those at {plain[0].where}",
            "leave --ema (model.ema in a recipe) out",
        )
    ranked = sorted(averaged if ema or not plain else plain, key=lambda c: c.rank)
    chosen, said = ranked[0], list[str]()
    for other in ranked[1:]:
        if other.rank == chosen.rank and not _equal(chosen, other):
            raise ModelError(
                f"{path}: two copies of the network with other values: {chosen.where} and {other.where}",
                "save the one that is meant alone, with torch.save(net.state_dict())",
            )
    if chosen.copy.place:
        said.append(f"the weights stand under {chosen.copy.place!r}")
    if chosen.prefix:
        said.append(f"the prefix {chosen.prefix!r} of its keys was taken off")
    said += filter(None, [chosen.done])
    if chosen.averaged:
        said.append("they are an average over the training (EMA or SWA)")
    elif averaged:
        said.append(f"an averaged copy stands beside them ({averaged[0].where}): --ema takes it")
    others = [c for c in candidates if c is not chosen]
    said += [f"another copy was left aside: {c.where}" for c in others if c in ranked]
    return chosen, tuple(c.prefix for c in others if c.copy is chosen.copy), said


def _equal(one: _Candidate, other: _Candidate) -> bool:
    shared = one.keys.keys() & other.keys.keys()
    return all(torch.equal(one.copy.tensors[one.keys[n]], other.copy.tensors[other.keys[n]]) for n in shared)


def _take_the_head_beside(keys: dict[str, str], tensors: State, wanted: Iterable[str]) -> list[str]:
    """A head that does not stand below the backbone's prefix: `backbone.conv1.weight`, `head.fc.weight`."""
    taken: set[str] = set()
    for name in [n for n in wanted if n not in keys]:
        ends = [k for k in tensors if k == name or k.endswith(f".{name}")]
        ends = [k for k in ends if set(filter(None, k[: -len(name)].split("."))) <= HEAD_WORDS]
        if len(ends) == 1:
            keys[name] = ends[0]
            taken.add(ends[0][: -len(name)])
    return [f"so was the prefix {prefix!r} of others" for prefix in sorted(taken)]


def _unwrap_heads(keys: dict[str, str], chosen: _Candidate, wanted: State, heads: Sequence[str]) -> list[str]:
    """A classifier in a Sequential where the network has it bare (`fc.1.weight` for `fc.weight`), or the other way."""
    below = {k.removeprefix(chosen.prefix): k for k in chosen.copy.tensors if k.startswith(chosen.prefix)}
    free = {k: v for k, v in below.items() if v not in set(keys.values()) and not _is_foreign(k)}
    said = []
    for head in heads:
        own = [n for n in wanted if n.startswith(f"{head}.")]
        if not own or any(n in keys for n in own):
            continue
        layers = _layers_at(_root_of(head, wanted), free)
        if len(layers) != 1:
            continue
        (layer,) = layers
        inside = {name: free.get(f"{layer}.{name.removeprefix(f'{head}.')}") for name in own}
        if all(inside.values()) and chosen.copy.tensors[str(inside[own[0]])].shape[1:] == wanted[own[0]].shape[1:]:
            keys.update({name: str(key) for name, key in inside.items()})
            said.append(f"its head {layer} is the network's {head}; layers without weights beside it are not known")
    return said


def _root_of(head: str, wanted: Iterable[str]) -> str:
    """Where a head may stand: its name, or the Sequential around it when nothing else there has weights."""
    parent, _, last = head.rpartition(".")
    alone = last.isdigit() and parent and all(n.startswith(f"{head}.") for n in wanted if n.startswith(f"{parent}."))
    return parent if alone else head


def _layers_at(root: str, keys: Iterable[str]) -> set[str]:
    """The layers with weights at `root` or in Sequentials there."""
    found = re.compile(rf"({re.escape(root)}(?:\.\d+)*)\.(\w+)")
    return {hit.group(1) for hit in map(found.fullmatch, keys) if hit}


def _is_foreign(key: str) -> bool:
    """Whether a key is known to be no weight of a network: a counter, a profiler's total, a loss's or a metric's."""
    *modules, last = key.split(".")
    return last in (*COUNTERS, *PROFILER) or any(_LOSSES.fullmatch(module) for module in modules)


def _misfit(
    path: Path,
    chosen: _Candidate,
    missing: Sequence[str],
    unexpected: Sequence[str],
    count: int,
    heads: Sequence[str],
) -> ModelError:
    parts = [f"{len(k)} keys {w} ({_some(k)})" for k, w in ((missing, "missing"), (unexpected, "unexpected")) if k]
    fits = count - len(missing)
    after = f" after the prefix {chosen.prefix!r}" if chosen.prefix else ""
    if 2 * fits < count:
        hint = "it is a checkpoint of another network or variant: `edgecnn models` lists them"
    else:
        hint = f"{fits} of {count} keys fit: rename the others, or leave them out, with torch.load and torch.save"
        if missing and all(name.startswith(tuple(f"{head}." for head in heads)) for name in missing):
            hint = f"only the classifier differs: {heads[0]} as one layer fits, or a Sequential with no other weights"
        if not missing:
            hint = f"the network is whole; leave {_some(unexpected)} out where they are no part of it"
    return ModelError(f"{path}: {' and '.join(parts)} of {count} that the network has{after}", hint)


def _require_plain(path: Path, key: str, tensor: torch.Tensor, wanted: torch.Tensor) -> None:
    odd = "a quantized tensor" if tensor.is_quantized else "a tensor without data" if tensor.is_meta else ""
    odd = odd or ("" if tensor.layout == torch.strided and not tensor.is_nested else "a sparse tensor")
    if not odd and tensor.is_floating_point() != wanted.is_floating_point():
        odd = str(tensor.dtype).removeprefix("torch.")
    if odd:
        kind = str(wanted.dtype).removeprefix("torch.")
        raise ArtifactError(f"{path}: {shown(key)} is {odd}, not {kind}", "save the network in FP32, FP16 or BF16")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(map(shown, keys[:4])) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
