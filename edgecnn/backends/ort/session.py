"""A graph under ONNX Runtime, as a Session: on its CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.backends._graph_facts import precision_of_graph
from edgecnn.backends._graph_file import read_structure
from edgecnn.backends._onnxruntime import load_onnxruntime, onnxruntime_errors, open_session
from edgecnn.errors import ArtifactError, BackendError, DeviceError
from edgecnn.machine.packages import missing_package
from edgecnn.machine.threads import allowed_threads
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, outputs_mismatch

DTYPES = {"float": "float32", "double": "float64"}  # the others bear numpy's names
ONNX_TYPES = {dtype: kind for kind, dtype in DTYPES.items()}


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
            self._session = open_session(graph, threads=threads, config=config)
        self.path = path
        parts = ["INT8 as TensorRT rounds it"] * simulated + ["FP16 tensors rounded from FP32"] * (graph != path)
        self._info = SessionInfo(
            inputs=tuple(spec_of(value) for value in self._session.get_inputs()),
            outputs=tuple(spec_of(value) for value in self._session.get_outputs()),
            simulated=", ".join(parts),
            threads=threads or allowed_threads(),
        )

    @property
    def info(self) -> SessionInfo:
        """Inputs and outputs of the graph, and what of it the CPU only imitates."""
        return self._info

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises `BackendError` for other inputs, or for one of another shape."""
        require_shapes(self.path, self._info, inputs)
        names = [spec.name for spec in self._info.outputs]
        with onnxruntime_errors(self.path, "failed", "see the message above", DeviceError):
            outputs: list[Array] = self._session.run(names, dict(inputs))
        return dict(zip(names, outputs, strict=True))

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
        model = read_structure(path)
    except (OSError, DecodeError):
        return path  # ONNX Runtime says what is wrong
    made = rounded_to_fp16(model)
    if made is model:
        return path
    onnx.load_external_data_for_model(made, str(path.parent))
    serialized: bytes = made.SerializeToString()
    return serialized


def require_shapes(path: Path, info: SessionInfo, inputs: Mapping[str, Array]) -> None:
    """Raise `BackendError` unless `inputs` are those of the graph, each of a shape that it takes."""
    info.require_inputs(inputs)
    for spec in info.inputs:
        wanted, batch = spec.shape, inputs[spec.name]
        if len(batch.shape) != len(wanted) or any(w not in (None, g) for w, g in zip(wanted, batch.shape, strict=True)):
            shown = "x".join("N" if n is None else str(n) for n in wanted)
            raise BackendError(
                f"{path}: a batch of shape {'x'.join(map(str, batch.shape))}, the engine takes {shown}",
                "use the preprocessing of the model the engine was made from",
            )


def spec_of(value: Any) -> TensorSpec:
    """As ONNX Runtime tells it: the type of an element within "tensor(...)", by its name in C++."""
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(value.name, shape, DTYPES.get(kind, kind))


def require_classifier(path: Path, info: SessionInfo, sidecar: Sidecar) -> None:
    """Raise `ArtifactError` unless a session has one float input and one float output, or those of its sidecar's
    serving contract, or the features that this names."""
    inputs, outputs = info.inputs, info.outputs
    if mismatch := outputs_mismatch(sidecar, inputs, outputs):
        raise ArtifactError(f"{path}: {mismatch}", "its sidecar is of another file: copy both again, or export again")
    if sidecar.features or not sidecar.contract.is_plain:
        return
    hint = "`edgecnn import` makes a foreign graph fit"
    if len(inputs) != 1 or len(outputs) != 1 or {inputs[0].dtype, outputs[0].dtype} != {"float32"}:
        quantized = precision_of_graph(path) == "int8"
        hint = "quantize it again with one float32 input and one float32 output" if quantized else hint
    if len(inputs) != 1 or len(outputs) != 1:
        raise ArtifactError(
            f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each", hint
        )
    if {inputs[0].dtype, outputs[0].dtype} != {"float32"}:
        kinds = [f"{spec.name} is tensor({ONNX_TYPES.get(spec.dtype, spec.dtype)})" for spec in (*inputs, *outputs)]
        raise ArtifactError(f"{path}: {', '.join(kinds)}; both must be tensor(float)", hint)
