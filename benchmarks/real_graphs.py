"""Real classifiers, as other tools export them, through every step: passed, refused with a reason, or failed.

    python benchmarks/real_graphs.py [ORIGIN|NAME|ORIGIN/NAME/EXPORTER ...] [--keras PYTHON] [--paddle PYTHON]
                                     [--modelopt PYTHON] [--again] [--stopped]

The list is real_graphs.txt. Each is exported (real_exporters.py) and then judged in processes of their own, with at
most `MEMORY_GB` of address space and ten minutes; a Python that is not named leaves its origin out. Rows that
are in results/real_graphs.json are not made again without --again, or --stopped for those that did not pass. A graph
has passed when `import`, `calibrate`, FP16, INT8 for TensorRT and INT8 for the CPU (min-max, `CALIBRATION` images of
noise) end with exit code 0 and the imported graph gives in ONNX Runtime what the original gives; exit code 2 is a
refusal with the words of its error line, anything else a failure. The peers get the imported graph, or the original
where it was refused. SQNR = 10 log10(sum f^2 / sum (f - q)^2) over the logits of `TEST` other images.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import real_exporters

HERE = Path(__file__).resolve().parent
CALIBRATION, TEST = 4, 4
MEMORY_GB, LIMIT_S = 16, 600
PARITY = 1e-3  # of the largest logit, or probability
MEAN_AND_DEVIATION = {"keras": (127.5, 73.6)}  # of the images that a network was settled on, where not 0 and 1
STEPS = ("import", "calibrate", "FP16", "INT8 for TensorRT", "INT8 for the CPU")


def listed() -> list[tuple[str, str, str]]:
    """Origin, name and exporter of each line."""
    lines = (HERE / "real_graphs.txt").read_text(encoding="utf-8").splitlines()
    return [(o, n, e) for o, n, e in (line.split() for line in lines if line and not line.startswith("#"))]


def judge(graph: Path, folder: Path, mean: float, deviation: float) -> dict[str, Any]:
    """What becomes of an exported graph on images of noise; everything is written into `folder`."""
    images = noise(graph, mean, deviation)
    np.save(folder / "images.npy", images)
    np.savez(folder / "images.npz", input=images[:CALIBRATION])
    fp32, ranges = folder / "fp32.onnx", folder / "r.calib.json"
    int8 = ("quantize", fp32, "--precision", "int8", "--ranges", ranges, "--method", "minmax", "--threads", 1)
    commands = (
        ("import", graph, "-o", fp32),
        ("calibrate", fp32, "--data", folder / "images.npz", "-o", ranges, "--threads", 1),
        ("quantize", fp32, "--precision", "fp16", "--ranges", ranges, "-o", folder / "fp16.onnx", "--threads", 1),
        (*int8, "--scheme", "tensorrt", "-o", folder / "trt.onnx"),
        (*int8, "--scheme", "ort-cpu", "-o", folder / "cpu.onnx"),
    )
    for step, command in zip(STEPS, commands, strict=True):
        code, said = call(*command)
        if code != 0:
            outcome = "refused" if code == 2 else "failed"
            return {
                "outcome": outcome,
                "step": step,
                "reason": said.replace(f"{graph}: ", "").replace(f"{folder}/", ""),
            }
    given = images[CALIBRATION:]
    exact = logits(fp32, given)
    row: dict[str, Any] = {"outcome": "passed", "difference": difference(graph, given, exact)}
    if not row["difference"] <= PARITY:
        row |= {"outcome": "failed", "step": STEPS[0], "reason": "the imported graph gives other logits"}
    row |= {f"{k}_sqnr_db": sqnr_db(exact, logits(folder / f"{k}.onnx", given)) for k in ("fp16", "trt", "cpu")}
    return row


def call(*words: object) -> tuple[int, str]:
    """The exit code of a command of edgecnn in this process, and its error line."""
    from edgecnn.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(w) for w in words])
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ") or re.match(r"[\w.]+(Error|Exception)\b", line)]
    return code, (errors or lines or ["nothing said"])[0].removeprefix("error: ")[:400]


def noise(graph: Path, mean: float, deviation: float) -> np.ndarray:
    """Smooth seeded images [N, C, H, W]; the channels are the smallest of the three sizes."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    held = {i.name for i in model.graph.initializer}
    given = next(i for i in model.graph.input if i.name not in held)
    sizes = [d.dim_value for d in given.type.tensor_type.shape.dim][1:]
    channels, height, width = sizes if sizes[0] <= sizes[2] else (sizes[2], *sizes[:2])
    rng = np.random.default_rng(0)
    coarse = rng.normal(0, 1, (CALIBRATION + TEST, channels, -(-height // 8), -(-width // 8)))
    smooth = coarse.repeat(8, 2).repeat(8, 3)[:, :, :height, :width]
    return (mean + deviation * (smooth + rng.normal(0, 0.3, smooth.shape))).astype(np.float32)


def session_of(graph: Path) -> Any:
    """One thread, Q/DQ rounded as the graph says, and nothing on the terminal."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(graph), options)


def logits(graph: Path, images: np.ndarray) -> np.ndarray:
    """Of a graph of edgecnn's, as `validate` runs it."""
    from edgecnn.backends.ort.session import OrtSession

    with OrtSession(graph, 1, simulated=graph.stem == "trt") as session:
        return np.concatenate([session.run(image[None]) for image in images])


def difference(graph: Path, images: np.ndarray, made: np.ndarray) -> float:
    """Of the imported graph from the original, as a share of the largest logit, or of the largest probability where the
    original ends in a Softmax. Inputs behind the first are those that nothing reads (tf2onnx leaves some): zeros."""
    session = session_of(graph)
    value, *unread = session.get_inputs()
    zeros = {i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in unread}
    batch = value.shape[0] if isinstance(value.shape[0], int) and value.shape[0] > 0 else 1
    last = images.shape[1] != value.shape[1] and images.shape[1] == value.shape[3]
    given = images.transpose(0, 2, 3, 1) if last else images
    rows = [session.run(None, {value.name: np.repeat(g[None], batch, 0), **zeros})[0][:1] for g in given]
    found = np.concatenate(rows).reshape(len(images), -1).astype(np.float64)
    if np.allclose(found.sum(1), 1, atol=1e-3) and found.min() >= 0:
        exp = np.exp(made.astype(np.float64) - made.max(1, keepdims=True))
        made = exp / exp.sum(1, keepdims=True)
    return float(np.abs(found - made).max() / np.abs(found).max())


def sqnr_db(exact: np.ndarray, found: np.ndarray) -> float:
    """Of all logits, in dB."""
    signal, error = np.square(exact.astype(np.float64)).sum(), np.square(exact.astype(np.float64) - found).sum()
    return round(10 * float(np.log10(signal / max(error, 1e-30))), 2)


def measure_peer(tool: str, graph: Path, folder: Path) -> dict[str, Any]:
    """What a peer's INT8 of `graph` loses on the images that `judge` left; raises what the peer raises."""
    images, made = np.load(folder / "images.npy"), folder / f"{tool}.onnx"
    session = session_of(graph)
    value = session.get_inputs()[0]
    last = images.shape[1] != value.shape[1] and images.shape[1] == value.shape[3]
    given = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if last else images
    if tool == "ort":
        from onnxruntime import quantization as q

        class Reader(q.CalibrationDataReader):  # type: ignore[misc]
            left = [{value.name: image[None]} for image in given[:CALIBRATION]]  # noqa: RUF012

            def get_next(self) -> dict[str, np.ndarray] | None:
                return self.left.pop(0) if self.left else None

        q.quant_pre_process(str(graph), str(folder / "pre.onnx"), skip_symbolic_shape=True)
        q.quantize_static(str(folder / "pre.onnx"), str(made), Reader(), per_channel=True)
    else:
        from modelopt.onnx.quantization import quantize

        quantize(
            str(graph), quantize_mode="int8", calibration_data={value.name: given[:CALIBRATION]},
            calibration_method="max", calibration_eps=["cpu"], output_path=str(made), high_precision_dtype="fp32",
            log_level="ERROR",
        )  # fmt: skip
    quantized = session_of(made)
    exact, found = (
        np.concatenate([s.run(None, {value.name: g[None]})[0] for g in given[CALIBRATION:]])
        for s in (session, quantized)
    )
    return {f"{tool}_sqnr_db": sqnr_db(exact, found)}


def run_alone(command: Sequence[object], folder: Path) -> tuple[int, str, str]:
    """A child with limits: exit code (None's stand-in -1: no end within the time), stdout, the last words of stderr."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))

    words = [str(w) for w in command]
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False, preexec_fn=limit
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"no end within {LIMIT_S} s"
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}, nothing said"])[-1]
    return done.returncode, done.stdout, last.strip().replace(f"{folder}/", "")[:300]


def run_forked(words: Sequence[object], folder: Path) -> tuple[int, str]:
    """An export in a fork of this process, with the limits of `run_alone`: to load torch and its exporters takes longer
    than most exports."""
    real_exporters.load_torch()
    heard = folder / "said.txt"

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))
        with heard.open("w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        real_exporters.export(*map(str, words))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return -1, f"no end within {LIMIT_S} s"
    said = heard.read_text().strip().splitlines() if heard.exists() else []
    return int(process.exitcode or 0), (said or [f"exit code {process.exitcode}, nothing said"])[-1].strip()[:300]


def make_row(
    origin: str, name: str, exporter: str, pythons: dict[str, str | None], modelopt: str | None
) -> dict[str, Any]:
    """Export, judge, and the peers."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        graph = folder / "theirs.onnx"
        words, python = (origin, name, exporter, graph), pythons.get(origin)
        if python:
            code, _, said = run_alone((python, HERE / "real_exporters.py", *words), folder)
        else:
            code, said = run_forked(words, folder)
        if code != 0 or not graph.exists():
            return {"outcome": "not exported", "reason": said}
        spread = MEAN_AND_DEVIATION.get(origin, (0.0, 1.0))
        code, stdout, said = run_alone((sys.executable, __file__, "--judge", graph, folder, *spread), folder)
        row = json.loads(stdout.splitlines()[-1]) if code == 0 else {"outcome": "failed", "reason": said}
        given = folder / "fp32.onnx" if (folder / "fp32.onnx").exists() else graph
        for tool, python in (("ort", sys.executable), ("modelopt", modelopt)):
            if python:
                code, stdout, said = run_alone((python, __file__, "--peer", tool, given, folder), folder)
                row |= json.loads(stdout.splitlines()[-1]) if code == 0 else {f"{tool}_failed": said}
        return row


def main() -> None:
    """Measure what has no row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="left out: all")
    for option in ("--keras", "--paddle", "--modelopt"):
        parser.add_argument(option, metavar="PYTHON")
    parser.add_argument("--again", action="store_true", help="measure what has a row too")
    parser.add_argument("--stopped", action="store_true", help="measure again what did not pass")
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--judge", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge:
        graph, folder, mean, deviation = options.judge
        print(json.dumps(judge(Path(graph), Path(folder), float(mean), float(deviation))))
        return
    if options.peer:
        tool, graph, folder = options.peer
        print(json.dumps(measure_peer(tool, Path(graph), Path(folder))))
        return
    from _result import RESULTS, Recorder, read_rows  # it needs edgecnn, which a peer's Python has not

    tools = ("onnx", "onnxruntime", "torch")
    recorder = Recorder(
        "real_graphs", "python benchmarks/real_graphs.py", results=options.results or RESULTS, tools=tools
    )
    pythons = {"keras": options.keras, "paddle": options.paddle}
    rows = [row for row in read_rows(recorder.path) if row["outcome"] == "passed" or not options.stopped]
    done = {(row["origin"], row["name"], row["exporter"]) for row in rows}
    for origin, name, exporter in listed():
        known = (origin, name, exporter) in done and not options.again
        wanted = not options.only or {origin, name, f"{origin}/{name}/{exporter}"} & set(options.only)
        if wanted and not known and (pythons.get(origin, "here") is not None):
            key = {"origin": origin, "name": name, "exporter": exporter}
            recorder.add(key, make_row(origin, name, exporter, pythons, options.modelopt))


if __name__ == "__main__":
    main()
