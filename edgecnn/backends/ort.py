"""ONNX Runtime's CPU provider: an engine is the graph itself, with a sidecar."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, require_inference_graph
from edgecnn.backends._graph_facts import describe_graph, precision_of_graph
from edgecnn.backends._onnxruntime import PROVIDER, load_onnxruntime, onnxruntime_errors, open_session
from edgecnn.errors import ArtifactError, BackendError, DeviceError
from edgecnn.machine.cpu import available_cores, cpu_device
from edgecnn.machine.packages import missing_package
from edgecnn.results.device import Device
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, types_mismatch

NAME = "ort"
SUFFIXES = (".onnx",)
DEFAULT_TARGET = "cpu"
DTYPES = {"float": "float32", "double": "float64"}  # the others bear numpy's names
ONNX_TYPES = {dtype: kind for kind, dtype in DTYPES.items()}


def recognizes(path: Path, first_bytes: bytes) -> bool:
    """Whether a file is a graph; ONNX has no magic number, so its name says it."""
    return path.suffix in SUFFIXES


def engine_from_onnx(graph: Path, output: Path, options: BuildOptions) -> Sidecar:
    """Copy `graph` to the engine `output` after loading it once and running it at the largest batch.

    Raises `ArtifactError` for a damaged graph, `BackendError` for one that ONNX Runtime refuses.
    """
    source = verified_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
    with _classifier(OrtSession(graph, options.threads, simulated=_is_simulated(source)), source) as session:
        shape = tuple(n or options.batch.max for n in session.input.shape)
        if shape[0] != options.batch.max and session.input.shape[0] is not None:
            raise BackendError(
                f"{graph}: its batch is frozen at {shape[0]}, the recipe asks for up to {options.batch.max}",
                "export it with a dynamic batch axis, or set batch.max to the frozen one",
            )
        session.run(np.zeros(shape, session.input.dtype))
    sidecar = dataclasses.replace(
        source,
        kind="engine",
        made_by=f"edgecnn build {graph.name} --backend ort",
        parents=parents_of(output, graph),
        recipe=options.recipe,
        fields=options.fields,
        tools=tools(),
        device=device(options.threads),
        backend="ort",
        provider=PROVIDER,
        target=options.target,
        facts={**source.facts, "threads": options.threads},
    )
    return write_artifact(output, lambda temporary: _copy(graph, temporary), sidecar)


def open_engine(path: Path, threads: int | None = None, trust: bool = False) -> OrtSession:
    """Load an engine, or a plain graph (ONNX is data, not code: it needs no sidecar to be loaded).

    `threads` overrides what the sidecar fixed. Raises `ArtifactError` when a sidecar is there and does not match,
    `GraphError` for a graph that was exported in training mode.
    """
    require_inference_graph(path)
    if not sidecar_path(path).exists():
        return _classifier(OrtSession(path, threads), Sidecar(kind="graph"))
    sidecar = verified_sidecar(path)
    session = OrtSession(path, threads or sidecar.facts.get("threads"), simulated=_is_simulated(sidecar))
    return _classifier(session, sidecar)


def device(threads: int | None = None) -> Device:
    """The processor and the number of threads, as they stand in a sidecar."""
    return cpu_device(threads)


def tools() -> dict[str, str]:
    """The version of ONNX Runtime, by the package that it came in."""
    return tool_versions("onnxruntime", "onnxruntime-gpu")


def precision_of(path: Path) -> str:
    """int8, fp16 or fp32, as the graph holds it; "" where it cannot be told."""
    return precision_of_graph(path)


def describe(path: Path) -> dict[str, object]:
    """The graph: its inputs, outputs, operators and types."""
    return describe_graph(path)


def check_graph(path: Path) -> None:
    """ONNX Runtime takes what is valid ONNX: there is nothing to warn of."""


def machine_facts() -> dict[str, str]:
    """Nothing beside the processor and the packages, which are said anyway."""
    return {}


def _is_simulated(sidecar: Sidecar) -> bool:
    return sidecar.scheme == "tensorrt"


class OrtSession(Session):
    """A graph under ONNX Runtime's CPU provider, with as many inputs and outputs as it has; a `simulated` one keeps its
    Q/DQ nodes.

    ONNX Runtime 1.31 would fuse DQ - Concat - Q with FP16 scales into QLinearConcat, which takes float32 ones alone,
    and round float biases to steps of FP16 that underflow (its WeightBiasQuantization): 25 dB on a ResNet-18.
    """

    def __init__(self, path: Path, threads: int | None = None, simulated: bool = False) -> None:
        load_onnxruntime()  # the first that is named where it is missing
        graph = _rounding_fp16(path)
        config = {"session.disable_quant_qdq": "1"} if simulated else {}
        with onnxruntime_errors(path):
            self._session = open_session(graph, threads=threads or available_cores(), spinning=True, config=config)
        self.path = path
        parts = ["INT8 as TensorRT rounds it"] * simulated + ["FP16 tensors rounded from FP32"] * (graph != path)
        self._info = SessionInfo(
            inputs=tuple(_spec(value) for value in self._session.get_inputs()),
            outputs=tuple(_spec(value) for value in self._session.get_outputs()),
            simulated=", ".join(parts),
        )

    @property
    def info(self) -> SessionInfo:
        """Inputs and outputs of the graph, and what of it the CPU only imitates."""
        return self._info

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `BackendError` for other inputs, or for one of another shape."""
        self._info.require_inputs(inputs)
        for spec in self._info.inputs:
            self._check_shape(spec, inputs[spec.name])
        names = [spec.name for spec in self._info.outputs]
        with onnxruntime_errors(self.path, "failed", "see the message above", DeviceError):
            outputs: list[Array] = self._session.run(names, dict(inputs))
        return dict(zip(names, outputs, strict=True))

    def _check_shape(self, spec: TensorSpec, batch: Array) -> None:
        wanted = spec.shape
        if len(batch.shape) != len(wanted) or any(w not in (None, g) for w, g in zip(wanted, batch.shape, strict=True)):
            shown = "x".join("N" if n is None else str(n) for n in wanted)
            raise BackendError(
                f"{self.path}: a batch of shape {'x'.join(map(str, batch.shape))}, the engine takes {shown}",
                "use the preprocessing of the model the engine was made from",
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session


def _rounding_fp16(path: Path) -> Path | bytes:
    """What ONNX Runtime is given: the file, or where it holds FP16 tensors a graph that rounds to them."""
    try:
        import onnx
    except ModuleNotFoundError as exc:
        raise missing_package("onnx", "running an ONNX graph", "cpu") from exc
    from google.protobuf.message import DecodeError

    from edgecnn.backends._half import rounded_to_fp16

    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return path  # ONNX Runtime says what is wrong
    made = rounded_to_fp16(model)
    if made is model:
        return path
    onnx.load_external_data_for_model(made, str(path.parent))
    serialized: bytes = made.SerializeToString()
    return serialized


def _spec(value: Any) -> TensorSpec:
    """As ONNX Runtime tells it: the type of an element within "tensor(...)", by its name in C++."""
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(value.name, shape, DTYPES.get(kind, kind))


def _classifier(session: OrtSession, sidecar: Sidecar) -> OrtSession:
    """A session of one float input and one float output, or of those of the sidecar's serving contract; raises
    `ArtifactError` for another."""
    path, inputs, outputs = session.path, session.info.inputs, session.info.outputs
    wanted = sidecar.contract
    if mismatch := types_mismatch(wanted, inputs, outputs):
        raise ArtifactError(f"{path}: {mismatch}", "its sidecar is of another file: copy both again, or export again")
    if not wanted.is_plain:
        return session
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each",
            "`edgecnn import` makes a foreign graph fit",
        )
    if {inputs[0].dtype, outputs[0].dtype} != {"float32"}:
        kinds = [f"{spec.name} is tensor({ONNX_TYPES.get(spec.dtype, spec.dtype)})" for spec in (*inputs, *outputs)]
        raise ArtifactError(
            f"{path}: {', '.join(kinds)}; both must be tensor(float)",
            "`edgecnn import` makes a foreign graph fit",
        )
    return session


def _copy(graph: Path, temporary: Path) -> None:
    shutil.copyfile(graph, temporary)
