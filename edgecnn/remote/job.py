"""One command on another machine: its files there, its process, what it made back here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecnn.artifact.sidecar import file_sha256
from edgecnn.errors import RefusedError, RemoteError
from edgecnn.remote.setup import Facts, Say, require_set_up, send, who
from edgecnn.remote.ssh import Connection, not_understood
from edgecnn.remote.ssh_errors import AGAIN, KILLED

CHUNK = 1 << 20
SIGKILL = -9
BUG = 101
ERROR, HINT = "error: ", "hint: "


@dataclass(frozen=True)
class Piece:
    """Bytes of a file that goes along: `size` bytes of `path` from `offset` on, known by their `sha256`; or, where
    there is no path, `content` itself."""

    path: Path | None = None
    offset: int = 0
    size: int = 0
    sha256: str = ""
    content: bytes = b""


def whole_file(path: Path) -> tuple[Piece]:
    """A file as one piece."""
    return (Piece(path, 0, path.stat().st_size, file_sha256(path)),)


@dataclass(frozen=True)
class Job:
    """The arguments of `edgecnn` there, and its files by their names in the job's folder; `folders` are made empty,
    files that are `passing` go when the command has ended, and those that are `ignored` do not come back. Jobs of one
    `name` on one machine share a folder."""

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, Sequence[Piece]]
    folders: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Made:
    """A file that a command has made there: its name in the job's folder, the sha256 of its content, its size."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code (0, 1 or 3), what it printed, the files that it made."""

    code: int
    out: str
    files: tuple[Made, ...] = field(default=())


def run_job(connection: Connection, job: Job, say: Say) -> Finished:
    """Send what is missing there, run the command, pass on what it says.

    Raises `RemoteError` where the machine is not ready, is lost or refuses, where Linux killed the command, and with
    the command's own error where it ended with one.
    """
    facts = require_set_up(connection, say)
    blobs = {piece.sha256: piece for pieces in job.files.values() for piece in pieces if piece.path is not None}
    send(connection, [(s, (p.path, p.offset, p.size)) for s, p in blobs.items() if p.path is not None], say)
    errors = dict[str, str]()

    def listen(line: str) -> None:
        kept = next((word for word in (ERROR, HINT) if line.startswith(word)), "")
        if kept:
            errors[kept] = line.removeprefix(kept)
        else:
            say(line)

    found = connection.call("run", _request(job, facts), say=listen)
    try:
        code, out = int(found["code"]), str(found["out"])
        files = tuple(Made(*map_made(row)) for row in found["files"])
    except (LookupError, TypeError, ValueError) as exc:
        raise not_understood(connection.host, found) from exc
    if code in (SIGKILL, KILLED):
        raise _killed(connection.host, found)
    if code not in (0, 1, 3):
        told = errors.get(ERROR) or _how(code, connection.host)
        hint = f"on {connection.host}: {errors[HINT]}" if HINT in errors else AGAIN
        raise RefusedError(f"{connection.host}: {told}", hint)
    return Finished(code, out, files)


def map_made(row: Sequence[object]) -> tuple[str, str, int]:
    """A row of the agent's; raises `RemoteError` for a name that could leave its folder."""
    name, sha256, size = str(row[0]), str(row[1]), int(str(row[2]))
    if name.startswith("/") or any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise RemoteError(f"a file named {name[:80]!r} was to come back", "do not trust that machine")
    if size < 0:
        raise ValueError(size)
    return name, sha256, size


def fetch(connection: Connection, job: Job, files: Mapping[Made, Path]) -> None:
    """Bring files back, each to a path in a folder that is nobody's yet; raises `RemoteError` where one did not come
    whole, after which the others there are worth nothing."""
    if not files:
        return
    request = {"job": job.name, "files": [(made.name, made.sha256, made.size) for made in files]}
    with connection.fetch(request) as stream:
        for made, scratch in files.items():
            scratch.parent.mkdir(parents=True, exist_ok=True)
            digest, left = hashlib.sha256(), made.size
            with scratch.open("wb") as file:
                while left:
                    chunk = stream.read(min(left, CHUNK))
                    if not chunk:
                        raise connection.lost("get")
                    digest.update(chunk)
                    file.write(chunk)
                    left -= len(chunk)
            if digest.hexdigest() != made.sha256:
                raise RemoteError(f"{connection.host}: {made.name}: arrived damaged, or was changed meanwhile", AGAIN)


def forget(connection: Connection, job: Job) -> None:
    """Remove the job's folder there."""
    connection.call("forget", {"job": job.name})


def _request(job: Job, facts: Facts) -> Facts:
    files = {
        name: [[piece.content.hex(), "" if piece.path is None else piece.sha256] for piece in pieces]
        for name, pieces in job.files.items()
    }
    return {
        "who": who(),
        "job": job.name,
        "arguments": list(job.arguments),
        "files": files,
        "folders": list(job.folders),
        "passing": list(job.passing),
        "ignored": sorted(job.ignored),
        "site": list(facts["setup"]["site"]),
    }


def _killed(host: str, found: Facts) -> RefusedError:
    before, after, peak = found["memory_before"], found["memory"], int(found["peak_bytes"])
    struck = after.get("oom_kill", 0) - before.get("oom_kill", 0)
    counted = "its kernel counts one more killed" if struck else "its kernel counts none more killed for want of memory"
    return RefusedError(
        f"{host}: 'Killed' (exit code {KILLED}; {counted}): the process had {_gb(peak)} of "
        f"{_gb(after.get('MemTotal'))}, {_gb(before.get('MemAvailable'))} were free before it began, "
        f"swap {_gb(after.get('SwapTotal'))}",
        "free memory there (a desktop takes 1 GB), add swap, or build with less: --workspace-mb 512",
    )


def _gb(size: object) -> str:
    return f"{size / 1e9:.2f} GB" if isinstance(size, int) else "an unknown amount"


def _how(code: int, host: str) -> str:
    if code == BUG:
        return "a bug of edgecnn's, whose traceback stands above"
    return f"the command ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
