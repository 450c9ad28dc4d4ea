"""`edgecnn validate` of an embedding engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecnn.cli.printing import print_json, print_rows, stdout_kept
from edgecnn.cli.progress import Counter
from edgecnn.errors import ArtifactError
from edgecnn.output import print_text


def validate_pairs(engine: Path, reference: Path, output: Path | None, data: str, options: Mapping[str, Any]) -> None:
    """Measure, write and print how it verifies."""
    from edgecnn.records import to_plain
    from edgecnn.remote.engines import validate_verification
    from edgecnn.steps._shared import is_first

    classifying = {k: options[k] for k in ("stages", "bisect", "tta", "scales", "reject", "threshold", "geometry")}
    if asked := [f"--{name}" for name, value in classifying.items() if value]:
        raise ArtifactError(
            f"{engine}: an embedding network, which has no classes: {', '.join(asked)}",
            "leave it out: its threshold is a distance, which validation pairs have chosen",
        )
    given = {name: options[name] for name in ("batch", "threads", "provider", "strict", "trust")}
    with stdout_kept():
        found = validate_verification(
            engine, reference, output, data=data, progress=Counter("validate", "images"), **given
        )
    if not is_first():
        return
    row = to_plain(found)
    if options["as_json"]:
        print_json(row)
        return
    columns = ["verification_pct", "reference_verification_pct", "roc_auc", "reference_roc_auc"]
    columns += ["tar_at_far_1e2_pct", "tar_at_far_1e3_pct", "embedding_cosine_mean", "embedding_cosine_least"]
    print_rows([row], ["name", *columns])
    low, high = found.verification_drop_ci_pp
    pairs = found.same_pairs + found.different_pairs
    print_text(
        f"{found.same_pairs} pairs of one class and {found.different_pairs} of two, {found.verification_n} images; "
        f"threshold {found.verification_threshold:.4f}",
        f"drop {found.verification_drop_pp:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}] over {found.resampled}",
        f"{found.decisions_changed_n} of {pairs} decisions are not the reference's",
        *found.verification_findings,
    )
