"""Several machines at once, each in its lane: one that is lost stops no other."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgecnn.errors import EdgecnnError, RemoteError
from edgecnn.remote.host import require_hosts
from edgecnn.remote.ssh import Connection
from edgecnn.remote.ssh_errors import SET_UP

Found = TypeVar("Found")
Say = Callable[[str], None]
PATIENCE_S = 5.0  # for what an interrupted lane has to clear away


@dataclass(frozen=True)
class Lane(Generic[Found]):
    """What came of one machine: what was found there, or the error that ended it."""

    host: str
    found: Found | None = None
    error: EdgecnnError | None = None


def in_lanes(
    hosts: Sequence[str], work: Callable[[Connection, Say], Found], say: Say = lambda line: None
) -> tuple[Lane[Found], ...]:
    """`work` with a connection to each host, all at once; each line that one says bears its name. Raises `RemoteError`
    for a name that is none, and for one that stands there twice; a bug ends all."""
    require_hosts(hosts)
    lanes, bugs, ended = dict[str, Lane[Found]](), list[BaseException](), queue.SimpleQueue[str]()
    connections = {host: Connection(host, SET_UP) for host in hosts}

    def drive(host: str) -> None:
        def say_of(line: str) -> None:
            say(line if line.startswith(f"{host}: ") else f"{host}: {line}")

        try:
            with connections[host] as connection:
                lanes[host] = Lane(host, work(connection, say_of))
        except EdgecnnError as exc:
            lanes[host] = Lane(host, error=exc)
        except OSError as exc:  # of this machine's files
            where = f"{exc.filename}: " if exc.filename else ""
            told = f"{host}: {where}{exc.strerror or exc}"
            lanes[host] = Lane(host, error=RemoteError(told, "check the path, its permissions and the free space"))
        except BaseException as exc:  # noqa: BLE001 - raised below, in the thread that waits
            bugs.append(exc)
        finally:
            ended.put(host)

    for host in hosts:
        threading.Thread(target=drive, args=(host,), daemon=True).start()
    left = set(hosts)
    try:  # not by Thread.join, which before Python 3.13 takes a thread for ended once Ctrl-C has interrupted it
        while left:
            left.remove(ended.get())
    except BaseException:
        for connection in connections.values():
            connection.cut()
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(queue.Empty):
            while left:
                left.remove(ended.get(timeout=max(deadline - time.monotonic(), 0)))
        raise
    if bugs:
        raise bugs[0]
    return tuple(lanes[host] for host in hosts)
