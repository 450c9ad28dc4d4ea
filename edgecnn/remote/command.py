"""One step's command on other machines: its files go along, and what it made comes back beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from edgecnn.artifact.external import external_files
from edgecnn.artifact.received import place_files
from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.artifact.signature import signature_path
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.data.open import images_sha256
from edgecnn.data.sources.packed import write_packed
from edgecnn.errors import ArtifactError, RemoteError
from edgecnn.limits import what_lacks
from edgecnn.records import parse_json
from edgecnn.remote.host import folder_name
from edgecnn.remote.job import Finished, Job, Made, fetch, forget, run_job, whole_file
from edgecnn.remote.lanes import Lane, in_lanes
from edgecnn.remote.setup import Say, who
from edgecnn.remote.ssh import Connection
from edgecnn.steps._images import open_images


@dataclass(frozen=True)
class Source:
    """An argument that names a file to read: it goes along with what belongs to it. With `option` it stands behind an
    equals sign, where nothing takes it for another option. What is made bears its stem where it `names` that, and no
    output is named."""

    path: Path
    option: str = ""
    names: bool = False


@dataclass(frozen=True)
class Output:
    """An argument that names a file or a folder to write."""

    path: Path
    option: str = ""


Argument: TypeAlias = "str | Source | Output"


@dataclass(frozen=True)
class Answer:
    """What a command said on one machine: its exit code, what it printed, and its JSON where that was asked for; and
    the files that it made, as they lie here now."""

    host: str
    exit_code: int
    out: str
    result: Any
    files: tuple[Path, ...]


def command_on(
    hosts: Sequence[str], arguments: Sequence[Argument], *, as_json: bool = False, say: Say = lambda line: None
) -> tuple[Lane[Answer], ...]:
    """Run `edgecnn` with these arguments on each host. What it makes beside a file lies beside that file here, or with
    several hosts in a folder for each; all of it, or nothing. Raises `ArtifactError` for a file that is not there, and
    `RemoteError` for the name of a host that is none."""
    folders, files = _layout(arguments)
    plain = tuple(_there(argument, folders) for argument in arguments)
    sent = {name: whole_file(path) for name, path in files.items()}
    asked = json.dumps([who(), str(Path.cwd()), plain, {name: pieces[0].sha256 for name, pieces in sent.items()}])
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    job = Job(name, (*plain, *(["--json"] if as_json else [])), sent, tuple(folders.values()))

    def work(connection: Connection, say_of: Say) -> Answer:
        finished = run_job(connection, job, say_of)
        apart = folder_name(connection.host) if len(hosts) > 1 else ""
        _require_named(connection.host, finished, job, arguments, folders)
        made = _bring_back(connection, job, finished, folders, apart)
        forget(connection, job)
        return _answer(connection.host, finished, made, as_json)

    return in_lanes(hosts, work, say)


def pack_images(described: Path, data: str, scratch: Path) -> Path:
    """The images that `data` names as one file that a machine without them can read: packed after resize and crop as
    the sidecar of `described` says, or the file itself where it holds none that could be. Raises `DataError`, and
    `ArtifactError` where there is no sidecar."""
    sidecar = read_sidecar(described).require_classes(f"{described} with --on")
    dataset = open_images(sidecar, data, "test")
    if dataset.image is None:
        return Path(data)
    write_packed(scratch / "images.npz", dataset, "test", images_sha256(data, "test") or "")
    return scratch / "images.npz"


def _layout(arguments: Sequence[Argument]) -> tuple[dict[Path, str], dict[str, Path]]:
    """(the folder there for each folder here, each file that goes along by its name there)."""
    folders, files = dict[Path, str](), dict[str, Path]()
    for argument in arguments:
        if isinstance(argument, str):
            continue
        parent = argument.path.absolute().parent
        there = folders.setdefault(parent, str(len(folders)))
        if isinstance(argument, Source):
            for path in _belonging(argument.path):
                files[f"{there}/{path.relative_to(parent).as_posix()}"] = path
    return folders, files


def _belonging(path: Path) -> list[Path]:
    """A file, its sidecar, the signature of that, and the weights that a graph keeps beside itself."""
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "check the path: it names a file on this machine")
    own = path.absolute()
    if sidecar_path(own).is_file():
        read_sidecar(own).require_classes(f"{path} with --on")
    beside = [sidecar_path(own), signature_path(sidecar_path(own)), signature_path(own)]
    weights = list(external_files(own).values()) if own.suffix == ".onnx" else []
    return [own, *(p for p in beside if p.is_file()), *(w.absolute() for w in weights)]


def _there(argument: Argument, folders: dict[Path, str]) -> str:
    if isinstance(argument, str):
        return argument
    name = f"{folders[argument.path.absolute().parent]}/{argument.path.name}"
    return f"{argument.option}={name}" if argument.option else name


def _require_named(
    host: str, finished: Finished, job: Job, arguments: Sequence[Argument], folders: dict[Path, str]
) -> None:
    """Raise `RemoteError` for a file that was to come back, and is not what the command makes: X.* for the output X.y,
    and what lies in the folder X."""
    outputs = [argument.path for argument in arguments if isinstance(argument, Output)]
    named = outputs or [one.path for one in arguments if isinstance(one, Source) and one.names]
    names = [(folders[path.absolute().parent], path) for path in named]
    for made in finished.files:
        there, _, inner = made.name.partition("/")
        own = any(
            there == folder
            and (inner == path.name or inner.startswith((f"{path.name}/", f"{path.stem}.")))
            and ("/" not in inner or inner.startswith(f"{path.name}/"))
            for folder, path in names
        )
        if made.name in job.files or not own:
            raise RemoteError(
                f"{host}: a file named {made.name[:80]!r} was to come back, which this command does not make",
                "do not trust that machine",
            )


def _bring_back(
    connection: Connection, job: Job, finished: Finished, folders: dict[Path, str], apart: str
) -> dict[str, Path]:
    """Every file that was made, by its name there, where it lies here."""
    found = dict[str, Path]()
    for folder, there in folders.items():
        made = [one for one in finished.files if one.name.startswith(f"{there}/")]
        if not made:
            continue
        target = folder / apart if apart else folder
        with temporary_folder(target / "received") as scratch:
            fetch(connection, job, {one: scratch / _inner(one, there) for one in made})
            place_files(scratch, target)
        found |= {one.name: target / _inner(one, there) for one in made}
    return found


def _inner(made: Made, there: str) -> str:
    return made.name[len(there) + 1 :]


def _answer(host: str, finished: Finished, made: dict[str, Path], as_json: bool) -> Answer:
    result = None
    if as_json:
        try:
            result = parse_json(finished.out)
        except ValueError as exc:
            raise RemoteError(f"{host}: printed no JSON ({exc})", "report it") from exc
    paths = {name: str(path) for name, path in made.items()}
    return Answer(host, finished.code, finished.out, _renamed(result, paths), tuple(made.values()))


def _renamed(value: Any, paths: dict[str, str]) -> Any:
    """JSON in which the files that came back have their names here."""
    if isinstance(value, dict):
        return {key: _renamed(inner, paths) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, paths) for inner in value]
    return paths.get(value, value) if isinstance(value, str) else value
