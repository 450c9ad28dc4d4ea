"""INT8 graphs beside those of other quantizers at an equal share of INT8, each tool in a process of its own.

    python benchmarks/int8_vs_peers.py CASES [--case NAME ...] [--scheme tensorrt|ort-cpu] [--tools TOOL,...]
                                       [--modelopt PYTHON] [--nncf PYTHON] [--aimet PYTHON] [--quark PYTHON]
                                       [--keep DIR]

CASES holds NAME.onnx (float32, input `input`, output `logits`) and NAME.npz (`cal`, `x`: preprocessed images, `y`:
labels). Tools: ort-MinMax, ort-Entropy, ort-Percentile; those of `PEERS` run when the Python of an environment that
has them is named. All are given the float graph as `simplify_graph` leaves it, so that a node has
one name everywhere. What a tool leaves out of INT8 is read in its graph, and edgecnn makes one by `mse` and one by
`auto` without the same nodes: all three have the same share of multiply-adds between Q/DQ pairs, counted in each. A
tool edgecnn-METHOD is a row of its own without peer, edgecnn-candidates what `auto` chooses from, a row each (printed
alone).

SQNR = 10 log10(sum f^2 / sum (f - q)^2) over all logits of `x`, agreement = same top-1 as the float graph, all under
ONNX Runtime's CPU provider: with `--scheme ort-cpu` by its integer kernels, else Q/DQ in float. Seconds, CPU and peak
memory are those of the whole process. A graph that the scheme's TensorRT refuses (`edgecnn check`) is named and not
scored. With `--keep DIR` the graphs of the other tools stay there, and one that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset
    from edgecnn.recipe.schema import RangeMethod
    from edgecnn.results.engine import Scheme

TOOLS = "ort-MinMax,ort-Percentile"
METHODS = ("mse", "auto")
PACKAGES = {
    "ort": "onnxruntime", "modelopt": "nvidia-modelopt", "nncf": "nncf", "aimet": "aimet-onnx", "quark": "amd-quark",
}  # fmt: skip
PEERS = {
    "modelopt": ("modelopt-max", "modelopt-entropy"),
    "nncf": ("nncf",),
    "aimet": ("aimet-minmax", "aimet-cle", "aimet-adaround"),
    "quark": ("quark-minmax", "quark-cle", "quark-adaround"),
}
TARGETS = {"tensorrt": ("cpu", "orin-nx-16gb"), "ort-cpu": ("cpu",)}  # what has to take a graph
BATCH = 8
ITERATIONS = 1000  # of learned rounding, a layer: Quark's default, a tenth of AIMET's


def main() -> None:
    """Measure, print and file one row for each case and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--case", action="append")
    parser.add_argument("--scheme", choices=("tensorrt", "ort-cpu"), default="tensorrt")
    parser.add_argument("--tools", default=TOOLS)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=Path, metavar="PYTHON")
    parser.add_argument("--keep", type=Path, help="a folder for the other tools' graphs, which are made once")
    parser.add_argument("--one", nargs=4, metavar=("TOOL", "GRAPH", "NPZ", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--without", default="[]", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tool, *files = options.one
        quantise_one(tool, *map(Path, files), options.scheme, json.loads(options.without))
        return
    from _result import Recorder

    pythons = {peer: str(python.absolute()) for peer in PEERS if (python := getattr(options, peer))}
    tools = [tool for tool in options.tools.split(",") if tool]
    tools += [tool for peer in pythons for tool in PEERS[peer] if not any(t.startswith(peer) for t in tools)]
    asked = f"--scheme {options.scheme} --tools '{options.tools}'"
    asked += "".join(f" --{name} PYTHON" for name in pythons) + " --keep DIR" * bool(options.keep)
    recorder = Recorder("int8_vs_peers", f"python benchmarks/int8_vs_peers.py CASES {asked}", tools=("onnxruntime",))
    names = options.case or sorted(p.stem for p in options.cases.glob("*.onnx") if p.with_suffix(".npz").exists())
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            kept = (options.keep or Path(folder)) / name / options.scheme
            kept.mkdir(parents=True, exist_ok=True)
            case = Case(options.cases / name, options.scheme, kept, pythons)
            for tool in tools:
                case.quantise(tool)
            for tool in tools:
                found = case.measure(tool)
                if tool == "edgecnn-candidates":
                    print(
                        "\n".join(json.dumps({"case": name, "tool": k} | row) for k, row in found.items()), flush=True
                    )
                else:
                    recorder.add({"network": name, "scheme": options.scheme, "tool": tool}, found)


class Case:
    """One network's float graph and images, and what its INT8 graphs are compared with."""

    def __init__(self, path: Path, scheme: Scheme, folder: Path, pythons: dict[str, str]) -> None:
        import onnx

        from edgecnn.graph.load import load_graph
        from edgecnn.graph.onnx_graph import flat_graph
        from edgecnn.graph.simplify import simplify_graph

        path, folder = path.absolute(), folder.absolute()
        self.images, self.scheme, self.folder, self.pythons = path.with_suffix(".npz"), scheme, folder, pythons
        self.graph = folder / path.with_suffix(".onnx").name
        simple = simplify_graph(load_graph(path.with_suffix(".onnx")))
        onnx.save(simple, self.graph)
        self.weighted = [node.name for node in flat_graph(simple).weighted()]
        with np.load(self.images) as held:
            self.x, self.y = held["x"], held["y"]
        self.exact = logits(path.with_suffix(".onnx"), self.x)
        self._made: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}

    def measure(self, tool: str) -> dict[str, Any]:
        """One tool's graph; of a peer beside ours by each method with the same nodes in float."""
        found = self.quantise(tool)
        if tool.startswith("edgecnn") or "float_nodes" not in found:
            return found
        ours = {method: self.quantise(f"edgecnn-{method}", tuple(found["float_nodes"])) for method in METHODS}
        for row in ours.values():
            if row.get("float_nodes") != found["float_nodes"]:
                sys.exit(f"{self.graph.stem}, {tool}: not at the same share: {row} beside {found}")
        return found | {"edgecnn": ours}

    def quantise(self, tool: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """One tool's graph, scored."""
        if (tool, without) not in self._made:
            self._made[tool, without] = self._quantise_anew(tool, without)
        return self._made[tool, without]

    def _quantise_anew(self, tool: str, without: tuple[str, ...]) -> dict[str, Any]:
        python, made = self.pythons.get(tool.split("-")[0]) or sys.executable, self.folder / f"{tool}.made.onnx"
        own, said = self.folder / "own.onnx", made.with_suffix(".json")
        if said.exists() and not tool.startswith("edgecnn"):
            return json.loads(said.read_text()) | self._score(made)
        own.write_bytes(self.graph.read_bytes())  # ModelOpt rewrites the file that it is given
        command = [python, __file__, self.folder, "--scheme", self.scheme, "--without", json.dumps(without)]
        run = subprocess.run(
            [*command, "--one", tool, own, self.images, made],
            capture_output=True, text=True, check=False, cwd=self.folder,
        )  # fmt: skip
        if run.returncode:
            return {"failed": (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1][:200]}
        facts = json.loads(run.stdout.strip().splitlines()[-1])
        if (names := facts.pop("candidates", None)) is not None:
            files = {name: made.with_suffix(f".{k}.onnx") for k, name in enumerate(names)}
            return {name: facts | self._score(file) for name, file in files.items()}
        said.write_text(json.dumps(facts))
        return facts | self._score(made)

    def _score(self, file: Path) -> dict[str, Any]:
        if refused := self._refused(file):
            return {"illegal": refused}
        made = logits(file, self.x, integer=self.scheme == "ort-cpu")
        return {"n": len(self.y)} | self._shares(file) | score(self.exact, made, self.y)

    def _refused(self, file: Path) -> str | None:
        """Why ONNX Runtime, or the TensorRT of the scheme, takes no such graph; None where they do."""
        import onnx

        from edgecnn.graph.lint import lint
        from edgecnn.targets import find_target

        model = onnx.load(file)
        found = [f for name in TARGETS[self.scheme] for f in lint(model, find_target(name)) if f.severity == "error"]
        return f"{found[0].where}: {found[0].what} ({len(found)} errors)" if found else None

    def _shares(self, file: Path) -> dict[str, Any]:
        """Share of multiply-adds between Q/DQ pairs in this graph, and the nodes of the float graph that are not."""
        import onnx

        from edgecnn.graph.onnx_graph import flat_graph
        from edgecnn.graph.qdq.verify import find_dequantized, measure_int8_share_pct

        model = onnx.load(file)
        graph = flat_graph(model)
        held = {n.name: all(find_dequantized(graph, t) is not None for t in n.input[:2]) for n in graph.weighted()}
        if held.keys() != set(self.weighted):
            sys.exit(f"{file.name}: other nodes than in the float graph: {sorted(held.keys() ^ set(self.weighted))}")
        left = [name for name in self.weighted if not held[name]]
        return {"int8_share_pct": round(measure_int8_share_pct(model), 2), "float_nodes": left}


def logits(graph: Path, images: np.ndarray, integer: bool = False) -> np.ndarray:
    """Logits of all images under ONNX Runtime; by its integer kernels only where they are asked for: on a processor
    without VNNI these gave ResNet-20 by ort-MinMax 13 dB in place of 29."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integer else "1")
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


def quantise_one(tool: str, graph: Path, images: Path, out: Path, scheme: Scheme, without: Sequence[str] = ()) -> None:
    """Quantise with one tool, in this process, but for the nodes `without`, which only ours heeds; prints version,
    seconds and peak memory."""
    with np.load(images) as held:
        calibration = held["cal"].astype(np.float32)
    started = time.perf_counter()
    kind, _, method = tool.partition("-")
    facts: dict[str, Any] = {}
    if tool == "edgecnn-candidates":
        facts["candidates"] = _candidates(graph, calibration, out, scheme)
    elif kind == "edgecnn":
        _edgecnn(graph, calibration, out, scheme, method, without)
    elif kind in PACKAGES:
        own = {"ort": _onnxruntime, "modelopt": _modelopt, "nncf": _nncf, "aimet": _aimet, "quark": _quark}
        own[kind](graph, calibration, out, method)
    else:
        raise SystemExit(f"no tool {tool!r}")
    if kind in PACKAGES:
        facts["version"] = version(PACKAGES[kind])
    spent = resource.getrusage(resource.RUSAGE_SELF)
    facts |= {"seconds": round(time.perf_counter() - started, 2), "peak_mb": spent.ru_maxrss // 1024}
    print(json.dumps(facts | {"cpu_s": round(spent.ru_utime + spent.ru_stime, 1)}))


def _edgecnn(
    graph: Path, calibration: np.ndarray, out: Path, scheme: Scheme, method: RangeMethod, without: Sequence[str]
) -> None:
    from edgecnn.steps.quantize import quantize

    data = _dataset(calibration)
    quantize(
        graph, out, precision="int8", scheme=scheme, method=method, around="fp32", dataset=data, exclude=without
    )  # fmt: skip


def _candidates(graph: Path, calibration: np.ndarray, out: Path, scheme: Scheme) -> list[str]:
    """Write every candidate of `auto` to OUT with its number before the suffix; their names."""
    import onnx

    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.ptq.candidates import give_own_constants, insert_candidate
    from edgecnn.graph.ptq.judging import judge_candidates
    from edgecnn.graph.qdq.placement import place
    from edgecnn.graph.simplify import simplify_graph

    data = _dataset(calibration)
    model = give_own_constants(simplify_graph(load_graph(graph)))
    placement = place(model, scheme)
    judged = judge_candidates(model, placement, collect_from_model(model, "", data).tensors, False, data)
    for number, candidate in enumerate(judged.made):
        onnx.save(insert_candidate(candidate, placement), out.with_suffix(f".{number}.onnx"))
    return [f"{c.name} (taken)" if c is judged.best else c.name for c in judged.made]


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


def _parts(calibration: np.ndarray) -> list[np.ndarray]:
    return [calibration[i : i + BATCH] for i in range(0, len(calibration), BATCH)]


def _modelopt(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(graph), quantize_mode="int8", calibration_data={"input": calibration}, calibration_method=method,
        calibration_eps=["cpu"], output_path=str(out), high_precision_dtype="fp32", log_level="ERROR",
    )  # fmt: skip


def _nncf(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    import nncf
    import onnx

    parts = _parts(calibration)
    made = nncf.quantize(
        onnx.load(graph), nncf.Dataset(parts, lambda part: {"input": part}), subset_size=len(parts),
        preset=nncf.QuantizationPreset.PERFORMANCE, target_device=nncf.TargetDevice.ANY,
    )  # fmt: skip
    onnx.save(made, out)


def _aimet(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    """Its default placement, with symmetric activations."""
    import aimet_onnx
    import onnx
    from aimet_onnx.common import quantsim_config
    from aimet_onnx.cross_layer_equalization import equalize_model

    config = json.loads((Path(quantsim_config.__file__).parent / "default_config_per_channel.json").read_text())
    config["defaults"]["ops"]["is_symmetric"] = "True"
    (symmetric := out.with_suffix(".config")).write_text(json.dumps(config))
    model, feeds = onnx.load(graph), [{"input": part} for part in _parts(calibration)]
    if method == "cle":
        equalize_model(model)
    made = aimet_onnx.QuantizationSimModel(
        model, param_type="int8", activation_type="int8", quant_scheme="min_max", config_file=str(symmetric)
    )
    if method == "adaround":
        aimet_onnx.apply_adaround(made, feeds, num_iterations=ITERATIONS)
    made.compute_encodings(feeds)
    onnx.save(made.to_onnx_qdq(prequantize_constants=True, force_activation_as="signed"), out)


def _quark(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    """Its A8W8 presets, with scales per channel and float biases."""
    from quark import onnx as q
    from quark.onnx.quantization.config.spec import QuantGranularity

    layers = q.QLayerConfig(
        activation=q.Int8Spec(calibration_method=q.CalibMethod.MinMax),
        weight=q.Int8Spec(calibration_method=q.CalibMethod.MinMax, quant_granularity=QuantGranularity.Channel),
    )
    algorithms = {
        "minmax": [],
        "cle": [q.CLEConfig()],
        "adaround": [q.AdaRoundConfig(learning_rate=0.1, num_iterations=ITERATIONS, batch_size=BATCH)],
    }
    preset = {"AlignSlice": False, "FoldRelu": True, "AlignConcat": True}
    config = q.QConfig(layers, algo_config=algorithms[method], QuantizeBias=False, **preset)
    q.ModelQuantizer(config).quantize_model(str(graph), str(out), _reader(calibration))


def _reader(calibration: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        start = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.start + BATCH > len(calibration):
                return None  # a ragged last batch breaks the histogram methods
            self.start += BATCH
            return {"input": calibration[self.start - BATCH : self.start]}

    return Reader()


def _onnxruntime(graph: Path, calibration: np.ndarray, out: Path, method: str) -> None:
    from onnxruntime import quantization as q

    simple = out.with_suffix(".pre.onnx")
    q.quant_pre_process(str(graph), str(simple), skip_symbolic_shape=True)
    q.quantize_static(
        str(simple), str(out), _reader(calibration), quant_format=q.QuantFormat.QDQ, per_channel=True,
        calibrate_method=getattr(q.CalibrationMethod, method),
        activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip


if __name__ == "__main__":
    main()
