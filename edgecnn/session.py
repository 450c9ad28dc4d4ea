"""The one way to run a model in order to measure it: numpy in, numpy out.

PyTorch, ONNX Runtime and TensorRT are measured by the same code through this protocol. Each backend module offers
`open_engine(path, ...)`, which returns a context manager that satisfies it. Inputs and outputs have names; one input
and the first output are the common case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgecnn.contract import TOP_CLASSES, TOP_PROBABILITIES, OutputForm, ServingContract
from edgecnn.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.results.accuracy import Task
    from edgecnn.results.layers import EngineLayer, LayerTimes

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


@dataclass(frozen=True)
class Query:
    """One query of a pipeline, in ms since its clock began: when the host enqueued it, and by the device's events when
    its copy in, its compute and its copy out began and ended (trtexec's --exportTimes). What was not copied takes no
    time."""

    start_enqueue_ms: float
    end_enqueue_ms: float
    start_h2d_ms: float
    end_h2d_ms: float
    start_compute_ms: float
    end_compute_ms: float
    start_d2h_ms: float
    end_d2h_ms: float
    clock: str = "cuda events"

    @classmethod
    def by_host(cls, start_ms: float, end_ms: float, enqueued_ms: float) -> Query:
        """One that the host alone timed, from its enqueue to its end, time in which it waits for others included."""
        return cls(start_ms, enqueued_ms, start_ms, start_ms, start_ms, end_ms, end_ms, end_ms, "host")

    @property
    def enqueue_ms(self) -> float:
        """The host's time in the call that enqueues, or launches the graph."""
        return self.end_enqueue_ms - self.start_enqueue_ms

    @property
    def timing(self) -> Timing:
        """The three parts of its latency."""
        h2d, d2h = self.end_h2d_ms - self.start_h2d_ms, self.end_d2h_ms - self.start_d2h_ms
        return Timing(h2d, self.end_compute_ms - self.start_compute_ms, d2h, self.clock)


@dataclass(frozen=True)
class PipelineOptions:
    """How queries are pipelined: on how many `streams` at once, with or without `transfers` (the input is copied in
    once, before), and `timed` by the device's events or, with nothing queued but the work, by the host's clock."""

    streams: int = 1
    transfers: bool = True
    timed: bool = True


@dataclass(frozen=True)
class SessionInfo:
    """What a session takes and gives, and under which conditions it computes.

    `graph` is whether the batch shape run last is replayed as a CUDA graph, and `graph_fallback` why one that could be
    is not; `sync` is how the host waits, `simulated` in words what is only imitated. `batches` are the ranges of sizes
    that a dynamic batch may have (none: any), `profile` which of several optimization profiles served the last one.
    `cpu_nodes` of `graph_nodes` are left to the CPU by a runtime that is to compute on a GPU. `pci_bus_id` is that of
    the GPU which computes ("0000:01:00.0"), `jit_ms` what compiling for it has taken, which is in no latency. A query
    takes so many `threads` of this processor; 0 where it computes elsewhere.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: bool = False
    graph_fallback: str = ""
    sync: str = "synchronous call"
    simulated: str = ""
    cpu_nodes: int = 0
    graph_nodes: int = 0
    pci_bus_id: str = ""
    jit_ms: float | None = None
    batches: tuple[tuple[int, int], ...] = ()
    profile: str = ""
    threads: int = 0

    def fitting_batch(self, images: int) -> int:
        """The smallest batch that is served and holds `images`; `images` themselves where none does."""
        return min((max(images, least) for least, most in self.batches if images <= most), default=images)

    @property
    def task(self) -> Task:
        """What the first output decides; "classification" too where its number of columns is not fixed."""
        return task_of(self.outputs[0].shape[-1])

    def require_inputs(self, names: Collection[str]) -> None:
        """Raise `BackendError` unless `names` are those of the inputs."""
        known = [spec.name for spec in self.inputs]
        if set(names) != set(known):
            raise BackendError(
                f"inputs named {', '.join(sorted(names))}; the model takes {', '.join(known)}",
                "give each input of the model its batch",
            )


@runtime_checkable
class Session(Protocol):
    """A model that is ready to run; a context manager that frees what it holds.

    Whoever names it as a base implements `info` and `run_all`.
    """

    @property
    def info(self) -> SessionInfo: ...

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name, for a batch of every input by name; the results are the caller's to keep."""
        ...

    @property
    def input(self) -> TensorSpec:
        """The first input."""
        return self.info.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The first output."""
        return self.info.outputs[0]

    def run(self, batch: Array) -> Array:
        """The first output, logits [N, classes], for a float32 NCHW batch of the only input."""
        return self.run_all({self.input.name: batch})[self.output.name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free nothing: a session that holds something frees it here."""
        return


@runtime_checkable
class TimedSession(Session, Protocol):
    """A session whose runtime can tell transfers from computation."""

    def timed(self, batch: Array) -> Timing: ...


class Pipeline(Protocol):
    """Queries of one batch that overlap; a context manager. Whoever names it as a base implements the first four."""

    @property
    def info(self) -> SessionInfo: ...

    def begin(self) -> None:
        """Start the clock of the queries to come; none is in flight."""
        ...

    def turn(self) -> list[Query]:
        """Enqueue one more query on every stream; those that have ended."""
        ...

    def drain(self) -> list[Query]:
        """Wait for those in flight, and tell of them."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free nothing: a pipeline that holds something frees it here."""
        return


@runtime_checkable
class PipelinedSession(Session, Protocol):
    """A session whose runtime can run queries that overlap."""

    def pipeline(self, batch: Array, options: PipelineOptions) -> Pipeline: ...


@runtime_checkable
class LayerTimer(Protocol):
    """A session whose runtime tells its layers, and the time of each."""

    def layers(self, batch: int) -> list[EngineLayer]:
        """The layers at one batch size."""
        ...

    def layers_json(self, batch: int) -> str:
        """The same as the runtime tells it."""
        ...

    def layer_runs_ms(self, batch: Array, queries: int) -> list[LayerTimes]:
        """The time of each layer in each of `queries` runs."""
        ...


def types_mismatch(
    contract: ServingContract, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> str | None:
    """In what inputs and outputs are not those of a serving contract that is not the plain one; None where they are."""
    if contract.is_plain:
        return None
    wanted = [("input", "uint8" if contract.input == "uint8-nhwc" else "float32")]
    if contract.output == "top-k":
        wanted += [(TOP_PROBABILITIES, "float32"), (TOP_CLASSES, "int32")]
    else:
        wanted += [(contract.output, "float32")]
    found = [(spec.name, spec.dtype) for spec in (*inputs, *outputs)]
    if sorted(found) == sorted(wanted):
        return None
    shown = [", ".join(f"{name} {dtype}" for name, dtype in tensors) for tensors in (found, wanted)]
    return f"has {shown[0]}; the serving contract of its sidecar has {shown[1]}"


def outputs_mismatch(sidecar: Sidecar, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
    """In what inputs and outputs are not those that a sidecar names: the features, one float32 input and float32
    outputs of these names, or what `types_mismatch` says of the serving contract."""
    if not (features := sidecar.features):
        return types_mismatch(sidecar.contract, inputs, outputs)
    kinds = {spec.dtype for spec in (*inputs, *outputs)}
    if len(inputs) == 1 and {spec.name for spec in outputs} == set(features) and kinds == {"float32"}:
        return None
    found = ", ".join(f"{spec.name} {spec.dtype}" for spec in (*inputs, *outputs))
    return f"has {found}; its sidecar names one input and the features {', '.join(features)}, all float32"


def task_of(columns: int | None) -> Task:
    """The task of an output [N, columns]: one column decides between two classes by a threshold."""
    return "binary" if columns == 1 else "classification"


def class_scores(logits: Array, threshold: float) -> Array:
    """Scores [N, classes] of which the largest, and of equal ones the first, is the class that is predicted.

    Logits [N, C] of several classes are their own scores; one column [N, 1] is set against its threshold, as class 1
    against class 0.
    """
    if task_of(logits.shape[1]) == "classification":
        return logits
    return np.concatenate([np.full_like(logits, threshold), logits], axis=1)


def class_probabilities(logits: Array, threshold: float, output: OutputForm = "logits") -> npt.NDArray[np.float64]:
    """Probabilities [N, classes]: the softmax of logits; of one column [N, 1] its sigmoid, or itself where it is a
    probability (`threshold` 0.5). NaN for a row that is not finite. An `output` of probabilities is that already, of
    top-k with 0 for the classes that it does not name."""
    values = logits.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    if task_of(values.shape[1]) == "classification":
        if output != "logits":
            return np.maximum(values, 0.0)
        odds = np.exp(values - values.max(axis=1, keepdims=True))
        shares: npt.NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return shares
    ones = values if threshold else 0.5 + 0.5 * np.tanh(0.5 * values)  # a sigmoid that cannot overflow
    return np.concatenate([1 - ones, ones], axis=1)
