"""A network with one node that INT8 ruins, its images, and latencies that are made up, for searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

import edgecnn as ec
from edgecnn.results.latency import LatencyRatio
from edgecnn.tuning.workbench import Kept, Workbench
from tests.acceptance.nets import Net, normalized, pictures, write_npz

GUILTY = "mid"


def network() -> onnx.ModelProto:
    """One channel that `mid` reads is 3 000 times as large as the others, and as little weighted: in INT8 by min-max
    the others are lost there, and nowhere else."""
    net = Net(5)
    x = net.relu(net.conv("stem", "input", (3, 12)))
    y = net.relu(net.conv("first", x, (12, 12)))
    y = net.relu(net.conv(GUILTY, y, (12, 12), kernel=1))
    model = net.model(net.head(net.relu(net.conv("last", y, (12, 12)))))
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, index, factor in (("first.weight", 0, 3000), ("first.bias", 0, 3000), (f"{GUILTY}.weight", 1, 1 / 3000)):
        value = onnx.numpy_helper.to_array(arrays[name]).copy()
        value[(slice(None),) * index + (0,)] *= factor
        arrays[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    return model


def write_searched(folder: Path) -> Path:
    """m.fp32.onnx with its ranges, made of train.npz; held.npz and test.npz, all labelled but unlabelled.npz."""
    for name, seed, count in (("train", 1, 32), ("held", 2, 240), ("test", 3, 240)):
        pixels, labels = pictures(count, seed=seed)
        write_npz(folder / f"{name}.npz", normalized(pixels), labels)
    write_npz(folder / "unlabelled.npz", normalized(pictures(240, seed=5)[0]))
    onnx.save(network(), folder / "m.fp32.onnx")
    ec.calibrate(folder / "m.fp32.onnx", data=folder / "train.npz", threads=1)
    return folder


def compare_made_up(
    bench: Workbench, against: Kept, others: Sequence[Kept], seconds: float
) -> dict[Kept, LatencyRatio]:
    """INT8 takes half the time of float, but in `stem`, where it takes twice as much."""

    def cost(kept: Kept) -> float:
        return 1.0 + sum(1.0 if name in kept else 2.0 if name == "stem" else 0.5 for name in bench.task.weighted)

    ratios = {kept: cost(kept) / cost(against) for kept in others}
    return {
        kept: LatencyRatio(
            latency_reference="",
            latency_ratio=r,
            latency_ratio_ci=(0.99 * r, 1.01 * r),
            latency_ratio_rounds=10,
            reference_latency_ms_p50=1.0,
        )
        for kept, r in ratios.items()
    }
