"""What post-training quantization costs beside the network itself, here and with other tools.

    python benchmarks/quantize_cost.py [NETWORK...] [--images 64] [--rounds 1] [--tools TOOL,...] [--busy]
                                       [--modelopt PYTHON] [--nncf PYTHON]

CPU seconds of whole processes in turn, two threads each, as multiples of one that reads the same decoded images and
runs the same float graph in ONNX Runtime. `calibrate` gives the ranges of every method at once, `quantize` makes the
graph by `mse` from them; the others are `int8_vs_peers.py`'s, which quantize as a whole. NNCF and ModelOpt run where
this Python, or the one that is named, has them; else the row says that they were left out. Weights are random and the
images smooth noise: neither changes the cost. `--busy` has two busy loops beside all.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import ROOT, Measured, Recorder, measure_process, neighbors

NETWORKS = ("mobilenet_v2", "squeezenet1_1", "resnet18")
TOOLS = "ort-MinMax,ort-Entropy,ort-Percentile,nncf,modelopt-max,modelopt-entropy"
THREADS, BUSY = 2, 2
PACKAGES = ("onnxruntime", "nncf", "nvidia-modelopt")
IMAGES = """
import sys, numpy as np
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
coarse = rng.standard_normal((count, 3, size // 8, size // 8), np.float32).repeat(8, 2).repeat(8, 3)
images = coarse + rng.standard_normal(coarse.shape, np.float32)
np.savez(path + "/input.npz", input=images)
np.savez(path + "/net.npz", cal=images, x=images[:1], y=np.zeros(1, np.int64))
"""
PLAIN = f"""
import sys, numpy, onnxruntime
images = numpy.load(sys.argv[2])["input"]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = {THREADS}, 4
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for k in range(0, len(images), 8):
    session.run(None, {{"input": images[k : k + 8]}})
"""


class Bench:
    """One network's graph and images, in one folder."""

    def __init__(self, network: str, folder: Path, options: argparse.Namespace) -> None:
        from edgecnn.zoo import find_model

        self.folder, self.options, self.graph = folder, options, folder / "net.onnx"
        edgecnn = [sys.executable, "-m", "edgecnn"]
        measure_process([*edgecnn, "export", network, "--weights", "none", "-o", self.graph])
        size = find_model(network).input_shape[-1]
        measure_process([sys.executable, "-c", IMAGES, folder, options.images, size])
        ranges = folder / "net.calib.json"
        fed = ["--data", folder / "input.npz", "--images", options.images, "--threads", THREADS]
        self.commands = {
            "calibrate": [*edgecnn, "calibrate", self.graph, *fed, "-o", ranges],
            "quantize": [
                *[*edgecnn, "quantize", self.graph, "--ranges", ranges, "--method", "mse", "--precision", "int8"],
                *["--threads", THREADS, "-o", folder / "int8.onnx"],
            ],
        }
        self.plain: list[Measured] = []

    def command(self, tool: str) -> list[object] | None:
        """How to run a tool; None where it is not installed."""
        if tool in self.commands:
            return self.commands[tool]
        package = tool.split("-")[0]
        python = {"nncf": self.options.nncf, "modelopt": self.options.modelopt}.get(package) or sys.executable
        asked = [python, "-c", f"import {'onnxruntime' if package == 'ort' else package}"]
        if subprocess.run(asked, capture_output=True, check=False).returncode:
            return None
        peers = ROOT / "benchmarks" / "int8_vs_peers.py"
        graph = self.folder / f"{tool}.net.onnx"  # ModelOpt rewrites the file that it is given
        graph.write_bytes(self.graph.read_bytes())
        return [python, peers, self.folder, "--one", tool, graph, self.folder / "net.npz", self.folder / "made.onnx"]

    def measure(self, tool: str) -> dict[str, Any]:
        """CPU seconds and peak memory of a tool, and the ratio to the plain graph, in turn."""
        command = self.command(tool)
        if command is None:
            return {"left_out": "not installed"}
        plain, ours = [], []
        for _ in range(self.options.rounds):
            plain.append(measure_process([sys.executable, "-c", PLAIN, self.graph, self.folder / "input.npz"]))
            try:
                ours.append(measure_process(command))
            except SystemExit as exc:
                return {"failed": " ".join(str(exc).split())[-200:]}
        return {
            "cpu_ratio": round(statistics.median(a.cpu_s / b.cpu_s for a, b in zip(ours, plain, strict=True)), 2),
            "cpu_s": [round(a.cpu_s, 2) for a in ours],
            "plain_cpu_s": [round(b.cpu_s, 2) for b in plain],
            "peak_mb": max(a.peak_mb for a in ours),
            "plain_peak_mb": max(b.peak_mb for b in plain),
        }


def main() -> None:
    """Measure, print and file one row for each network and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tools", default=TOOLS)
    parser.add_argument("--modelopt")
    parser.add_argument("--nncf")
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    count = BUSY * options.busy
    for name in options.networks:
        command = f"python benchmarks/quantize_cost.py {name} --images {options.images} --rounds {options.rounds}"
        with tempfile.TemporaryDirectory() as folder, neighbors(count):
            bench = Bench(name, Path(folder), options)
            recorder = Recorder("quantize_cost", command + " --busy" * options.busy, tools=PACKAGES)
            for tool in ("calibrate", "quantize", *options.tools.split(",")):
                key = {"network": name, "images": options.images, "tool": tool, "busy": options.busy}
                recorder.add(key, bench.measure(tool), neighbors=count)


if __name__ == "__main__":
    main()
