"""Timing caches: how long each kernel took, kept per (TensorRT, GPU, driver), so that the next build is faster and
mostly chooses the same; what promises the same is `lock.py`. Builders that end at the same time merge into the file one
after the other; it is replaced whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_bytes
from edgecnn.backends import BuildOptions
from edgecnn.backends.trt.lock import ANEW, EngineLock, require_locked_kernels, require_locked_settings, write_lock
from edgecnn.errors import BackendError, WriteError
from edgecnn.results.device import Device
from edgecnn.results.layers import EngineLayer


class BuildCache:
    """The timing cache of one build, which it must outlive, and the lock that is read or written with it.

    It is that of a file, to which the build's timings are added; with `fresh_timings` an empty one that is added to
    none; or with a `lock` the locked one, of which nothing may be missing and to which nothing is added. Each layer has
    an entry of its own where TensorRT can do that (10.13 and later): two layers that look alike then have a tactic
    each. Raises `BackendError` for a locked cache that TensorRT does not take, and for other settings than the lock's.
    """

    def __init__(
        self, trt: Any, config: Any, device: Device, output: Path, options: BuildOptions, lock: EngineLock | None
    ) -> None:
        self._config, self._device, self._output, self._options, self._lock = config, device, output, options, lock
        self._path = None
        if not options.fresh_timings:
            self._path = options.timing_cache or default_cache_path(device, of=_of_route(options.build_route))
        self._timed = b""
        if (editable := getattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE", None)) is not None:
            config.set_flag(editable)
        if self._path is None:
            self._cache, self.said = config.create_timing_cache(b""), "every kernel is timed anew"
            config.set_timing_cache(self._cache, False)
        elif lock is None:
            self._cache, self.said = load_timing_cache(config, self._path)
        else:
            require_locked_settings(output, lock, config.builder_optimization_level, options)
            config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)
            self._cache, self.said = _locked_cache(config, self._path), f"timing cache {self._path}: locked"

    def require_locked(self, layers: Sequence[EngineLayer]) -> None:
        """Raise `BackendError` where a locked build came to other layers than the lock's."""
        if self._lock is not None:
            require_locked_kernels(self._output, self._lock, layers)

    def merged(self) -> dict[str, object]:
        """File and hash, after what the build measured was added; a locked file is left as it is. TensorRT's objects
        are given back: the plan is read back without them."""
        config, cache, self._config, self._cache = self._config, self._cache, None, None
        self._timed = bytes(cache.serialize())
        if self._path is None:
            return {"sha256": hashlib.sha256(self._timed).hexdigest()}
        if self._lock is not None:
            return {"file": self._path.name, "sha256": self._lock.timing_cache_sha256}
        return {"file": self._path.name, "sha256": merge_timing_cache(config, self._path)}

    def write_lock(
        self, temporary: Path, graph: Path, source: Sidecar, facts: Mapping[str, Any], layers: Sequence[EngineLayer]
    ) -> None:
        """Keep what made the plan `temporary`, written with these `facts`, beside it: they take their places together.
        A lock that was kept stays as it is."""
        if self._lock is None:
            write_lock(temporary, self._timed, graph, source, self._device, self._options, facts, layers)


def unlocked_hint(trt: Any, config: Any) -> str:
    """What is to be done about a locked build that failed; "" of another one."""
    flag = getattr(trt.BuilderFlag, "ERROR_ON_TIMING_CACHE_MISS", None)
    if flag is None or not config.get_flag(flag):
        return ""
    return f"the locked timing cache may lack tactics of this graph: {ANEW}"


def _locked_cache(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(path.read_bytes())
    if cache is None or not config.set_timing_cache(cache, False):
        raise BackendError(f"{path}: TensorRT does not take the locked timing cache", ANEW)
    return cache


def _of_route(route: str) -> str:
    """A route has timings of its own: whether it would choose by those of others is not known."""
    return f"route-{hashlib.sha256(route.encode()).hexdigest()[:12]}" if route else ""


def default_cache_path(device: Device, kind: str = "timing", of: str = "") -> Path:
    """`$XDG_CACHE_HOME/edgecnn/<kind>/<TensorRT>-<GPU>-<driver>.cache`, where a cache is `of` one plan or build route
    with its name last."""
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
