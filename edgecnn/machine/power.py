"""nvpmodel's power modes: which a Jetson has, and going through them so that the first one is back in the end.

The mode to go back to is written down before anything is changed, and a process that is killed holds no lock: who
comes next restores it. A mode that would need a reboot is asked for by nvpmodel and declined.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.hold import held
from edgecnn.artifact.write import write_bytes
from edgecnn.errors import DeviceError, WriteError
from edgecnn.machine._files import ROOT, text_of

LASTS_S = 60.0
CONF, STATUS, LEFT = "etc/nvpmodel.conf", "var/lib/nvpmodel/status", "mode-to-restore"


@dataclass(frozen=True)
class PowerMode:
    """One of nvpmodel's, by the number that `nvpmodel -m` takes."""

    number: int
    name: str


def list_power_modes(root: Path = ROOT) -> tuple[PowerMode, ...]:
    """Those of /etc/nvpmodel.conf, in its order."""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)", text_of(root / CONF), re.M)
    return tuple(PowerMode(int(number), name) for number, name in found)


def current_power_mode(root: Path = ROOT) -> PowerMode | None:
    """The one that is set; None where it cannot be read."""
    status = re.search(r"pmode:0*(\d+)", text_of(root / STATUS))
    if not status:
        return None
    number = int(status[1])
    return next((m for m in list_power_modes(root) if m.number == number), PowerMode(number, f"mode {number}"))


def power_mode(root: Path = ROOT) -> str:
    """The name of the one that is set ("MAXN"), or ""."""
    found = current_power_mode(root)
    return found.name if found else ""


def state_folder() -> Path:
    """Where the mode to restore is written down, for each user."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises for a user without one
    return Path(os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state") / "edgecnn/power-mode"


@contextlib.contextmanager
def power_mode_kept(root: Path = ROOT) -> Iterator[PowerMode]:
    """Within the block `set_power_mode` may be called; at its end, however it ends, the mode of before is set again.
    Raises `DeviceError` where there are no modes or this user may not set them, `WriteError` for a second one at a
    time."""
    if not list_power_modes(root) or current_power_mode(root) is None:
        raise DeviceError(
            f"no power modes: {root / CONF} and {root / STATUS} name none",
            "they are a Jetson's; on a GPU of a desktop set limits by `nvidia-smi -pl` and measure again",
        )
    _require_permission()
    folder = state_folder()
    with held(folder):
        _restore(folder, root)
        before = current_power_mode(root)
        assert before is not None
        write_bytes(folder / LEFT, str(before.number).encode())
        try:
            yield before
        finally:
            _restore(folder, root)


def restore_power_mode(root: Path = ROOT) -> PowerMode | None:
    """Set the mode again that a killed process left to be restored, and return it; None where there is none, and while
    the process that changed it is at work."""
    folder = state_folder()
    if not (folder / LEFT).exists():
        return None
    with contextlib.suppress(WriteError), held(folder):
        return _restore(folder, root)
    return None


def set_power_mode(mode: PowerMode, root: Path = ROOT) -> str:
    """Set a mode, and return ""; or why nvpmodel does not without a reboot, which is declined. Raises `DeviceError`
    where it fails."""
    if current_power_mode(root) == mode:
        return ""
    said = _nvpmodel("-m", str(mode.number))
    if current_power_mode(root) == mode:
        return ""
    if re.search("reboot", said, re.I):
        return f"nvpmodel asks for a reboot to set {mode.name}, which is declined"
    raise DeviceError(
        f"nvpmodel did not set mode {mode.number} ({mode.name}): {said[-200:] or 'it said nothing'}",
        f"try it by hand: sudo nvpmodel -m {mode.number}",
    )


def _restore(folder: Path, root: Path) -> PowerMode | None:
    left = text_of(folder / LEFT)
    if not left:
        return None
    known = {str(mode.number): mode for mode in list_power_modes(root)}
    if left not in known:
        raise DeviceError(f"{folder / LEFT}: names no power mode of this board: {left[:40]!r}", "remove that file")
    if refused := set_power_mode(known[left], root):
        raise DeviceError(refused, f"set it by hand: sudo nvpmodel -m {left}; then remove {folder / LEFT}")
    (folder / LEFT).unlink()
    return known[left]


def _require_permission() -> None:
    if os.geteuid() != 0 and _run("-q").returncode != 0:
        raise DeviceError(
            "power modes are root's to set, and `sudo -n nvpmodel` is refused here",
            "run it as root, or let this user run nvpmodel without a password (visudo)",
        )


def _nvpmodel(*arguments: str) -> str:
    done = _run(*arguments)
    return " ".join((done.stdout + done.stderr).split())


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("nvpmodel") or "/usr/sbin/nvpmodel"
    command = [program, *arguments] if os.geteuid() == 0 else ["sudo", "-n", program, *arguments]
    try:
        return subprocess.run(
            command, input="NO\n", capture_output=True, text=True, errors="replace", timeout=LASTS_S, check=False,
            start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DeviceError(f"{program}: {exc}", "look at `sudo nvpmodel -q`; it comes with JetPack") from exc
