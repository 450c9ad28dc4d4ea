"""Zoph and Le, "Neural architecture search with reinforcement learning", ICLR 2017.

An LSTM writes a network as a sequence of decisions, each given to it as the input of the next. The network (a "child")
is trained, and its reward raises or lowers the probabilities of the decisions by REINFORCE, with the moving average of
earlier rewards as the baseline. The reward is that of MnasNet (Tan et al., CVPR 2019), accuracy x (latency / target)^w
with w < 0, both of the INT8 engine: accuracy on held-out digits, latency as `edgecnn bench` measures it.

    python examples/architecture_search.py --synthetic     # a reward whose optimum is known: seconds
    python examples/architecture_search.py                 # on digits; children are kept and not trained again

Both print the controller's beside as many children drawn at random, and the paired differences with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import edgecnn as ec
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.records import record_from_json
from edgecnn.statistics import mean_half_width

Decisions = tuple[int, ...]
Reward = Callable[[Decisions], float]

CHANNELS, KERNELS, LAYERS = (4, 8, 16, 32), (1, 3), 3
SPACE = (len(CHANNELS), len(KERNELS)) * LAYERS  # options of each decision: 8^3 = 512 children
SYNTHETIC = (4,) * 8  # 65 536
PIXELS = Preprocessing(resize=8, crop=8, mean=(0.3,), std=(0.35,), channels=1)
EPOCHS, BATCH, LATENCY_BATCH = 4, 32, 64
STEP, BASELINE_DECAY, CHILDREN_PER_STEP = 0.012, 0.8, 5


class Controller(nn.Module):
    """One LSTM cell; each decision has a linear layer for its options and an embedding of what was chosen."""

    def __init__(self, space: Sequence[int], hidden: int = 32) -> None:
        super().__init__()
        self.hidden = hidden
        self.cell = nn.LSTMCell(hidden, hidden)
        self.heads = nn.ModuleList(nn.Linear(hidden, options) for options in space)
        self.embeddings = nn.ModuleList(nn.Embedding(options, hidden) for options in space)
        for weights in self.parameters():
            nn.init.uniform_(weights, -0.08, 0.08)  # as in the paper: nearly uniform at first

    def sample(self, children: int) -> tuple[Tensor, Tensor]:
        """Decisions [children, len(space)] and the logarithm of each child's probability [children]."""
        read = state = memory = torch.zeros(children, self.hidden)
        decisions, log_probability = [], torch.zeros(children)
        for head, embedding in zip(self.heads, self.embeddings, strict=True):
            state, memory = self.cell(read, (state, memory))
            options = torch.distributions.Categorical(logits=head(state), validate_args=False)
            chosen = options.sample()
            log_probability = log_probability + options.log_prob(chosen)
            decisions.append(chosen)
            read = embedding(chosen)
        return torch.stack(decisions, 1), log_probability


def search(reward: Reward, space: Sequence[int], children: int, seed: int) -> list[float]:
    """The rewards of `children` in the order in which the controller wrote them."""
    torch.manual_seed(seed)
    controller = Controller(space)
    optimizer = torch.optim.Adam(controller.parameters(), STEP)
    rewards, baseline = list[float](), None
    while len(rewards) < children:
        decisions, log_probability = controller.sample(min(CHILDREN_PER_STEP, children - len(rewards)))
        found = [reward(tuple(row)) for row in decisions.tolist()]
        mean = sum(found) / len(found)
        baseline = mean if baseline is None else BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean
        loss = -((torch.tensor(found) - baseline) * log_probability).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rewards += found
    return rewards


def search_at_random(reward: Reward, space: Sequence[int], children: int, seed: int) -> list[float]:
    """The rewards of `children`, every decision of which is drawn uniformly."""
    random = np.random.default_rng(seed)
    return [reward(tuple(int(random.integers(options)) for options in space)) for _ in range(children)]


def synthetic_reward(seed: int) -> Reward:
    """The share of decisions that are those of a hidden child: 1 for it alone."""
    hidden = np.random.default_rng([seed, 1]).integers(SYNTHETIC)
    return lambda decisions: float(np.mean(hidden == decisions))


@dataclass(frozen=True)
class Child:
    """Of an INT8 engine: top-1 on held-out training images and on test images, 0 to 1, and median latency."""

    accuracy: float
    test_accuracy: float
    latency_ms: float


@dataclass(frozen=True)
class Kept:
    """Children by what `describe` calls them."""

    children: dict[str, Child]


