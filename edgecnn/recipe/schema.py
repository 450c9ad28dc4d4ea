"""What a recipe can say: frozen dataclasses, the one place for defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    color: float = _ranged(0.0, low=0, high=1)  # brightness, contrast and saturation, each within 1 +- this
    pca_color: float = _ranged(0.0, low=0)  # AlexNet's: standard deviation along the components, 0.1 in the paper
    erase: float = _ranged(0.0, low=0, high=1)  # probability of a random rectangle set to the mean


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained; epochs = 0 takes its weights as they are."""

    epochs: int = _ranged(0, low=0)
    batch: int = _ranged(64, low=1)  # of the whole job: several processes share it
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = _ranged(0.1, low=0)
    momentum: float = _ranged(0.9, low=0, high=1)
    nesterov: bool = False
    weight_decay: float = _ranged(1e-4, low=0)
    lr_schedule: Literal["cosine", "step", "plateau", "one-cycle", "constant"] = "cosine"
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


def fields_of(section: str, settings: Any) -> dict[str, Any]:
    """A section's settings as a sidecar's `fields`, but for those that change how a result is made and not what it
    is."""
    return dict(_flatten(section, settings, with_free=False))


def settings_rows(recipe: Recipe) -> list[tuple[str, Any]]:
    """(dotted key, value) of every setting, defaults included."""
    return [pair for f in _shown(Recipe) for pair in _flatten(f.name, getattr(recipe, f.name))]


def _shown(kind: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if not f.metadata.get("hidden")]


def _flatten(key: str, value: Any, with_free: bool = True) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        for f in _shown(value):
            if with_free or not f.metadata.get("free"):
                yield from _flatten(f"{key}.{f.name}", getattr(value, f.name), with_free)
    else:
        yield key, list(value) if isinstance(value, tuple) else value
