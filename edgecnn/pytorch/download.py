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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import sha256_of
from edgecnn.artifact.temporary import refused, required_lock
from edgecnn.artifact.write import write_bytes
from edgecnn.errors import ModelError
from edgecnn.limits import read_file, require_regular
from edgecnn.output import inert, say

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 18
DIGITS = 64  # of a sha256 in hexadecimal
ACCEPT = "EDGECNN_ACCEPT_HASH"  # set by --accept-hash


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

    Without one it is what stands behind the address (`URL#sha256=HEX`), else what this machine has accepted before
    (`X.sha256` beside the cached file), else the digits in a name like `resnet18-f37072fd.pth`; where there is nothing
    at all the file is refused unless EDGECNN_ACCEPT_HASH is 1. An interrupted download is continued by the next call. A
    file with another hash is moved aside and never used. Raises `ModelError` when it cannot be had.
    """
    try:
        url, given = _split_hash(url)
        path = cached_path(url)
        expected = _expected(url, path, sha256 or given)
    except ValueError as exc:  # of urllib, for what is no URL
        raise ModelError(f"{url}: not a URL: {exc}", "check it for typing errors") from exc
    found = _verify(path, url, expected) if path.exists() else _fill_cache(url, path, expected)
    if not expected.digits and os.environ.get(ACCEPT) != "1":
        raise ModelError(
            f"{url}: nothing says what its sha256 is; the file that came has {found}",
            f'if it is the one you mean: model.weights = "{url}#sha256={found}", or --accept-hash, which remembers it',
        )
    if not expected.digits:
        write_bytes(_known(path), f"{found}  {path.name}\n".encode())
    return path


@dataclass(frozen=True)
class _Expected:
    """What a file's sha256 is to begin with, who says so, and what to do where it does not."""

    digits: str
    whose: str = "its publisher says"
    hint: str = "run the command again to download it anew; if it comes out the same, do not trust the source"


def _split_hash(url: str) -> tuple[str, str]:
    """(the address, the sha256 that stands behind it)."""
    address, mark, fragment = url.partition("#")
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if mark and not found:
        raise ModelError(f"{url}: {mark}{fragment} is not a sha256", f"write {address}#sha256= and its 64 hex digits")
    return address, found[1] if found else ""


def _expected(url: str, path: Path, given: str) -> _Expected:
    known = _known(path)
    if given or not known.exists():
        return _Expected((given or _hash_in_name(url)).lower())
    remembered = read_file(known).decode("ascii", "replace")[:DIGITS]
    if not re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", remembered):
        raise ModelError(f"{known}: begins with no sha256", "remove it, and accept the file again")
    hint = f"ask who keeps it; if the new one is what you mean, remove {known} and accept it with --accept-hash"
    return _Expected(remembered, "and had when it was accepted", hint)


def _known(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _fill_cache(url: str, path: Path, expected: _Expected) -> str:
    """Download what the cache lacks; returns its sha256."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _take_turn(file, part)
            if path.exists():  # another process had its turn
                return _verify(path, url, expected)
            if not expected.digits:
                file.truncate(0)  # without a hash nothing proves that two halves belong together
            _say_what_is_unproven(path.name, expected.digits)
            _download(url, file, path)
            file.flush()
            os.fsync(file.fileno())
            found = _verify(part, url, expected)
            part.replace(path)
            return found
    except OSError as exc:
        hint = "free some space, or set EDGECNN_CACHE to a folder that you may write to"
        raise refused(path, exc, written=part.stat().st_size if part.exists() else 0, hint=hint) from exc


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
    if url.startswith("file:"):
        try:
            require_regular(Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)))
        except OSError as exc:
            raise urllib.error.URLError(str(exc)) from exc
    request = urllib.request.Request(url, headers={"User-Agent": "edgecnn"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _unreachable(url: str, path: Path, why: str) -> ModelError:
    return ModelError(
        f"{url}: cannot be downloaded ({why}), and {path} is not there",
        f"fetch the URL on a machine that can reach it and put the file at {path}; or name "
        "a file of yours: model.weights = PATH in a recipe (--set model.weights=PATH)",
    )


def _verify(path: Path, url: str, expected: _Expected) -> str:
    """The sha256 of a file; raises `ModelError` where it is not the expected one, and moves the file aside."""
    found = sha256_of(path)
    if found.startswith(expected.digits):
        return found
    aside = path.with_name(f"{path.name.removesuffix('.part')}.mismatch-{found[:8]}")
    path.replace(aside)
    raise ModelError(
        f"{url}: the file has sha256 {found[:12]}, {expected.whose} {expected.digits[:12]}; it was moved to {aside}",
        expected.hint,
    )


def _say_what_is_unproven(name: str, expected: str) -> None:
    if len(expected) < DIGITS:
        known = (
            f"only {len(expected)} of {DIGITS} digits of its sha256 are known"
            if expected
            else "its sha256 is not known"
        )
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
