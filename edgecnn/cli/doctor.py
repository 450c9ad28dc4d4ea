"""`edgecnn doctor`."""

from __future__ import annotations

from typing import Annotated

from edgecnn.cli.options import JSON
from edgecnn.cli.printing import print_facts, print_json, print_rows
from edgecnn.output import print_line

EXAMPLES = """
edgecnn doctor
edgecnn doctor --json
"""


def doctor(as_json: Annotated[bool, JSON] = False) -> None:
    """Say what this machine has, and which steps it can do.

    Each way to run an engine is tried: a kernel on the GPU, one node by each of ONNX Runtime's providers.
    """
    from edgecnn.inspection.machine import machine
    from edgecnn.steps import FACTS

    facts = machine({step.name: step.needs for step in FACTS})
    if as_json:
        print_json(facts)
        return
    steps, ways = facts.pop("steps"), facts.pop("ways")
    print_facts(facts)
    print_line()
    print_rows(steps, ["step", "possible", "why"])
    print_line()
    print_rows(ways, ["way", "works", "why"])
