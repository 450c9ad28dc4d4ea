"""The one way to run a model in order to measure it: numpy in, numpy out.

PyTorch, ONNX Runtime and TensorRT are measured by the same code through this protocol. Each backend module offers
`open_engine(path, ...)`, which returns a context manager that satisfies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None for a dynamic axis) and numpy dtype name of one model input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Timing:
    """One query in milliseconds; `clock` is "cuda events" or "host"; without transfers h2d and d2h are 0."""

    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    clock: str

    @property
    def latency_ms(self) -> float:
        """trtexec's latency: H2D + compute + D2H."""
        return self.h2d_ms + self.compute_ms + self.d2h_ms


@runtime_checkable
class Session(Protocol):
    """A model that is ready to run; a context manager that frees what it holds."""

    @property
    def input(self) -> TensorSpec: ...

    @property
    def output(self) -> TensorSpec: ...

    def run(self, batch: Array) -> Array:
        """Logits [N, classes] of a float32 NCHW batch; the result is the caller's to keep."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class TimedSession(Session, Protocol):
    """A session whose runtime can tell transfers from computation."""

    def timed(self, batch: Array) -> Timing: ...


def class_scores(logits: Array, threshold: float) -> Array:
    """Scores [N, classes] of which the largest, and of equal ones the first, is the class that is predicted.

    Logits [N, C] of several classes are their own scores; one column [N, 1] is set against its threshold, as class 1
    against class 0.
    """
    if logits.shape[1] > 1:
        return logits
    return np.concatenate([np.full_like(logits, threshold), logits], axis=1)


def class_probabilities(logits: Array, threshold: float) -> npt.NDArray[np.float64]:
    """Probabilities [N, classes]: the softmax of logits; of one column [N, 1] its sigmoid, or itself where it is a
    probability (`threshold` 0.5). NaN for a row that is not finite."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    if values.shape[1] > 1:
        odds = np.exp(values - values.max(axis=1, keepdims=True))
        shares: npt.NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return shares
    ones = values if threshold else 0.5 + 0.5 * np.tanh(0.5 * values)  # a sigmoid that cannot overflow
    return np.concatenate([1 - ones, ones], axis=1)
