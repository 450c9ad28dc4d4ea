"""What NVIDIA's ModelOpt leaves out of INT8, read by running it on one-layer graphs.

    python -m tests.fakes.modelopt_grid PYTHON > tests/fakes/tables/modelopt.tsv

PYTHON is the interpreter of an environment with `nvidia-modelopt[onnx]`. A line of the table: a layer of `GRID`, the
inputs of it that ModelOpt gave a Q/DQ pair to by default, and those with `target_dla=True`; "-" where there is none.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TABLE = Path(__file__).parent / "tables" / "modelopt.tsv"
MODES = ("default", "dla")
RUN = """
import logging, sys, numpy, onnx
from importlib.metadata import version
from pathlib import Path
from modelopt.onnx.quantization import quantize
folder, fixed = Path(sys.argv[1]), {"quantize_mode": "int8", "calibration_eps": ["cpu"], "log_level": "CRITICAL"}
for path in sorted(folder.glob("*.onnx")):
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    images = numpy.random.default_rng(0).normal(0, 1, [d.dim_value or 4 for d in dims]).astype("float32")
    for mode in ("default", "dla"):
        made = folder / mode / path.name
        made.parent.mkdir(exist_ok=True)
        quantize(str(path), calibration_data={"input": images}, calibration_method="max", output_path=str(made),
                 high_precision_dtype="fp32", target_dla=mode == "dla", **fixed)
(folder / "version").write_text(version("nvidia-modelopt"))
"""


class Layer(NamedTuple):
    """One Conv, Gemm or MatMul by a constant weight, the Conv of an odd `kernel` padded to keep its map.

    `rows` are those of what a Gemm or MatMul reads, [rows, read] or [batch, rows, read]: 0 is the batch axis itself.
    Without `columns` the weight of a MatMul is a vector. `first` reads the graph's input; else a Relu is before it.
    """

    op: str
    read: int
    made: int
    kernel: tuple[int, int] = (1, 1)
    group: int = 1
    first: bool = False
    rows: int = 0
    rank: int = 2

    def __str__(self) -> str:
        sizes = f"{self.op} {self.read} to {self.made}"
        if self.op == "Conv":
            return f"{sizes}, {self.kernel[0]}x{self.kernel[1]}, group {self.group}" + ", first" * self.first
        return f"{sizes}, {self.rows or 'batch'} rows, rank {self.rank}"


def _grid() -> tuple[Layer, ...]:
    few = (1, 3, 6, 8, 12, 15, 16, 20, 24, 64)
    found = [Layer("Conv", r, m, (3, 3)) for r, m in itertools.product(few, few)]
    found += [Layer("Conv", r, m, (3, 3), first=True) for r, m in itertools.product((1, 3, 4, 8, 12, 16), few)]
    kernels = ((1, 1), (5, 5), (1, 3), (7, 1))
    pairs = ((6, 16), (8, 8), (8, 16), (12, 20), (16, 6), (16, 16), (64, 8), (64, 64))
    found += [Layer("Conv", r, m, k) for (r, m), k in itertools.product(pairs, kernels)]
    found += [Layer("Conv", c, c, k, c) for c in (8, 12, 16, 20, 36, 64) for k in ((1, 1), (3, 3), (5, 5), (3, 1))]
    found += [Layer("Conv", 3, 24, (3, 3), 3, first=True), Layer("Conv", 16, 32, (3, 3), 16)]
    grouped = ((16, 16, 2), (24, 60, 3), (32, 32, 2), (32, 36, 2), (60, 60, 3), (64, 8, 2), (64, 64, 8), (120, 60, 3))
    found += [Layer("Conv", r, m, k, g) for (r, m, g), k in itertools.product(grouped, ((1, 1), (3, 3)))]
    sides = (1, 8, 12, 16, 64)
    for read, made, rows in itertools.product(sides, (*sides, 10), (0, 1, 8)):
        found.append(Layer("Gemm", read, made, rows=rows))
    for read, made, rows in itertools.product((8, 16, 64), (1, 10, 16, 64), (0, 1, 8)):
        found.append(Layer("MatMul", read, made, rows=rows))
        found += [Layer("MatMul", read, made, rows=rows, rank=3)] if rows else []
    found += [Layer("MatMul", 64, 0, rows=rows) for rows in (0, 8)]
    return tuple(dict.fromkeys(found))


GRID = _grid()


def make_graph(layer: Layer) -> onnx.ModelProto:
    """The layer, named `layer`, with a Relu behind it."""
    read = "input" if layer.first else "before"
    shape: list[int | str] = [layer.rows or "batch", layer.read]
    if layer.op == "Conv":
        shape = ["batch", layer.read, 8, 8]
    elif layer.rank == 3:
        shape = ["batch", layer.rows, layer.read]
    sizes = {
        "Conv": (layer.made, layer.read // layer.group, *layer.kernel),
        "Gemm": (layer.made, layer.read),
        "MatMul": (layer.read, layer.made) if layer.made else (layer.read,),
    }[layer.op]
    weight = np.random.default_rng(0).normal(0, 0.1, sizes).astype(np.float32)
    tall, wide = layer.kernel
    attributes: dict[str, Any] = {"transB": 1} if layer.op == "Gemm" else {}
    if layer.op == "Conv":
        attributes = {"kernel_shape": [tall, wide], "group": layer.group, "pads": [tall // 2, wide // 2] * 2}
    nodes = [] if layer.first else [helper.make_node("Relu", ["input"], ["before"], "before")]
    nodes.append(helper.make_node(layer.op, [read, "weight"], ["made"], "layer", **attributes))
    nodes.append(helper.make_node("Relu", ["made"], ["logits"], "behind"))
    graph = helper.make_graph(
        nodes,
        str(layer),
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _pairs(model: onnx.ModelProto) -> str:
    made = {n.output[0]: n.op_type for n in model.graph.node}
    layer = next(n for n in model.graph.node if n.name == "layer")
    found = [name for name, i in (("data", 0), ("weight", 1)) if made.get(layer.input[i]) == "DequantizeLinear"]
    return " ".join(found) or "-"


def run_modelopt(python: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The version of ModelOpt in `python`'s environment, and mode -> layer -> its inputs with a pair."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, layer in enumerate(GRID):
            onnx.save(make_graph(layer), folder / f"{number:03}.onnx")
        run = subprocess.run([python, "-c", RUN, name], capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"{python}: {run.stderr[-2000:]}")
        found = {
            mode: {str(layer): _pairs(onnx.load(folder / mode / f"{k:03}.onnx")) for k, layer in enumerate(GRID)}
            for mode in MODES
        }
        return (folder / "version").read_text(), found


def write_table(version: str, found: Mapping[str, Mapping[str, str]]) -> str:
    """The text of a table."""
    head = f"# nvidia-modelopt {version}: python -m tests.fakes.modelopt_grid PYTHON\nlayer\t" + "\t".join(MODES)
    lines = ["\t".join((str(layer), *(found[mode][str(layer)] for mode in MODES))) for layer in GRID]
    return "\n".join((head, *lines)) + "\n"


def read_table(path: Path = TABLE) -> tuple[str, dict[str, dict[str, str]]]:
    """What `run_modelopt` found when the table was written."""
    head, _, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return head.split()[2].rstrip(":"), {mode: {r[0]: r[k] for r in rows} for k, mode in enumerate(MODES, 1)}


if __name__ == "__main__":
    print(write_table(*run_modelopt(sys.argv[1])), end="")
