"""A stand-in for Triton Inference Server: it loads a model repository, and answers NVIDIA's own client over gRPC.

What it refuses, it refuses by the rules of Triton's core (`model_config_utils.cc`, `infer_request.cc`) and of its
TensorRT backend (`model_state.cc`). ONNX Runtime computes in place of the plan; requests are not joined into batches.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime
from google.protobuf import text_format

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32"}
Answer = Callable[[Any], Any]


class Refused(Exception):  # noqa: N818 - what the server says, not what went wrong in it
    """A model that is not loaded, or a request that is not run."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


def must(met: bool, message: str) -> None:
    if not met:
        raise Refused(message)


class Engine:
    """The graph that trtexec was given, for the batch sizes of the profiles that it was asked for."""

    def __init__(self, graph: Path, asked: str) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it stands
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = (
            {t.name: (TYPES[t.type], list(t.shape[1:])) for t in tensors}
            for tensors in (self.session.get_inputs(), self.session.get_outputs())
        )
        ends = {}
        for kind in ("min", "max"):
            shapes = re.findall(rf"--{kind}Shapes=(\w+):(\S+)", asked)
            for name, shape in shapes:
                dims = [int(n) for n in shape.split("x")]
                must(self.inputs.get(name, ("", []))[1] == dims[1:], f"trtexec: {name} is not of shape {shape}")
            ends[kind] = [int(shape.split("x")[0]) for _, shape in shapes]
        self.profiles = list(zip(ends["min"], ends["max"], strict=True))

    def run(self, feeds: dict[str, npt.NDArray[Any]], profiles: list[int]) -> dict[str, npt.NDArray[Any]]:
        n = len(next(iter(feeds.values())))
        fit = any(low <= n <= high for low, high in (self.profiles[k] for k in profiles))
        must(fit, f"failed to find an optimization profile for {n} images among {profiles}")
        return dict(zip(self.outputs, self.session.run(list(self.outputs), feeds), strict=True))


