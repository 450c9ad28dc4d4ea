"""What serving pipelines do to a picture in place of a network's own resize and crop, in numpy.

nvinfer-squash   the whole picture is scaled to the network's size, its proportions lost (DeepStream's nvinfer by
                 default); bilinear, not antialiased
letterbox        the whole picture is scaled to fit, black bars around it (nvinfer with maintain-aspect-ratio=1 and
                 symmetric-padding=1); bilinear, not antialiased
                 Both leave out the last row and column of an odd side, and cut fractions of a pixel off, as nvinfer
                 does.
cv2-bilinear     the network's resize and crop by OpenCV's INTER_LINEAR, bit for bit
no-antialias     the network's resize and crop by torch.nn.functional.interpolate in float, bilinear without
                 antialias
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.contract import Geometry
from edgecnn.data.dataset import Dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import MeasurementError

Pixels = npt.NDArray[np.uint8]
_CV2_BITS = 11  # of OpenCV's fixed-point weights (INTER_RESIZE_COEF_BITS)


@dataclass(frozen=True)
class ServedPreprocessing(Preprocessing):
    """A preprocessing whose resize and crop are another `geometry`'s; the normalization is the same."""

    geometry: Geometry = "no-antialias"

    def crop_image(self, image: Image.Image) -> Image.Image:
        """A uint8 image of the crop's size, as the serving side makes it."""
        pixels = np.asarray(self.convert(image))
        if self.geometry == "nvinfer-squash":
            return Image.fromarray(resize_bilinear(even(pixels), *self.size))
        if self.geometry == "letterbox":
            return Image.fromarray(letterbox(even(pixels), *self.size))
        width, height = self.resized_size(pixels.shape[1], pixels.shape[0])
        resize = resize_cv2_bilinear if self.geometry == "cv2-bilinear" else resize_bilinear
        return self.crop_center(Image.fromarray(resize(pixels, height, width)))


def serve_as(dataset: Dataset, geometry: Geometry) -> Dataset:
    """The same images, resized and cropped as `geometry` says; raises `MeasurementError` where they are cropped
    already."""
    known = dataset.preprocessing
    if known is None or dataset.image is None:
        raise MeasurementError(
            f"{dataset.name}: its images are resized and cropped already",
            "name pictures: an image folder, or a data set",
        )
    facts = {name: getattr(known, name) for name in Preprocessing.__dataclass_fields__}
    served = ServedPreprocessing(**facts, geometry=geometry)
    return Dataset(**{**vars(dataset), "preprocessing": served})


def resize_bilinear(pixels: Pixels, height: int, width: int) -> Pixels:
    """uint8 [H, W] or [H, W, C] to `height` x `width`: bilinear between pixel centers, not antialiased, rounded to
    the nearest value. What lies beyond the border has the border's color."""
    if pixels.shape[:2] == (height, width):
        return pixels
    rows, columns = _taps(pixels.shape[0], height), _taps(pixels.shape[1], width)
    trailing = (1,) * (pixels.ndim - 2)
    across = columns.share.reshape(1, -1, *trailing)
    down = rows.share.reshape(-1, 1, *trailing)
    values = pixels.astype(np.float32)
    wide = values[:, columns.first] * (1 - across) + values[:, columns.second] * across
    made = wide[rows.first] * (1 - down) + wide[rows.second] * down
    return np.rint(made).astype(np.uint8)


def resize_cv2_bilinear(pixels: Pixels, height: int, width: int) -> Pixels:
    """`cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)` of uint8 [H, W] or [H, W, C], bit for bit.

    OpenCV weighs with 11 bits, and drops bits of the rows before it adds them (resize.cpp, VResizeLinear for uchar);
    an exact halving of both sides is the mean of 2 x 2 pixels.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[:2] == (2 * height, 2 * width):
        blocks = pixels.reshape(height, 2, width, 2, *pixels.shape[2:]).astype(np.int32)
        return np.asarray((blocks.sum(axis=(1, 3)) + 2) >> 2, np.uint8)
    rows, columns = _taps(pixels.shape[0], height, clamp=False), _taps(pixels.shape[1], width)
    trailing = (1,) * (pixels.ndim - 2)
    left, right = (w.reshape(1, -1, *trailing) for w in _fixed_point(columns.share))
    upper, lower = (w.reshape(-1, 1, *trailing) for w in _fixed_point(rows.share))
    values = pixels.astype(np.int32)
    wide = values[:, columns.first] * left + values[:, columns.second] * right
    summed = ((wide[rows.first] >> 4) * upper >> 16) + ((wide[rows.second] >> 4) * lower >> 16)
    return np.asarray(np.clip((summed + 2) >> 2, 0, 255), np.uint8)


def even(pixels: Pixels) -> Pixels:
    """The picture without the last row or column of an odd side."""
    return pixels[: max(1, pixels.shape[0] // 2 * 2), : max(1, pixels.shape[1] // 2 * 2)]


def letterbox(pixels: Pixels, height: int, width: int) -> Pixels:
    """The whole picture in `height` x `width`, its proportions kept, centered on black."""
    rows, columns = pixels.shape[:2]
    inner_height = height if width * rows > height * columns else max(1, width * rows // columns)
    inner_width = width if inner_height < height else max(1, min(width, height * columns // rows))
    made = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    made[top : top + inner_height, left : left + inner_width] = resize_bilinear(pixels, inner_height, inner_width)
    return made


@dataclass(frozen=True)
class _Taps:
    """For each pixel along one side, the two that it lies between, and the share of the second (float32)."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    share: npt.NDArray[np.float32]


def _taps(old: int, new: int, clamp: bool = True) -> _Taps:
    """Pixel centers, half a pixel from the edge. `clamp`: beyond the edge its pixel alone counts; else both taps are
    that pixel, and keep their shares."""
    place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = place - first.astype(np.float32)
    if clamp:
        share[(first < 0) | (first >= old - 1)] = 0
    return _Taps(np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), share)


def _fixed_point(share: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    one = np.float32(1)
    first, second = (np.rint(w * np.float32(1 << _CV2_BITS)).astype(np.int32) for w in (one - share, share))
    return first, second
