"""What a recipe can say: frozen dataclasses, the one place for defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Interval, Len, MinLen

from edgecnn.contract import Geometry, InputForm, OutputForm
from edgecnn.recipe.verification import VerificationSettings
from edgecnn.records import STRICT

Precision = Literal["fp32", "fp16", "int8"]
Setting: TypeAlias = (
    "str | int | float | bool | list[str] | list[int] | list[float] | list[list[int]] | None"  # as a sidecar has it
)
RangeMethod = Literal["minmax", "percentile", "entropy", "mse", "auto"]
Around = Literal["fp16", "fp32"]
HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
OrtProvider = Literal["cpu", "cuda", "tensorrt", "rtx"]  # what of ONNX Runtime computes


# Ranges of settings, under the names that their fields use below.
Count = Annotated[int, Ge(0)]
PositiveCount = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Rate = Annotated[float, Interval(ge=0, le=0.99)]  # a probability short of certainty
Numbers = Annotated[tuple[float, ...], MinLen(1)]
Integers = Annotated[tuple[int, ...], MinLen(1)]
Names = Annotated[tuple[str, ...], MinLen(1)]
BatchProfile = Annotated[tuple[PositiveCount, ...], MinLen(1)]  # batch sizes: least, optimal, largest
Percent = Annotated[float, Interval(ge=0, le=100)]

FREE = {"free": True}  # of a setting that changes how a result is made and not what it is

# Keys of earlier versions, which are still read; a recipe that uses a key under both names is refused.
RENAMED = {
    "train.optimiser": "train.optimizer",
    "train.schedule": "train.lr_schedule",
    "train.augment.colour": "train.augment.color",
    "train.augment.pca_colour": "train.augment.pca_color",
}


@dataclass(frozen=True)
class ModelSettings:
    """Which network (of the zoo, or one's own), and where its weights come from."""

    __pydantic_config__ = STRICT

    name: str = ""  # of the zoo
    python: str | None = None  # FILE.py:FUNCTION that returns an nn.Module; run only with --trust-code
    timm: str | None = None  # a network of timm
    onnx: str | None = None  # a graph; with one of the others, that is the reference in PyTorch
    classes: PositiveCount | None = None
    labels: str | None = None  # of an own network: "imagenet" or a file; left out: the data set's
    weights: str = "none"  # none (train it here; or as `python` returns it), default (published), a path or a URL
    ema: bool = False  # of a checkpoint with an averaged copy beside the weights, take that

    @property
    def own(self) -> str | None:
        """What stands in place of a network of the zoo."""
        return self.python or self.timm or self.onnx

    @property
    def is_graph(self) -> bool:
        """Whether the graph is all there is: its own reference."""
        return bool(self.onnx) and not (self.name or self.python or self.timm)


@dataclass(frozen=True)
class InputSettings:
    """What the network takes, and how a picture becomes it; what is left out is the network's own."""

    __pydantic_config__ = STRICT

    size: PositiveCount | Annotated[tuple[PositiveCount, ...], Len(2, 2)] | None = None  # pixels, or [height, width]
    crop: Literal["center", "none"] | None = None  # none: the whole picture is resized to `size`, whatever its shape
    resize: PositiveCount | None = None  # the short side, pixels, before the center is cropped
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    mean: Numbers | None = None  # of pixels in 0..1, one for each channel, in the order of the channels
    std: Numbers | None = None
    channels: Literal["rgb", "bgr", "gray"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None  # of an own network; what is made of it takes NCHW
    exif_orientation: bool | None = None  # turn photographs upright; off, as torchvision and DeepStream read files
    geometry: Geometry | None = None  # what the serving side does in place of the network's own resize and crop


@dataclass(frozen=True)
class DataSettings:
    """Where the images are."""

    __pydantic_config__ = STRICT

    source: str = ""  # a data set name with its root (digits, mnist:DIR, cifar10:DIR, imagenet:DIR) or an image folder
    calibration: str = ""  # a manifest of training images or a rule for one; empty: 512 of them, stratified
    calibration_source: str = ""  # where these images are, if not in `source`
    test: str = ""  # a manifest of test images; empty: all that `source` has


@dataclass(frozen=True)
class AugmentSettings:
    """How training images are varied; what is 0, false or left out is off. Each image's draw depends on the seed, the
    epoch and the image alone, not on batches, threads or processes."""

    __pydantic_config__ = STRICT

    mirror: bool = False
    pad: Count = 0  # random crop after padding by this many black pixels
    area: Numbers | None = None  # random resized crop: least and greatest share of the picture, as [0.08, 1]
    jitter: Integers | None = None  # scale jitter: least and greatest short side before a random crop
    rotation_deg: Annotated[float, Interval(ge=0, le=180)] = 0.0
    shear_deg: Annotated[float, Interval(ge=0, le=60)] = 0.0
    shift: Share = 0.0  # share of the image's side
    zoom: Annotated[float, Interval(ge=0, le=0.9)] = 0.0  # 0.1: between 0.9 and 1.1
    elastic_px: Amount = 0.0  # local warping: standard deviation of the displacement
    color: Share = 0.0  # brightness, contrast and saturation, each within 1 +- this
    pca_color: Amount = 0.0  # AlexNet's: standard deviation along the components, 0.1 in the paper
    erase: Share = 0.0  # probability of a random rectangle set to the mean


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained; epochs = 0 takes its weights as they are."""

    __pydantic_config__ = STRICT

    epochs: Count = 0
    loss: Literal["triplet", "contrastive"] | None = None  # of an embedding ([verification]); left out: cross-entropy
    batch: PositiveCount = 64  # of the whole job: several processes share it
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Amount = 0.1
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Amount = 1e-4
    lr_schedule: Literal["cosine", "step", "plateau", "one-cycle", "constant"] = "cosine"
    warmup_epochs: Amount = 0.0
    milestones: Integers | None = None  # step: the epochs after which the rate falls
    factor: Share = 0.1  # step and plateau: what the rate is multiplied by
    patience: PositiveCount = 3  # plateau: epochs without a better validation top-1
    validation: Annotated[float, Interval(ge=0, le=0.5)] = 0.1  # share of the images that chooses the best epoch
    early_stop: Count = 0  # epochs without a better validation top-1; 0: never
    label_smoothing: Rate = 0.0
    mixup: Amount = 0.0  # alpha of the Beta distribution
    cutmix: Amount = 0.0
    ema: Annotated[float, Interval(ge=0, le=0.99999)] = 0.0  # decay of the weights' moving average, which is then kept
    clip_norm: Amount = 0.0
    dropout: Rate | None = None  # in place of the network's own
    auxiliary_weight: Amount = 0.3
    init: Literal["default", "he", "xavier"] = "default"
    amp: Literal["off", "bf16", "fp16"] = "off"
    channels_last: bool = False
    sync_batchnorm: bool = False  # statistics over all processes; GPUs only
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Count | None = field(default=None, metadata=FREE)  # decoding threads; left out: --threads
    gradient_norms: bool = field(default=False, metadata=FREE)  # record each layer's, averaged over an epoch
    seed: Count = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(frozen=True)
class TransferSettings:
    """What is trained when `model.weights` gives a start: every layer alike (left out),
    "head" (a new classifier), "last-N" (the last N stages and the head) or "all"."""

    __pydantic_config__ = STRICT

    train: str = ""
    rate_factor: Amount = 0.1  # the pretrained layers' rate over that of the new head
    cache: bool = True  # features of the frozen part are computed once, where no augmentation varies them


@dataclass(frozen=True)
class ExportSettings:
    """What the graph takes and gives: the serving contract, folded into it before calibration."""

    __pydantic_config__ = STRICT

    input: InputForm = "normalised"  # or pixels: raw-nchw (float32, 0 to 255), uint8-nhwc
    output: OutputForm = "logits"  # or probabilities, or top-k: the five best classes with theirs


@dataclass(frozen=True)
class BatchSettings:
    """The batch sizes an engine must serve: smallest, the one to be fastest at, largest."""

    __pydantic_config__ = STRICT

    min: PositiveCount = 1
    opt: PositiveCount = 1
    max: PositiveCount = 8
    profiles: Annotated[tuple[BatchProfile, ...], MinLen(1)] | None = None  # of TensorRT; ascending, from min to max

    @property
    def all_profiles(self) -> tuple[BatchProfile, ...]:
        """(min, opt, max) of each optimization profile."""
        return self.profiles or ((self.min, self.opt, self.max),)

    def find_contradictions(self) -> list[str]:
        """What does not hold of the sizes, as lines that name the keys."""
        if self.profiles and (found := list(_find_profile_contradictions(self.profiles, (self.min, self.max)))):
            return found
        if not self.min <= self.opt <= self.max:
            return [f"batch: min {self.min} <= opt {self.opt} <= max {self.max} does not hold"]
        return []


def _find_profile_contradictions(profiles: Sequence[BatchProfile], ends: tuple[int, int]) -> Iterator[str]:
    for k, sizes in enumerate(profiles):
        if len(sizes) != 3 or list(sizes) != sorted(sizes):
            yield f"batch.profiles[{k}] = {list(sizes)}: [min, opt, max] with min <= opt <= max was expected"
    for k, (one, after) in enumerate(pairwise(profiles), 1):
        if after[-1] < one[0]:
            yield f"batch.profiles[{k}] = {list(after)} comes after {list(one)}: sort them by size"
        elif after[0] <= one[-1]:
            yield f"batch.profiles[{k}] = {list(after)} overlaps {list(one)}: a batch has one profile"
    least, most = profiles[0][0], profiles[-1][-1]
    if (least, most) != ends:
        yield f"batch.profiles reach from {least} to {most}: set batch.min = {least} and batch.max = {most}"


@dataclass(frozen=True)
class QuantizeSettings:
    """How INT8 graphs are made."""

    __pydantic_config__ = STRICT

    method: RangeMethod = "auto"
    around: Around = "fp16"
    exclude: Names | None = None  # what stays out of INT8: nodes, patterns of their names, or gemv, few-channels ...
    global_pool: Literal["float", "int8"] | None = None  # of TensorRT's scheme: what a global average pool reads


@dataclass(frozen=True)
class QatSettings:
    """Quantization-aware training of the INT8 graphs, as `[train]` says but for these; epochs = 0 leaves them as they
    were quantized."""

    __pydantic_config__ = STRICT

    epochs: Count = 0
    learning_rate: Amount = 0.02  # of AdamW, in quantization steps an update; falls to 0 along a cosine


@dataclass(frozen=True)
class BuildSettings:
    """How TensorRT builds engines."""

    __pydantic_config__ = STRICT

    rebuilds: PositiveCount = 1  # of each engine, to tell how builds differ: the worst is judged, the median kept
    weakly_typed: bool = False  # of TensorRT 10: a second INT8 engine, for which it places INT8 by itself
    routes: dict[Precision, str] | None = None  # of TensorRT 11.1 and later: "-knob=value ..." for the engines of each


@dataclass(frozen=True)
class BenchSettings:
    """How latency is measured (trtexec's definitions)."""

    __pydantic_config__ = STRICT

    batch: PositiveCount = 1
    duration_s: Annotated[float, Ge(0.1)] = 3.0
    warmup_ms: Amount = 200.0


@dataclass(frozen=True)
class DecisionSettings:
    """At which probability a class is decided. One `threshold`: of two classes the second from there on, else the
    first. By class name: the most probable class that reaches its own, else the most probable one without any. With
    `reject` a class that does not reach it is not decided for another (Chow, IEEE Transactions on Information Theory
    16, 1970)."""

    __pydantic_config__ = STRICT

    threshold: Share | dict[str, Share] | None = None
    reject: bool = False


@dataclass(frozen=True)
class Tolerances:
    """What an engine may lose; a tolerance that is left out is not judged."""

    __pydantic_config__ = STRICT

    top1_drop_pp_max: Percent | None = None
    top5_drop_pp_max: Percent | None = None
    agreement_pct_min: Percent | None = None
    top1_regression_pp_max: Percent | None = None  # against the baselines; left out: top1_drop_pp_max
    top1_pct_min: Percent | None = None
    top5_pct_min: Percent | None = None
    class_top1_pct_min: Percent | None = None
    decision_flips_pct_max: Percent | None = None
    class_recall_pct_min: Percent | None = None
    calibration_error_pp_max: Percent | None = None
    int8_share_pct_min: Percent | None = None
    latency_ratio_max: Amount | None = None
    int8_vs_fp16_ratio_max: Amount | None = None
    latency_ms_p99_max: Amount | None = None
    size_mb_max: Amount | None = None
    device_memory_mb_max: Amount | None = None
    load_s_max: Amount | None = None
    first_query_ms_max: Amount | None = None
    joules_per_inference_max: Amount | None = None  # above idle; one query of bench.batch images
    dla_gpu_layers_max: Count | None = None  # of a build for a DLA core, by trtexec's log beside the engines
    serving_drop_pp_max: Percent | None = None
    verification_drop_pp_max: Percent | None = None
    embedding_cosine_min: Annotated[float, Interval(ge=-1, le=1)] | None = None
    inconclusive: Literal["inconclusive", "pass", "fail"] = "inconclusive"


@dataclass(frozen=True)
class Recipe:
    """One deployment. `path` is where the TOML was found, `overrides` are the `key=value` that it was loaded with."""

    __pydantic_config__ = STRICT

    title: str = ""
    precisions: Annotated[tuple[Precision, ...], MinLen(1)] = ("fp32", "fp16", "int8")
    targets: Annotated[tuple[str, ...], MinLen(1)] = ("cpu",)
    model: ModelSettings = field(default_factory=ModelSettings)
    input: InputSettings = field(default_factory=InputSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    qat: QatSettings = field(default_factory=QatSettings)
    build: BuildSettings = field(default_factory=BuildSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    tolerances: Tolerances = field(default_factory=Tolerances)
    path: Path = field(default=Path(), metadata={"hidden": True})
    overrides: tuple[str, ...] = field(default=(), compare=False, metadata={"hidden": True})

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    def values(self, *keys: str) -> dict[str, Setting]:
        """The values of dotted keys ("train.epochs") or whole sections ("train"), as a sidecar's `fields`."""
        return dict(pair for key in keys for pair in _flatten(key, self._get(key), with_free=False))

    def _get(self, key: str) -> Any:
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value


def fields_of(section: str, settings: object) -> dict[str, Setting]:
    """A section's settings as a sidecar's `fields`, but for those that change how a result is made and not what it
    is."""
    return dict(_flatten(section, settings, with_free=False))


def settings_rows(recipe: Recipe) -> list[tuple[str, Setting]]:
    """(dotted key, value) of every setting, defaults included."""
    return [pair for f in _shown(Recipe) for pair in _flatten(f.name, getattr(recipe, f.name))]


def _shown(kind: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(kind) if not f.metadata.get("hidden")]


def _flatten(key: str, value: Any, with_free: bool = True) -> Iterator[tuple[str, Setting]]:
    if dataclasses.is_dataclass(value):
        for f in _shown(value):
            if with_free or not f.metadata.get("free"):
                yield from _flatten(f"{key}.{f.name}", getattr(value, f.name), with_free)
    else:
        yield key, _listed(value)


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value
