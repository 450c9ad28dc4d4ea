"""What files of a folder held in each commit of a git repository."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.errors import ArtifactError
from edgecnn.limits import SMALL

COMMIT = b"\x01"  # before each commit in git's log; no path of a log begins so
OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # they name another repository than that of the folder


@dataclass(frozen=True)
class FileVersion:
    """A file as a commit left it; `time` is the commit's, in UTC."""

    commit: str
    time: datetime.datetime
    subject: str
    path: Path
    content: bytes


def file_versions(folder: Path, suffix: str) -> list[FileVersion]:
    """Every version of the files directly in `folder` that a commit on the way to HEAD added or changed, the oldest
    first; a merge counts once, where it was merged.

    Raises `ArtifactError` where there is no git, no repository, or nothing that it knows of the folder.
    """
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.is_dir())
    if _git(there, "rev-parse", "--is-inside-work-tree").strip() != b"true":
        raise ArtifactError(f"{folder}: not in a work tree of git", "name a recipe in a checkout")
    place = os.path.relpath(folder.absolute(), there)
    log = _git(
        there, "log", "--first-parent", "-m", "--no-show-signature", "--no-color", "--no-renames", "--raw", "-z",
        "--no-abbrev", "--diff-filter=AM", "--reverse", "--relative", "--format=%x01%H%x00%ct%x00%s", "--", place,
    )  # fmt: skip
    known = [row for row in _changes(log) if Path(row[4]).suffix == suffix and Path(row[4]).parent == Path(place)]
    contents = _contents(there, [row[3] for row in known])
    return [
        FileVersion(commit, time, subject, there / path, content)
        for (commit, time, subject, _, path), content in zip(known, contents, strict=True)
        if content is not None
    ]


def _changes(log: bytes) -> Iterator[tuple[str, datetime.datetime, str, str, str]]:
    """(commit, time, subject, blob, path) of each file that a commit changed."""
    words = iter(log.split(b"\0"))
    commit, time, subject = "", datetime.datetime.now(datetime.timezone.utc), ""
    for word in words:
        word = word.lstrip(b"\n")
        if word.startswith(COMMIT):
            commit = word[1:].decode()
            time = datetime.datetime.fromtimestamp(int(next(words)), datetime.timezone.utc)
            subject = next(words).decode(errors="replace")
        elif word.startswith(b":"):
            yield commit, time, subject, word.split()[3].decode(), os.fsdecode(next(words))


def _contents(folder: Path, blobs: Sequence[str]) -> list[bytes | None]:
    """The content of each blob; None for what is no file, or larger than any baseline."""
    told = [line.split() for line in _ask(folder, "--batch-check", blobs).splitlines()]
    fitting = [len(one) == 3 and one[1] == b"blob" and int(one[2]) <= SMALL for one in told]
    out = _ask(folder, "--batch", [blob for blob, fits in zip(blobs, fitting, strict=True) if fits])
    found: list[bytes | None] = []
    for fits in fitting:
        if not fits:
            found.append(None)
            continue
        head, _, out = out.partition(b"\n")
        length = int(head.split()[2])
        found.append(out[:length])
        out = out[length + 1 :]
    return found


def _ask(folder: Path, how: str, blobs: Sequence[str]) -> bytes:
    return _git(folder, "cat-file", how, given="".join(f"{blob}\n" for blob in blobs).encode()) if blobs else b""


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "--no-pager", "--literal-pathspecs", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, env=environment, check=False)
    except FileNotFoundError as exc:
        raise ArtifactError("git: not installed here", "install git: the history is read from its commits") from exc
    if done.returncode != 0:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[0]
        if "does not have any commits" in said:
            return b""
        raise ArtifactError(f"{folder}: git cannot be asked: {said}", "name a recipe in a checkout of a git repository")
    return done.stdout
