"""`edgecnn push`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecnn.cli.options import JSON, RUN, RUN_RECIPE
from edgecnn.cli.printing import print_json
from edgecnn.output import print_line, say

EXAMPLES = """
edgecnn push runs/lenet5-digits owner/lenet5-digits --dry-run
edgecnn push runs/lenet5-digits owner/lenet5-digits --private  # needs network access, and a token of the Hub
"""


def push(
    run: Annotated[str, RUN],
    repository: Annotated[str, typer.Argument(help="OWNER/REPO of the Hugging Face Hub; it is made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, and send nothing.")] = False,
    recipe: Annotated[str, RUN_RECIPE] = "",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Put a judged run on the Hugging Face Hub.

    Graphs, checkpoint, recipe and results with their sidecars, and a model card, as one commit; no engine and no image.

    Whoever may read the repository can read them, and the paths that recipe and sidecars name. From there
    `edgecnn export hf://OWNER/REPO` takes the checkpoint.
    """
    from edgecnn.bundle.hub import CARD, files_for_hub, push_to_hub, require_repository
    from edgecnn.pipeline.find import find_judged
    from edgecnn.recipe.rules import require_classifier
    from edgecnn.report.card import model_card
    from edgecnn.steps.report import report_of

    require_repository(repository)
    judged_by, judged = find_judged(run, recipe)
    require_classifier(judged_by, "a model card")
    card, files = model_card(report_of(judged, judged_by), judged_by), files_for_hub(judged)
    size_mb = (sum(path.stat().st_size for path in files.values()) + len(card.encode())) / 1e6
    commit = "" if dry_run else push_to_hub(repository, files, card, private=private)
    if as_json:
        print_json({"repository": repository, "commit": commit, "files": [CARD, *files], "size_mb": size_mb})
        return
    for name in (CARD, *files):
        print_line(name)
    sent = "nothing was sent" if dry_run else commit
    say(f"{repository}: {len(files) + 1} files, {size_mb:.1f} MB; {sent}")