class Digits:
    """Children trained on the UCI digits, each once: `file` keeps them."""

    def __init__(self, file: Path) -> None:
        self.file, self.children = file, dict[str, Child]()
        if file.exists():
            hint = "it is no file of this program: name another with --keep, or remove it"
            self.children = record_from_json(Kept, file.read_bytes(), str(file), hint).children
        images, labels = self._read("train")
        held = np.arange(len(labels)) % 3 == 0
        self.train = torch.from_numpy(images[~held]), torch.from_numpy(labels[~held])
        self.held, self.test = (images[held], labels[held]), self._read("test")

    def _read(self, split: Any) -> tuple[np.ndarray, np.ndarray]:
        dataset = open_dataset("digits", PIXELS, split)
        assert dataset.labels is not None
        return np.stack([dataset.tensor(k) for k in range(len(dataset))]), dataset.labels

    def child(self, decisions: Decisions) -> Child:
        """Trained and measured at the first call."""
        name = " ".join(describe(decisions))
        if name not in self.children:
            self.children[name] = self._measure(self._trained(decisions))
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.file.with_suffix(".partial")
            temporary.write_text(json.dumps(asdict(Kept(self.children)), indent=1))
            temporary.replace(self.file)
        return self.children[name]

    def _trained(self, decisions: Decisions) -> nn.Module:
        with torch.random.fork_rng():  # the same child in every search, and the controller's numbers untouched
            torch.manual_seed(0)
            network = build(decisions)
            images, labels = self.train
            optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
            steps = EPOCHS * -(-len(labels) // BATCH)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps)
            for _ in range(EPOCHS):
                for chosen in torch.randperm(len(labels)).split(BATCH):
                    loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return network.eval()

    def _measure(self, network: nn.Module) -> Child:
        with tempfile.TemporaryDirectory() as folder:
            pixels, graph = Path(folder, "pixels.json"), Path(folder, "child.fp32.onnx")
            pixels.write_text(json.dumps(PIXELS.to_json()))
            ec.export(network, graph, preprocess=pixels)
            int8 = ec.quantize(graph, precision="int8", scheme="ort-cpu", method="mse", data="digits", images=128)
            engine = ec.build(int8, target="cpu")
            latency = ec.bench(engine, batch=LATENCY_BATCH, duration_s=0.1, warmup_ms=20, threads=1)
            session = onnxruntime.InferenceSession(os.fspath(int8), providers=["CPUExecutionProvider"])
            accuracies = [
                float((session.run(None, {"input": images})[0].argmax(1) == labels).mean())
                for images, labels in (self.held, self.test)
            ]
        return Child(*accuracies, latency.p50)


def describe(decisions: Decisions) -> list[str]:
    """A child as `16x3`: channels x kernel of each layer."""
    pairs = zip(decisions[::2], decisions[1::2], strict=True)
    return [f"{CHANNELS[channels]}x{KERNELS[kernel]}" for channels, kernel in pairs]


def build(decisions: Decisions) -> nn.Module:
    """Convolutions with maxima of 2x2 between them, an average, a linear layer: logits [N, 10] of [N, 1, 8, 8]."""
    layers, before = list[nn.Module](), 1
    for channels, kernel in zip(decisions[::2], decisions[1::2], strict=True):
        width, size = CHANNELS[channels], KERNELS[kernel]
        layers += [nn.MaxPool2d(2)] if layers else []
        layers += [nn.Conv2d(before, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def compare(reward_of: Callable[[int], Reward], space: Sequence[int], children: int, seeds: int) -> None:
    """Print both searches for every seed, and the paired differences between them."""
    print("seed  best of controller  its last fifth  best at random    mean")
    rows = []
    for seed in range(seeds):
        ours, random = (how(reward_of(seed), space, children, seed) for how in (search, search_at_random))
        row = max(ours), np.mean(ours[-max(1, children // 5) :]), max(random), np.mean(random)
        print(f"{seed:4}  {row[0]:18.4f}  {row[1]:14.4f}  {row[2]:14.4f}  {row[3]:6.4f}", flush=True)
        rows.append(row)
    for what, k in ((f"best of {children} children", 0), ("mean of the last fifth and of all", 1)):
        differences = [row[k] - row[k + 2] for row in rows]
        interval = f" +- {mean_half_width(differences):.4f} (95 %)" if seeds > 1 else ""
        won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        seen = f"better in {won} of {seeds} seeds, worse in {lost}"
        print(f"controller minus random, {what}: {np.mean(differences):+.4f}{interval}, {seen}")


def main() -> None:
    """The command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", action="store_true", help="a reward whose optimum is known, no training")
    parser.add_argument("--children", type=int, help="in each search [60; synthetic: 200]")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--w", type=float, default=-0.07, help="exponent of latency / target [-0.07, as MnasNet]")
    parser.add_argument("--keep", type=Path, default=Path("build/architecture_search.json"), help="measured children")
    given = parser.parse_args()
    if min(given.seeds, 1 if given.children is None else given.children) < 1:
        parser.error("--children and --seeds count from 1")
    torch.set_num_threads(1)
    if given.synthetic:
        compare(synthetic_reward, SYNTHETIC, given.children or 200, given.seeds)
        return
    digits = Digits(given.keep)
    target = digits.child((1, 1) * LAYERS).latency_ms

    def reward_of(child: Child) -> float:
        return child.accuracy * (child.latency_ms / target) ** given.w

    print(f"target: {target:.3f} ms for {LATENCY_BATCH} images, that of {' '.join(describe((1, 1) * LAYERS))}")
    compare(lambda seed: lambda decisions: reward_of(digits.child(decisions)), SPACE, given.children or 60, given.seeds)
    name, best = max(digits.children.items(), key=lambda item: reward_of(item[1]))
    print(f"best of {len(digits.children)} children, {name}: reward {reward_of(best):.4f}, {best.latency_ms:.3f} ms,")
    print(f"INT8 top-1 {100 * best.accuracy:.1f} % on held-out images, {100 * best.test_accuracy:.1f} % on test images")


if __name__ == "__main__":
    try:
        main()
    except ec.EdgecnnError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
