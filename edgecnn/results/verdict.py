"""What the gate says: one check for each tolerance of each engine, and the verdict that they make together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from edgecnn.records import STRICT

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Inconclusive = Literal["inconclusive", "pass", "fail"]
RUNS = "runs"  # in place of a tolerance: whether an engine runs without taking its process down
MEASURED = "measured"  # in place of a tolerance: whether anything was measured of an engine


@dataclass(frozen=True)
class Check:
    """One tolerance of one engine: the value, its interval where it has one, the limit and the evidence.

    `mappable` is False for an INCONCLUSIVE that no recipe may map to a pass.
    """

    __pydantic_config__ = STRICT

    name: str
    tolerance: str
    value: float | None
    interval: tuple[float | None, float | None] | None
    limit: float | None
    verdict: Outcome
    evidence: str
    images_needed: int | None = None
    mappable: bool = True


@dataclass(frozen=True, repr=False)
class Verdict:
    """All checks; the worst of them decides. Without any the verdict is INCONCLUSIVE: nothing was proved."""

    __pydantic_config__ = STRICT
    RENAMED: ClassVar[dict[str, str]] = {"judgements": "checks"}
    DERIVED: ClassVar[tuple[str, ...]] = ("verdict", "exit_code")

    checks: tuple[Check, ...]
    inconclusive: Inconclusive = "inconclusive"
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        counts = [f"{n} {o}" for o in get_args(Outcome) if (n := sum(c.verdict == o for c in self.checks))]
        return f"Verdict({self.verdict}: {', '.join(counts) or 'no checks'})"

    @property
    def verdict(self) -> Outcome:
        """FAIL if anything failed, PASS if everything passed; the recipe may map what stays open, but lets no engine
        pass of which nothing was measured, or whose figures guessing would reach."""
        outcomes = {self.counts_as(c) for c in self.checks}
        if "FAIL" in outcomes:
            return "FAIL"
        return "PASS" if outcomes == {"PASS"} else "INCONCLUSIVE"

    def outcome_of(self, name: str) -> Outcome:
        """What the checks of one engine come to: the worst of them, INCONCLUSIVE without any."""
        own = {self.counts_as(check) for check in self.checks if check.name == name}
        worst: tuple[Outcome, ...] = ("FAIL", "INCONCLUSIVE", "PASS")
        return next((outcome for outcome in worst if outcome in own), "INCONCLUSIVE")

    def counts_as(self, check: Check) -> Outcome:
        """What a check comes to: its own verdict, but for an open one that the recipe maps."""
        if check.verdict != "INCONCLUSIVE" or self.inconclusive == "inconclusive":
            return check.verdict
        if self.inconclusive == "fail":
            return "FAIL"
        return "PASS" if check.mappable else "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 inconclusive."""
        return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[self.verdict]


def worst_exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 if one failed, else 3 if one is inconclusive, else 0."""
    codes = {verdict.exit_code for verdict in verdicts}
    return next((code for code in (1, 3) if code in codes), 0)
