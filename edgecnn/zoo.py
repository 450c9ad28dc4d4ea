"""Torch-free facts about each network, from `zoo.toml`; the networks themselves stand in `edgecnn/pytorch/models/`."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from importlib import resources
from typing import TypeAlias

from edgecnn.errors import ModelError, nearest
from edgecnn.records import STRICT, Toml, name_tables, parse_toml, record_from_mapping

PreprocessingFields: TypeAlias = "dict[str, int | str | list[float]]"  # as it stands in a sidecar
OWN = "own"  # the family of networks that are not of the zoo


@dataclass(frozen=True)
class Weights:
    """One published set of weights, and what it was trained with."""

    __pydantic_config__ = STRICT

    url: str
    sha256: str  # whole, or the prefix that the publisher gives
    license: str
    top1_pct: float | None = None
    top5_pct: float | None = None
    source: str = ""
    background: bool = False  # the file's classifier has a class "background" before ours


@dataclass(frozen=True)
class ModelCard:
    """What is known about a network without building it.

    `input_shape` is (channels, height, width); `macs` counts multiply-adds for one image of that shape; `params` leaves
    out auxiliary branches, which only training runs; `peak_activation_bytes` are the most alive at once in float32,
    `weight_layers` the convolutions and fully connected layers on the longest way to the logits. `min_size` is the
    smallest square input that the network can take, and with `fixed_size` the only one. `top1_pct` and `top5_pct` are
    the publisher's, or the paper's where nobody publishes weights.
    """

    __pydantic_config__ = STRICT

    name: str
    family: str
    year: int
    paper: str
    input_shape: tuple[int, int, int]
    classes: int
    params: int
    macs: int
    preprocessing: PreprocessingFields
    peak_activation_bytes: int = 0
    weight_layers: int = 0
    top1_pct: float | None = None
    top5_pct: float | None = None
    aliases: tuple[str, ...] = ()
    weights: Weights | None = None
    min_size: int = 1
    fixed_size: bool = False
    notes: str = field(default="")


@dataclass(frozen=True)
class _Zoo:
    """What `zoo.toml` holds."""

    __pydantic_config__ = STRICT

    preprocessing: dict[str, PreprocessingFields]
    models: dict[str, ModelCard]


def cards() -> dict[str, ModelCard]:
    """Every network by name, in the order of `zoo.toml` (that of the papers)."""
    return _content().models


def presets() -> dict[str, PreprocessingFields]:
    """The named ways of preprocessing, as they stand in a sidecar."""
    return _content().preprocessing


@functools.cache
def _content() -> _Zoo:
    content = parse_toml(resources.files("edgecnn").joinpath("zoo.toml").read_text(encoding="utf-8"))
    preprocessing = content.pop("preprocessing")
    models = {name: _with_preprocessing(entry, preprocessing) for name, entry in content.items()}
    tables = {"preprocessing": preprocessing, "models": name_tables(models)}
    return record_from_mapping(_Zoo, tables, "zoo.toml", "install edgecnn again")


def _with_preprocessing(entry: Toml, presets: Toml) -> Toml:
    """A network's table with the preset that it names in place of the name."""
    if not isinstance(entry, dict) or not isinstance(presets, dict):
        return entry
    return {**entry, "preprocessing": presets.get(str(entry.get("preprocessing")))}


def find_model(name: str) -> ModelCard:
    """The card of a network by its name or alias; raises `ModelError` with the nearest names."""
    known = cards()
    if name in known:
        return known[name]
    aliases = {alias: card for card in known.values() for alias in card.aliases}
    if name in aliases:
        return aliases[name]
    raise ModelError(
        f"no network {name!r} in the zoo of {len(known)}",
        nearest(name, [*known, *aliases]) or "`edgecnn models` lists them",
    )


def check_size(card: ModelCard, height: int, width: int) -> None:
    """Refuse, with the smallest that it can take, a resolution that the network cannot; raises `ModelError`."""
    if card.fixed_size and (height, width) != card.input_shape[1:]:
        raise ModelError(
            f"{card.name} cannot take {height}x{width}: its fully connected layers fit {card.min_size}x{card.min_size}",
            f"use {card.min_size}, or a network that ends in average pooling",
        )
    if min(height, width) < card.min_size:
        raise ModelError(
            f"{card.name} cannot take {height}x{width}: the smallest it can is {card.min_size}x{card.min_size}",
            f"use at least {card.min_size}",
        )


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and wnids of the 1 000 ImageNet classes, in the order of every published set of weights."""
    text = resources.files("edgecnn").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(name for _, name in rows), tuple(wnid for wnid, _ in rows)
