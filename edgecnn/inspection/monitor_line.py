"""What a serving loop tells a monitor of one image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecnn.errors import DataError
from edgecnn.measure.input_statistics import input_statistics
from edgecnn.output import inert_json


def monitor_line(
    logits: npt.ArrayLike, pixels: npt.NDArray[Any] | None = None, *, image: str = "", time_s: float | None = None
) -> str:
    """One row for `edgecnn monitor`, a line of JSON: the logits [classes] of an image, and statistics of its pixels.

        import edgecnn as ec
        line = ec.monitor_line([0.1, 2.5], image="gate/0001.jpg")
        print(line, flush=True)

    `pixels` [H, W] or [H, W, C] are what the network is shown, resized and cropped, 0 to 255: not the file's, whose
    size would be counted as sharpness. `time_s` is in seconds since 1970; without it the monitor takes the time of the
    line's arrival. Logits that are not finite are told as null. Raises `DataError` for what is no row of logits, or no
    such pixels.
    """
    content = row_content(logits, pixels, image)
    return inert_json(content if time_s is None else {**content, "time": time_s})


def row_content(logits: npt.ArrayLike, pixels: npt.NDArray[Any] | None, image: str) -> dict[str, object]:
    """The same as a mapping, without a time."""
    try:
        row = np.asarray(logits, np.float32)
    except (ValueError, TypeError) as exc:
        raise DataError(f"logits: not a row of numbers ({exc})", "give the logits of one image, [classes]") from exc
    if row.ndim != 1 or row.size == 0:
        raise DataError(f"logits: {list(row.shape)} are not of one image", "give [classes]")
    line: dict[str, object] = {"logits": [float(f"{v:.7g}") if math.isfinite(v) else None for v in row.tolist()]}
    if image:
        line["image"] = image
    if pixels is not None:
        line |= {name: float(f"{value:.5g}") for name, value in input_statistics(pixels).items()}
    return line
