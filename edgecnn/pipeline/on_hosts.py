"""A recipe on other machines: what needs no device is made here, and judged is each machine by what it measures."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.artifact.received import replace_folder, restore_folder
from edgecnn.artifact.run_folder import REPORT, read_report
from edgecnn.artifact.sidecar import file_sha256, sidecar_path
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.bundle.manifest import BASELINES, MANIFEST, Bundle
from edgecnn.errors import ArtifactError, DeviceError, EdgecnnError, RecipeError, RemoteError
from edgecnn.pipeline.device import bundle
from edgecnn.pipeline.run import Say, run_recipe
from edgecnn.pipeline.workshop import ProgressFor
from edgecnn.recipe.schema import Recipe
from edgecnn.records import mapping_from_json
from edgecnn.remote.host import folder_name, require_hosts
from edgecnn.remote.job import Finished, Job, Made, Piece, fetch, run_job
from edgecnn.remote.lanes import Lane, in_lanes
from edgecnn.remote.setup import who
from edgecnn.remote.ssh import Connection
from edgecnn.results.host import HostRun
from edgecnn.results.report import RunReport
from edgecnn.results.verdict import worst_exit_code
from edgecnn.steps import HOST_STEPS, STEPS, StepName

ON, RUN, ARCHIVE = "on", "run", "bundle.tar"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
INLINE = 1024  # bytes of a file that is sent with the request


@dataclass(frozen=True)
class OnHosts:
    """What a recipe came to on each machine, and what was made here before."""

    folder: Path
    done: int
    hosts: tuple[HostRun, ...]

    @property
    def exit_code(self) -> int:
        """1 where a target failed; 3 where one is inconclusive, or a machine could not be judged while others were;
        2 where none could; else 0."""
        if all(host.not_judged for host in self.hosts):
            return 2
        judged = worst_exit_code(report.verdict for host in self.hosts for report in host.reports)
        return 3 if judged == 0 and any(host.not_judged for host in self.hosts) else judged


def run_on_hosts(
    recipe: Recipe,
    folder: Path,
    hosts: Sequence[str],
    say: Say,
    *,
    until: StepName = STEPS[-1],
    targets: Sequence[str] = (),
    threads: int | None = None,
    trust_code: bool = False,
    progress: ProgressFor = lambda step: None,
    retrain: bool = False,
) -> OnHosts:
    """Bring a recipe up to date as far as its reference here, and from there on each of `hosts` at once.

    Each machine keeps a run folder of its own, so that a second call does what is missing there; what it measured comes
    back to `folder`/on/HOST, whole. Raises `RecipeError` for an `until` that needs no device, `RemoteError` for the
    name of a host that is none, and the errors of `run_recipe` and of `bundle`; those of a machine are in its result.
    """
    require_hosts(hosts)
    if until in HOST_STEPS:
        raise RecipeError(f"--on with --until {until}: no device does that", "leave --on out, or stop later")
    prepared = run_recipe(
        recipe,
        folder,
        say,
        until="reference",
        targets=targets,
        threads=threads,
        trust_code=trust_code,
        progress=progress,
        retrain=retrain,
    )
    wanted = tuple(dict.fromkeys(targets)) or recipe.targets
    with temporary_folder(folder / ON / "packed") as scratch:
        packed = {target: _packed(recipe, folder, scratch / f"{target}.tar", target) for target in wanted}
        arguments = [f"--until={until}", *([f"--threads={threads}"] if threads else [])]

        def work(connection: Connection, say_of: Say) -> HostRun:
            return _on_host(connection, folder, packed, arguments, until, say_of)

        lanes = in_lanes(hosts, work, say)
    return OnHosts(folder, prepared.done, tuple(_host_run(lane) for lane in lanes))


def _packed(recipe: Recipe, folder: Path, archive: Path, target: str) -> tuple[Bundle, Path]:
    pictures = recipe.input.geometry is not None
    return bundle(recipe, folder, archive, target=target, images="files" if pictures else "packed"), archive


def _on_host(
    connection: Connection,
    folder: Path,
    packed: Mapping[str, tuple[Bundle, Path]],
    arguments: Sequence[str],
    until: StepName,
    say: Say,
) -> HostRun:
    """Every target that the machine is, one after the other."""
    own = folder / ON / folder_name(connection.host)
    restore_folder(own)
    reports, why = list[RunReport](), list[str]()
    for target, (found, archive) in packed.items():
        job = _job(folder, found, archive, arguments)
        finished = run_job(connection, job, say)
        elsewhere = mapping_from_json(finished.out, connection.host, "report it").get("not_measured")
        if elsewhere:
            why.append(f"{target} ({elsewhere[0]['why']})")
            continue
        _bring_back(connection, job, finished, found, own)
        if until == STEPS[-1]:
            reports.append(read_report(own / target / REPORT)[0])
    if len(why) == len(packed):
        raise DeviceError(
            f"{connection.host}: is none of the recipe's targets: {'; '.join(why)}",
            "name the device that it is in the recipe: --set 'targets=[\"gpu\"]'; `edgecnn targets` lists them",
        )
    return HostRun(connection.host, str(own), tuple(reports))


def _job(folder: Path, found: Bundle, archive: Path, arguments: Sequence[str]) -> Job:
    name = hashlib.sha256(os.fsencode(f"{who()}\n{os.path.realpath(folder)}\n{found.target}")).hexdigest()[:16]
    command = ("run", ARCHIVE, f"--out={RUN}", *arguments, "--json")
    kept = frozenset(f"{RUN}/{inner}" for inner in {*_brought(found), MANIFEST})
    return Job(name, command, {ARCHIVE: _pieces(archive, found)}, passing=(ARCHIVE,), ignored=kept)


def _brought(found: Bundle) -> set[str]:
    """The files of a bundle that need not come back: all but the recipe and its baselines."""
    recipe = _recipe_files(found)
    return {f.path for f in found.files if f.path not in recipe and Path(f.path).parts[0] != BASELINES}


def _recipe_files(found: Bundle) -> set[str]:
    name = f"{found.recipe}.toml"
    return {name, sidecar_path(Path(name)).name}


def _pieces(archive: Path, found: Bundle) -> list[Piece]:
    """A bundle as its files, which are sent where they are missing, and what lies between them."""
    sha256s = {file.path: file.sha256 for file in found.files}
    pieces, end = list[Piece](), 0
    with tarfile.open(archive) as members, archive.open("rb") as content:
        for member in members:
            if member.size < INLINE or member.name not in sha256s:
                continue
            content.seek(end)
            pieces.append(Piece(content=content.read(member.offset_data - end)))
            pieces.append(Piece(archive, member.offset_data, member.size, sha256s[member.name]))
            end = member.offset_data + member.size
        content.seek(end)
        return [*pieces, Piece(content=content.read())]


def _bring_back(connection: Connection, job: Job, finished: Finished, found: Bundle, own: Path) -> None:
    """Replace what was measured before by what is there now; a file that is here already is not sent again."""
    wanted = dict[Made, str]()
    for made in finished.files:
        first, _, inner = made.name.partition("/")
        if first == RUN:
            wanted[made] = inner
    with temporary_folder(own) as scratch:
        kept = {
            inner for inner in _files_of(own) if inner.partition("/")[0] not in {found.target, *_recipe_files(found)}
        }
        for inner in kept:
            _link(own / inner, scratch / inner)
        lacking = dict[Made, Path]()
        for made, inner in wanted.items():
            here = own / inner
            if here.is_file() and here.stat().st_size == made.size and file_sha256(here) == made.sha256:
                _link(here, scratch / inner)
            else:
                lacking[made] = scratch / inner
        fetch(connection, job, lacking)
        _require_readable(connection.host, scratch / found.target / REPORT)
        replace_folder(scratch, own)


def _require_readable(host: str, report: Path) -> None:
    """Raise `RemoteError` for a report of another version's, or a damaged one, before it takes the old one's place."""
    if not report.exists():
        return
    try:
        read_report(report)
    except ArtifactError as exc:
        told = f"{host}: sent a {report.name} that is damaged, or of another version"
        raise RemoteError(told, exc.hint) from exc


def _files_of(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _link(path: Path, scratch: Path) -> None:
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.hardlink_to(path)
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        shutil.copyfile(path, scratch)


def _host_run(lane: Lane[HostRun]) -> HostRun:
    if lane.found is not None:
        return lane.found
    error: Any = lane.error
    assert isinstance(error, EdgecnnError)
    return HostRun(lane.host, not_judged=error.message, hint=error.hint)
