"""What neighbors cost: the processor time of steps without and beside two busy loops, in turn, in one sitting.

    python benchmarks/busy_neighbors.py [--rounds 5] [--only STEP ...] [--tree CHECKOUT]

Each step is a process of its own. `growth` is the median, over the rounds, of a step's processor time beside the loops
over that without them; `growth_over_loop` divides it by the growth of a one-thread ONNX Runtime loop over the same
graph (what caches and clocks cost anybody): 1.3 is the limit for `calibrate` and `quantize`. `train` is LeNet-5 in
images per second beside the loops, over a plain PyTorch loop with one thread there: at least 0.5. `run` is
`edgecnn run lenet5-digits` by the clock: 45 s without and 120 s beside the loops. --tree runs the steps of another
checkout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _result import ROOT, Recorder, measure_process, neighbors

NEIGHBORS = 2
LOOP = """
import sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])["input"]
for _ in range(6):
    for k in range(0, len(images), 50):
        session.run(None, {"input": images[k : k + 50]})
"""
PLAIN = """
import time, torch, torch.nn.functional as F
from edgecnn.data.open import open_dataset
from edgecnn.pytorch.models import build_model
from edgecnn.zoo import find_model
from edgecnn.data.preprocess import preprocessing_from_json
torch.set_num_threads(1)
data = open_dataset("digits", preprocessing_from_json(find_model("lenet5").preprocessing), "train")
images = torch.stack([torch.from_numpy(data.tensor(k)) for k in range(len(data))])
labels = torch.from_numpy(data.labels)
net = build_model("lenet5", 10)
optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
rates = []
for _ in range(20):
    started, total = time.monotonic(), 0.0
    for part in torch.randperm(len(images)).split(32):
        loss = F.cross_entropy(net(images[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    rates.append(len(images) / (time.monotonic() - started))
print(sum(rates) / len(rates))
"""
RECIPE = """
targets = ["cpu"]
model.name = "lenet5"
data = { source = "digits", calibration = "lenet5-digits" }
train = { epochs = 20, batch = 32, learning_rate = 0.05, validation = 0 }
"""


def main() -> None:
    """Measure, print and file one row for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ("calibrate", "quantize", "train", "run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=steps, action="append")
    parser.add_argument("--tree", type=Path, default=ROOT)
    options = parser.parse_args()
    only = options.only or steps
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.tree.resolve(), options.rounds)
        for name in (n for n in steps if n in only):
            command = f"python benchmarks/busy_neighbors.py --rounds {options.rounds} --only {name}"
            recorder = Recorder("busy_neighbors", command, tree=bench.tree, tools=("onnxruntime", "torch"))
            recorder.add({"name": name, "rounds": options.rounds}, getattr(bench, name)(), neighbors=NEIGHBORS)


class Bench:
    """The steps of one checkout, in one folder."""

    def __init__(self, folder: Path, tree: Path, rounds: int) -> None:
        self.folder, self.tree, self.rounds = folder, tree, rounds
        self.graph, self.images, self.ranges = (folder / n for n in ("r20.onnx", "images.npz", "r20.calib.json"))
        rng = np.random.default_rng(0)
        coarse = rng.standard_normal((500, 3, 8, 8), np.float32)
        np.savez(
            self.images, input=coarse.repeat(4, 2).repeat(4, 3) + rng.standard_normal((500, 3, 32, 32), np.float32)
        )

    def edgecnn(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "edgecnn", *map(str, words)]

    def prepare(self) -> None:
        """The float graph of ResNet-20, and its ranges."""
        if not self.ranges.exists():
            self.measure(self.edgecnn("export", "resnet20_cifar", "--weights", "none", "-o", self.graph))
            self.measure(self.of_calibrate(self.ranges))

    def of_calibrate(self, output: Path) -> list[str]:
        return self.edgecnn("calibrate", self.graph, "--data", self.images, "--images", 500, "-o", output)

    def calibrate(self) -> dict[str, Any]:
        """ResNet-20, 500 images."""
        self.prepare()
        return self.beside_the_loop(self.of_calibrate(self.folder / "made.calib.json"))

    def quantize(self) -> dict[str, Any]:
        """ResNet-20 by `mse`, from ranges."""
        self.prepare()
        made = ("--ranges", self.ranges, "--method", "mse", "--precision", "int8", "-o", self.folder / "int8.onnx")
        return self.beside_the_loop(self.edgecnn("quantize", self.graph, *made))

    def beside_the_loop(self, command: list[str]) -> dict[str, Any]:
        """Processor seconds of `command` and of the loop, without and beside the neighbors, in turn."""
        loop = [sys.executable, "-c", LOOP, str(self.graph), str(self.images)]
        seconds: dict[str, list[float]] = {
            k: [] for k in ("step_cpu_s", "loop_cpu_s", "step_busy_cpu_s", "loop_busy_cpu_s")
        }
        for _ in range(self.rounds):
            seconds["step_cpu_s"].append(self.measure(command)[0])
            seconds["loop_cpu_s"].append(self.measure(loop)[0])
            with neighbors():
                seconds["step_busy_cpu_s"].append(self.measure(command)[0])
                seconds["loop_busy_cpu_s"].append(self.measure(loop)[0])
        growth, of_loop = (
            statistics.median(b / a for a, b in zip(seconds[f"{k}_cpu_s"], seconds[f"{k}_busy_cpu_s"], strict=True))
            for k in ("step", "loop")
        )
        return {
            "growth": round(growth, 3),
            "loop_growth": round(of_loop, 3),
            "growth_over_loop": round(growth / of_loop, 3),
            "limit": 1.3,
            **{k: [round(v, 2) for v in values] for k, values in seconds.items()},
        }

    def train(self) -> dict[str, Any]:
        """LeNet-5 on digits beside the neighbors: images per second of `edgecnn train` and of a plain loop, in turn."""
        recipe = self.folder / "lenet.toml"
        recipe.write_text(RECIPE)
        ours, plain = [], []
        for k in range(self.rounds):
            with neighbors():
                told = self.measure(self.edgecnn("train", recipe, "--out", self.folder / f"t{k}", "--json"))[2]
                ours.append(json.loads(told)["images_per_s"])
                plain.append(float(self.measure([sys.executable, "-c", PLAIN])[2]))
        ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
        rates = {"images_per_s": ours, "plain_loop_images_per_s": plain}
        return {
            "rate_over_plain_loop": round(ratio, 3),
            "at_least": 0.5,
            **{k: [round(v) for v in values] for k, values in rates.items()},
        }

    def run(self) -> dict[str, Any]:
        """The whole of lenet5-digits by the clock, without and beside the neighbors."""
        alone, beside = [], []
        for k in range(max(1, self.rounds // 2)):
            alone.append(self.measure(self.edgecnn("run", "lenet5-digits", "--out", self.folder / f"alone{k}")))
            with neighbors():
                beside.append(self.measure(self.edgecnn("run", "lenet5-digits", "--out", self.folder / f"busy{k}")))
        return {
            "clock_s": [round(clock, 1) for _, clock, _ in alone],
            "cpu_s": [round(spent, 1) for spent, _, _ in alone],
            "clock_s_at_most": 45,
            "busy_clock_s": [round(clock, 1) for _, clock, _ in beside],
            "busy_cpu_s": [round(spent, 1) for spent, _, _ in beside],
            "busy_clock_s_at_most": 120,
        }

    def measure(self, command: list[str]) -> tuple[float, float, str]:
        """(processor seconds, seconds by the clock, output) of a process and its children."""
        ended = measure_process(command, tree=self.tree, folder=self.folder)
        return ended.cpu_s, ended.clock_s, ended.said


if __name__ == "__main__":
    main()
