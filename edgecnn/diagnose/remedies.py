"""What to try against a loss: the one table of remedies. A command that can mend something joins it with a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecnn.recipe.schema import Recipe
from edgecnn.results.engine import CPU_PROVIDER, CUDA_PROVIDER
from edgecnn.results.explanation import Explanation, NextStep, Stage
from edgecnn.results.report import Measurement

MOST_LAYERS = 3  # scales whose nodes are kept out of INT8 at once
OF_SPEED = {"latency_ratio_max", "int8_vs_fp16_ratio_max", "latency_ms_p99_max"}
OF_THE_REFERENCE = {"top1_pct_min", "top5_pct_min", "class_top1_pct_min", "top1_regression_pp_max"}
MARGINAL = ("few-channels", "odd-depthwise", "gemv")


@dataclass(frozen=True)
class Places:
    """How a command names the parts of a run; None for what is not here. `rerun` makes the run again."""

    rerun: tuple[str, ...]
    engine: Path | None = None
    graph: Path | None = None
    fp32: Path | None = None
    ranges: Path | None = None
    reference: Path | None = None
    test: str = ""
    calibration: str = ""


@dataclass(frozen=True)
class Evidence:
    """What a remedy is chosen by: an engine, what is known of its loss, the other engines of its target."""

    found: Explanation
    measurement: Measurement
    others: Sequence[Measurement]
    recipe: Recipe
    places: Places

    def lost_at(self, stage: Stage) -> float:
        """Percentage points that a stage lost; 0 where it was not measured or gained."""
        return max((loss.drop_pp or 0.0 for loss in self.found.stages if loss.stage == stage), default=0.0)

    def open_tolerances(self) -> set[str]:
        """The tolerances that the engine did not pass."""
        return {check.tolerance for check in self.found.checks}

    @property
    def quantized(self) -> bool:
        """Whether it is INT8 by Q/DQ pairs, which a graph's settings decide."""
        engine = self.measurement.engine
        return engine.precision_requested == "int8" and engine.scheme in ("tensorrt", "ort-cpu")

    def run(self, *options: str) -> tuple[str, ...]:
        """The command that makes the run again with `options`."""
        return ("edgecnn", "run", *self.places.rerun, *options)


Remedy = Callable[[Evidence], NextStep | None]


def _step(
    remedy: str,
    command: tuple[str, ...],
    why: str,
    gain: float | None,
    *,
    estimated: bool = False,
    gives_up: str = "",
) -> NextStep:
    return NextStep(
        remedy=remedy, command=command, why=why, expected_gain_pp=gain, estimated=estimated, gives_up=gives_up
    )


def keep_layers_out(e: Evidence) -> NextStep | None:
    """The layers that make most of the noise stay out of INT8."""
    known = set(e.recipe.quantize.exclude or ())
    noisy = [row for row in e.found.layers if row.nodes and not known.issuperset(row.nodes)][:MOST_LAYERS]
    lost = e.lost_at("int8")
    if not e.quantized or not noisy or lost <= 0:
        return None
    share = min(sum(row.logit_noise_pct for row in noisy), 100.0)
    nodes = list(dict.fromkeys([*(e.recipe.quantize.exclude or ()), *(n for row in noisy for n in row.nodes)]))
    why = f"what these layers read makes {share:.0f} % of the noise in the logits; they stay in FP16 or FP32"
    setting = "quantize.exclude=" + json.dumps(nodes, ensure_ascii=False)
    return _step("keep-layers-out", e.run("--set", setting), why, lost * share / 100, estimated=True)


def measure_layers(e: Evidence) -> NextStep | None:
    """Which layers make the noise, where that was not measured."""
    lost, p, settings = e.lost_at("int8"), e.places, e.recipe.quantize
    if not e.quantized or e.found.layers or lost <= 0 or not p.fp32 or not p.calibration:
        return None
    scheme = e.measurement.engine.scheme
    why = "measures which layers make the noise; explain again then names those to keep out of INT8"
    if scheme == "tensorrt" and p.ranges and not settings.exclude:
        ranges = ("--ranges", str(p.ranges), "--data", p.calibration)
        return _step("measure-layers", ("edgecnn", "sensitivity", str(p.fp32), *ranges), why, lost)
    command = ["edgecnn", "quantize", str(p.fp32), "--precision", "int8", "--scheme", scheme]
    if scheme == "tensorrt":
        command += ["--around", settings.around]
        command += ["--global-pool", settings.global_pool] if settings.global_pool else []
    command += ["--method", settings.method, *(w for name in settings.exclude or () for w in ("--exclude", name))]
    command += ["--ranges", str(p.ranges)] if p.ranges else []
    command += ["--data", p.calibration, "--explain", "-o", str(p.fp32.with_name(f"layers.int8-{scheme}.onnx"))]
    return _step("measure-layers", tuple(command), why, lost)


def search_method(e: Evidence) -> NextStep | None:
    """The search for ranges and rounding, where the recipe has a plain method."""
    lost = e.lost_at("int8")
    if not e.quantized or e.recipe.quantize.method == "auto" or lost <= 0:
        return None
    why = f"fits ranges and rounding layer by layer, judged on images held out; now {e.recipe.quantize.method}"
    return _step("search-method", e.run("--set", 'quantize.method="auto"'), why, lost)


def check_calibration(e: Evidence) -> NextStep | None:
    """Whether the calibration images are fit, and enough."""
    lost = e.lost_at("int8")
    if e.measurement.engine.precision_requested != "int8" or lost <= 0 or not e.places.fp32 or not e.places.calibration:
        return None
    command = ("edgecnn", "calibrate", str(e.places.fp32), "--data", e.places.calibration, "--check")
    return _step("check-calibration", command, "says whether the calibration images are fit, and enough", lost)


