"""One rule for each tolerance of a recipe, in the order in which they are judged; one file per family."""

from edgecnn.gate.rules import (
    accuracy,
    decision,
    dla,
    energy,
    latency,
    precision,
    regression,
    serving,
    shares,
    size,
    startup,
    verification,
)
from edgecnn.gate.rules.rule import Rule

FAMILIES = (
    accuracy,
    regression,
    shares,
    decision,
    precision,
    latency,
    size,
    startup,
    energy,
    dla,
    serving,
    verification,
)
RULES: dict[str, Rule] = {rule.tolerance: rule for family in FAMILIES for rule in family.RULES}
