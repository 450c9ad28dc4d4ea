"""One rule for each tolerance of a recipe, in the order in which they are judged; one file per family."""

from edgecnn.gate.rules import accuracy, latency, precision, size
from edgecnn.gate.rules.rule import Rule

RULES: dict[str, Rule] = {
    rule.tolerance: rule for family in (accuracy, precision, latency, size) for rule in family.RULES
}
