"""What Pillow and libtiff would write of a damaged picture is not in the way of what is said of it."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.sources.folder import decode
from edgecnn.errors import DataError


def test_a_damaged_tiff_is_refused_without_a_word_of_libtiff(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    refused = 0
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        whole = io.BytesIO()
        image.save(whole, "TIFF", compression=compression)
        for seed in range(4):
            rng, damaged = random.Random(seed), bytearray(whole.getvalue())
            for _ in range(30):
                damaged[rng.randrange(200, len(damaged))] = rng.randrange(256)
            path = tmp_path / f"{compression}{seed}.tif"
            path.write_bytes(damaged)
            try:
                decode(path)
            except DataError:
                refused += 1
    assert refused > 3
    assert capfd.readouterr() == ("", "")
