"""Several builds of one engine: TensorRT times kernels while it builds, and no two builds need be alike."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Rebuilds:
    """How many builds there were, which of them (from 1) is kept, and the median latency of each, ms; None where a
    build has none."""

    __pydantic_config__ = STRICT

    rebuilds_n: int
    rebuild_kept: int
    rebuilds_latency_ms_p50: tuple[float | None, ...]

    @property
    def band_ms(self) -> tuple[float, float]:
        """The fastest and the slowest build."""
        known = [ms for ms in self.rebuilds_latency_ms_p50 if ms is not None]
        return min(known), max(known)

    @property
    def in_words(self) -> str:
        """The builds, which is kept, and by which is judged."""
        each = ", ".join("-" if ms is None else f"{ms:.4g}" for ms in self.rebuilds_latency_ms_p50)
        kept = f"kept is build {self.rebuild_kept}, the median; judged by the worst"
        return f"{self.rebuilds_n} builds, p50 {each} ms: {kept}"
