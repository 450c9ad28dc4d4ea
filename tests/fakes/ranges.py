"""Calibration ranges as small tables: what real networks gave on real images, where no image is at hand.

`python -m tests.fakes.ranges X.calib.json > tables/NAME.tsv` makes one; a row is a tensor, its channels, and quantiles.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edgecnn.graph.calibration.histogram import Ranges, TensorStatistics, bin_edges, empty_statistics

TABLES = Path(__file__).with_name("tables")
QUANTILES = (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)
VALUES = 512  # that stand for a tensor


def stored_ranges(name: str, graph_sha256: str) -> Ranges:
    """The ranges in `tables/NAME.tsv`, of a graph with that hash: values spread as the quantiles say, alike in every
    channel."""
    tensors = {}
    for line in (TABLES / f"{name}.tsv").read_text(encoding="utf-8").splitlines():
        tensor, channels, *numbers = line.split("\t")
        spread = np.interp(np.linspace(0, 1, VALUES), QUANTILES, [float(n) for n in numbers]).astype(np.float32)
        tensors[tensor] = empty_statistics(tensor, int(channels))
        tensors[tensor].add(np.tile(spread, (1, int(channels), 1)))
    return Ranges(graph_sha256=graph_sha256, data=f"{name}.tsv", data_sha256="0" * 64, images=1, tensors=tensors)


def quantiles(statistics: TensorStatistics) -> list[float]:
    """From the histogram: the edge of the bin in which each lies; the ends as they were seen."""
    edges = bin_edges()[: len(statistics.positive)]
    negative = statistics.negative if statistics.negative is not None else np.zeros_like(statistics.positive)
    counts = np.concatenate([negative[::-1], statistics.positive])
    values = np.concatenate([-edges[::-1], edges])
    share = np.cumsum(counts) / counts.sum()
    inner = [float(values[np.searchsorted(share, q)]) for q in QUANTILES[1:-1]]
    return [statistics.low, *np.clip(inner, statistics.low, statistics.high), statistics.high]


def main() -> None:
    """Print the table of the X.calib.json in the first argument."""
    from edgecnn.graph.calibration.file import read_ranges

    for name, statistics in read_ranges(Path(sys.argv[1])).tensors.items():
        numbers = "\t".join(f"{value:.4g}" for value in quantiles(statistics))
        print(f"{name}\t{len(statistics.channel_low)}\t{numbers}")


if __name__ == "__main__":
    main()
