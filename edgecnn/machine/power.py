"""The power mode: what nvpmodel set a Jetson to."""

from __future__ import annotations

import re
from pathlib import Path

from edgecnn.machine._files import ROOT, text_of


def power_mode(root: Path = ROOT) -> str:
    """The nvpmodel power mode of a Jetson by name ("MAXN"), or ""."""
    status = re.search(r"pmode:0*(\d+)", text_of(root / "var/lib/nvpmodel/status"))
    if not status:
        return ""
    named = re.search(rf"POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)", text_of(root / "etc/nvpmodel.conf"))
    return named[1].rstrip(">") if named else f"mode {status[1]}"
