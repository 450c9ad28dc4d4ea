"""Export every network of the zoo: nodes, seconds, difference from PyTorch.

    python benchmarks/networks.py [NETWORK...] [--json F] [--table docs/networks.md]

Weights are `--weights none`: seeded, with BN statistics. Seconds are of CPU time, from building the network to the
compared graph (batch 1, 2 and 3), in one process for all networks. What torch.onnx makes of the same networks measures
export_speed.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_BATCH = 3


def measure_export(name: str, folder: Path) -> dict[str, Any]:
    """Export one network; the file is removed again."""
    from edgecnn.artifact.sidecar import verified_sidecar
    from edgecnn.steps.export import export

    path = folder / f"{name}.onnx"
    started, cpu_started = time.perf_counter(), time.process_time()
    facts = verified_sidecar(export(name, path, weights="none", max_batch=MAX_BATCH)).facts
    size_mb = path.stat().st_size / 1e6
    path.unlink()
    keys = ("params", "nodes", "max_difference")
    return {
        "name": name,
        **{k: facts[k] for k in keys},
        "size_mb": round(size_mb, 2),
        "cpu_s": round(time.process_time() - cpu_started, 2),
        "wall_s": round(time.perf_counter() - started, 2),
    }


def export_alone(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """In this process: one export by `edgecnn` or `torch`; seconds, peak memory above the start, nodes."""
    import onnx
    import torch
    import torch.onnx
    import torchvision  # noqa: F401 - both exporters are charged for the same imports

    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.pytorch.models import build_model
    from edgecnn.steps.export import export_network
    from edgecnn.zoo import find_model

    card, path = find_model(name), folder / "net.onnx"
    floor = _peak_bytes()
    torch.manual_seed(0)
    module = build_model(name).eval()
    started = time.process_time()
    if exporter == "edgecnn":
        export_network(module, card, path, Sidecar(kind="graph"), max_batch=MAX_BATCH)
    else:
        torch.onnx.export(
            module,
            (torch.zeros(2, *card.input_shape),),
            str(path),
            dynamo=True,
            opset_version=19,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    cpu_s, peak_mb = time.process_time() - started, (_peak_bytes() - floor) / 1e6
    weights_mb = sum(p.numel() * p.element_size() for p in module.parameters()) / 1e6
    model = onnx.load(path)
    path.unlink()
    return {
        "nodes": len(model.graph.node),
        "cpu_s": round(cpu_s, 1),
        "peak_mb": round(peak_mb),
        "weights_mb": round(weights_mb),
        "ir": model.ir_version,
    }


def _peak_bytes() -> int:
    """The largest resident set of this process so far (VmHWM), on Linux."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def table_of_exports(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    from edgecnn.zoo import cards

    total = sum(row["cpu_s"] for row in rows)
    lines = [
        f"Made by `python benchmarks/networks.py --table docs/networks.md` ({len(rows)} of {len(cards())} networks are "
        f"measured here) with random weights, {total:.0f} s of CPU time in all, on {os.cpu_count()} cores "
        f"({_processor()}), a shared machine. Difference: largest over batch 1, 2 and {MAX_BATCH}, ONNX Runtime to "
        "PyTorch, as a share of max |logit| (allowed 1e-4).",
        "",
        "| network | parameters | nodes | MB | CPU s | max difference |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        lines.append(
            f"| `{r['name']}` | {r['params']:,} | {r['nodes']} | {r['size_mb']:.1f} | {r['cpu_s']:.1f} "
            f"| {r['max_difference']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def _processor() -> str:
    from edgecnn.machine.cpu import cpu_name

    return cpu_name() or platform.machine()


def put_table(text: str, path: Path, mark: str, title: str) -> None:
    """Replace what stands between the marks in `path`, or append a section with them."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    content = path.read_text(encoding="utf-8") if path.exists() else HEAD
    if begin not in content:
        content = f"{content.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n"
    before, _, rest = content.partition(begin)
    path.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


HEAD = """# The networks

Everything here is generated; the command stands above each table. `edgecnn models` lists what is known of each network,
`edgecnn summary NETWORK` its layers.
"""


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--alone", choices=("edgecnn", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.alone:
            print(json.dumps(export_alone(options.networks[0], options.alone, Path(folder))))
            return
        from edgecnn.zoo import cards

        rows = [_said(measure_export(name, Path(folder))) for name in options.networks or cards()]
    text = table_of_exports(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.table:
        put_table(text, options.table, "EXPORT", "FP32 graphs")
    print(text)


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
