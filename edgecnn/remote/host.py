"""The name of a machine as ssh takes it: an argument, and never a piece of a command line."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence

from edgecnn.errors import RemoteError

_NAME = r"[\w.+~=][\w.+~=-]*"
_HOST = re.compile(rf"(?:{_NAME}@)?(?:{_NAME}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?)")
_URI = re.compile(rf"ssh://(?:{_NAME}@)?(?:{_NAME}|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::[0-9]{{1,5}})?/?")
_LONGEST = 255


def require_host(name: str) -> None:
    """Raise `RemoteError` for a name that ssh, or a command of its configuration, could take for something else."""
    if len(name) > _LONGEST or not (_HOST.fullmatch(name) or _URI.fullmatch(name)):
        what = "it begins with '-', as an option does" if name[:1] == "-" else "not the name of a host"
        raise RemoteError(
            f"{name[:80]!r}: {what}",
            "name it as for ssh: HOST, USER@HOST, ssh://USER@HOST:PORT, or a `Host` of ~/.ssh/config",
        )


def require_hosts(names: Sequence[str]) -> None:
    """`require_host` of each; raises `RemoteError` for one that is named twice."""
    for name in names:
        require_host(name)
        if names.count(name) > 1:
            raise RemoteError(f"{name}: is named twice", "name each host once")


def folder_name(host: str) -> str:
    """The name of a folder for what came from a host."""
    quoted = urllib.parse.quote(host, safe="@+=~")
    return quoted.replace(".", "%2E") if set(host) == {"."} else quoted
