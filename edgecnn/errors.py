"""Every error that a user can act on.

    EdgecnnError            exit code 2: one `error:` line, one `hint:` line, no traceback
    |- RecipeError          a recipe, or a setting given on the command line
    |- ModelError           an unknown network; weights or a checkpoint that do not fit it
    |- DataError            a data set, an image, a calibration set, labels
    |- ArtifactError        a file that is missing, corrupt, stale, or not to be trusted
    |  `- WriteError        a file that could not be written; the previous one is intact
    |- GraphError           an ONNX graph that cannot be used as asked; names the node or tensor
    |- TrainingError        a training run that cannot go on; the last good checkpoint is intact
    |- MeasurementError     measurements that cannot be compared or judged
    `- BackendError         a runtime that refused or failed
       |- MissingPackageError   a package that this step needs is not installed
       |- CrashError        an engine that took its process down
       |- RemoteError       a machine over ssh that was not reached, was lost, or refused
       |  `- RefusedError   a command that failed there, on a machine that was reached
       `- DeviceError           a device that is absent, unsupported, or failed

Anything else that escapes is a bug in edgecnn (exit code 101, with its traceback). Foreign exceptions are
translated once, where the foreign library is called, with `raise ... from exc`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class EdgecnnError(Exception):
    """What went wrong and where, what was found and what was allowed; `hint` says what to do next."""

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def reason(self) -> str:
        """Message and hint as one text for `edgecnn doctor`, without the hint to ask it."""
        return self.message + ("" if "edgecnn doctor" in self.hint else f"; {self.hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross from a worker process to its parent; a subclass may take other arguments than it keeps."""
        return _remade, (type(self), self.message, self.hint)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a foreign exception says that memory, the machine's or a device's, is used up: PyTorch raises a plain
    `RuntimeError` for the former, the system an `OSError` for a process or a mapping."""
    signs = ("out of memory", "allocate memory", "not enough memory")
    told = isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in signs)
    return told or isinstance(error, MemoryError)


class RecipeError(EdgecnnError):
    """A recipe, or a setting given on the command line."""


class ModelError(EdgecnnError):
    """An unknown network; weights or a checkpoint that do not fit it."""


class DataError(EdgecnnError):
    """A data set, an image, a calibration set, or labels."""


class ArtifactError(EdgecnnError):
    """A file that is missing, corrupt, stale, or not to be trusted."""


class WriteError(ArtifactError):
    """A file that could not be written; the previous one is intact."""


class GraphError(EdgecnnError):
    """An ONNX graph that cannot be used as asked; names the node or tensor."""


class TrainingError(EdgecnnError):
    """A training run that cannot go on; the last good checkpoint is intact."""


class MeasurementError(EdgecnnError):
    """Measurements that cannot be compared or judged."""


class BackendError(EdgecnnError):
    """A runtime that refused or failed."""


class MissingPackageError(BackendError):
    """A package that this step needs is not installed."""

    def __init__(self, package: str, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed here",
            f"install it with: pip install 'edgecnn[{extra}]'",
        )


class CrashError(BackendError):
    """An engine that took its process down; `ended` says how: a signal, or an exit code."""

    def __init__(self, engine: str, ended: str) -> None:
        super().__init__(
            f"{engine}: took the process that ran it down: {ended}",
            "it is the engine's or its driver's fault: build it for another precision, or with another TensorRT",
        )
        self.ended = ended


class RemoteError(BackendError):
    """A machine over ssh that was not reached, was lost, or refused."""


class RefusedError(RemoteError):
    """A command that failed on a machine over ssh, which was reached."""


class DeviceError(BackendError):
    """A device that is absent, unsupported, or failed."""


def _remade(kind: type[EdgecnnError], message: str, hint: str) -> EdgecnnError:
    error = kind.__new__(kind, message)
    EdgecnnError.__init__(error, message, hint)
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """The names closest to `name`, as the end of a hint; a suggestion is never taken by itself."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
