"""Calls of the agent on a machine, by the user's own OpenSSH client and its configuration.

The remote command is one constant but for the interpreter's path, which is quoted: whatever else is said, names of
files included, goes through standard input. One handshake serves all calls (ControlMaster), by a socket in a private
folder; nothing is ever asked for (BatchMode).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from edgecnn.artifact.temporary import temporary_folder
from edgecnn.errors import RemoteError
from edgecnn.records import parse_json
from edgecnn.remote.host import require_host
from edgecnn.remote.ssh_errors import AGAIN, KILLED, Ended, error_of, is_lost

AGENT = tuple(Path(__file__).with_name(name) for name in ("agent_folder.py", "agent.py"))
READY = "edgecnn-python "
BOOT = (  # no character in it means anything to a shell inside single quotes, csh and fish included; the empty line
    # ends what a shell that starts has printed
    f'import sys;print();print("{READY}%d.%d"%sys.version_info[:2]);sys.stdout.flush();'
    "sys.version_info<(3,10) and sys.exit(86);b=sys.stdin.buffer;"
    'exec(compile(b.read(int(b.readline())),"edgecnn-agent","exec"),{"__name__":"edgecnn-agent"})'
)
OPTIONS = {
    "BatchMode": "yes",
    "ControlMaster": "auto",
    "ControlPersist": "60",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "INFO",
}
PYTHON = "python3"
CHUNK = 1 << 20
SHOWN_S = 5.0
DOCTOR = "`edgecnn remote doctor`"
LONGEST_SOCKET = 60  # of the 108 bytes that Linux allows; ssh appends 17 while it binds
KEPT = 65536  # bytes of what ssh says

Say = Callable[[str], None]
Put = tuple[Path, int, int]  # a file, where in it the bytes begin, and how many they are


class Connection:
    """A machine over ssh; a context manager that ends what it has started. Calls are made one at a time."""

    def __init__(self, host: str, python: str = PYTHON) -> None:
        require_host(host)
        if not python or any(ord(c) < 32 or c == "\x7f" for c in python) or python[0] == "-":
            raise RemoteError(
                f"{host}: --python {python!r}: not the path of an interpreter", "name one: /usr/bin/python3"
            )
        self.host, self.python = host, python
        self._process: subprocess.Popen[bytes] | None = None
        self._boot, self._answered, self._is_cut = "", False, False
        self._folder: Path | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Connection:
        base = tempfile.gettempdir()
        place = base if re.fullmatch(r"[\w./-]+", base) and len(base) < LONGEST_SOCKET else "/tmp"  # ssh expands others
        self._folder = self._held.enter_context(temporary_folder(Path(place) / "ssh"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([*self._ssh(), "-O", "exit", "--", self.host], capture_output=True, timeout=10, check=False)
        self._held.close()

    def cut(self) -> None:
        """End the call that is under way, from another thread, and let none begin."""
        self._is_cut, self._answered = True, False  # what becomes of the machine is not asked
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _ssh(self) -> list[str]:
        assert self._folder is not None
        options = {**OPTIONS, "ControlPath": str(self._folder / "s")}
        return ["ssh", "-T", *(part for key, value in options.items() for part in ("-o", f"{key}={value}"))]

    def hello(self) -> Mapping[str, Any]:
        """What the machine is, and how it was set up."""
        found = self.call("hello")
        self._boot, self._answered = str(found.get("boot_id", "")), True
        return found

    def call(
        self, name: str, request: Mapping[str, Any] | None = None, *, puts: Sequence[Put] = (), say: Say | None = None
    ) -> Mapping[str, Any]:
        """The agent's answer to a request, after which the bytes of `puts` follow; `say` gets each line of progress.

        Raises `RemoteError` where the machine is not reached, is lost, or refuses.
        """
        with self._started(name, request or {}, puts, say) as answers:
            for content in answers:
                if "say" in content and say is not None:
                    say(str(content["say"]))
                if "result" in content:
                    found = content["result"]
                    if not isinstance(found, dict):
                        raise not_understood(self.host, found)
                    return found
        raise AssertionError

    @contextlib.contextmanager
    def fetch(self, request: Mapping[str, Any]) -> Iterator[BinaryIO]:
        """The stream of bytes that `get` answers with; the block reads all of them. Raises `RemoteError`."""
        with self._started("get", request, ()) as answers:
            next(content for content in answers if "stream" in content)
            assert self._process is not None
            assert self._process.stdout is not None
            yield self._process.stdout  # type: ignore[misc]

    def lost(self, what: str) -> RemoteError:
        """Why bytes that were announced did not come."""
        return self._error(self._ended(""), what)

    @contextlib.contextmanager
    def _started(
        self, name: str, request: Mapping[str, Any], puts: Sequence[Put], say: Say | None = None
    ) -> Iterator[Iterator[Mapping[str, Any]]]:
        command = f"{_quoted(self.python)} -c {shlex.quote(BOOT)}"
        try:
            process = subprocess.Popen(
                [*self._ssh(), "--", self.host, command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as exc:
            raise RemoteError(f"ssh: cannot be started: {exc.strerror}", "install OpenSSH's client") from exc
        self._process, self._said = process, bytearray()
        if self._is_cut:
            process.terminate()
        reader = threading.Thread(target=_listen, args=(process.stderr, self._said), daemon=True)
        reader.start()
        try:
            self._send(process, {**request, "call": name}, puts, say)
            yield self._answers(name)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # of what was not sent
                process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(timeout=2)
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stream.close()

    def _send(
        self, process: subprocess.Popen[bytes], request: Mapping[str, Any], puts: Sequence[Put], say: Say | None
    ) -> None:
        """What does not arrive is told by what comes back."""
        source, stdin = b"\n".join(path.read_bytes() for path in AGENT), process.stdin
        assert stdin is not None
        sent, total, shown = 0, sum(size for _, _, size in puts), time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(b"%d\n" % len(source) + source + json.dumps(request).encode() + b"\n")
            for path, offset, size in puts:
                with path.open("rb") as file:
                    file.seek(offset)
                    left = size
                    while left:
                        chunk = file.read(min(left, CHUNK))
                        if not chunk:
                            raise RemoteError(f"{path}: was changed while it was sent", AGAIN)
                        stdin.write(chunk)
                        left -= len(chunk)
                        sent += len(chunk)
                        if say is not None and time.monotonic() - shown > SHOWN_S:
                            shown = time.monotonic()
                            say(f"{self.host}: sent {sent / 1e6:.0f} of {total / 1e6:.0f} MB")
            stdin.flush()

    def _answers(self, what: str) -> Iterator[Mapping[str, Any]]:
        """Each line of the agent's; what a shell prints while it starts is none."""
        assert self._process is not None
        assert self._process.stdout is not None
        python = ""
        for line in self._process.stdout:
            if not python:
                text = line.decode(errors="replace").strip()
                python = text.removeprefix(READY) if text.startswith(READY) else ""
                continue
            content = _decoded(line, self.host)
            if "error" in content:
                told = content["error"]
                if not isinstance(told, list) or len(told) != 2:
                    raise not_understood(self.host, told)
                raise RemoteError(f"{self.host}: {told[0]}", str(told[1]).replace("HOST", self.host))
            yield content
        raise self._error(self._ended(python), what)

    def _ended(self, python: str) -> Ended:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            code = -1
        threading.Event().wait(0.05)  # for the last words on standard error
        return Ended(code, self._said.decode(errors="replace"), python)

    def _error(self, ended: Ended, what: str) -> RemoteError:
        """The error of a call that has no answer; of a connection that was lost, what became of the machine."""
        if not self._answered or not is_lost(ended):
            return error_of(self.host, ended, self.python)
        self._answered = False  # the next one is not asked about itself
        boot, during = self._boot, _DOING.get(what, what)
        try:
            now = self.hello()
        except RemoteError as exc:
            return RemoteError(
                f"{self.host}: the connection was lost {during}, and it does not answer: "
                + exc.message.removeprefix(f"{self.host}: "),
                "wait until it is there again; " + AGAIN,
            )
        if boot and now.get("boot_id") != boot:
            return RemoteError(f"{self.host}: was started anew {during}", AGAIN)
        killed = f"; what ran there was killed (exit code {KILLED})" if ended.code == KILLED else ""
        return RemoteError(f"{self.host}: the connection was lost {during}; the machine itself answers{killed}", AGAIN)


_DOING = {
    "missing": "while files were compared",
    "put": "while files were sent",
    "install": "while packages were unpacked",
    "run": "while a command ran there",
    "get": "while results came back",
}


def _quoted(python: str) -> str:
    """An interpreter's path for any shell, which finds the home."""
    return f"~/{shlex.quote(python[2:])}" if python[:2] == "~/" else shlex.quote(python)


def _listen(stream: BinaryIO, said: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), 4096):
            said += chunk
            del said[:-KEPT]


def _decoded(line: bytes, host: str) -> Mapping[str, Any]:
    try:
        content = parse_json(line)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise not_understood(host, line)
    return content


def not_understood(host: str, answer: object) -> RemoteError:
    """The error of an answer that is none of the agent's."""
    return RemoteError(f"{host}: answered with {repr(answer)[:80]}", f"report it with the output of {DOCTOR}")
