"""Small copies of images that a page holds in itself."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

from edgecnn.data.dataset import Dataset

SIDE = 96  # pixels of a thumbnail
PIXELATED = 40  # pixels: up to this side a picture is kept as it is
QUALITY = 72  # of a thumbnail's JPEG


def thumbnail_uri(dataset: Dataset, index: int) -> tuple[str, bool]:
    """An image before resize and crop, small, and whether each of its pixels is kept; "" for one that is preprocessed
    already."""
    if dataset.pixels is not None:
        array = dataset.pixels(index)
        picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3])
    elif dataset.image is not None:
        picture = dataset.image(index)
    else:
        return "", False
    if dataset.preprocessing is not None and dataset.preprocessing.exif_orientation:
        picture = ImageOps.exif_transpose(picture)
    picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
    tiny = max(picture.size) <= PIXELATED
    picture.thumbnail((SIDE, SIDE))
    kind, encoded = ("png" if tiny else "jpeg"), io.BytesIO()
    picture.info.clear()  # what a file says beside its pixels stays with it
    picture.save(encoded, kind, optimize=True, **({} if tiny else {"quality": QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}", tiny
