"""The rule on layers that a build for a DLA leaves to the GPU."""

from __future__ import annotations

from collections.abc import Sequence

from edgecnn.gate.rules.rule import Rule
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import Check

SHOWN, LETTERS = 5, 100  # names in the evidence, and how much of each: fused layers bear those of all their nodes


def _owes(measurement: Measurement, measurements: Sequence[Measurement]) -> bool:
    """One build for the DLA is enough: nobody serves each precision there."""
    return False


def _judge(measurement: Measurement, rule: Rule, limit: float) -> Check:
    found = measurement.dla
    assert found is not None
    layers = found.dla_gpu_layers
    more = f" and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
    names = (name if len(name) <= LETTERS else f"{name[:LETTERS]}..." for name in layers[:SHOWN])
    named = f": {', '.join(names)}{more}" if layers else ""
    evidence = (
        f"TensorRT {found.dla_tensorrt} for DLA core {found.dla_core}: {found.dla_parts} parts on the DLA, "
        f"{len(layers)} layers left to the GPU{named}; accuracy and speed beside this are the GPU's"
    )
    good = found.dla_parts > 0 and len(layers) <= limit
    return rule.check(measurement, limit, "PASS" if good else "FAIL", evidence, float(len(layers)))


RULES = (
    Rule(
        "dla_gpu_layers_max",
        "layers left to the GPU",
        "",
        lambda m: m.dla is not None,
        _judge,
        owes=_owes,
        absent="no build for a DLA was reported: put the build.log of build-dla.sh beside the engines as X.dla.log",
    ),
)
