"""What a run came to, as it is judged and reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from edgecnn.records import FLAT, STRICT
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.accuracy_baseline import BaselineDrop
from edgecnn.results.crash import Crash
from edgecnn.results.device import Device
from edgecnn.results.dla import DlaBuild
from edgecnn.results.energy import Energy
from edgecnn.results.engine import EngineFacts, EngineInfo
from edgecnn.results.latency import Latency, LatencyRatio
from edgecnn.results.rebuilds import Rebuilds
from edgecnn.results.startup import Startup
from edgecnn.results.verdict import Verdict
from edgecnn.results.verification import Verification


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One engine of a target: what it is, and all that was measured of it."""

    __pydantic_config__ = STRICT
    DERIVED: ClassVar[tuple[str, ...]] = ("simulated",)

    name: str
    engine: EngineInfo = field(metadata=FLAT)
    facts: EngineFacts | None = field(default=None, metadata=FLAT)
    accuracy: Accuracy | None = field(default=None, metadata=FLAT)
    verification: Verification | None = field(default=None, metadata=FLAT)
    latency: Latency | None = field(default=None, metadata=FLAT)
    ratio: LatencyRatio | None = field(default=None, metadata=FLAT)
    startup: Startup | None = field(default=None, metadata=FLAT)
    rebuilds: Rebuilds | None = field(default=None, metadata=FLAT)
    energy: Energy | None = field(default=None, metadata=FLAT)
    crash: Crash | None = field(default=None, metadata=FLAT)
    dla: DlaBuild | None = field(default=None, metadata=FLAT)
    baseline_drops: tuple[BaselineDrop, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether the numbers are the target's and the time is not."""
        return self.engine.simulated

    @property
    def own_latency(self) -> Latency | None:
        """Its latency; a simulated engine has none that says anything."""
        return None if self.simulated else self.latency

    @property
    def own_ratio(self) -> LatencyRatio | None:
        """Its latency over that of the reference; of a simulated engine none."""
        return None if self.simulated else self.ratio

    @property
    def own_energy(self) -> Energy | None:
        """The energy of its queries; of a simulated engine none."""
        return None if self.simulated else self.energy

    def figure(self, key: str) -> float | None:
        """A number by its key in the JSON ("top1_pct", "latency_ms_p50"); None where it was not measured, and for the
        speed of a simulated engine."""
        parts = (
            self.accuracy,
            self.verification,
            self.own_latency,
            self.own_ratio,
            self.startup,
            self.own_energy,
            self.facts,
        )
        value: float | None = next((getattr(part, key) for part in parts if hasattr(part, key)), None)
        return value


@dataclass(frozen=True)
class ArtifactFacts:
    """What made an artifact of a run; `path` is relative to the run's folder, the size in MB (1e6 bytes)."""

    __pydantic_config__ = STRICT

    path: str
    kind: str
    made_by: str
    sha256: str
    parents: tuple[str, ...]
    tools: dict[str, str]
    created: str
    size_mb: float


@dataclass(frozen=True, kw_only=True, repr=False)
class RunReport:
    """One target of a run: its measurements, its verdict, what made each artifact, and what belongs to the numbers."""

    __pydantic_config__ = STRICT
    html: ClassVar[Callable[[RunReport], str] | None] = None  # report/html_page.py sets it: results know no format

    recipe: str
    title: str
    target: str
    device: Device
    device_key: str
    reference: str | None
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    artifacts: tuple[ArtifactFacts, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str | None:
        """The tables, in a notebook."""
        render = type(self).html
        return render(self) if render else None

    def __repr__(self) -> str:
        names = ", ".join(m.name for m in self.measurements)
        return f"RunReport({self.recipe} on {self.target}: {self.verdict.verdict}; {names})"
