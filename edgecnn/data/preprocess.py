"""The one definition of resize, crop and normalize; training, calibration, validation and prediction all use it."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from PIL import Image

from edgecnn.contract import InputForm
from edgecnn.errors import DataError
from edgecnn.limits import RESIZED_PIXELS

if TYPE_CHECKING:
    from edgecnn.session import Array

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_SWITCHES = ("squash", "bgr", "exif_orientation")
_FIELDS = ("resize", "crop", "mean", "std", "interpolation", "channels", *_SWITCHES)
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LARGEST = 16_384  # pixels: a picture of this side takes 3 GiB as float32
_SIZE = "write pixels of a square, as 224, or a crop of [height, width]"
_TURNS = {  # EXIF 2.32, orientation: what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112
_COLORED = 32  # of 255: more than what JPEG makes of gray


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `resize`, crop the center to `crop` (a square's side, or height and width), scale to
    [0, 1], normalize.

    The same as torchvision's evaluation transform on PIL images (Resize with antialiasing, CenterCrop, ToTensor,
    Normalize), which is what published weights were trained with. With `squash` the whole picture is resized to `crop`
    in place of both; `bgr` gives blue first, and mean and std are then in that order. Files are read as they are
    stored, as torchvision and DeepStream do; with `exif_orientation` upright.
    """

    resize: int
    crop: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    channels: int = 3
    squash: bool = False
    bgr: bool = False
    exif_orientation: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crop, pixels."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what `tensor` makes."""
        return (self.channels, *self.size)

    def convert(self, image: Image.Image) -> Image.Image:
        """The picture with the channels that the network takes, in their order, turned upright where that is asked."""
        turn = _TURNS.get(orientation_of(image)) if self.exif_orientation else None
        image = image if turn is None else image.transpose(turn)
        mode = {1: "L", 4: "RGBA"}.get(self.channels, "RGB")
        image = image if image.mode == mode else image.convert(mode)  # which copies where the mode is the same
        return Image.merge("RGB", image.split()[::-1]) if self.bgr else image

    def resized(self, image: Image.Image) -> Image.Image:
        """Convert the mode and bring the short side to `resize` pixels, or the picture to the crop's size."""
        image = self.convert(image)
        size = self.resized_size(image.width, image.height)
        _require_room(image, *size)
        return image if size == image.size else image.resize(size, _RESAMPLING[self.interpolation])

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a picture after the resize."""
        if self.squash:
            return self.size[1], self.size[0]
        short, long = min(width, height), max(width, height)
        if short == self.resize:
            return width, height
        scaled = int(self.resize * long / short)
        return (self.resize, scaled) if width <= height else (scaled, self.resize)

    def crop_image(self, image: Image.Image) -> Image.Image:
        """Resize and crop the center; a uint8 image of the crop's size. What a rectangle lacks is black.

        PIL resizes across and then down: between the two go the columns that the crop leaves out.
        """
        image = self.convert(image)
        width, height = self.resized_size(image.width, image.height)
        (tall, wide), kind = self.size, _RESAMPLING[self.interpolation]
        left, top = _before(width, wide), _before(height, tall)
        _require_room(image, width, image.height)
        _require_room(image, wide, height)
        if width != image.width:
            image = image.resize((width, image.height), kind)
        image = image.crop((left, 0, left + wide, image.height))
        if height != image.height:
            image = image.resize((wide, height), kind)
        return image.crop((0, top, wide, top + tall))

    def crop_center(self, image: Image.Image) -> Image.Image:
        """Cut the center of the crop's size out. What a rectangle lacks is black."""
        height, width = self.size
        left, top = _before(image.width, width), _before(image.height, height)
        return image.crop((left, top, left + width, top + height))

    def normalize(self, pixels: np.typing.NDArray[np.uint8]) -> Array:
        """uint8 [H, W] or [H, W, C] -> normalized float32 [C, H, W]."""
        planes = pixels.reshape(*pixels.shape[:2], self.channels)
        made = np.empty((self.channels, *pixels.shape[:2]), np.float32)
        for k, plane in enumerate(made):  # one at a time stays in the processor's cache
            plane[...] = planes[..., k]
            plane /= np.float32(255.0)
            plane -= np.float32(self.mean[k])
            plane /= np.float32(self.std[k])
        return made

    def tensor(self, image: Image.Image, form: InputForm = "normalised") -> Array:
        """A PIL image -> normalized float32 [channels, height, width], or another form of a serving contract."""
        return self.arrange(np.asarray(self.crop_image(image)), form)

    def arrange(self, pixels: np.typing.NDArray[np.uint8], form: InputForm) -> Array:
        """uint8 [H, W] or [H, W, C] as a serving contract takes one image: float32 [C, H, W], normalized or with the
        pixels' values, or uint8 [H, W, C]."""
        if form == "normalised":
            return self.normalize(pixels)
        rows = pixels.reshape(*pixels.shape[:2], self.channels)
        if form == "uint8-nhwc":
            return cast("Array", np.ascontiguousarray(rows))
        return np.ascontiguousarray(rows.transpose(2, 0, 1), np.float32)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a sidecar; switches that are off are left out."""
        known = {k: v for k, v in asdict(self).items() if v or k not in _SWITCHES}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}

    @property
    def sha256(self) -> str:
        """The identity of this preprocessing, for comparing artifacts."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def _require_room(image: Image.Image, width: int, height: int) -> None:
    if width * height > RESIZED_PIXELS:
        raise DataError(
            f"a picture of {image.width} x {image.height} pixels would be resized to {width} x {height}",
            "cut it to what the network is to see, or remove it",
        )


