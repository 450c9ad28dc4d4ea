"""What the build routes of an engine are made of."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Knob:
    """What a build route can set: its name ("-conv_lowering"), the values that it may have, none where these are no
    closed set, and which it has by itself."""

    __pydantic_config__ = STRICT

    name: str
    values: tuple[str, ...]
    default: str


@dataclass(frozen=True, kw_only=True)
class BuildRoutes:
    """All knobs of what builds for a target, with its version; none where it has no build routes."""

    __pydantic_config__ = STRICT

    target: str
    by: str
    knobs: tuple[Knob, ...]
