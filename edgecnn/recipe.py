"""Recipes: one TOML file says everything about one deployment; what it leaves out comes from the defaults here.

Loading is strict: an unknown key, a duplicate, a wrong type or an impossible value is an error, and all of them are
reported at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgecnn.errors import RecipeError, nearest

Precision = Literal["fp32", "fp16", "int8"]
RangeMethod = Literal["minmax", "percentile", "entropy", "mse", "auto"]


def _ranged(default: Any, low: float | None = None, high: float | None = None, free: bool = False) -> Any:
    """A bounded setting; a `free` one changes how a result is made and not what it is."""
    return field(default=default, metadata={"low": low, "high": high, "free": free})


@dataclass(frozen=True)
class ModelSettings:
    """Which network, and where its weights come from."""

    name: str = ""
    classes: int | None = _ranged(None, low=1)
    weights: str = "none"  # none (train it here), default (the published ones), a path or a URL


@dataclass(frozen=True)
class DataSettings:
    """Where the images are."""

    source: str = ""  # a data set name with its root (digits, mnist:DIR, cifar10:DIR) or an image folder
    calibration: str = ""  # a manifest of training images; empty: 512 of them, stratified


@dataclass(frozen=True)
class AugmentSettings:
    """How training images are varied; what is 0, false or left out is off. Each image's draw depends on the seed, the
    epoch and the image alone, not on batches, threads or processes."""

    mirror: bool = False
    pad: int = _ranged(0, low=0)  # random crop after padding by this many black pixels
    area: tuple[float, ...] | None = None  # random resized crop: least and greatest share of the picture, as [0.08, 1]
    jitter: tuple[int, ...] | None = None  # scale jitter: least and greatest short side before a random crop
    rotation_deg: float = _ranged(0.0, low=0, high=180)
    shear_deg: float = _ranged(0.0, low=0, high=60)
    shift: float = _ranged(0.0, low=0, high=1)  # share of the image's side
    zoom: float = _ranged(0.0, low=0, high=0.9)  # 0.1: between 0.9 and 1.1
    elastic_px: float = _ranged(0.0, low=0)  # local warping: standard deviation of the displacement
    colour: float = _ranged(0.0, low=0, high=1)  # brightness, contrast and saturation, each within 1 +- this
    pca_colour: float = _ranged(0.0, low=0)  # AlexNet's: standard deviation along the components, 0.1 in the paper
    erase: float = _ranged(0.0, low=0, high=1)  # probability of a random rectangle set to the mean


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained; epochs = 0 takes its weights as they are."""

    epochs: int = _ranged(0, low=0)
    batch: int = _ranged(64, low=1)  # of the whole job: several processes share it
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = _ranged(0.1, low=0)
    momentum: float = _ranged(0.9, low=0, high=1)
    nesterov: bool = False
    weight_decay: float = _ranged(1e-4, low=0)
    schedule: Literal["cosine", "step", "plateau", "one-cycle", "constant"] = "cosine"
    warmup_epochs: float = _ranged(0.0, low=0)
    milestones: tuple[int, ...] | None = None  # step: the epochs after which the rate falls
    factor: float = _ranged(0.1, low=0, high=1)  # step and plateau: what the rate is multiplied by
    patience: int = _ranged(3, low=1)  # plateau: epochs without a better validation top-1
    validation: float = _ranged(0.1, low=0, high=0.5)  # share of the training images that chooses the best epoch
    early_stop: int = _ranged(0, low=0)  # epochs without a better validation top-1; 0: never
    label_smoothing: float = _ranged(0.0, low=0, high=0.99)
    mixup: float = _ranged(0.0, low=0)  # alpha of the Beta distribution
    cutmix: float = _ranged(0.0, low=0)
    ema: float = _ranged(0.0, low=0, high=0.99999)  # decay of the weights' moving average, which is then kept
    clip_norm: float = _ranged(0.0, low=0)
    dropout: float | None = _ranged(None, low=0, high=0.99)  # in place of the network's own
    auxiliary_weight: float = _ranged(0.3, low=0)
    init: Literal["default", "he", "xavier"] = "default"
    amp: Literal["off", "bf16", "fp16"] = "off"
    channels_last: bool = False
    sync_batchnorm: bool = False  # statistics over all processes; GPUs only
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = _ranged(None, low=0, free=True)  # decoding threads; left out: one per core
    seed: int = _ranged(0, low=0)
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(frozen=True)
class TransferSettings:
    """What is trained when `model.weights` gives a start: every layer alike (left out),
    "head" (a new classifier), "last-N" (the last N stages and the head) or "all"."""

    train: str = ""
    rate_factor: float = _ranged(0.1, low=0)  # the pretrained layers' rate over that of the new head
    cache: bool = True  # features of the frozen part are computed once, where no augmentation varies them


