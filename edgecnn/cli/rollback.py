"""`edgecnn rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from edgecnn.cli.options import INSTALLED_IN, JSON
from edgecnn.cli.printing import print_json
from edgecnn.output import say

EXAMPLES = """
edgecnn rollback  # needs two releases, installed one after the other
edgecnn rollback --to deployed/lenet5  # needs the same
"""


def rollback(
    to: Annotated[Path | None, INSTALLED_IN] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Let the release serve again that did before.

    Its files are compared with their hashes first; it is not tested again.
    """
    from edgecnn.pipeline.install import rollback as take_back
    from edgecnn.records import to_plain

    done = take_back(to)
    if as_json:
        print_json(to_plain(done))
        return
    say(f"{done.path}: release {done.installed.release} serves again")
