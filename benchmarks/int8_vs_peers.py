"""INT8 graphs beside those of other quantisers, on the same cases, each tool in a process of its own.

    python benchmarks/int8_vs_peers.py CASES [--case NAME ...] [--scheme tensorrt|ort-cpu] [--tools TOOL,...]
                                       [--modelopt PYTHON] [--nncf PYTHON] [-o F.json] [--table F.md]

CASES holds NAME.onnx (float32, input `input`, output `logits`) and NAME.npz (`cal`, `x`: preprocessed images, `y`:
labels). Tools: edgecnn-METHOD, edgecnn-candidates (what `auto` chooses from, a row each; seconds are those of all),
ort-MinMax, ort-Entropy, ort-Percentile; modelopt-max, modelopt-entropy and nncf run
when the Python of an environment that has them is named. SQNR = 10 log10(sum f^2 / sum (f - q)^2) over all logits of
`x`, agreement = same top-1 as the float graph, all under ONNX Runtime's CPU provider. Seconds and peak memory are those
of the whole process. NNCF's uint8 activations are refused by TensorRT: it is comparable with `--scheme ort-cpu`
only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset
    from edgecnn.recipe.schema import RangeMethod
    from edgecnn.results.engine import Scheme

TOOLS = "edgecnn-mse,edgecnn-auto,ort-MinMax,ort-Percentile"
BATCH = 8


def main() -> None:
    """Measure, print a table, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--case", action="append")
    parser.add_argument("--scheme", choices=("tensorrt", "ort-cpu"), default="tensorrt")
    parser.add_argument("--tools", default=TOOLS)
    parser.add_argument("--modelopt")
    parser.add_argument("--nncf")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("TOOL", "GRAPH", "NPZ", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        quantise_one(options.one[0], Path(options.one[1]), Path(options.one[2]), Path(options.one[3]), options.scheme)
        return
    tools = options.tools.split(",")
    tools += ["modelopt-max", "modelopt-entropy"] if options.modelopt else []
    tools += ["nncf"] if options.nncf else []
    pythons = {"modelopt": options.modelopt, "nncf": options.nncf}
    names = options.case or sorted(p.stem for p in options.cases.glob("*.onnx") if p.with_suffix(".npz").exists())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows += _case(options.cases / name, tools, pythons, options.scheme, Path(folder))
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    if options.table:
        options.table.write_text(table(rows))


def _case(
    case: Path, tools: list[str], pythons: dict[str, str | None], scheme: Scheme, folder: Path
) -> list[dict[str, Any]]:
    graph, images = case.with_suffix(".onnx"), case.with_suffix(".npz")
    with np.load(images) as held:
        x, y = held["x"], held["y"]
    exact = logits(graph, x)
    rows = []
    for tool in tools:
        made = folder / f"{case.name}.{tool}.onnx"
        python = pythons.get(tool.split("-")[0]) or sys.executable
        command = [
            python,
            __file__,
            str(case.parent),
            "--scheme",
            scheme,
            "--one",
            tool,
            str(graph),
            str(images),
            str(made),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        row: dict[str, Any] = {"case": case.name, "tool": tool, "n": len(y)}
        if run.returncode:
            row["failed"] = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1][:200]
        else:
            facts = json.loads(run.stdout.strip().splitlines()[-1])
            graphs = {
                f"edgecnn: {n}": made.with_suffix(f".{k}.onnx") for k, n in enumerate(facts.pop("candidates", ()))
            }
            for name, file in (graphs or {tool: made}).items():
                rows.append(row | {"tool": name} | facts | score(exact, logits(file, x), y))
                rows[-1]["int8_share_pct"] = _share(file)
                print(json.dumps(rows[-1]), flush=True)
            continue
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def logits(graph: Path, images: np.ndarray) -> np.ndarray:
    """Logits of all images under ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[k : k + 50]})[0] for k in range(0, len(images), 50)])


def score(exact: np.ndarray, made: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Signal to noise, agreement, and the paired drop of top-1 with its interval."""
    from edgecnn.statistics import drop_interval

    right, kept = exact.argmax(1) == labels, made.argmax(1) == labels
    lost, gained, n = int((right & ~kept).sum()), int((kept & ~right).sum()), len(labels)
    noise = float(np.square(exact - made, dtype=np.float64).sum())
    return {
        "sqnr_db": round(10 * float(np.log10(np.square(exact, dtype=np.float64).sum() / max(noise, 1e-30))), 2),
        "agreement_pct": round(100 * float((exact.argmax(1) == made.argmax(1)).mean()), 2),
        "top1_drop_pp": round(100 * (lost - gained) / n, 2),
        "top1_drop_ci_pp": [round(100 * v, 2) for v in drop_interval(lost, gained, n)],
    }


def _share(graph: Path) -> float | None:
    """Share of multiply-adds between Q/DQ pairs; None when the shapes in the file cannot be inferred."""
    import onnx

    from edgecnn.errors import GraphError
    from edgecnn.graph.qdq.verify import measure_int8_share_pct

    try:
        return round(measure_int8_share_pct(onnx.load(graph)), 1)
    except GraphError:
        return None


def quantise_one(tool: str, graph: Path, images: Path, out: Path, scheme: Scheme) -> None:
    """Quantise with one tool, in this process; prints seconds and peak memory."""
    with np.load(images) as held:
        calibration = held["cal"].astype(np.float32)
    started = time.perf_counter()
    kind, _, method = tool.partition("-")
    facts: dict[str, Any] = {}
    if tool == "edgecnn-candidates":
        facts["candidates"] = _candidates(graph, calibration, out, scheme)
    elif kind == "edgecnn":
        _edgecnn(graph, calibration, out, scheme, method)
    elif kind == "ort":
        _onnxruntime(graph, calibration, out, method)
    elif kind == "modelopt":
        from modelopt.onnx.quantization import quantize

        quantize(
            str(graph), quantize_mode="int8", calibration_data={"input": calibration}, calibration_method=method,
            calibration_eps=["cpu"], output_path=str(out), high_precision_dtype="fp32", log_level="ERROR",
        )  # fmt: skip
    elif kind == "nncf":
        import nncf
        import onnx

        parts = [calibration[i : i + BATCH] for i in range(0, len(calibration), BATCH)]
        made = nncf.quantize(
            onnx.load(graph), nncf.Dataset(parts, lambda part: {"input": part}), subset_size=len(parts),
            preset=nncf.QuantizationPreset.PERFORMANCE, target_device=nncf.TargetDevice.ANY,
        )  # fmt: skip
        onnx.save(made.model, out)
    else:
        raise SystemExit(f"no tool {tool!r}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(facts | {"seconds": round(time.perf_counter() - started, 2), "peak_mb": peak}))


def _edgecnn(graph: Path, calibration: np.ndarray, out: Path, scheme: Scheme, method: RangeMethod) -> None:
    from edgecnn.steps.quantize import quantize

    quantize(graph, out, precision="int8", scheme=scheme, method=method, around="fp32", dataset=_dataset(calibration))


def _candidates(graph: Path, calibration: np.ndarray, out: Path, scheme: Scheme) -> list[str]:
    """Write every candidate of `auto` to OUT with its number before the suffix; their names."""
    import onnx

    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.ptq.candidates import give_own_constants, insert_candidate, make_candidates
    from edgecnn.graph.qdq.placement import place
    from edgecnn.graph.simplify import simplify_graph

    data = _dataset(calibration)
    model = give_own_constants(simplify_graph(load_graph(graph)))
    placement = place(model, scheme)
    made, _ = make_candidates(model, placement, collect_from_model(model, "", data).tensors, False, data)
    for number, candidate in enumerate(made):
        onnx.save(insert_candidate(candidate, placement), out.with_suffix(f".{number}.onnx"))
    best = max(made, key=lambda c: c.sqnr_db)
    return [f"{c.name} (taken)" if c is best else c.name for c in made]


def _dataset(calibration: np.ndarray) -> Dataset:
    from edgecnn.data.dataset import Dataset

    return Dataset(
        name="cal",
        ids=tuple(str(i) for i in range(len(calibration))),
        labels=None,
        label_names=None,
        preprocessing=None,
        content=lambda i: calibration[i].tobytes(),
        image=None,
        array=lambda i: calibration[i],
    )


def _onnxruntime(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        start = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.start + BATCH > len(calibration):
                return None  # a ragged last batch breaks the histogram methods
            self.start += BATCH
            return {"input": calibration[self.start - BATCH : self.start]}

    simple = out.with_suffix(".pre.onnx")
    q.quant_pre_process(str(graph), str(simple), skip_symbolic_shape=True)
    q.quantize_static(
        str(simple), str(out), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
        calibrate_method=getattr(q.CalibrationMethod, method),
        activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, one table for each case."""
    columns = (
        "tool",
        "sqnr_db",
        "agreement_pct",
        "top1_drop_pp",
        "top1_drop_ci_pp",
        "int8_share_pct",
        "seconds",
        "peak_mb",
    )
    lines = []
    for case in dict.fromkeys(r["case"] for r in rows):
        mine = [r for r in rows if r["case"] == case]
        lines += [
            "",
            f"**{case}** (n = {mine[0]['n']})",
            "",
            "| " + " | ".join(columns) + " |",
            "|---" * len(columns) + "|",
        ]
        lines += ["| " + " | ".join(str(r.get(c, r.get("failed", "-"))) for c in columns) + " |" for r in mine]
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    main()
