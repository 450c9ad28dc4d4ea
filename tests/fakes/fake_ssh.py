"""An `ssh` that is a script: one that answers as OpenSSH was heard to, or one that runs the command on this machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

HERE = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> {folder}/argv; done
case " $* " in *" -O exit "*) exit 0;; esac
while [ "$1" != -- ]; do shift; done
[ -e {folder}/before ] && . {folder}/before
export HOME={folder}/home
exec sh -c "exec $3"
"""


def fake_ssh(folder: Path, *, says: str = "", code: int = 255) -> Path:
    """A folder with an `ssh` that says this on standard error and ends."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "said").write_text(says)
    return _script(folder, f"#!/bin/sh\ncat {shlex.quote(str(folder / 'said'))} >&2\nexit {code}\n")


def ssh_here(folder: Path, before: str = "") -> Path:
    """A folder with an `ssh` that is no other machine: this one, with `folder`/home as the home; `before` is shell that
    runs first, and `folder`/argv lists all arguments."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    python = folder / "home" / ".edgecnn-remote" / "python"
    python.parent.mkdir(exist_ok=True)
    (python.parent / "README").write_text("made by edgecnn remote setup\n")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / "before").write_text(before)
    return _script(folder, HERE.replace("{folder}", shlex.quote(str(folder))))


def _script(folder: Path, text: str) -> Path:
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / "ssh"
    path.write_text(text)
    path.chmod(0o755)
    return path.parent
