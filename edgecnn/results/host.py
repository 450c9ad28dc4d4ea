"""What became of a recipe on one machine over ssh."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT
from edgecnn.results.report import RunReport


@dataclass(frozen=True)
class HostRun:
    """The reports of those of a recipe's targets that a machine is, which lie in `folder`; or why it could not be
    judged, and what to do about it."""

    __pydantic_config__ = STRICT

    host: str
    folder: str = ""
    reports: tuple[RunReport, ...] = ()
    not_judged: str = ""
    hint: str = ""
