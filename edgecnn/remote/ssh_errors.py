"""What OpenSSH says where it fails, as an error with what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecnn.errors import RemoteError

AGAIN = "run the same command again: it goes on with what is missing"
NOT_FOUND, NOT_EXECUTABLE, TOO_OLD, GONE, KILLED = 127, 126, 86, 85, 137
LAST_EXIT = 128  # above it a shell tells a signal, and ssh 255 of a connection
LONGEST = 300
SET_UP = "~/.edgecnn-remote/python"  # runs the interpreter that was chosen


class NotSetUpError(RemoteError):
    """A machine that answers, and has nothing of ours."""


class WrongInterpreterError(RemoteError):
    """A machine that answers, and whose interpreter does not run."""


@dataclass(frozen=True)
class Ended:
    """How a call of ssh ended: its exit code, what it said, and which Python had answered before ("" for none)."""

    code: int
    said: str
    python: str = ""


def error_of(host: str, ended: Ended, interpreter: str) -> RemoteError:
    """Why no answer came; `interpreter` is the one that was asked for."""
    if ended.code == TOO_OLD:
        return _wrong_interpreter(host, interpreter, f"is Python {ended.python}, and 3.10 or later is needed")
    if interpreter == SET_UP and not ended.python and _is_not_found(ended):
        return NotSetUpError(f"{host}: edgecnn was not set up there", f"`edgecnn remote setup {host}`")
    if ended.code == GONE:
        return _wrong_interpreter(host, "the interpreter of the setup", f"{_last(ended.said)}")
    if ended.code in (NOT_FOUND, NOT_EXECUTABLE) and not ended.python:
        return _wrong_interpreter(host, interpreter, _last(ended.said) or "not found")
    if ended.python and ended.code not in (-1, 255):
        why = _last(ended.said) or f"it ended with exit code {ended.code}"
        return RemoteError(f"{host}: failed there: {why}", "report it with the output of `edgecnn remote doctor`")
    for pattern, message, hint in _TABLE:
        if found := re.search(pattern, ended.said):
            named = {key: value or "" for key, value in found.groupdict().items()}
            return RemoteError(f"{host}: {message.format(**named)}", hint.format(host=host, **named))
    if not ended.python and ended.code not in (-1, 255):
        return _wrong_interpreter(host, interpreter, _last(ended.said) or f"ended with exit code {ended.code}")
    return RemoteError(f"{host}: {_last(ended.said) or 'the connection was lost'}", AGAIN)


def is_lost(ended: Ended) -> bool:
    """Whether it may be a connection that was there and ended; another reason stands in what ssh said."""
    if ended.python:
        return ended.code < 0 or ended.code > LAST_EXIT
    return ended.code in (-1, 255) and not any(re.search(pattern, ended.said) for pattern, _, _ in _TABLE)


def _is_not_found(ended: Ended) -> bool:
    """Of a command: the C shell ends with 1."""
    return ended.code == NOT_FOUND or (ended.code == 1 and "command not found" in ended.said.lower())


def _wrong_interpreter(host: str, interpreter: str, why: str) -> RemoteError:
    return WrongInterpreterError(
        f"{host}: {interpreter}: {why}",
        f"name a Python of 3.10 or later there: `edgecnn remote setup {host} --python /usr/bin/python3`",
    )


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:LONGEST] if lines else ""


_TABLE = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED(?:.|\n)*?Offending \S+ key in (?P<where>\S+)",
        "its host key is not the one of before ({where}): the machine was set up anew, or another one answers",
        "ask who runs it; if it was set up anew: `ssh-keygen -R {host}`, then `ssh {host}` once",
    ),
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one of before: the machine was set up anew, or another one answers",
        "ask who runs it; if it was set up anew: `ssh-keygen -R {host}`, then `ssh {host}` once",
    ),
    (
        r"Host key verification failed",
        "its host key is not known here",
        "connect once by hand, and compare the fingerprint: `ssh {host}`",
    ),
    (
        r"Permission denied \((?P<methods>[^)]*(?:password|keyboard-interactive)[^)]*)\)",
        "asks for a password, which nothing can type here: it takes none of your keys ({methods})",
        "`ssh-copy-id {host}`; for a key with a passphrase `ssh-add` first",
    ),
    (
        r"Permission denied \((?P<methods>[^)]*)\)",
        "takes none of your keys ({methods})",
        "add yours there: ~/.ssh/authorized_keys; for a key with a passphrase `ssh-add` first",
    ),
    (
        r"Too many authentication failures",
        "was offered too many keys",
        "name the right one in ~/.ssh/config: IdentityFile, and IdentitiesOnly yes",
    ),
    (
        r"Could not resolve hostname (?P<name>[^\n:]+)(?:: (?P<why>[^\n]+))?",
        "no such host: {why}",
        "check the name, or ~/.ssh/config; `ssh {host}` must work",
    ),
    (
        r"connect to (?:host|address) (?P<where>\S+ port \d+): (?P<why>[^\n\r]+)",
        "cannot be reached: {where}: {why}",
        "is it on, and in this network? `ssh {host}` must work",
    ),
    (
        r"(?P<why>Connection timed out during banner exchange|Operation timed out|Timeout, server \S+ not responding)",
        "does not answer: {why}",
        "is it on, and in this network? " + AGAIN,
    ),
    (
        r"Unable to negotiate with [^\n:]+(?:: (?P<why>[^\n]+))?",
        "has no cipher or key type in common with this ssh: {why}",
        "`ssh {host}` must work",
    ),
    (
        r"(?P<why>[^\n]*(?:Bad configuration option|Bad owner or permissions|\d+ bad configuration)[^\n]*)",
        "ssh refuses its own configuration: {why}",
        "mend ~/.ssh/config; `ssh {host}` must work",
    ),
    (
        r"This account is currently not available|account has expired|no login|nologin",
        "its account may not log in",
        "`ssh {host}` must work",
    ),
)
