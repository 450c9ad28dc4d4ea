"""`edgecnn verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import ALLOWED, JSON
from edgecnn.cli.printing import print_json, print_rows

EXAMPLES = """
edgecnn verify runs/lenet5-digits --allowed-signers signers  # needs a signed run
"""


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder, a folder in it, or one artifact.")],
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Verify who made a run, and that nothing of it is changed.

    Each artifact must be signed by somebody who is allowed, hold what its sidecar says, and be made from the artifacts
    that lie beside it.
    """
    from edgecnn.artifact.trust import verify_run
    from edgecnn.errors import ArtifactError
    from edgecnn.records import to_plain

    found = verify_run(run)
    wrong = [artifact for artifact in found if artifact.problem]
    rows = [to_plain(artifact) for artifact in found]
    if as_json:
        print_json({"path": str(run), "verified": not wrong, "artifacts": rows})
    else:
        print_rows(rows, ["path", "signed_by"])
    if wrong:
        more = f"; and {len(wrong) - 1} more" if wrong[1:] else ""
        raise ArtifactError(f"{wrong[0].problem}{more}", wrong[0].hint)
