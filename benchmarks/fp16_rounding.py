"""What it costs to round an FP16 graph at every FP16 tensor, and how near that comes to `onnx.reference`.

    python benchmarks/fp16_rounding.py X.onnx ... [--batch 8]

For each float32 graph: CPU milliseconds of its FP16 graph under ONNX Runtime as it is (which computes in FP32, rounding
nothing between the nodes) and as edgecnn judges it, on one thread, in turn; SQNR of the logits against FP32 of both,
and of `onnx.reference` on two images, which stores FP16 and adds up in FP16 too. Gaussian images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from _result import Recorder
from onnx.reference import ReferenceEvaluator

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.backends._onnxruntime import open_session
from edgecnn.graph.fp16 import to_fp16
from edgecnn.graph.load import load_graph

REPEATS = 11


def main() -> None:
    """Measure, print and file one row for each graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    command = f"python benchmarks/fp16_rounding.py X.onnx --batch {options.batch}"
    recorder = Recorder("fp16_rounding", command, tools=("numpy", "onnx", "onnxruntime"))
    for path in options.graphs:
        model = load_graph(path)
        half, _ = to_fp16(model)
        value = next(i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer})
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim[1:]]
        batch = np.random.default_rng(0).standard_normal((options.batch, *shape), np.float32)
        sessions = [_session(m) for m in (model, half, rounded_to_fp16(half))]
        exact, plain, rounded = (s.run(None, {value.name: batch})[0] for s in sessions)
        plain_ms, rounded_ms = _milliseconds(sessions[1:], {value.name: batch})
        stored = ReferenceEvaluator(half).run(None, {value.name: batch[:2]})[0]
        found = {
            "plain_cpu_ms": plain_ms,
            "rounded_cpu_ms": rounded_ms,
            "cpu_ratio": rounded_ms / plain_ms,
            "plain_sqnr_db": _sqnr_db(exact, plain),
            "rounded_sqnr_db": _sqnr_db(exact, rounded),
            "reference_sqnr_db": _sqnr_db(exact[:2], stored),
        }
        key = {"graph": path.name.split(".")[0], "batch": options.batch}
        recorder.add(key, {name: round(value, 3) for name, value in found.items()})


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return open_session(model, threads=1)


def _milliseconds(sessions: list[onnxruntime.InferenceSession], feeds: dict[str, np.ndarray]) -> list[float]:
    """The fastest run of each, in turn: a shared machine only ever adds."""
    taken = np.full((REPEATS, len(sessions)), np.inf)
    for row in taken:
        for k, session in enumerate(sessions):
            start = time.process_time()
            session.run(None, feeds)
            row[k] = time.process_time() - start
    return [float(ms) for ms in 1e3 * taken.min(axis=0)]


def _sqnr_db(exact: np.ndarray, made: np.ndarray) -> float:
    noise = np.square(exact.astype(np.float64) - made).sum()
    return 10 * float(np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30)))


if __name__ == "__main__":
    main()
