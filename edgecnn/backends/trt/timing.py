"""Timing caches: how long each kernel took, kept per (TensorRT, GPU, driver), so that the next build is faster and
chooses the same. Builders that end at the same time merge into the file one after the other; it is replaced whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecnn.artifact.write import write_bytes
from edgecnn.errors import WriteError
from edgecnn.results.device import Device


def default_cache_path(device: Device, kind: str = "timing", of: str = "") -> Path:
    """`$XDG_CACHE_HOME/edgecnn/<kind>/<TensorRT>-<GPU>-<driver>.cache`, where a cache is `of` one plan with its name
    last."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    d = device
    keys = [d.tensorrt, d.gpu_name, d.compute_capability, d.driver, d.cuda, d.power_mode, of]
    return base / "edgecnn" / kind / (re.sub(r"[^\w.]+", "_", "-".join(str(k) for k in keys if k)) + ".cache")


def load_timing_cache(config: Any, path: Path) -> tuple[Any, str]:
    """Set the cache of `path` in `config`; returns it (it must outlive the build) and what is to be said about it.

    A file that TensorRT does not take (damaged, or of another device) is left out, not repaired; the next merge
    replaces it. Raises `WriteError` now rather than after the build when the file could not be written.
    """
    if path.is_dir():
        raise WriteError(f"{path}: the timing cache cannot be written: it is a folder", "name a file in it")
    with _locked(path):
        content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is not None and config.set_timing_cache(cache, False):
        return cache, f"timing cache {path}: {len(content) / 1e3:.0f} kB" if content else f"timing cache {path}: new"
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache, f"timing cache {path}: TensorRT does not take it; it is left out and made anew"


def merge_timing_cache(config: Any, path: Path) -> str:
    """Add what the build measured to the file, together with what others have added since; returns its sha256."""
    with _locked(path):
        cache = config.get_timing_cache()
        content = path.read_bytes() if path.is_file() else b""
        other = config.create_timing_cache(content) if content else None
        if other is not None:
            cache.combine(other, False)
        merged = bytes(cache.serialize())
        if merged != content:
            write_bytes(path, merged)
    return hashlib.sha256(merged).hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as exc:
        raise WriteError(
            f"{path}: the timing cache cannot be written: {exc.strerror or exc}",
            "set XDG_CACHE_HOME to a folder that you may write to",
        ) from exc
