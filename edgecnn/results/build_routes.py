"""What the build routes of an engine are made of."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from edgecnn.records import STRICT

_WORD = re.compile(r"-[!-<>-~]+=[!-~]+")  # of printable ASCII
_SEVERAL = re.compile(r"[\[\]|]|\.\.\.")  # as in the list of a knob's values, and in what a search is told to try


@dataclass(frozen=True)
class Knob:
    """What a build route can set: its name ("-conv_lowering"), the values that it may have, none where these are no
    closed set, and which it has by itself."""

    __pydantic_config__ = STRICT

    name: str
    values: tuple[str, ...]
    default: str

    def takes(self, value: str) -> bool:
        """Whether it is one of the values; where these are no closed set, whether it is a single one."""
        return value in self.values if self.values else not _SEVERAL.search(value) and is_word(f"{self.name}={value}")


def is_word(text: str) -> bool:
    """Whether it is `-knob=value`, as a build route is made of."""
    return _WORD.fullmatch(text) is not None


def problem_of(route: str) -> str:
    """Why no TensorRT takes these words as a build route; "" where one might."""
    words = route.split()
    if wrong := next((word for word in words if not is_word(word)), ""):
        return f"{wrong!r} is not -knob=value"
    counted = Counter(word.partition("=")[0] for word in words)
    return next((f"{name} stands there more than once" for name, n in counted.items() if n > 1), "")


@dataclass(frozen=True, kw_only=True)
class BuildRoutes:
    """All knobs of what builds for a target, with its version; none where it has no build routes."""

    __pydantic_config__ = STRICT

    target: str
    by: str
    knobs: tuple[Knob, ...]
