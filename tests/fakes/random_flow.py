"""A random graph through every step in this process, beside ONNX Runtime on the original and its quantizer."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnxruntime import quantization

from edgecnn.backends._onnxruntime import open_session
from edgecnn.backends.ort.session import OrtSession
from edgecnn.errors import EdgecnnError
from edgecnn.graph.calibration.collect import collect_from_model, collect_ranges
from edgecnn.graph.calibration.file import write_ranges
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.importing.importer import import_graph
from edgecnn.graph.lint import require_clean
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.simplify import simplify_graph
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps.import_ import import_onnx
from edgecnn.steps.quantize import quantize
from edgecnn.targets import find_target
from tests.fakes.noise import dataset_of
from tests.fakes.random_graphs import RandomGraph, random_graph

CALIBRATION, TEST = 24, 8  # images
SCHEMES: tuple[Literal["tensorrt", "ort-cpu"], ...] = ("tensorrt", "ort-cpu")
EXTERNAL: dict[str, Any] = {
    "save_as_external_data": True,
    "location": "w.bin",
    "size_threshold": 200,
}  # shapes stay inside

TRUE_REASONS = (
    r"gives the same outputs for different images|gives outputs that are NaN or infinite",
    r"pooling with dilations is not supported",
)
"""Why a graph of the generator may be refused."""


@dataclass
class Outcome:
    """What became of a seed: `refused` with which words, or figures in dB against the float logits."""

    seed: int
    graph: RandomGraph
    refused: str = ""
    difference: float = 0.0
    sqnr_db: dict[str, float] = field(default_factory=dict)


def is_true_reason(message: str) -> bool:
    """Whether a refusal is one of those that a graph of the generator may get."""
    return any(re.search(reason, message) for reason in TRUE_REASONS)


def carry(seed: int, folder: Path, by_steps: bool = False) -> Outcome:
    """Import, calibrate, FP16, INT8 for TensorRT and for the CPU; with files and sidecars between them `by_steps`.

    An error with exit code 2 is an outcome; any other is raised.
    """
    graph = random_graph(seed)
    made, images = Outcome(seed, graph), make_images(graph, seed)
    onnx.save(graph.model, folder / "theirs.onnx", **(EXTERNAL if graph.external else {}))
    expected = run(open_graph(folder / "theirs.onnx"), images, graph.batch or 1).reshape(len(images), -1)
    made.refused = write_or_refuse(folder, images[:CALIBRATION], by_steps)
    if made.refused:
        return made
    session = open_graph(folder / "fp32.onnx")
    logits = run(session, images, batch_of(session))
    compared = softmax(logits) if graph.ends_in_softmax else logits
    made.difference = float(np.abs(compared - expected).max() / np.abs(expected).max())
    for name in ("fp16", *SCHEMES):
        with OrtSession(folder / f"{name}.onnx", 1, simulated=name == "tensorrt") as quantized:
            found = run(quantized._session, images[CALIBRATION:], quantized.input.shape[0])
        made.sqnr_db[name] = sqnr_db(logits[CALIBRATION:], found)
    return made


def write_or_refuse(folder: Path, images: np.ndarray, by_steps: bool = False) -> str:
    """Make FP32, FP16 and INT8 of `theirs.onnx`; the words of the refusal, if it is one."""
    try:
        (write_by_steps if by_steps else write_graphs)(folder, images)
    except EdgecnnError as exc:
        return exc.message
    return ""


def write_by_steps(folder: Path, images: np.ndarray) -> None:
    """As a user's program calls them, one after the other."""
    fp32, file = import_onnx(folder / "theirs.onnx", folder / "fp32.onnx"), folder / "r.calib.json"
    ranges = collect_ranges(fp32, dataset_of(images), threads=1)
    write_ranges(ranges, file, derived(sidecar_of(fp32), file, (fp32,), step="calibrate", kind="ranges"))
    quantize(fp32, folder / "fp16.onnx", precision="fp16", ranges=file, threads=1)
    for scheme in SCHEMES:
        made = folder / f"{scheme}.onnx"
        quantize(fp32, made, precision="int8", scheme=scheme, method="minmax", ranges=file, threads=1)


def write_graphs(folder: Path, images: np.ndarray) -> None:
    """The same functions on graphs in memory, which costs half."""
    imported = import_graph(folder / "theirs.onnx").model
    onnx.save(imported, folder / "fp32.onnx")
    model = simplify_graph(imported)
    require_clean(model, find_target("gpu"))
    ranges = collect_from_model(model, "", dataset_of(images), threads=1)
    graphs = {"fp16": to_fp16(model, ranges)[0]}
    graphs |= {scheme: quantize_int8(model, ranges, scheme, method="minmax").model for scheme in SCHEMES}
    for name, graph in graphs.items():
        require_clean(graph, find_target("cpu" if name == "ort-cpu" else "gpu"))
        onnx.save(graph, folder / f"{name}.onnx")


def measure_peer(made: Outcome, folder: Path) -> float | None:
    """What `quantize_static` (min-max, per channel) loses on the imported graph in dB, with the same images; None where
    it does not carry the graph."""
    images = make_images(made.graph, made.seed)
    fp32, simple, int8 = (folder / f"{name}.onnx" for name in ("fp32", "simple", "peer"))
    session = open_graph(fp32)
    batch = batch_of(session) or 1
    reader = Reader(images[:CALIBRATION], batch)
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        try:
            quantization.quant_pre_process(str(fp32), str(simple), skip_symbolic_shape=True)
            quantization.quantize_static(str(simple), str(int8), reader, per_channel=True)
            quantized = open_graph(int8)
        except Exception:  # noqa: BLE001 - of whatever kind
            return None
    exact = run(session, images[CALIBRATION:], batch)
    return sqnr_db(exact, run(quantized, images[CALIBRATION:], batch))


class Reader(quantization.CalibrationDataReader):
    """Images one by one, each as a whole batch."""

    def __init__(self, images: np.ndarray, batch: int) -> None:
        self.left = [{"input": np.repeat(image[None], batch, 0)} for image in images]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop(0) if self.left else None


def make_images(graph: RandomGraph, seed: int) -> np.ndarray:
    rng = np.random.default_rng([28, seed])
    return rng.standard_normal((CALIBRATION + TEST, *graph.shape), np.float32)


def open_graph(path: Path) -> Any:
    """A session of one thread that says nothing."""
    return open_session(path, threads=1)


def batch_of(session: Any) -> int | None:
    """The batch that is frozen in a graph."""
    first = session.get_inputs()[0].shape[0]
    return first if isinstance(first, int) else None


def run(session: Any, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """The rows of `images`, at once or `batch` copies of one at a time."""
    name = session.get_inputs()[0].name
    if batch is None:
        return session.run(None, {name: images})[0]
    return np.concatenate([session.run(None, {name: np.repeat(i[None], batch, 0)})[0][:1] for i in images])


def sqnr_db(exact: np.ndarray, found: np.ndarray) -> float:
    """10 log10(sum f^2 / sum (f - q)^2)."""
    noise = np.square(exact.astype(np.float64) - found).sum()
    return 10 * float(np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30)))


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)
