"""`edgecnn history`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecnn.cli.options import JSON, RECIPE
from edgecnn.cli.printing import print_json
from edgecnn.output import print_lines, say

EXAMPLES = """
edgecnn history lenet5-digits  # needs committed baselines
edgecnn history lenet5-digits -o baselines.svg  # needs committed baselines
"""


def history(
    recipe: Annotated[str, RECIPE],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Also draw them: X.svg.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show a recipe's baselines over commits.

    Accuracy on any device, latency and size on each, as `edgecnn gate --record`
    wrote them and git keeps them.
    """
    from edgecnn.artifact.write import check_output, write_bytes
    from edgecnn.recipe.load import load_recipe
    from edgecnn.records import to_plain
    from edgecnn.report.charts.history import history_svg
    from edgecnn.report.history import history_text, read_history
    from edgecnn.steps.gate import baseline_folder

    if output is not None:
        check_output(output, ".svg")
    found = load_recipe(recipe)
    rows = read_history(found.name, baseline_folder(found))
    if output is not None:
        write_bytes(output, history_svg(rows).encode())
    if as_json:
        print_json(to_plain(rows))
        return
    print_lines(history_text(rows).split("\n"))
    if output is not None:
        say(f"{output}: written")
