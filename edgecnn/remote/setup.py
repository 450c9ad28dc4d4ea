"""A machine made ready for our commands, and left as it was found."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.temporary import scratch_folder
from edgecnn.errors import RemoteError
from edgecnn.remote.agent_folder import user_name
from edgecnn.remote.ssh import PYTHON, Connection
from edgecnn.remote.ssh_errors import SET_UP, NotSetUpError, WrongInterpreterError
from edgecnn.remote.wheels import Machine, contents, requirements, resolve, write_own_wheel
from edgecnn.version import __version__

Say = Callable[[str], None]
Facts = Mapping[str, Any]


def who() -> str:
    """This user on this machine, as the other one is told."""
    return f"{user_name()} on {platform.node()}"


def machine_of(facts: Facts) -> Machine:
    """What decides which wheels fit a machine; raises `RemoteError` for one without glibc."""
    major, minor = str(facts["python"]).split(".")[:2]
    glibc = str(facts["glibc"]).split(".")
    if glibc[0] != "2" or not glibc[-1].isdecimal():
        raise RemoteError(f"no wheels for a system without glibc ({facts['system']})", "use one with glibc 2")
    return Machine(f"{major}.{minor}", str(facts["machine"]), int(glibc[1]), bool(facts["l4t"]))


def setup_host(host: str, *, python: str = "", wheels: Path | None = None, say: Say = lambda line: None) -> None:
    """Put edgecnn and what it needs into a private folder of the user's home on `host`, for the interpreter `python`
    there. Nothing is compiled there, and no index asked.

    `wheels` is a folder to take wheels from in place of pip's index. Raises `RemoteError` that lists those that are
    missing, and where the machine is not reached.
    """
    with Connection(host, python or PYTHON) as connection, scratch_folder() as scratch:
        machine = machine_of(connection.hello())
        say(f"{host}: {machine}")
        (scratch / "needed").mkdir()
        needed = contents(resolve(machine, scratch / "needed", wheels))
        own = contents([write_own_wheel(scratch)])
        _install(connection, machine, needed, own, say)


def require_set_up(connection: Connection, say: Say) -> Facts:
    """What a machine is that was set up, with this very edgecnn on it: another version's is replaced.

    Raises `RemoteError` where it was not, for another Python or architecture, or needs other packages by now.
    """
    facts = connection.hello()
    setup, host = facts["setup"], connection.host
    again = f"`edgecnn remote setup {host}`"
    if not setup or not all(facts["site"].values()):
        raise NotSetUpError(f"{host}: edgecnn was not set up there", again)
    machine = machine_of(facts)
    if setup["machine"] != str(machine):
        raise RemoteError(f"{host}: was set up for {setup['machine']}, and is {machine} now", again)
    if setup.get("requirements") != list(requirements(machine)):
        raise RemoteError(
            f"{host}: was set up by edgecnn {setup['edgecnn']}, and {__version__} needs other packages", again
        )
    with scratch_folder() as scratch:
        own = contents([write_own_wheel(scratch)])
        if _own_site(own) not in facts["site"]:
            _install(connection, machine, setup["site"][setup["needed"]], own, say)
            return connection.hello()
    return facts


def clean_host(host: str) -> Facts:
    """Remove the private folder from a machine, with all that is in it; raises `RemoteError` where it is in use."""
    with Connection(host, SET_UP) as connection:
        try:
            return connection.call("clean", {"who": who()})
        except (NotSetUpError, WrongInterpreterError):
            pass
    with Connection(host) as connection:
        return connection.call("clean", {"who": who()})


def _own_site(own: Mapping[str, Path]) -> str:
    return f"edgecnn-{next(iter(own))[:16]}"


def _install(
    connection: Connection,
    machine: Machine,
    needed: Sequence[str] | Mapping[str, Path],
    own: Mapping[str, Path],
    say: Say,
) -> None:
    """Send what is not there, and unpack it; of `needed`, which may be there already, the files that are known."""
    known = {**(needed if isinstance(needed, Mapping) else {}), **own}
    puts = [(path, sha256, path.stat().st_size) for sha256, path in known.items()]
    send(connection, [(sha256, (path, 0, size)) for path, sha256, size in puts], say)
    name = f"needed-{hashlib.sha256(''.join(sorted(needed)).encode()).hexdigest()[:16]}"
    site = {_own_site(own): list(own), name: list(needed)}
    setup = {
        "edgecnn": __version__,
        "machine": str(machine),
        "requirements": list(requirements(machine)),
        "needed": name,
        "site": site,
    }
    connection.call("install", {"who": who(), "site": site, "setup": setup})
    say(f"{connection.host}: edgecnn {__version__} is there")


def send(connection: Connection, files: Sequence[tuple[str, tuple[Path, int, int]]], say: Say) -> None:
    """Send files, by their content, that the machine does not have; raises `RemoteError`."""
    known = dict(files)
    if not known:
        return
    asked = [(sha256, size) for sha256, (_, _, size) in known.items()]
    lacking = connection.call("missing", {"files": asked})["missing"]
    if not lacking:
        return
    total = sum(known[sha256][2] for sha256 in lacking)
    say(f"{connection.host}: sending {len(lacking)} of {len(known)} files, {total / 1e6:.1f} MB")
    connection.call(
        "put",
        {"files": [(sha256, known[sha256][2]) for sha256 in lacking]},
        puts=[known[sha256] for sha256 in lacking],
        say=say,
    )
