"""Small classifiers and pictures for acceptance tests, made without any code of the project.

A network's head is the ridge regression of the classes on its features, so that it classifies well without training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
SIZE = 12
PREPROCESSING = {
    "resize": SIZE,
    "crop": SIZE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bilinear",
    "channels": 3,
}


def pictures(count: int, classes: int = 6, seed: int = 1) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """uint8 [count, SIZE, SIZE, 3] and labels [count]: a pattern for each class, with noise and another brightness."""
    patterns = np.random.default_rng(99).normal(0, 38, (classes, SIZE // 3, SIZE // 3, 3)).repeat(3, 1).repeat(3, 2)
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    noise = rng.normal(0, 16, (count, SIZE, SIZE, 3)) + rng.normal(0, 12, (count, 1, 1, 3))
    return np.clip(128 + patterns[labels] + noise, 0, 255).astype(np.uint8), labels


def normalized(pixels: Bytes) -> Floats:
    """float32 [N, 3, SIZE, SIZE] as `PREPROCESSING` says."""
    return np.ascontiguousarray(((pixels.astype(np.float32) / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2))


def write_npz(path: Path, images: Floats, labels: npt.NDArray[np.int64] | None = None) -> Path:
    """An archive of preprocessed images."""
    arrays = {"input": images} if labels is None else {"input": images, "label": labels}
    np.savez(path, **arrays)
    return path


def write_folder(path: Path, pixels: Bytes) -> Path:
    """PNG files without class folders."""
    path.mkdir(parents=True)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{k:03d}.png")
    return path


class Net:
    """A graph under construction: `node` adds any operator, the others the usual layers; each returns its tensor."""

    def __init__(
        self, seed: int = 0, classes: int = 6, spatial: Sequence[int | str] = (SIZE, SIZE), opset: int = 19
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.classes, self.spatial, self.opset = classes, spatial, opset
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.functions: list[onnx.FunctionProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.arrays[name] = np.asarray(value, dtype)
        return name

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node called `name` whose output is `name` too."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def conv(
        self, name: str, x: str, channels: tuple[int, int], kernel: int = 3, gain: float = 1.0, **attributes: Any
    ) -> str:
        """A convolution from channels[0] to channels[1], He-initialised, times `gain`; pads by half a kernel unless
        `auto_pad` is given."""
        fan = channels[0] // attributes.get("group", 1)
        weight = self.rng.normal(0, np.sqrt(2 / (fan * kernel**2)), (channels[1], fan, kernel, kernel))
        bias = self.rng.normal(0, 0.1, channels[1])
        self.constant(f"{name}.weight", gain * weight)
        self.constant(f"{name}.bias", gain * bias)
        if "auto_pad" not in attributes:
            attributes["pads"] = [kernel // 2] * 4
        return self.node("Conv", name, x, f"{name}.weight", f"{name}.bias", kernel_shape=[kernel, kernel], **attributes)

    def relu(self, x: str) -> str:
        return self.node("Relu", f"{x}.relu", x)

    def batch_norm(self, name: str, x: str, channels: int) -> str:
        rng = self.rng
        for key, value in (
            ("scale", rng.uniform(0.7, 1.3, channels)),
            ("shift", rng.normal(0, 0.2, channels)),
            ("mean", rng.normal(0, 0.2, channels)),
            ("var", rng.uniform(0.5, 1.5, channels)),
        ):
            self.constant(f"{name}.{key}", value)
        inputs = [f"{name}.{key}" for key in ("scale", "shift", "mean", "var")]
        return self.node("BatchNormalization", name, x, *inputs)

    def head(self, x: str, **settings: Any) -> str:
        """Global average pooling, Flatten and the Gemm that fits the classes."""
        pooled = self.node("GlobalAveragePool", "pooled", x)
        return self.gemm(self.node("Flatten", "features", pooled), **settings)

    def gemm(
        self,
        x: str,
        *,
        gain: float = 1.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        trans_b: int = 1,
        name: str = "logits",
    ) -> str:
        """logits = alpha x W + beta b, the ridge regression of +-1 for the classes on `x`, times `gain`."""
        pixels, labels = pictures(192, self.classes, seed=0)
        features = run(self.model(x, (None, None)), normalized(pixels)).astype(np.float64)
        center, spread = features.mean(0), features.std() + 1e-30
        scaled = (features - center) / spread
        wanted = np.where(np.arange(self.classes) == labels[:, None], 1.0, -1.0)
        normal = scaled.T @ scaled + 0.5 * np.eye(scaled.shape[1])
        weight = np.linalg.solve(normal, scaled.T @ (wanted - wanted.mean(0))) / spread
        bias = wanted.mean(0) - center @ weight
        weight = gain / alpha * weight
        self.constant(f"{name}.weight", weight.T if trans_b else weight)
        self.constant(f"{name}.bias", gain / beta * bias)
        return self.node(
            "Gemm", name, x, f"{name}.weight", f"{name}.bias", transB=trans_b, alpha=float(alpha), beta=float(beta)
        )

    def model(self, output: str, shape: Sequence[Any] | None = None) -> onnx.ModelProto:
        """The graph that ends with tensor `output` of `shape` (left out: [batch, classes])."""
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *self.spatial])
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape or ["batch", self.classes])
        weights = [numpy_helper.from_array(value, name) for name, value in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "net", [given], [made], weights)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.functions:
            opsets.append(helper.make_opsetid("local", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=self.functions)


def run(model: onnx.ModelProto, images: Floats) -> Floats:
    """What ONNX Runtime gives without optimisations: each node as the standard defines it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def run_stored(model: onnx.ModelProto, images: Floats) -> Floats:
    """What `onnx.reference` gives: every FP16 tensor is stored as FP16, so that it rounds, overflows, underflows."""
    with np.errstate(all="ignore"):
        made = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: images})[0]
    return np.asarray(made).astype(np.float32)


