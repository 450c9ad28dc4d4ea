"""What a monitor has counted: the lines of its log."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecnn.contract import OutputForm
from edgecnn.records import FLAT, STRICT


@dataclass(frozen=True, kw_only=True)
class Network:
    """Whose predictions are counted. `columns` are those of its output: one decides between two classes. `labels`
    name the classes; what is not known is empty."""

    __pydantic_config__ = STRICT

    columns: int
    engine: str = ""
    engine_sha256: str = ""
    labels: tuple[str, ...] = ()
    preprocessing_sha256: str = ""
    output: OutputForm = "logits"
    threshold: float = 0.0

    @property
    def classes(self) -> int:
        """The number of classes that the output tells apart."""
        return max(2, self.columns)

    def label(self, index: int) -> str:
        """A class's name, or its number."""
        return self.labels[index] if index < len(self.labels) else str(index)


@dataclass(frozen=True, kw_only=True)
class LogHeader:
    """The first line of a log: whose it is, and the upper bounds of each histogram's bins, the last one open."""

    __pydantic_config__ = STRICT

    kind: str
    network: Network = field(metadata=FLAT)
    bounds: dict[str, tuple[float, ...]]
    schema: int = 1


@dataclass(frozen=True, kw_only=True)
class UncertainImage:
    """An image by its name, the class that was predicted, and its probability; both None where the logits were not
    finite."""

    __pydantic_config__ = STRICT

    image: str
    predicted: int | None
    confidence: float | None


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a file was read: so many lines or rows, which have that sha256."""

    __pydantic_config__ = STRICT

    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """What was counted since the line before, of one hour (ISO 8601, UTC; None for images without a time): `n` images,
    those whose logits are `not_finite` among them, and histograms as bin -> count; `backwards` came with a time before
    that of their predecessor. `sums` are those of each histogram's values."""

    __pydantic_config__ = STRICT

    hour: str | None
    n: int
    not_finite: int = 0
    backwards: int = 0
    predicted: dict[str, int]
    histograms: dict[str, dict[str, int]]
    sums: dict[str, float]
    least_certain: tuple[UncertainImage, ...] = ()
    last_time_s: float | None = None
    read: Position | None = None


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What a log holds when its monitor ends; `n_new` came in this time."""

    __pydantic_config__ = STRICT

    log: str
    n: int
    n_new: int
    not_finite: int
    backwards: int
    hours: int
    classes: int
