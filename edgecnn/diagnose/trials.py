"""Ask a backend about graphs in a process of its own: a parser or builder that crashes ends that process alone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from edgecnn.backends import Opinion, load_backend
from edgecnn.errors import BackendError, EdgecnnError
from edgecnn.results.finding import Finding

PATIENCE_S = 900
CRASH = "the process of NVIDIA's parser and builder was ended by"


class Trials:
    """`ask` backends, as often as one likes; the process lives until it crashes, or the block is left."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Trials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, backend: str, path: Path, build: bool) -> Opinion | None:
        """What the backend says; a crash is an opinion of its own. Raises what the backend raises, and `BackendError`
        where it does not answer within `PATIENCE_S`."""
        connection = self._connection or self._start()
        try:
            connection.send((backend, path.resolve(), build))
            if not connection.poll(PATIENCE_S):
                raise BackendError(
                    f"{path}: no answer from the builder within {PATIENCE_S} s", "a build that hangs is not reduced"
                )
            answer = connection.recv()
        except (EOFError, OSError):
            return self._crash(backend)
        except BaseException:
            self._end()
            raise
        if isinstance(answer, EdgecnnError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer  # type: ignore[no-any-return]

    def _start(self) -> Connection:
        one, other = socket.socketpair()
        theirs, ours = one.detach(), other.detach()
        command = [sys.executable, "-c", "from edgecnn.diagnose.trials import serve; serve()", str(theirs)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=[theirs],
        )
        os.close(theirs)
        self._connection = Connection(ours)
        return self._connection

    def _crash(self, backend: str) -> Opinion:
        assert self._process is not None
        code = self._process.wait()
        self._end()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        finding = Finding("error", "graph", f"{CRASH} {how}", "it may also have run out of memory")
        return Opinion(backend, (finding,), (f"crash, {how}",))

    def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None


def serve() -> None:
    """Answer the questions that come by the file descriptor in the first argument, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashes are expected, and told
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_answer(*connection.recv()))


def _answer(backend: str, path: Path, build: bool) -> Opinion | EdgecnnError | str | None:
    try:
        return load_backend(backend).check_graph(path, build)
    except EdgecnnError as exc:
        return exc
    except Exception:  # noqa: BLE001 - a bug, which is told where it can be seen
        return traceback.format_exc()