def sqnr_db(exact: Floats, made: Floats) -> float:
    """Signal over noise of logits in dB; minus infinity where a logit is not finite."""
    if not np.isfinite(made).all():
        return -np.inf
    noise = np.square(exact.astype(np.float64) - made).sum()
    return float(10 * np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-300)))


def rounded_per_tensor(model: onnx.ModelProto, calibration: Floats) -> onnx.ModelProto:
    """The plainest INT8 of `model`: input and weight of every Conv and Gemm rounded to 255 steps of one scale each,
    the activations' from their largest value on `calibration`."""
    import onnxruntime

    made = onnx.ModelProto()
    made.CopyFrom(model)
    arrays = {t.name: t for t in made.graph.initializer}
    read = {n.input[0] for n in made.graph.node if n.op_type in ("Conv", "Gemm")}
    for tensor in read - {"input"}:
        made.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()][1:]
    seen = dict(zip(names, session.run(names, {"input": calibration}), strict=True)) if names else {}
    del made.graph.output[1:]
    seen["input"] = calibration
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in list(made.graph.node):
        if node.op_type in ("Conv", "Gemm"):
            source = node.input[0]
            if source not in done:
                done.add(source)
                scale = numpy_helper.from_array(np.float32(np.abs(seen[source]).max() / 127 or 1.0), f"{source}.step")
                zero = numpy_helper.from_array(np.int8(0), f"{source}.zero")
                made.graph.initializer.extend([scale, zero])
                pair = (scale.name, zero.name)
                nodes.append(helper.make_node("QuantizeLinear", [source, *pair], [f"{source}.q"]))
                nodes.append(helper.make_node("DequantizeLinear", [f"{source}.q", *pair], [f"{source}.dq"]))
            node.input[0] = f"{source}.dq"
            weight = numpy_helper.to_array(arrays[node.input[1]])
            step = np.abs(weight).max() / 127
            rounded = (np.rint(weight / step) * step).astype(np.float32)
            arrays[node.input[1]].CopyFrom(numpy_helper.from_array(rounded, node.input[1]))
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    return made


def in_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` as converters of FP16 make it: all weights FP16, a Cast behind the input and one before the output."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    output = made.graph.output[0].name
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for node in made.graph.node:
        node.input[:] = ["input.half" if i == "input" else i for i in node.input]
        node.output[:] = ["output.half" if o == output else o for o in node.output]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(
        [
            helper.make_node("Cast", ["input"], ["input.half"], "to_half", to=TensorProto.FLOAT16),
            *nodes,
            helper.make_node("Cast", ["output.half"], [output], "to_float", to=TensorProto.FLOAT),
        ]
    )
    return made
