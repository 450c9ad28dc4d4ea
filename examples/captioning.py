"""Captions from exported features: Vinyals et al., "Show and tell", CVPR 2015, with the attention of Xu et al., "Show,
attend and tell", ICML 2015.

The map C2 of a picture is computed once, by ONNX Runtime on a features graph. A GRU writes the caption word by word
("a three left of a seven", "a two above a two", "a nine"); before each it weighs the cells of the map, which bear their
place, by what it has written. The network below stays as it is; the decoder alone is trained.

    python examples/captioning.py                               # the digits of scikit-learn
    python examples/captioning.py --data mnist:DIR              # MNIST: the folder of its four IDX files

Printed is, on pictures of test digits and with the maps in FP32 and in INT8, the share of captions that are right word
for word with its 95 % interval, and BLEU-4 of the whole set (Papineni et al., 2002); and both for the caption that is
the most frequent in training.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from pasted_digits import Painter, Picture, compute_maps, features_graphs, fit
from torch import Tensor, nn

import edgecnn as ec
from edgecnn.statistics import wilson_interval

TRAINING, TEST, EPOCHS, STEP = 3000, 600, 25, 4e-3
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
END = "."
WORDS = [END, "a", "left", "of", "above", *DIGITS]
LONGEST, HIDDEN = 7, 128  # words with the end; units


def caption_of(picture: Picture) -> list[str]:
    """What is on a picture of one or two digits: the left one first, or the upper one where that is the clearer."""
    names = [DIGITS[label] for label in picture.labels]
    if len(names) == 1:
        return ["a", *names, END]
    (x, y), (other_x, other_y) = (picture.boxes[:, :2] + picture.boxes[:, 2:]) / 2
    beside = abs(x - other_x) > abs(y - other_y)
    if (x > other_x) if beside else (y > other_y):
        names.reverse()
    return ["a", names[0], *(["left", "of"] if beside else ["above"]), "a", names[1], END]


class Decoder(nn.Module):
    """A GRU that reads, before each word, the mean of a map's cells under weights of its own (additive attention)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cells = nn.Sequential(nn.Linear(channels + 2, HIDDEN), nn.ReLU())
        self.keys, self.query, self.energy = nn.Linear(HIDDEN, 64), nn.Linear(HIDDEN, 64), nn.Linear(64, 1)
        self.start = nn.Linear(HIDDEN, HIDDEN)
        self.words = nn.Embedding(len(WORDS), 32)
        self.gru = nn.GRUCell(32 + HIDDEN, HIDDEN)
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * HIDDEN, len(WORDS)))

    def forward(self, maps: Tensor, captions: Tensor | None = None) -> Tensor:
        """Logits [N, LONGEST, words] for maps [N, C, H, W]: each word follows those of `captions` [N, LONGEST], or
        without them (greedily) its own."""
        n, _, height, width = maps.shape
        places = torch.stack(torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"))
        cells = torch.cat([maps, places.expand(n, -1, -1, -1)], 1).flatten(2).transpose(1, 2)
        cells = self.cells(cells)
        keys, state = self.keys(cells), torch.tanh(self.start(cells.mean(1)))
        word, logits = torch.zeros(n, dtype=torch.int64), list[Tensor]()
        for k in range(LONGEST):
            energies = self.energy(torch.tanh(keys + self.query(state)[:, None]))
            seen = (energies.softmax(1) * cells).sum(1)
            state = self.gru(torch.cat([self.words(word), seen], 1), state)
            logits.append(self.out(torch.cat([state, seen], 1)))
            word = logits[-1].argmax(1) if captions is None else captions[:, k]
        return torch.stack(logits, 1)


def cells_of(graph: Path, pictures: Sequence[Picture]) -> Tensor:
    """C2 [N, 64, 8, 8]: of every four of its cells the largest values."""
    return nn.functional.max_pool2d(compute_maps(graph, pictures)[-1], 2)


def train_decoder(maps: Tensor, captions: Sequence[Sequence[str]]) -> Decoder:
    """A decoder by cross-entropy of each word after the true ones; what follows the end counts for nothing."""
    torch.manual_seed(0)
    decoder = Decoder(maps.shape[1])
    ids = torch.full((len(captions), LONGEST), -100)
    for row, caption in zip(ids, captions, strict=True):
        row[: len(caption)] = torch.tensor([WORDS.index(word) for word in caption])

    def loss_of(chosen: Tensor) -> Tensor:
        wanted = ids[chosen]
        logits = decoder(maps[chosen], wanted.clamp(min=0))
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    fit(decoder, len(captions), EPOCHS, loss_of, STEP)
    return decoder.eval()


@torch.no_grad()
def describe(decoder: Decoder, maps: Tensor) -> list[list[str]]:
    """Captions up to their end, at most LONGEST words each."""
    captions = []
    for row in decoder(maps).argmax(2).tolist():
        words = [WORDS[index] for index in row]
        captions.append(words[: words.index(END) + 1] if END in words else words)
    return captions


def bleu(said: Sequence[Sequence[str]], true: Sequence[Sequence[str]], longest: int = 4) -> float:
    """BLEU of a set with one reference each, 0 to 1: the geometric mean of the shares of sequences of 1 to `longest`
    words that are in the reference too, times the penalty for brevity."""
    logarithms = 0.0
    for n in range(1, longest + 1):
        right = total = 0
        for ours, theirs in zip(said, true, strict=True):
            mine, others = (Counter(tuple(c[k : k + n]) for k in range(len(c) - n + 1)) for c in (ours, theirs))
            right, total = right + (mine & others).total(), total + mine.total()
        if not right:
            return 0.0
        logarithms += math.log(right / total) / longest
    lengths = sum(map(len, said)), sum(map(len, true))
    return math.exp(logarithms + min(0.0, 1 - lengths[1] / lengths[0]))


def report(name: str, said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> None:
    """One line of the table."""
    right = sum(list(ours) == list(theirs) for ours, theirs in zip(said, true, strict=True))
    low, high = wilson_interval(right, len(true))
    share = f"{100 * right / len(true):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    print(f"{name:14} {share:22} {100 * bleu(said, true):6.1f}")


def main() -> None:
    """The command line of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or mnist:DIR [digits]")
    parser.add_argument("--out", type=Path, default=Path("build/pasted_digits"), help="folder for weights and graphs")
    given = parser.parse_args()
    fp32, int8 = features_graphs(given.data, given.out)
    training = Painter(given.data, "train", seed=2).pictures(TRAINING)
    pictures = Painter(given.data, "test", seed=3).pictures(TEST)
    captions, true = ([caption_of(picture) for picture in some] for some in (training, pictures))
    decoder = train_decoder(cells_of(fp32, training), captions)
    print(f"{'':14} {'right, of ' + str(TEST):22} BLEU-4")
    said = {name: describe(decoder, cells_of(graph, pictures)) for name, graph in (("FP32", fp32), ("INT8", int8))}
    for name, ours in said.items():
        report(name, ours, true)
    report("most frequent", [Counter(map(tuple, captions)).most_common(1)[0][0]] * TEST, true)
    for one, other in zip(said["INT8"][:5], true[:5], strict=True):
        print(f"  {' '.join(one[:-1])}" + ("" if one == other else f" (it is {' '.join(other[:-1])})"))


if __name__ == "__main__":
    try:
        main()
    except ec.EdgecnnError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
