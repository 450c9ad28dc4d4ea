"""What a camera that went out of focus, a noisy sensor or the night change in pictures, as four numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.errors import DataError

STATISTICS = ("brightness", "contrast", "sharpness", "noise")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_MASK_DEVIATION = 6.0  # of Immerkaer's mask on noise of deviation 1
_MEDIAN_OF_NORMAL = 0.6744898  # the median of |x| of a standard normal distribution


def input_statistics(pixels: npt.NDArray[Any]) -> dict[str, float]:
    """Four numbers of a picture's pixels, [H, W] or [H, W, C] of 0 to 255, by their name in `STATISTICS`.

    `brightness` is the mean of the luma, `contrast` its standard deviation, both 0 to 255. `sharpness` is the standard
    deviation of the Laplacian divided by the contrast, which the light does not change (0 for a flat picture). `noise`
    is the deviation of white noise, 0 to 255: the median of Immerkaer's mask (Computer Vision and Image Understanding
    64, 1996). Raises `DataError` for what are no such pixels.
    """
    shown = np.asarray(pixels)
    if shown.ndim == 3 and shown.shape[2] in (1, 3, 4):
        light = shown[..., 0] if shown.shape[2] == 1 else shown[..., :3] @ _LUMA
    else:
        light = shown
    if light.ndim != 2 or min(light.shape) < 3 or light.dtype.kind not in "uif":
        raise DataError(
            f"pixels: {shown.dtype} {list(shown.shape)} are no picture",
            "give [height, width] or [height, width, channels] of at least 3 x 3 pixels, 0 to 255",
        )
    light = light.astype(np.float32)
    if not np.isfinite(light).all() or light.min() < 0 or light.max() > 255.5:
        raise DataError("pixels: beyond 0 to 255", "give the pixels before they are scaled or normalised")
    contrast = float(light.std(dtype=np.float64))
    inner = light[1:-1, 1:-1]
    down, across = light[:-2, 1:-1] + light[2:, 1:-1], light[1:-1, :-2] + light[1:-1, 2:]
    corners = light[:-2, :-2] + light[:-2, 2:] + light[2:, :-2] + light[2:, 2:]
    laplacian = down + across - 4 * inner
    mask = corners - 2 * (down + across) + 4 * inner
    return {
        "brightness": float(light.mean(dtype=np.float64)),
        "contrast": contrast,
        "sharpness": float(laplacian.std(dtype=np.float64)) / contrast if contrast > 1e-6 else 0.0,
        "noise": float(np.median(np.abs(mask))) / (_MASK_DEVIATION * _MEDIAN_OF_NORMAL),
    }
