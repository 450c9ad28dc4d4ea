"""What guessing would reach is no proof of anything, whatever the tolerance."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgecnn.results.accuracy import Accuracy
from edgecnn.results.verdict import Check
from edgecnn.statistics import images_to_tell

GUESS_P = 2.87e-7  # one chance in three million that guessing gets past (five standard errors)
NO_BETTER_P = 0.025


def needed_text(needed: int | None) -> str:
    """How many images would settle what is open, for its evidence."""
    if needed is None:
        return "; no number of images would settle it: the value is at the limit"
    return f"; about {needed} images would settle it if the shares stay as they are"


@dataclass(frozen=True)
class Guess:
    """How probable it is that guessing does as well as somebody on `n` images."""

    who: str
    p: float
    n: int

    @property
    def told(self) -> bool:
        """Whether it is too improbable for that."""
        return self.p < GUESS_P


def engine_guess(accuracy: Accuracy) -> Guess | None:
    """Of the engine against the labels; None without any."""
    p = accuracy.top1_guess_p
    return None if p is None else Guess("the engine", p, accuracy.n_labelled)


def reference_guess(accuracy: Accuracy) -> Guess | None:
    """Of the reference against the labels; None without any."""
    p = accuracy.reference_top1_guess_p
    return None if p is None else Guess("the reference", p, accuracy.n_labelled)


def against_guessing(check: Check, what: str, engine: Guess | None, possible: Guess | None) -> Check:
    """`check` where its figures can be told from guessing; `possible` is what could have been right at all.

    A drop beyond the limit stays a FAIL. An engine that does no better than guessing fails where the reference does;
    what `n` images cannot tell from guessing is INCONCLUSIVE, whatever the recipe says.
    """
    if check.verdict == "FAIL" or possible is None:
        return check
    if possible.told and engine is not None and engine.p > NO_BETTER_P:
        said = f"the engine does no better than guessing, {possible.who} does: {what} on {engine.n} images, p = "
        said += f"{engine.p:.2g}; {check.evidence}"
        return replace(check, verdict="FAIL", evidence=said, images_needed=None)
    open_ones = [g for g in (possible, engine) if g is not None and not g.told]
    if not open_ones:
        return check
    wanted = [images_to_tell(g.p, g.n, GUESS_P) for g in open_ones]
    of_check = [check.images_needed] if check.verdict == "INCONCLUSIVE" else []
    known = [w for w in [*wanted, *of_check] if w is not None]
    needed = max(known) if len(known) == len(wanted) + len(of_check) else None
    worst, evidence = open_ones[0], check.evidence
    if check.images_needed is not None:  # fewer than all that is open takes
        evidence = evidence.replace(needed_text(check.images_needed), "")
    said = f"{worst.who} cannot be told from guessing: {what} on {worst.n} images, p = {worst.p:.2g}"
    if None in wanted:
        said += "; more such images would not settle it: it takes more of other classes, or a better reference"
    elif needed is not None:
        said += needed_text(needed)
    said += f"; {evidence}"
    return replace(check, verdict="INCONCLUSIVE", evidence=said, images_needed=needed, mappable=False)
