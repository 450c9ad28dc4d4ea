"""Export every network of the zoo: nodes, seconds, difference from PyTorch.

    python benchmarks/networks.py [NETWORK...]

Weights are `--weights none`: seeded, with BN statistics. Seconds are of CPU time, from building the network to the
compared graph (batch 1, 2 and 3), in one process for all networks. What torch.onnx makes of the same networks measures
export_speed.py.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from _result import Recorder

MAX_BATCH = 3


def measure_export(name: str, folder: Path) -> dict[str, Any]:
    """Export one network; the file is removed again."""
    from edgecnn.artifact.sidecar import verified_sidecar
    from edgecnn.steps.export import export

    path = folder / f"{name}.onnx"
    started = time.process_time()
    facts = verified_sidecar(export(name, path, weights="none", max_batch=MAX_BATCH)).facts
    spent, size_mb = time.process_time() - started, path.stat().st_size / 1e6
    path.unlink()
    found = {key: facts[key] for key in ("params", "nodes", "max_difference")}
    return {**found, "size_mb": round(size_mb, 2), "cpu_s": round(spent, 2)}


def export_alone(name: str, folder: Path) -> dict[str, Any]:
    """In this process: one export; seconds, peak memory above the start, nodes."""
    import onnx
    import torch

    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.pytorch.models import build_model
    from edgecnn.steps.export import export_network
    from edgecnn.zoo import find_model

    floor = _peak_bytes()
    torch.manual_seed(0)
    module, path = build_model(name).eval(), folder / "net.onnx"
    started = time.process_time()
    export_network(module, find_model(name), path, Sidecar(kind="graph"), max_batch=MAX_BATCH)
    cpu_s, peak_mb = time.process_time() - started, (_peak_bytes() - floor) / 1e6
    weights_mb = sum(p.numel() * p.element_size() for p in module.parameters()) / 1e6
    nodes = len(onnx.load(path).graph.node)
    return {"nodes": nodes, "cpu_s": round(cpu_s, 1), "peak_mb": round(peak_mb), "weights_mb": round(weights_mb)}


def _peak_bytes() -> int:
    """The largest resident set of this process so far (VmHWM), on Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.alone:
            print(json.dumps(export_alone(options.networks[0], Path(folder))))
            return
        from edgecnn.zoo import cards

        recorder = Recorder("networks", "python benchmarks/networks.py", tools=("torch", "onnx", "onnxruntime"))
        for name in options.networks or cards():
            recorder.add({"network": name}, measure_export(name, Path(folder)))


if __name__ == "__main__":
    main()