@dataclass(frozen=True)
class BatchSettings:
    """The batch sizes an engine must serve: smallest, the one to be fastest at, largest."""

    min: int = _ranged(1, low=1)
    opt: int = _ranged(1, low=1)
    max: int = _ranged(8, low=1)


@dataclass(frozen=True)
class QuantizeSettings:
    """How INT8 graphs are made."""

    method: RangeMethod = "auto"
    around: Literal["fp16", "fp32"] = "fp16"


@dataclass(frozen=True)
class BenchSettings:
    """How latency is measured (trtexec's definitions)."""

    batch: int = _ranged(1, low=1)
    duration_s: float = _ranged(3.0, low=0.1)
    warmup_ms: float = _ranged(200.0, low=0)


@dataclass(frozen=True)
class Tolerances:
    """What an engine may lose; a tolerance that is left out is not judged."""

    top1_drop_pp_max: float | None = _ranged(None, low=0, high=100)
    top5_drop_pp_max: float | None = _ranged(None, low=0, high=100)
    agreement_pct_min: float | None = _ranged(None, low=0, high=100)
    int8_share_pct_min: float | None = _ranged(None, low=0, high=100)
    latency_ratio_max: float | None = _ranged(None, low=0)
    latency_ms_p99_max: float | None = _ranged(None, low=0)
    size_mb_max: float | None = _ranged(None, low=0)
    inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"


@dataclass(frozen=True)
class Recipe:
    """One deployment. `path` is where the TOML was found."""

    title: str = ""
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    targets: tuple[str, ...] = ("cpu",)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    tolerances: Tolerances = field(default_factory=Tolerances)
    path: Path = field(default=Path(), metadata={"hidden": True})

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def values(self, *keys: str) -> dict[str, Any]:
        """The values of dotted keys ("train.epochs") or whole sections ("train"), as a sidecar's `fields`."""
        return dict(pair for key in keys for pair in _flatten(key, self._get(key), with_free=False))

    def _get(self, key: str) -> Any:
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value


def recipe_folders() -> list[Path]:
    """Where recipes are looked for: `./recipes`, then the copies packaged with the wheel or the checkout's own."""
    return [f for f in (Path("recipes"), *packaged_folders("recipes")) if f.is_dir()]


def packaged_folders(name: str) -> list[Path]:
    """The read-only copies of a top-level folder (`recipes`, `calibration`) that came with the installation."""
    here = Path(__file__).resolve().parent
    return [f for f in (here / "_packaged" / name, here.parent / name) if f.is_dir()]


def list_recipes() -> dict[str, Path]:
    """Every recipe by name; one in `./recipes` hides a packaged one of the same name."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given by its stem or by a path; raises `RecipeError` with the nearest names."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file", "`edgecnn recipe list` shows those that are there")
        return path
    known = list_recipes()
    if name_or_path not in known:
        raise RecipeError(
            f"no recipe {name_or_path!r} in {', '.join(str(f) for f in recipe_folders()) or './recipes'}",
            nearest(name_or_path, known) or "`edgecnn recipe list` shows those that are there",
        )
    return known[name_or_path]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with `section.key=value` overrides; raises `RecipeError` that lists every problem."""
    path = find_recipe(name_or_path)
    content = _parse(path, _read(path))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"--set {override}: expected key=value", "for example --set train.epochs=3")
        _put(content, key.strip(), _override_value(value.strip()))
    return recipe_from_mapping(content, path)


