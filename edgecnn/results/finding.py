"""What is said against a graph, by rules of ours or by a runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Finding:
    """One thing that a target refuses or takes otherwise; `where` is the node, tensor or "graph", and `sources` are
    those that say so."""

    __pydantic_config__ = STRICT

    severity: Literal["error", "warning"]
    where: str
    what: str
    hint: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphCheck:
    """What the `asked` say against a graph, errors first; `not_asked` are those that are not here, with the reason."""

    __pydantic_config__ = STRICT

    path: str
    asked: tuple[str, ...]
    not_asked: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        """Whether one of them refuses the graph."""
        return any(finding.severity == "error" for finding in self.findings)

    def __repr__(self) -> str:
        errors = sum(finding.severity == "error" for finding in self.findings)
        said = f"{errors} errors, {len(self.findings) - errors} warnings" if self.findings else "nothing against it"
        return f"GraphCheck({self.path}: {said}; asked: {', '.join(self.asked)})"
