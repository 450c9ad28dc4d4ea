"""Whether engines may move from one environment to another, both measured on the same images and in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecnn.records import FLAT, STRICT
from edgecnn.results.device import Device
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Verdict


@dataclass(frozen=True)
class Environment:
    """A Python interpreter with the versions of what engines are built and run by, and the device."""

    __pydantic_config__ = STRICT

    path: str
    python: str
    tools: dict[str, str]
    device: Device

    @property
    def in_words(self) -> str:
        """Its packages and versions."""
        return ", ".join(f"{package} {version}" for package, version in self.tools.items())


@dataclass(frozen=True, kw_only=True)
class Qualification:
    """Each engine under `after`, as it is there against the same graph's under `before`: what it lost, and its
    latency over the other's."""

    __pydantic_config__ = STRICT

    recipe: str
    target: str
    before: Environment
    after: Environment
    measurements: tuple[Measurement, ...]
    verdict: Verdict = field(metadata=FLAT)
