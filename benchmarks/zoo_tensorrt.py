"""Every network of the zoo through NVIDIA's own parser and builder (TensorRT-RTX, no GPU), in FP32, FP16 and INT8.

    python benchmarks/zoo_tensorrt.py [NETWORK...] [--rows F.jsonl] [--table docs/tensorrt.md] [--jobs N]

It needs `edgecnn[cpu,rtx]`. With `--rows`, networks that are in the file are not built again, and each new one is
added to it. Each network has its own size of input and seeded weights (batch normalization settled on noise), min-max
ranges from `IMAGES` images of noise, and a process of its own with at most `MEMORY_GB` of address space, so that a
builder that crashes costs one row. What is shown is that NVIDIA takes the graphs: no plan is run, nor timed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecnn.zoo import cards, find_model

IMAGES = 4
MEMORY_GB = 14
TIMEOUT_S = 1800
PRECISIONS = ("fp32", "fp16", "int8")
MARKS = "<!-- ZOO -->", "<!-- /ZOO -->"


def build_network(name: str, folder: Path) -> dict[str, Any]:
    """The row of a network: for each precision `_mb` and `_build_s` of the plan, or `_refused` with NVIDIA's words."""
    import numpy as np
    import onnx

    from edgecnn.artifact.sidecar import Sidecar
    from edgecnn.data.dataset import Dataset
    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.fp16 import to_fp16
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.graph.simplify import simplify_graph
    from edgecnn.steps.export import export_network

    card = find_model(name)
    noise = np.random.default_rng(0).normal(0, 1, (IMAGES, *card.input_shape)).astype(np.float32)
    ids = tuple(f"noise/{i}" for i in range(IMAGES))
    data = Dataset(
        "noise", ids, None, None, None, content=lambda i: noise[i].tobytes(), image=None, array=lambda i: noise[i]
    )
    export_network(_seeded(name, noise), card, folder / "fp32.onnx", Sidecar(kind="graph"), max_batch=2)
    source = load_graph(folder / "fp32.onnx")
    model = simplify_graph(source)
    ranges = collect_from_model(model, "", data, batch=1, threads=1)
    onnx.save(to_fp16(source, ranges)[0], folder / "fp16.onnx")
    int8 = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp16").model
    onnx.save(int8, folder / "int8.onnx")
    row: dict[str, Any] = {"name": name, "nodes": len(model.graph.node)}
    del source, model, int8
    for precision in PRECISIONS:
        row |= {f"{precision}_{key}": value for key, value in _built(folder / f"{precision}.onnx").items()}
    return row


def _seeded(name: str, noise: Any) -> Any:
    """The network with seeded weights; scales of 0.5 keep what has gates from amplifying (see zoo_int8.py)."""
    import torch

    from edgecnn.pytorch.models import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_model(name).eval()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.weight.fill_(0.5)
            norm.bias.normal_(0.25, 0.25)
            norm.momentum = None
            norm.train()
        if norms:
            network(torch.from_numpy(noise))
    return network.eval()


def _built(graph: Path) -> dict[str, Any]:
    from edgecnn.errors import EdgecnnError
    from edgecnn.steps.build import build

    started = time.perf_counter()
    try:
        plan = build(graph, backend="trt-rtx")
    except EdgecnnError as exc:
        return {"refused": exc.message.replace(f"{graph}: ", "")}
    spent = time.perf_counter() - started
    return {"mb": round(plan.stat().st_size / 1e6, 2), "build_s": round(spent, 2)}


def build_alone(name: str) -> dict[str, Any]:
    """`build_network` in a process of its own; a row with `failed` where that ends otherwise than it should."""
    command = [sys.executable, __file__, name, "--alone"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GB << 30, MEMORY_GB << 30))

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, preexec_fn=limit)
    except subprocess.TimeoutExpired:
        return {"name": name, "failed": f"no end within {TIMEOUT_S} s"}
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    if done.returncode < 0:
        return {"name": name, "failed": f"the process ended by {signal.Signals(-done.returncode).name}"}
    return {"name": name, "failed": (done.stderr.strip().splitlines() or ["nothing said"])[-1][-300:]}


def build_zoo(names: Sequence[str], jobs: int, file: Path | None = None) -> list[dict[str, Any]]:
    """The rows of `names`, in their order; the largest networks are built last. One that failed is not kept in `file`,
    and so tried again."""
    lines = file.read_text(encoding="utf-8").splitlines() if file is not None and file.exists() else []
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in map(json.loads, lines)}
    order = sorted((n for n in names if n not in rows), key=lambda n: find_model(n).macs)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(build_alone, order):
            rows[row["name"]] = row
            print(json.dumps(row), file=sys.stderr, flush=True)
            if file is not None and "failed" not in row:
                with file.open("a", encoding="utf-8") as output:
                    output.write(json.dumps(row) + "\n")
    return [rows[name] for name in names if name in rows]


def taken(row: dict[str, Any]) -> bool:
    """Whether there is a plan in every precision."""
    return all(f"{precision}_mb" in row for precision in PRECISIONS)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    from edgecnn.backends import load_backend
    from edgecnn.machine.cpu import cpu_name

    version = load_backend("trt-rtx").tools()["tensorrt_rtx"]
    missing = [name for name in cards() if name not in {row["name"] for row in rows}]
    rest = f" Not built in this run: {', '.join(f'`{name}`' for name in missing)}." if missing else ""
    lines = [
        f"Made by `python benchmarks/zoo_tensorrt.py --table docs/tensorrt.md`: {sum(map(taken, rows))} of {len(rows)}"
        f" networks have a plan of TensorRT-RTX {version} in FP32, FP16 and INT8 around FP16. Built without a GPU, of"
        " seeded weights; MB of the plan, s of wall clock for parsing and building on"
        f" {cpu_name()}, a shared machine.{rest}",
        "",
        "| network | nodes | FP32 MB | s | FP16 MB | s | INT8 MB | s |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [cell for precision in PRECISIONS for cell in _cells(row, precision)]
        lines.append(f"| `{row['name']}` | {row.get('nodes', '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any], precision: str) -> tuple[str, str]:
    if f"{precision}_mb" in row:
        return f"{row[f'{precision}_mb']:.1f}", f"{row[f'{precision}_build_s']:.1f}"
    return (row.get("failed") or row[f"{precision}_refused"]).replace("|", "/"), ""


def put_table(text: str, path: Path) -> None:
    """Replace what stands between the marks in `path`."""
    before, mark, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    if not mark:
        raise SystemExit(f"{path}: has no {MARKS[0]}")
    path.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def main() -> None:
    """Parse, build, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="build one network here, and print its row")
    options = parser.parse_args()
    if options.alone:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(build_network(options.networks[0], Path(folder))))
        return
    rows = build_zoo(options.networks or list(cards()), options.jobs, options.rows)
    if options.table:
        put_table(table(rows), options.table)
    print(table(rows))


if __name__ == "__main__":
    main()
