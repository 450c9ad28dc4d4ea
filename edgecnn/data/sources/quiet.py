"""Pillow without the lines that it and libtiff write to standard error: what cannot be read is refused by its name, or
counted."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

from PIL import Image

MAPPED = Path("/proc/self/maps")


@functools.cache
def quiet_pillow() -> None:
    """Once in a process, before the first picture is opened."""
    Image.init()
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    for path in {line.split()[-1] for line in MAPPED.read_text().splitlines() if "/libtiff" in line}:
        ctypes.CDLL(path).TIFFSetErrorHandler(None)
