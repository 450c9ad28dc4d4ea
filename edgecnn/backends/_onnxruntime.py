"""ONNX Runtime's sessions, opened in one place, and its errors, translated in one place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecnn.errors import ArtifactError, BackendError, EdgecnnError
from edgecnn.machine.packages import missing_package
from edgecnn.machine.threads import allowed_threads, may_spin

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
_DAMAGED = {"InvalidProtobuf", "InvalidGraph", "NoSuchFile"}
_WEIGHT_NOT_CHANGED = ("Attempt to replace the existing tensor", "kernel for com.microsoft.QGemm")
Optimization = Literal["none", "basic", "all"]


def open_session(
    graph: onnx.ModelProto | bytes | Path,
    outputs: Sequence[str] | None = None,
    *,
    threads: int | None = None,
    optimization: Optimization = "all",
    optimized: Path | None = None,
    earliest_first: bool = False,
    config: dict[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """A session of `graph` on the CPU provider; with `outputs` these float32 tensors come out of it instead.

    `threads` None are those allowed here; `optimized` is where it writes the graph that it made of this one; `config`
    are further entries of its session configuration. Threads wait without spinning, but within `spin_while_waiting`:
    that takes the cores that other work between two runs needs, and stalls on a busy machine. With `earliest_first` a
    node runs as soon as its inputs are there, not when an output needs it: what only looks at a tensor then does not
    keep it alive. Raises ONNX Runtime's own errors: call it within `onnxruntime_errors`.
    """
    runtime = load_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an exception
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "all": levels.ORT_ENABLE_ALL,
    }[optimization]
    options.intra_op_num_threads = threads or allowed_threads()
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if earliest_first:
        options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
    if not may_spin():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    if isinstance(graph, Path):
        source: str | bytes = str(graph)
    else:
        source = graph if isinstance(graph, bytes) else _serialized(graph, outputs)
    return _without_saturation(source, options)


def _without_saturation(source: str | bytes, options: Any) -> onnxruntime.InferenceSession:
    """Where uint8 by int8 would be summed in 16 bits, which saturate (x86 without VNNI), uint8 by uint8, which cannot.
    ONNX Runtime fails to change a weight that two nodes share: such a graph is computed in float; and that of a QGemm:
    a graph which has one of its own is computed as it stands, and its sums may saturate."""
    runtime = load_onnxruntime()
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return runtime.InferenceSession(source, options, providers=[PROVIDER])
    except Exception as exc:  # of ONNX Runtime's own kinds
        if not any(words in str(exc) for words in _WEIGHT_NOT_CHANGED):
            raise
    options.add_session_config_entry("session.x64quantprecision", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return runtime.InferenceSession(source, options, providers=[PROVIDER])


def run_session(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    """All outputs of one run; raises `BackendError`."""
    with onnxruntime_errors("the graph", "failed while running it", "check the graph's input"):
        return list(session.run(None, dict(feeds)))


@contextlib.contextmanager
def onnxruntime_errors(
    where: str | Path,
    doing: str = "refuses it",
    hint: str = "`edgecnn inspect` shows what is in it",
    error: type[EdgecnnError] = BackendError,
) -> Iterator[None]:
    """Whatever ONNX Runtime raises inside becomes `error`: "WHERE: ONNX Runtime DOING: what it said"; a file that is
    missing or no whole graph becomes an `ArtifactError`, where `where` is its path."""
    try:
        yield
    except EdgecnnError:
        raise
    except Exception as exc:  # its exceptions have no common base
        if isinstance(where, Path) and not where.is_file():
            raise ArtifactError(f"{where}: no such file", "make it first, or check the path") from exc
        if isinstance(where, Path) and type(exc).__name__ in _DAMAGED:
            said = f"{where}: not a whole ONNX graph ({one_line(exc)})"
            raise ArtifactError(said, "copy it again, or export it again") from exc
        raise error(f"{where}: ONNX Runtime {doing}: {one_line(exc)}", hint) from exc


def one_line(exc: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters, without the places and the conditions in C++ from
    which ONNX Runtime and onnx throw."""
    text = _STATUS.sub("", " ".join(str(exc).split()))
    before, *thrown = _PLACE.split(text)
    said = [before, *(_without_function(part) for part in thrown)]
    return " ".join(part.strip() for part in said if part.strip())[:300] or "it does not say why"


_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_PLACE = re.compile(r"/\S+\.(?:cc|cpp|cxx|cu|cuh|h|hpp|inc):\d+:? ?")
_CONDITION = re.compile(r".*?(?:Assertion `.*?` failed[:.]?|\bwas false\.) ?")


def _without_function(thrown: str) -> str:
    """What stands behind a function's signature, and behind the condition that failed in it."""
    if condition := _CONDITION.match(thrown):
        return thrown[condition.end() :]
    depth = 0
    for k, letter in enumerate(thrown):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ")" and depth == 0:
            return re.sub(r"^ ?const\b|^ ?\[with [^\]]*\]", "", thrown[k + 1 :])
    return "" if "::" in thrown else thrown


def _serialized(model: onnx.ModelProto, outputs: Sequence[str] | None) -> bytes:
    import onnx

    if outputs is not None:
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:]
        float32 = onnx.TensorProto.FLOAT
        watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in outputs)
        model = watched
    serialized: bytes = model.SerializeToString()
    return serialized


def load_onnxruntime() -> Any:
    """The package `onnxruntime`; raises `MissingPackageError`."""
    try:
        import onnxruntime
    except ModuleNotFoundError as exc:
        raise missing_package("onnxruntime", "running an ONNX graph", "cpu") from exc
    return onnxruntime