class Model:
    """A model of the repository, loaded for a TensorRT (major, minor)."""

    def __init__(self, folder: Path, engine: Engine, tensorrt: tuple[int, int], client: Any) -> None:
        self.engine, self.client = engine, client
        try:
            text = (folder / "config.pbtxt").read_text(encoding="utf-8")
            self.config = text_format.Parse(text, client.model_config_pb2.ModelConfig())
        except text_format.ParseError as exc:
            raise Refused(f"failed to read text proto: {exc}") from exc
        name, plan = self.config.name, folder / "1" / "model.plan"
        must(name == folder.name, f"unexpected directory name '{folder.name}' for model '{name}'")
        must(self.config.platform == "tensorrt_plan", f"unexpected platform '{self.config.platform}'")
        must(plan.is_file(), f"failed to find {plan}")
        must(tuple(plan.read_bytes()[24:26]) == tensorrt, f"{plan}: version tag does not match")
        self._check_tensors("input", self.config.input, engine.inputs)
        self._check_tensors("output", self.config.output, engine.outputs)
        self._check_batches()
        self.labels = {o.name: self._labels(folder, o.label_filename) for o in self.config.output if o.label_filename}
        self._warm_up()

    def type_name(self, number: int) -> str:
        return self.client.model_config_pb2.DataType.Name(number)

    def _check_tensors(self, kind: str, configured: Any, found: dict[str, tuple[str, list[int]]]) -> None:
        names = [tensor.name for tensor in configured]
        must(sorted(names) == sorted(found), f"unexpected {kind}s {names}, the model has {list(found)}")
        for tensor in configured:
            kept, dims = self.type_name(tensor.data_type), list(tensor.dims)
            wanted, shape = found[tensor.name]
            must(kept == wanted, f"unexpected datatype {kept} for {kind} '{tensor.name}', expecting {wanted}")
            must(dims == shape, f"model expects shape {shape} for {kind} '{tensor.name}', configured is {dims}")

    def _check_batches(self) -> None:
        (group,) = self.config.instance_group
        self.profiles = [int(k) for k in group.profile] or [0]
        must(max(self.profiles) < len(self.engine.profiles), f"no optimization profile {max(self.profiles)}")
        largest, most = self.config.max_batch_size, max(self.engine.profiles[k][1] for k in self.profiles)
        must(largest <= most, f"configuration specified max-batch {largest}, the engine supports {most}")
        preferred = self.config.dynamic_batching.preferred_batch_size
        must(all(0 < n <= largest for n in preferred), "dynamic batching preferred size must be <= max batch size")

    def _labels(self, folder: Path, name: str) -> list[str]:
        must((folder / name).is_file(), f"unable to open label file {name}")
        return (folder / name).read_text(encoding="utf-8").splitlines()

    def _warm_up(self) -> None:
        for warm in self.config.model_warmup:
            feeds = {}
            for name, tensor in warm.inputs.items():
                kind = self.type_name(tensor.data_type).removeprefix("TYPE_")
                shape = [warm.batch_size, *tensor.dims]
                must(tensor.zero_data, f"{warm.name}: only zeros are made here")
                feeds[name] = (kind, np.zeros(shape, self.client.triton_to_np_dtype(kind)))
            self.infer(feeds)

    def infer(self, feeds: dict[str, tuple[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
        """Every output by name, [N, ...], of a request's inputs by name: (datatype, values [N, ...])."""
        configured = {tensor.name: tensor for tensor in self.config.input}
        must(len(feeds) == len(configured), f"expected {len(configured)} inputs but got {len(feeds)}")
        for name, (kind, values) in feeds.items():
            must(name in configured, f"unexpected inference input '{name}' for model '{self.config.name}'")
            must(values.ndim > 0, f"input '{name}' has no shape but model requires batch dimension")
            largest = self.config.max_batch_size
            must(len(values) <= largest, f"inference request batch-size must be <= {largest}")
            wanted = self.type_name(configured[name].data_type).removeprefix("TYPE_")
            must(kind == wanted, f"inference input '{name}' data-type is '{kind}', but model expects '{wanted}'")
            dims = list(configured[name].dims)
            found = list(values.shape)
            must(found[1:] == dims, f"unexpected shape for input '{name}'. Expected {[-1, *dims]}, got {found}")
        return self.engine.run({name: values for name, (_, values) in feeds.items()}, self.profiles)


@dataclass(frozen=True)
class Answers:
    """The services of `GRPCInferenceService` that a client of one model needs."""

    models: dict[str, Model]
    client: Any

    def by_name(self) -> dict[str, Answer]:
        """Each of its remote procedures."""
        messages = self.client.service_pb2
        return {
            "ServerLive": lambda _: messages.ServerLiveResponse(live=True),
            "ServerReady": lambda _: messages.ServerReadyResponse(ready=True),
            "ModelReady": lambda asked: messages.ModelReadyResponse(ready=asked.name in self.models),
            "ModelConfig": lambda asked: messages.ModelConfigResponse(config=self.model(asked.name).config),
            "ModelMetadata": self.metadata,
            "ModelInfer": self.infer,
        }

    def model(self, name: str) -> Model:
        if name not in self.models:
            raise Refused(f"Request for unknown model: '{name}' is not found", grpc.StatusCode.NOT_FOUND)
        return self.models[name]

    def metadata(self, asked: Any) -> Any:
        model = self.model(asked.name)
        found = self.client.service_pb2.ModelMetadataResponse(
            name=asked.name, versions=["1"], platform=model.config.platform
        )
        for configured, told in ((model.config.input, found.inputs), (model.config.output, found.outputs)):
            for tensor in configured:
                kind = model.type_name(tensor.data_type).removeprefix("TYPE_")
                told.add(name=tensor.name, datatype=kind, shape=[-1, *tensor.dims])
        return found

    def infer(self, asked: Any) -> Any:
        model = self.model(asked.model_name)
        must(len(asked.raw_input_contents) == len(asked.inputs), "expected one raw input for each input")
        feeds = {}
        for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True):
            kind = np.dtype(self.client.triton_to_np_dtype(tensor.datatype))
            wanted = int(np.prod(tensor.shape)) * kind.itemsize
            must(len(raw) == wanted, f"unexpected total byte size {len(raw)} for '{tensor.name}', expecting {wanted}")
            feeds[tensor.name] = (tensor.datatype, np.frombuffer(raw, kind).reshape(tuple(tensor.shape)))
        names = [tensor.name for tensor in model.config.output]
        chosen = {tensor.name: tensor.parameters["classification"].int64_param for tensor in asked.outputs}
        for name in chosen:
            must(name in names, f"unexpected inference output '{name}' for model '{asked.model_name}'")
        given = model.infer(feeds)
        answer = self.client.service_pb2.ModelInferResponse(model_name=asked.model_name, model_version="1")
        for name, count in (chosen or dict.fromkeys(names, 0)).items():
            values, raw = given[name], given[name].tobytes()
            if count:
                values = classified(values, count, model.labels.get(name, []))
                raw = self.client.serialize_byte_tensor(values).item()
            kind = self.client.np_to_triton_dtype(values.dtype)
            answer.outputs.add(name=name, datatype=kind, shape=values.shape)
            answer.raw_output_contents.append(raw)
        return answer


def classified(values: npt.NDArray[Any], count: int, labels: list[str]) -> npt.NDArray[Any]:
    """The classification extension: VALUE:INDEX:LABEL of the `count` greatest of each row, without a label where the
    file has none."""
    rows = []
    for row in values.reshape(len(values), -1):
        best = np.argsort(-row, kind="stable")[:count]
        rows.append([f"{row[k]:f}:{k}" + (f":{labels[k]}" if k < len(labels) else "") for k in best])
    return np.array([[text.encode() for text in row] for row in rows], dtype=object)


@contextlib.contextmanager
def serving(repository: Path, engine: Engine, tensorrt: tuple[int, int], client: Any) -> Iterator[str]:
    """The address of a server of this repository, whose every model is `engine`; raises `Refused` where it would not
    start. `client` is the module `tritonclient.grpc`."""
    models = {folder.name: Model(folder, engine, tensorrt, client) for folder in repository.iterdir()}

    def guarded(answer: Answer) -> Callable[..., Any]:
        def answered(_: object, request: Any, context: Any) -> Any:
            try:
                return answer(request)
            except Refused as exc:
                context.abort(exc.code, str(exc))

        return answered

    methods = {name: guarded(answer) for name, answer in Answers(models, client).by_name().items()}
    services = client.service_pb2_grpc
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = type("Servicer", (services.GRPCInferenceServiceServicer,), methods)()
    services.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
