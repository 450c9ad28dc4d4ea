"""What an engine costs before its first answer."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Startup:
    """One start, measured by the host's clock: from the file to a session that is ready, its first query, and what of
    the device's memory both took (1e6 bytes; None where the engine takes none, or it cannot be told)."""

    __pydantic_config__ = STRICT

    load_s: float
    first_query_ms: float
    device_memory_mb: float | None = None