def is_colored(image: Image.Image) -> bool:
    """Whether a picture shows colors: somewhere on a grid of 16 x 16 its channels are far apart."""
    if image.mode in ("1", "L", "LA", "I", "I;16", "F"):
        return False
    small = np.asarray(image.resize((16, 16), Image.Resampling.NEAREST).convert("RGB"), np.int16)
    return int((small.max(axis=2) - small.min(axis=2)).max()) > _COLORED


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a decoded picture, 1 (upright) where it has none that can be read."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (ValueError, TypeError, KeyError, IndexError, SyntaxError, OSError, struct.error):
        return 1


def _before(size: int, crop: int) -> int:
    """Where a centered crop begins, as torchvision's CenterCrop has it; negative where the picture is smaller."""
    return -((crop - size) // 2) if size < crop else round((size - crop) / 2.0)


def preprocessing_from_json(content: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing in a sidecar, a zoo entry or a JSON file, also as timm's `resolve_data_config` writes it.

    Raises `DataError` for a key or a value that it does not know, and when it makes no sense.
    """
    content = _from_timm(content) if "input_size" in content or "crop_pct" in content else content
    if unknown := [key for key in content if key not in _FIELDS]:
        raise DataError(
            f"preprocessing: unknown {'keys' if len(unknown) > 1 else 'key'} {', '.join(map(repr, unknown))}",
            f"allowed are {', '.join(_FIELDS)} (the short side is resized, the center cropped, RGB or gray is "
            "scaled to 0..1), or timm's input_size, crop_pct, interpolation, mean, std; a graph that needs something "
            "else takes preprocessed images, in an .npz",
        )
    if missing := [key for key in ("resize", "crop", "mean", "std") if key not in content]:
        raise DataError(f"preprocessing: no {' and no '.join(missing)}", "it needs resize, crop, mean and std")
    interpolation = content.get("interpolation", "bilinear")
    if not isinstance(interpolation, str) or interpolation not in _RESAMPLING:
        raise DataError(
            f"preprocessing: interpolation {interpolation!r} is none of {', '.join(_RESAMPLING)}", "give its name"
        )
    made = Preprocessing(
        resize=_whole("resize", content["resize"]),
        crop=_crop(content["crop"]),
        mean=_numbers("mean", content["mean"]),
        std=_numbers("std", content["std"]),
        interpolation=cast(Interpolation, interpolation),
        channels=_whole("channels", content.get("channels", 3)),
        **{key: _switch(key, content[key]) for key in _SWITCHES if key in content},
    )
    problem = ""
    if not 0 < min(made.size) <= made.resize:
        problem = f"crop {made.crop} must be between 1 and resize {made.resize}"
    elif made.bgr and made.channels != 3:
        problem = f"bgr is an order of 3 channels, not of {made.channels}"
    elif made.channels not in (1, 3, 4) or not len(made.mean) == len(made.std) == made.channels:
        problem = f"{made.channels} channels with {len(made.mean)} means and {len(made.std)} deviations"
    elif min(made.std) <= 0:
        problem = "a standard deviation must be positive"
    elif 1 / min(made.std) > _LARGEST_FLOAT:
        problem = f"std {min(made.std):g} is too small to divide float32 by"
    if problem:
        raise DataError(f"preprocessing: {problem}", "correct it in the zoo entry or the file it comes from")
    return made


def doubt_of(preprocessing: Preprocessing) -> str | None:
    """What is odd about a preprocessing that can be meant all the same: a mean or a deviation that counts in 0..255."""
    for key, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if any(abs(value) > 1 for value in values):
            shown = ", ".join(f"{v:g}" for v in values)
            return f"{key} {shown} counts in 0..255, but images are scaled to 0..1 first: divide mean and std by 255"
    return None


def _from_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """timm's `input_size` and `crop_pct` as `resize` and `crop`: its evaluation resizes the short side to
    floor(size / crop_pct) and crops the center (`timm.data.transforms_factory.transforms_imagenet_eval`)."""
    allowed = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
    if unknown := [key for key in content if key not in allowed]:
        raise DataError(
            f"preprocessing in timm's form: unknown {'keys' if len(unknown) > 1 else 'key'} "
            + ", ".join(map(repr, unknown)),
            f"allowed are {', '.join(allowed)}, as timm.data.resolve_data_config gives them; or resize and crop",
        )
    if missing := [key for key in ("input_size", "crop_pct", "interpolation", "mean", "std") if key not in content]:
        raise DataError(f"preprocessing in timm's form: no {' and no '.join(missing)}", "or write resize and crop")
    if content.get("crop_mode", "center") != "center":
        raise DataError(
            f"preprocessing: crop_mode {content['crop_mode']!r} is not 'center'",
            "bring the images to such a network preprocessed, in an .npz",
        )
    size, share = content["input_size"], content["crop_pct"]
    if not isinstance(size, list) or len(size) != 3 or size[1] != size[2]:
        raise DataError(
            f"preprocessing: input_size {size!r} is not [channels, size, size]", "for a rectangle write resize and crop"
        )
    channels, crop = _whole("input_size", size[0]), _whole("input_size", size[1])
    if not _is_number(share) or not 0 < share <= 1:
        raise DataError(
            f"preprocessing: crop_pct {share!r} is not above 0 and at most 1", "give a share, such as 0.875"
        )
    if crop > _LARGEST * share:
        raise DataError(f"preprocessing: crop_pct {share:g} resizes beyond {_LARGEST} pixels", "give the network's own")
    others = {key: content[key] for key in ("interpolation", "mean", "std")}
    return {"resize": math.floor(crop / share), "crop": crop, "channels": channels, **others}


def _whole(key: str, value: Any) -> int:
    if isinstance(value, list):
        raise DataError(f"preprocessing: {key} {value} is not one whole number", _SIZE)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"preprocessing: {key} {value!r} is not a whole number", f'write it as "{key}": 224')
    if abs(value) > _LARGEST:
        raise DataError(f"preprocessing: {key} is beyond {_LARGEST} pixels", "give the network's own")
    return value


def _crop(value: Any) -> int | tuple[int, int]:
    if not isinstance(value, (list, tuple)):
        return _whole("crop", value)
    if len(value) != 2:
        raise DataError(f"preprocessing: crop {value} is not [height, width]", _SIZE)
    height, width = (_whole("crop", v) for v in value)
    return height if height == width else (height, width)


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"preprocessing: {key} {value!r} is neither true nor false", f'write "{key}": true')
    return value


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(_is_number(v) for v in value):
        raise DataError(
            f"preprocessing: {key} {value!r} is not a list of numbers",
            f'one for each channel: "{key}": [0.5, 0.5, 0.5]',
        )
    return tuple(float(v) for v in value)


def _is_number(value: Any) -> bool:
    """Whether it is a number that float32 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_FLOAT


def first_difference(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str | None:
    """In what two preprocessings of sidecars differ first: "resize 256 against 232"; None when they are equal."""
    if ours is None or theirs is None:
        shown = ["none" if p is None else "a known one" for p in (ours, theirs)]
        return None if ours is theirs else " against ".join(shown)
    a, b = preprocessing_from_json(ours).to_json(), preprocessing_from_json(theirs).to_json()
    keys = [key for key in _FIELDS if a.get(key, False) != b.get(key, False)]
    return next((f"{key} {a.get(key, False)} against {b.get(key, False)}" for key in keys), None)
