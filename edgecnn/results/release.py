"""A release on its way: packed, tested on the device, installed, taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from edgecnn.records import FLAT, STRICT
from edgecnn.results.verdict import Outcome


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What an engine made of the golden images on the device that it is for, against the reference's logits.

    `golden_images_n` of the `golden_n` were run. At most `top1_changed_max` of them may have another top-1 than the
    reference, none may have logits that are not finite, and the ratio of the reference's power to that of the
    difference has to be `sqnr_db_min` or more: None where there are no logits to compare, and of the ratio where there
    is no difference. `crash` is how the engine took its process down.
    """

    __pydantic_config__ = STRICT
    DERIVED: ClassVar[tuple[str, ...]] = ("verdict",)

    golden_n: int
    golden_images_n: int = 0
    top1_changed_n: int = 0
    top1_changed_max: int = 0
    nan_count: int = 0
    sqnr_db: float | None = None
    sqnr_db_min: float | None = None
    crash: str = ""

    @property
    def verdict(self) -> Outcome:
        """PASS where every limit is kept, else FAIL: nothing is open."""
        return "FAIL" if any(self.failures()) else "PASS"

    def failures(self) -> Iterator[str]:
        """Each limit that is not kept, in words."""
        if self.crash:
            yield f"the engine took its process down: {self.crash}"
            return
        if self.golden_images_n != self.golden_n:
            yield f"{self.golden_images_n} of {self.golden_n} golden images were run"
        if self.nan_count:
            yield f"{self.nan_count} images have logits that are not finite"
        if self.top1_changed_n > self.top1_changed_max:
            yield (
                f"{self.top1_changed_n} of {self.golden_n} images have another top-1 than the reference, at most "
                f"{self.top1_changed_max} may"
            )
        if self.sqnr_db is not None and self.sqnr_db_min is not None and self.sqnr_db < self.sqnr_db_min:
            yield f"SQNR {self.sqnr_db:.1f} dB, at least {self.sqnr_db_min:.1f} dB is demanded"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """`installed.json` of an installed release: which one it is, which one it took over from ("" for none), which of
    its engines is for this device, and how that did in its self-test. `signed_by` is "" where nobody is known."""

    __pydantic_config__ = STRICT
    DERIVED: ClassVar[tuple[str, ...]] = ("verdict",)

    release: str
    previous: str
    recipe: str
    target: str
    device_key: str
    engine: str
    precision: str
    signed_by: str
    edgecnn: str
    created: str
    self_test: SelfTest = field(metadata=FLAT)

    @property
    def verdict(self) -> Outcome:
        """That of its self-test."""
        return self.self_test.verdict


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What `install` or `rollback` did: the engine's `path`, whether another release serves now than before, and what
    is, or with a failed self-test would have been, installed."""

    __pydantic_config__ = STRICT

    path: str
    changed: bool
    installed: Installed = field(metadata=FLAT)


@dataclass(frozen=True, kw_only=True)
class ReleasedRow:
    """One engine of a release: on which `device_key` it was judged, its golden images and their limit, and whether it
    was tested by them when it was packed, on this machine."""

    __pydantic_config__ = STRICT

    recipe: str
    target: str
    device_key: str
    name: str
    precision: str
    golden_n: int
    sqnr_db_min: float | None
    tested_here: bool


@dataclass(frozen=True, kw_only=True)
class Released:
    """A release as it was packed."""

    __pydantic_config__ = STRICT

    output: str
    release: str
    signed: bool
    size_mb: float
    engines: tuple[ReleasedRow, ...]
