"""What `export` costs beside torch.onnx's exporter, on the same networks.

    python benchmarks/export_speed.py [NETWORK...] [--rounds 3] [--busy] [--tree CHECKOUT]

CPU seconds and peak memory of whole processes in turn, from a file of (seeded) weights to the written graph, default
threads: `edgecnn export --checkpoint`, which ends with the checker, shape inference and the comparison with PyTorch in
ONNX Runtime at batch 1 and 3; and a script that builds the same network, loads the weights and calls
`torch.onnx.export(dynamo=True)`, which compares nothing. `--busy` has two busy loops beside both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import ROOT, Recorder, measure_process, neighbors

NETWORKS = ("mobilenet_v2", "resnet50", "vgg16")
BUSY = 2
WEIGHTS = """
import sys, torch
from safetensors.torch import save_file
from edgecnn.pytorch.models import build_model
torch.manual_seed(0)
save_file(build_model(sys.argv[1]).state_dict(), sys.argv[2])
"""
TORCH = """
import sys, torch
from safetensors.torch import load_file
from edgecnn.pytorch.models import build_model
from edgecnn.zoo import find_model
network = build_model(sys.argv[1])
network.load_state_dict(load_file(sys.argv[2]))
torch.onnx.export(
    network.eval(), (torch.zeros(2, *find_model(sys.argv[1]).input_shape),), sys.argv[3], dynamo=True,
    opset_version=19, input_names=["input"], output_names=["logits"],
    dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
)
"""
NODES = "import onnx, sys\nprint(len(onnx.load(sys.argv[1]).graph.node))"


def measure_network(name: str, rounds: int, tree: Path, folder: Path) -> dict[str, Any]:
    """Both exporters, `rounds` times in turn."""
    weights = folder / "weights.safetensors"
    measure_process([sys.executable, "-c", WEIGHTS, name, weights], tree=tree)
    graphs = [folder / "ours.onnx", folder / "torch.onnx"]
    ours = [sys.executable, "-m", "edgecnn", "export", name, "--checkpoint", weights, "-o", graphs[0]]
    theirs = [sys.executable, "-c", TORCH, name, weights, graphs[1]]
    pairs = [(measure_process(ours, tree=tree), measure_process(theirs, tree=tree)) for _ in range(rounds)]
    nodes = [int(measure_process([sys.executable, "-c", NODES, graph]).said) for graph in graphs]
    return {
        "cpu_ratio": round(statistics.median(a.cpu_s / b.cpu_s for a, b in pairs), 3),
        "edgecnn_cpu_s": [round(a.cpu_s, 2) for a, _ in pairs],
        "torch_cpu_s": [round(b.cpu_s, 2) for _, b in pairs],
        "edgecnn_peak_mb": max(a.peak_mb for a, _ in pairs),
        "torch_peak_mb": max(b.peak_mb for _, b in pairs),
        "weights_mb": round(weights.stat().st_size / 1e6),
        "edgecnn_nodes": nodes[0],
        "torch_nodes": nodes[1],
    }


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--tree", type=Path, default=ROOT)
    options = parser.parse_args()
    count = BUSY * options.busy
    for name in options.networks:
        command = f"python benchmarks/export_speed.py {name} --rounds {options.rounds}" + " --busy" * options.busy
        recorder = Recorder(
            "export_speed", command, tree=options.tree, tools=("torch", "onnx", "onnxscript", "onnxruntime")
        )
        with tempfile.TemporaryDirectory() as folder, neighbors(count):
            found = measure_network(name, options.rounds, options.tree.resolve(), Path(folder))
        recorder.add({"network": name, "busy": options.busy}, found, neighbors=count)


if __name__ == "__main__":
    main()
