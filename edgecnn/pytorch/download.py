"""Published weights, fetched once into a cache: resumable, checked against their hash before anything reads them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.artifact.temporary import refused, required_lock
from edgecnn.errors import ModelError
from edgecnn.output import inert, say

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18


def cache_folder() -> Path:
    """EDGECNN_CACHE, else `edgecnn` in the platform's cache folder."""
    if named := os.environ.get("EDGECNN_CACHE"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "edgecnn"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecnn"


def cached_path(url: str) -> Path:
    """Where the file of `url` stands in the cache: the same on every machine, so that it can be put there by hand."""
    name = Path(urllib.parse.urlsplit(url).path).name or "weights"
    return cache_folder() / "weights" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def fetch(url: str, sha256: str = "") -> Path:
    """The local file of `url`, downloaded unless the cache has it; `sha256` is the whole hash or a prefix.

    Without one, the hash in a name like `resnet18-f37072fd.pth` is taken. An interrupted download is continued by the
    next call. A file with another hash is moved aside and never used. Raises `ModelError` when it cannot be had.
    """
    try:
        expected, path = sha256 or _hash_in_name(url), cached_path(url)
    except ValueError as exc:  # of urllib, for what is no URL
        raise ModelError(f"{url}: not a URL: {exc}", "check it for typing errors") from exc
    if path.exists():
        _verify(path, url, expected)
        return path
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _take_turn(file, part)
            if not path.exists():
                if not expected:
                    file.truncate(0)  # without a hash nothing proves that two halves belong together
                _say_what_is_unproven(path.name, expected)
                _download(url, file, path)
                file.flush()
                os.fsync(file.fileno())
                _verify(part, url, expected)
                part.replace(path)
    except OSError as exc:
        hint = "free some space, or set EDGECNN_CACHE to a folder that you may write to"
        raise refused(path, exc, written=part.stat().st_size if part.exists() else 0, hint=hint) from exc
    return path


def _take_turn(file: Any, part: Path) -> None:
    """Two processes that want the same file follow each other; raises `WriteError` where there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as exc:
        raise required_lock(exc, part) from exc


def _download(url: str, file: Any, path: Path) -> None:
    """Append to `file` what it still lacks of `url`."""
    have = file.seek(0, os.SEEK_END)
    try:
        with _opened(url, have) as response:
            if have and response.status != 206:  # the server sends the whole file again
                file.truncate(0)
                have = 0
            announced = response.headers.get("Content-Length")
            total = have + int(announced) if announced is not None else None
            with _progress(path.name, have, total) as advance:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    have += len(chunk)
                    advance(len(chunk))
    except urllib.error.HTTPError as exc:
        if exc.code == 416:  # nothing is left to send; the hash will tell
            return
        raise _unreachable(url, path, f"HTTP {exc.code} {exc.reason}") from exc
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as exc:
        raise _unreachable(url, path, str(getattr(exc, "reason", "") or exc)) from exc
    if total is not None and have != total:
        raise ModelError(
            f"{url}: the download ended after {have} of {total} bytes",
            "run the same command again: it continues where this one stopped",
        )


def _opened(url: str, have: int) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "edgecnn"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _unreachable(url: str, path: Path, why: str) -> ModelError:
    return ModelError(
        f"{url}: cannot be downloaded ({why}), and {path} is not there",
        f"fetch the URL on a machine that can reach it and put the file at {path}",
    )


def _verify(path: Path, url: str, expected: str) -> None:
    found = sha256_of(path)
    if found.startswith(expected.lower()):
        return
    aside = path.with_name(f"{path.name.removesuffix('.part')}.mismatch-{found[:8]}")
    path.replace(aside)
    raise ModelError(
        f"{url}: the file has sha256 {found[:12]}, its publisher says {expected[:12]}; it was moved to {aside}",
        "run the command again to download it anew; if it comes out the same, do not trust the source",
    )


def _say_what_is_unproven(name: str, expected: str) -> None:
    if len(expected) < 64:
        known = f"only {len(expected)} of 64 digits of its sha256 are known" if expected else "its sha256 is not known"
        say(f"{name}: unverified: {known}")


def _hash_in_name(url: str) -> str:
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", urllib.parse.urlsplit(url).path)
    return found[1] if found else ""


@contextlib.contextmanager
def _progress(name: str, done: int, total: int | None) -> Iterator[Any]:
    """A bar on stderr where that is a terminal, else one line."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        say(f"downloading {name}{size}{f', from byte {done}' if done else ''}")
        yield lambda n: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(inert(name), total=total, completed=done)
        yield lambda n: bar.advance(task, n)