def recipe_from_mapping(content: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe from parsed TOML; raises `RecipeError` that lists every problem, each with its key."""
    problems: list[str] = []
    recipe: Recipe = _build(Recipe, content, "", problems)
    problems += _contradictions(recipe)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        listing = "".join(f"\n  - {p}" for p in problems) if len(problems) > 1 else ""
        raise RecipeError(
            f"{path}: {problems[0]}{more}{listing}", "`edgecnn recipe show NAME` prints a recipe with every key"
        )
    return dataclasses.replace(recipe, path=path)


def settings_rows(recipe: Recipe) -> list[tuple[str, Any]]:
    """(dotted key, value) of every setting, defaults included."""
    return [pair for f in _shown(Recipe) for pair in _flatten(f.name, getattr(recipe, f.name))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path}: cannot be read: {exc}", "a recipe is a UTF-8 TOML file") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib as toml
    else:
        import tomli as toml
    try:
        return dict(toml.loads(text))
    except (ValueError, RecursionError) as exc:
        raise RecipeError(f"{path}: not valid TOML: {exc}", "a key may stand only once, strings need quotes") from exc


def _override_value(text: str) -> Any:
    try:
        return _parse(Path("--set"), f"value = {text}")["value"]
    except RecipeError:
        return text


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = content.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {key}: {section} is not a section", "`edgecnn recipe show NAME` prints the keys")
        content = inner
    content[last] = value


def _shown(kind: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if not f.metadata.get("hidden")]


def _flatten(key: str, value: Any, with_free: bool = True) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        for f in _shown(value):
            if with_free or not f.metadata.get("free"):
                yield from _flatten(f"{key}.{f.name}", getattr(value, f.name), with_free)
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def _build(kind: Any, content: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in _shown(kind)}
    for key in content.keys() - known.keys():
        problems.append(f"unknown key {prefix}{key}; {nearest(key, known) or 'allowed: ' + ', '.join(known)}")
    values = {}
    for name, f in known.items():
        if name not in content:
            continue
        where, value, hint = f"{prefix}{name}", content[name], hints[name]
        if dataclasses.is_dataclass(hint):
            if isinstance(value, dict):
                values[name] = _build(hint, value, f"{where}.", problems)
            else:
                problems.append(f"{where} must be a section, [{where}]")
            continue
        if problem := _type_problem(hint, value) or _range_problem(f, value):
            problems.append(f"{where} = {value!r}: {problem}")
        else:
            values[name] = _converted(hint, value)
    return kind(**values)


def _type_problem(hint: Any, value: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _type_problem(next(a for a in arguments if a is not type(None)), value)
    if origin is Literal:
        if value in arguments:
            return ""
        close = nearest(str(value), [str(a) for a in arguments])
        return f"must be one of {', '.join(map(repr, arguments))}" + (f"; {close}" if close else "")
    if origin is tuple:
        if not isinstance(value, list) or not value:
            return "must be a list with at least one entry"
        return next((p for v in value if (p := _type_problem(arguments[0], v))), "")
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    right = isinstance(value, (int, float) if hint is float else hint)
    if not right or (isinstance(value, bool) and hint is not bool):
        return f"must be {names[hint]}"
    return ""


def _range_problem(f: dataclasses.Field[Any], value: Any) -> str:
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if low is not None and value < low:
        return f"must be at least {low}"
    return f"must be at most {high}" if high is not None and value > high else ""


def _converted(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    arguments = typing.get_args(hint)
    return float(value) if hint is float or float in arguments else value


def _contradictions(recipe: Recipe) -> list[str]:
    problems = []
    if not recipe.model.name:
        problems.append("model.name is missing: which network is it?")
    if not recipe.data.source:
        problems.append("data.source is missing: a data set name, or an image folder")
    for name, values in (("precisions", recipe.precisions), ("targets", recipe.targets)):
        if twice := sorted({v for v in values if values.count(v) > 1}):
            problems.append(f"{name} = {list(values)}: {twice[0]!r} stands there more than once")
    batch = recipe.batch
    if not batch.min <= batch.opt <= batch.max:
        problems.append(f"batch: min {batch.min} <= opt {batch.opt} <= max {batch.max} does not hold")
    if not batch.min <= recipe.bench.batch <= batch.max:
        problems.append(f"bench.batch = {recipe.bench.batch} is not within batch.min {batch.min} .. max {batch.max}")
    return problems + _training_contradictions(recipe)


def _training_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    train, transfer, augment = recipe.train, recipe.transfer, recipe.train.augment
    if transfer.train and not re.fullmatch(r"head|all|last-[1-9]\d*", transfer.train):
        problems.append(f"transfer.train = {transfer.train!r}: must be 'head', 'all' or 'last-N' such as 'last-2'")
    if transfer.train and recipe.model.weights == "none":
        problems.append("transfer.train needs weights to start from: model.weights is 'none'")
    if train.schedule == "step" and not train.milestones:
        problems.append("train.schedule = 'step' needs train.milestones, such as [30, 60]")
    if train.epochs and train.warmup_epochs >= train.epochs:
        problems.append(f"train.warmup_epochs = {train.warmup_epochs} leaves nothing of {train.epochs} epochs")
    if train.schedule == "one-cycle" and train.warmup_epochs:
        problems.append("train.warmup_epochs: the one-cycle schedule warms up by itself")
    if (train.early_stop or train.schedule == "plateau") and train.validation == 0:
        problems.append("train.early_stop and the plateau schedule need train.validation > 0 to judge by")
    if train.nesterov and train.optimiser == "sgd" and train.momentum == 0:
        problems.append("train.nesterov needs train.momentum > 0")
    pairs = (("area", augment.area, 1, "shares of the picture"), ("jitter", augment.jitter, 4096, "pixels"))
    for name, pair, most, unit in pairs:
        if pair and (len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most):
            problems.append(f"train.augment.{name} = {list(pair)}: two {unit}, the smaller first, at most {most}")
    if augment.area and augment.jitter:
        problems.append("train.augment.area and train.augment.jitter exclude each other")
    return problems
