"""Whether an artifact is what would be made to now."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, sha256_of, verified_sidecar
from edgecnn.errors import ArtifactError

LOCATIONS = ("data.source", "data.calibration_source")
TRAIN_IMAGES, TEST_IMAGES = "train_images_sha256", "test_images_sha256"


def stale_reason(path: Path, expected: Sidecar, parents: Iterable[Path]) -> str | None:
    """Why the artifact `path` is not what `expected` would be made to now, or None when it is fresh.

    Compared: kind, edgecnn version (a checkpoint's may be any), the values of the recipe fields, the content of the
    parents (a parent that is not on this machine is taken as unchanged) and, where `expected` names a device, tools or
    facts, those. Where the images lie is compared only where `expected` says it and their hash is not known.
    """
    if not path.exists():
        return "not made yet"
    try:
        found = verified_sidecar(path)
    except ArtifactError as exc:
        return exc.message
    if found.kind != expected.kind:
        return f"it is of kind {found.kind}, not {expected.kind}"
    weights = found.kind == "checkpoint"
    if found.edgecnn != expected.edgecnn and not weights:
        return f"made by edgecnn {found.edgecnn}, this is {expected.edgecnn}"
    identified = TRAIN_IMAGES in found.facts and TRAIN_IMAGES in expected.facts
    for key in sorted(found.fields.keys() | expected.fields.keys()):
        if key in LOCATIONS and (identified or key not in expected.fields):
            continue
        old, new = found.fields.get(key), _plain(expected.fields.get(key))
        if old != new and key not in found.fields:
            return f"it does not say with which {key} it was made"
        if old != new:
            return f"{key} changed from {old!r} to {new!r}"
    base = path.absolute().parent
    names = {os.path.relpath(p.absolute(), base): p for p in parents}
    if names.keys() != found.parents.keys():
        return f"made from {', '.join(sorted(found.parents)) or 'nothing'}, not {', '.join(sorted(names)) or 'nothing'}"
    for name, parent in names.items():
        if parent.exists() and sha256_of(parent) != found.parents[name]:
            return f"{name} changed"
    for key, value in expected.tools.items():
        if found.tools.get(key) != value:
            return f"{key} was {found.tools.get(key, 'absent')}, here it is {value}"
    for key, value in expected.facts.items():
        if weights and key not in found.facts:
            continue  # of an earlier version, which did not say it
        if found.facts.get(key) != value:
            return f"{key} changed from {found.facts.get(key)} to {value}"
    if expected.device is not None and found.device != expected.device:
        return f"made on {found.device or 'an unknown device'}, this is {expected.device}"
    return None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
