"""The one definition of resize, crop and normalise; training, calibration, validation and prediction all use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from edgecnn.errors import DataError
from edgecnn.session import Array

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `resize`, crop the centre to `crop` squared, scale to [0, 1], normalise.

    The same as torchvision's evaluation transform on PIL images (Resize with antialiasing, CenterCrop, ToTensor,
    Normalize), which is what published weights were trained with.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    channels: int = 3

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what `tensor` makes."""
        return (self.channels, self.crop, self.crop)

    def resized(self, image: Image.Image) -> Image.Image:
        """Convert the mode and bring the short side to `resize` pixels."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if short == self.resize:
            return image
        scaled = int(self.resize * long / short)
        size = (self.resize, scaled) if width <= height else (scaled, self.resize)
        return image.resize(size, _RESAMPLING[self.interpolation])

    def crop_image(self, image: Image.Image) -> Image.Image:
        """Resize and crop the centre; a uint8 image of crop x crop pixels."""
        image = self.resized(image)
        left, top = round((image.width - self.crop) / 2.0), round((image.height - self.crop) / 2.0)
        return image.crop((left, top, left + self.crop, top + self.crop))

    def normalise(self, pixels: np.typing.NDArray[np.uint8]) -> Array:
        """uint8 [H, W] or [H, W, C] -> normalised float32 [C, H, W]."""
        planes = pixels.reshape(*pixels.shape[:2], self.channels).transpose(2, 0, 1).astype(np.float32) / 255.0
        mean = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(self.std, np.float32).reshape(-1, 1, 1)
        return np.ascontiguousarray((planes - mean) / std)

    def tensor(self, image: Image.Image) -> Array:
        """A PIL image -> normalised float32 [channels, crop, crop]."""
        return self.normalise(np.asarray(self.crop_image(image)))

    def to_json(self) -> dict[str, Any]:
        """As it stands in a sidecar."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def sha256(self) -> str:
        """The identity of this preprocessing, for comparing artifacts."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def preprocessing_from_json(content: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in a sidecar or a zoo entry; raises `DataError` when it makes no sense."""
    try:
        made = Preprocessing(
            resize=int(content["resize"]),
            crop=int(content["crop"]),
            mean=tuple(float(v) for v in content["mean"]),
            std=tuple(float(v) for v in content["std"]),
            interpolation=content.get("interpolation", "bilinear"),
            channels=int(content.get("channels", 3)),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise DataError(f"preprocessing {dict(content)}: {exc!r}", "it needs resize, crop, mean and std") from exc
    problem = ""
    if not 0 < made.crop <= made.resize:
        problem = f"crop {made.crop} must be between 1 and resize {made.resize}"
    elif made.channels not in (1, 3) or not len(made.mean) == len(made.std) == made.channels:
        problem = f"{made.channels} channels with {len(made.mean)} means and {len(made.std)} deviations"
    elif min(made.std) <= 0:
        problem = "a standard deviation must be positive"
    elif made.interpolation not in _RESAMPLING:
        problem = f"interpolation {made.interpolation!r} is none of {', '.join(_RESAMPLING)}"
    if problem:
        raise DataError(f"preprocessing: {problem}", "correct it in the zoo entry or the sidecar it comes from")
    return made


def first_difference(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str | None:
    """In what two preprocessings of sidecars differ first: "resize 256 against 232"; None when they are equal."""
    if ours is None or theirs is None:
        shown = ["none" if p is None else "a known one" for p in (ours, theirs)]
        return None if ours is theirs else " against ".join(shown)
    a, b = preprocessing_from_json(ours).to_json(), preprocessing_from_json(theirs).to_json()
    return next((f"{key} {a[key]} against {b[key]}" for key in a if a[key] != b[key]), None)
