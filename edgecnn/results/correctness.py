"""Which images were answered right, as packed bits: what lets a later run be compared image by image."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgecnn.errors import ArtifactError

Bools = npt.NDArray[np.bool_]


def pack_bits(right: Bools) -> str:
    """[N] as base64 of one bit for each image, the first one in the highest bit."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def images_digest(images: Iterable[tuple[str, str, str]]) -> str:
    """What tells test images from others: (id, sha256, name of the label) of each, in the order of the bits."""
    return hashlib.sha256("\n".join("\t".join(one) for one in images).encode()).hexdigest()


def unpack_bits(text: str, n: int, count: int, where: str, hint: str) -> Bools:
    """The [n] bits of `text`, of which `count` are set; raises `ArtifactError` that names `where` for any others."""
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except (binascii.Error, ValueError) as exc:
        raise ArtifactError(f"{where}: its bits are not base64 ({exc})", hint) from exc
    bits = np.unpackbits(packed).astype(bool)
    if len(packed) != (n + 7) // 8 or bits[n:].any():
        raise ArtifactError(f"{where}: {len(packed)} bytes of bits are not those of {n} images", hint)
    if int(bits.sum()) != count:
        raise ArtifactError(f"{where}: its bits say {int(bits.sum())} images right, its figures {count}", hint)
    return bits[:n]
