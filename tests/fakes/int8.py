"""Nets that per-tensor scales suffer from, pictures for them, and how far two outputs are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgecnn.data.dataset import Dataset
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.ptq.candidates import give_own_constants
from edgecnn.graph.ptq.quantize import QuantizedGraph, quantize_int8
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.noise import dataset_of

RESIDUAL = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
c2 = Conv(r1, out=8, k=3)
r2 = Relu(c2)
c3 = Conv(r2, out=8, k=1)
s = Add(c3, r1)
r3 = Relu(s)
g = GlobalAveragePool(r3)
f = Flatten(g)
logits = Gemm(f, out=5)
"""
CHAIN = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
c2 = Conv(r1, out=8, k=3)
r2 = Relu(c2)
c3 = Conv(r2, out=8, k=1)
r3 = Relu(c3)
c4 = Conv(r3, out=8, k=3)
r4 = Relu(c4)
g = GlobalAveragePool(r4)
f = Flatten(g)
logits = Gemm(f, out=5)
"""

SEPARABLE = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
d1 = Conv(r1, out=8, k=3, group=8)
r2 = Relu(d1)
p1 = Conv(r2, out=8, k=1)
r3 = Relu(p1)
g = GlobalAveragePool(r3)
f = Flatten(g)
logits = Gemm(f, out=5)
"""
MOBILE = """
c1 = Conv(input, out=8, k=3)
r1 = Relu(c1)
d1 = Conv(r1, out=8, k=3, group=8)
r2 = Relu(d1)
p1 = Conv(r2, out=8, k=1)
a1 = Add(p1, r1)
r3 = Relu(a1)
d2 = Conv(r3, out=8, k=3, group=8)
r4 = Relu(d2)
p2 = Conv(r4, out=8, k=1)
r5 = Relu(p2)
g = GlobalAveragePool(r5)
f = Flatten(g)
logits = Gemm(f, out=5)
"""


def uneven(text: str) -> onnx.ModelProto:
    """The net with channels of very different size behind every ReLU, which per-tensor scales suffer from."""
    model = give_own_constants(simplify_graph(build(text)))
    rng = np.random.default_rng(7)
    for node in model.graph.node:
        if node.op_type == "Conv":
            for name in node.input[1:3]:
                held = next(i for i in model.graph.initializer if i.name == name)
                array = numpy_helper.to_array(held)
                factor = np.exp(rng.normal(0, 1.0, array.shape[0])).reshape(-1, *[1] * (array.ndim - 1))
                held.CopyFrom(numpy_helper.from_array((array * factor).astype(np.float32), name))
    return model


def pictures(count: int = 96, seed: int = 3) -> Dataset:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (count, 4, 4, 4)).repeat(2, axis=2).repeat(2, axis=3)
    return dataset_of((coarse + 0.3 * rng.normal(0, 1, (count, 4, 8, 8))).astype(np.float32))


def quantized(model: onnx.ModelProto, data: Dataset, method: str = "auto", around: Any = "fp32") -> QuantizedGraph:
    ranges = collect_from_model(model, "", data)
    return quantize_int8(model, ranges, "tensorrt", method=method, around=around, data=data)


def logits(model: onnx.ModelProto, data: Dataset) -> np.ndarray:
    """With Q/DQ in float: the sums of ONNX Runtime's integer kernels saturate on a processor without VNNI."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = np.stack([data.tensor(i) for i in range(len(data))])
    return np.asarray(session.run(None, {"input": batch})[0])


def sqnr_db(exact: np.ndarray, made: np.ndarray) -> float:
    lost = np.square(exact - made).sum()
    return float(10 * np.log10(np.square(exact).sum() / lost)) if lost else np.inf
