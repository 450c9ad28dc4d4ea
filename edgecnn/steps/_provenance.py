"""What travels with a network from artifact to artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.signature import require_signature
from edgecnn.errors import ArtifactError
from edgecnn.limits import what_lacks
from edgecnn.steps import TOOLS


def sidecar_of(path: Path, *, verified: bool = False) -> Sidecar:
    """The sidecar of an artifact (of one that is JSON, its provenance), or an empty one for a file that came from
    elsewhere; `verified` that it is of this content. Raises `ArtifactError` where there is no such file, or none that
    is signed although that is demanded."""
    if not path.is_file():
        raise ArtifactError(f"{path}: {what_lacks(path)}", "make it first, or check the path")
    known = path.suffix == ".json" or sidecar_path(path).exists()
    if not known:
        require_signature(sidecar_path(path))
        return Sidecar(kind="graph")
    return verified_sidecar(path) if verified else read_sidecar(path)


def derived(
    source: Sidecar,
    output: Path,
    parents: tuple[Path, ...],
    *,
    step: str,
    kind: str,
    known: Mapping[Path, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    recipe: str = "",
) -> Sidecar:
    """The sidecar of what `step` makes from `source`: its preprocessing, labels and facts, the values that the steps
    before were given, and this step's own `fields`; `known` are hashes of `parents`, of the content that was read."""
    return Sidecar(
        kind=kind,
        made_by=f"edgecnn {step}",
        scheme=source.scheme,
        precision_requested=source.precision_requested,
        precision_obtained=source.precision_obtained,
        parents=parents_of(output, *parents, known=known),
        recipe=recipe or source.recipe,
        fields={**source.fields, **(fields or {})},
        preprocessing=source.preprocessing,
        labels=source.labels,
        wnids=source.wnids,
        tools=tool_versions(*TOOLS.get(step, ())),
        facts={**source.facts, **(facts or {})},
    )
