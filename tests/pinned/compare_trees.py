"""Quantize the same graphs on the same images by two checkouts, and say whether equal graphs come out.

    python -m tests.pinned.compare_trees OLD_CHECKOUT NEW_CHECKOUT

Each checkout runs in processes of its own, in one sitting, by its command line alone; the old one exports the graphs.
The images are seeded noise. Exit code 0: all equal; 1: some differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from tests.pinned.golden import differences
from tests.pinned.graphs import graph_facts, uniform

NETWORKS = ("lenet5", "resnet20_cifar")
METHODS = ("mse", "auto")
TARGETS = {"tensorrt": "tensorrt", "cpu": "ort-cpu"}  # as `--for` calls them, and as `--scheme` does
IMAGES, SIZE = 64, 32


def main(old: Path, new: Path) -> int:
    """Compare two checkouts; prints one line for each graph."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for both: sums in one order
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        compared = list(_compared(old.resolve(), new.resolve(), work))
    differing = sum(not equal for equal in compared)
    print(f"{len(compared)} graphs, {differing} differ")
    return 1 if differing else 0


def _compared(old: Path, new: Path, work: Path) -> Iterator[bool]:
    for name in NETWORKS:
        exported, graph, images = work / f"{name}.exported.onnx", work / f"{name}.onnx", work / f"{name}.npz"
        _edgecnn(old, "export", name, "--weights", "none", "-o", exported)
        graph.write_bytes(exported.read_bytes())  # without the sidecar, whose schema the other may not read
        channels = onnx.load(graph).graph.input[0].type.tensor_type.shape.dim[1].dim_value
        values = uniform(name, IMAGES * channels * SIZE * SIZE).reshape(IMAGES, channels, SIZE, SIZE)
        np.savez(images, input=values.astype(np.float32))
        for method in METHODS:
            for target in TARGETS:
                yield _report(
                    f"{name} {method} {target}",
                    *(_quantized(tree, work / side, graph, images, method, target)
                      for side, tree in (("old", old), ("new", new))),
                )  # fmt: skip


def _quantized(tree: Path, folder: Path, graph: Path, images: Path, method: str, target: str) -> onnx.ModelProto:
    made = folder / f"{graph.stem}-{method}-{target}.onnx"
    scheme = "--scheme" in _edgecnn(tree, "quantize", "--help")
    asked = ("--scheme", TARGETS[target]) if scheme else ("--for", target)
    told = ("--precision", "int8", "--method", method, *asked, "--data", images, "-o", made)
    _edgecnn(tree, "quantize", graph, *told)
    return onnx.load(made)


def _report(name: str, old: onnx.ModelProto, new: onnx.ModelProto) -> bool:
    before, after = graph_facts(old), graph_facts(new)
    changed = list(differences(before, after))
    equal = before["graph"] == after["graph"]
    print(f"{name}: {'equal' if equal else 'differs'}{'' if equal or not changed else f' in {len(changed)} parts'}")
    for line in changed:
        print(f"  {line}")
    return equal


def _edgecnn(tree: Path, *arguments: object) -> str:
    """stdout of the command line of a checkout; its own recipes and nothing of the other is seen."""
    command = [sys.executable, "-m", "edgecnn", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{tree}: {' '.join(command[1:])}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
