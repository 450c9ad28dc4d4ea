"""An engine that took its process down, in place of what was to be measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecnn.records import FLAT, STRICT
from edgecnn.results.engine import EngineInfo


@dataclass(frozen=True)
class Crash:
    """In which step the process of an engine ended, and how: by a signal, or with an exit code."""

    __pydantic_config__ = STRICT

    crash_step: str
    crash_ended: str


@dataclass(frozen=True, kw_only=True)
class CrashFile:
    """`X.crash.json`: the crash of one engine, and which one it is."""

    __pydantic_config__ = STRICT

    name: str
    crash: Crash = field(metadata=FLAT)
    engine: EngineInfo = field(metadata=FLAT)