def find_the_node(e: Evidence) -> NextStep | None:
    """The first node at which the engine parts from its reference."""
    stages: tuple[Stage, ...] = ("export", "fp16", "int8", "engine")
    lost = max(map(e.lost_at, stages))
    p = e.places
    if lost <= 0 or not p.engine or not p.reference or not p.test:
        return None
    command = ("edgecnn", "validate", str(p.engine), "--reference", str(p.reference), "--data", p.test, "--stages")
    deeper = ("--bisect",) if e.lost_at("engine") > 0 else ()
    return _step(
        "find-the-node", (*command, *deeper), "names the first node that is worse than its precision explains", lost
    )


def build_again(e: Evidence) -> NextStep | None:
    """Several builds, where the engine lost what its graph did not."""
    lost = e.lost_at("engine")
    if lost <= 0 or e.measurement.engine.provider in (CPU_PROVIDER, CUDA_PROVIDER):  # nothing is built there
        return None
    options = ("--target", e.measurement.engine.target, "--rebuilds", "3")
    return _step("build-again", e.run(*options), "two builds differ: judges the worst of three, keeps the median", lost)


def resize_otherwise(e: Evidence) -> NextStep | None:
    """Another geometry on the serving side."""
    served = e.measurement.accuracy.serving if e.measurement.accuracy else None
    lost, p = e.lost_at("serving"), e.places
    if served is None or lost <= 0 or not p.engine or not p.reference or not p.test:
        return None
    other = "no-antialias" if served.serving_geometry == "cv2-bilinear" else "cv2-bilinear"
    command = ("edgecnn", "validate", str(p.engine), "--reference", str(p.reference), "--data", p.test)
    why = f"what {other} on the serving side costs in place of {served.serving_geometry}; the network's own costs none"
    return _step("resize-otherwise", (*command, "--geometry", other), why, lost)


def more_images(e: Evidence) -> NextStep | None:
    """A larger test set, where the sample settles nothing."""
    needed = max((check.images_needed or 0 for check in e.found.checks if check.verdict == "INCONCLUSIVE"), default=0)
    if not needed:
        return None
    why = f"about {needed} test images would settle what is open; put a source that has them in place of IMAGES"
    return _step("more-images", e.run("--data", "IMAGES"), why, None)


def leave_out_what_gains_nothing(e: Evidence) -> NextStep | None:
    """Layers that INT8 makes no faster, where the engine is too slow."""
    if not e.open_tolerances() & OF_SPEED or e.measurement.engine.scheme != "tensorrt":
        return None
    nodes = list(dict.fromkeys([*(e.recipe.quantize.exclude or ()), *MARGINAL]))
    why = "leaves out of INT8 what it makes no faster on a GPU, and with it the conversions around"
    return _step("leave-out-what-gains-nothing", e.run("--set", f"quantize.exclude={json.dumps(nodes)}"), why, None)


def train_again(e: Evidence) -> NextStep | None:
    """A better reference, where that falls short and the engine follows it."""
    epochs = e.recipe.train.epochs
    if not e.open_tolerances() & OF_THE_REFERENCE or e.found.lost_by is not None or not epochs:
        return None
    why = "no stage is known to lose: the engine follows its reference, and that falls short"
    return _step("train-again", e.run("--retrain", "--set", f"train.epochs={2 * epochs}"), why, None)


def ask_the_builder(e: Evidence) -> NextStep | None:
    """What the runtime says to the graph, where the engine took its process down."""
    if e.measurement.crash is None or e.places.graph is None:
        return None
    command = ("edgecnn", "check", str(e.places.graph), "--target", e.measurement.engine.target or "gpu")
    return _step("ask-the-builder", command, "the engine took its process down: what TensorRT says to its graph", None)


def take_float(e: Evidence) -> NextStep | None:
    """The recipe without INT8."""
    ours = e.found.top1_drop_pp
    floats = {
        m.engine.precision_requested: m.accuracy.top1_drop_pp
        for m in e.others
        if m.engine.precision_requested in ("fp16", "fp32") and m.accuracy and m.accuracy.top1_drop_pp is not None
    }
    if e.measurement.engine.precision_requested != "int8" or ours is None or not floats:
        return None
    precision = "fp16" if "fp16" in floats else "fp32"
    gain = ours - floats[precision]
    kept = [p for p in e.recipe.precisions if p != "int8"]
    if gain <= 0 or not kept:
        return None
    why = f"{precision.upper()} drops {floats[precision]:.2f} pp here"
    command, given_up = e.run("--set", f"precisions={json.dumps(kept)}"), "INT8's speed and size"
    return _step("take-float", command, why, gain, estimated=True, gives_up=given_up)


REMEDIES: tuple[Remedy, ...] = (
    resize_otherwise,
    keep_layers_out,
    measure_layers,
    search_method,
    check_calibration,
    build_again,
    find_the_node,
    leave_out_what_gains_nothing,
    train_again,
    ask_the_builder,
    more_images,
    take_float,
)


def next_steps(evidence: Evidence) -> tuple[NextStep, ...]:
    """What applies, the largest expected gain first (equal ones in the order of the table), what gives something up
    last."""
    applying = [step for remedy in REMEDIES if (step := remedy(evidence)) is not None]
    return tuple(sorted(applying, key=lambda step: (bool(step.gives_up), -(step.expected_gain_pp or 0.0))))
