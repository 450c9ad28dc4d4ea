"""May I upgrade? The same graphs and images under two Python environments, each in a process of its own, paired."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import load_backend
from edgecnn.bundle.manifest import RANGES
from edgecnn.errors import ArtifactError, BackendError, CrashError, DeviceError, EdgecnnError, GraphError
from edgecnn.gate.judge import judge
from edgecnn.gate.latency_baseline import LATENCY_MAX
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.comparison import compare_latency
from edgecnn.measure.predict import read_predictions
from edgecnn.recipe.schema import Recipe, Tolerances
from edgecnn.recipe.variants import Variant, route_of, variants_of
from edgecnn.records import record_from_mapping
from edgecnn.remote.child import Child
from edgecnn.results.crash import Crash
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyRatio
from edgecnn.results.qualification import Environment, Qualification
from edgecnn.results.report import Measurement
from edgecnn.results.verdict import RUNS, Check, Verdict
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, Timing
from edgecnn.steps._images import without_images
from edgecnn.steps._sessions import VALIDATION_BATCH
from edgecnn.steps.bench import engine_facts
from edgecnn.targets import Target
from edgecnn.version import __version__

SAY_VERSION = """
import sys
sys.path[:] = filter(None, sys.path)
from edgecnn.version import __version__
print(__version__, flush=True)
import edgecnn.remote.worker
"""
PROBE_S = 120
MARGIN = "top1_regression_pp_max"

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of both environments: the recipe's graphs in `folder` for a target, on `images`; what is made goes
    to `scratch`."""

    recipe: Recipe
    folder: Path
    target: Target
    images: str
    scratch: Path
    threads: int | None = None


def qualify_environment(question: Question, python: str, say: Say = lambda line: None) -> Qualification:
    """Build, run and time the graphs under this interpreter and under `python`.

    Accuracy is that under `python` against that here on the same images (McNemar's table, Tango's interval), latency
    the ratio of the two in turn, blocks of one and then of the other. Judged by the recipe's margin for a regression
    (`top1_regression_pp_max`, else `top1_drop_pp_max`), its `agreement_pct_min` and `int8_share_pct_min`, and by 1.10
    times the latency. An engine that cannot be built or run there, or takes its process down there, fails.

    Raises `BackendError` where `python` is no interpreter with this edgecnn and the target's runtime, `DeviceError`
    where it runs on another device, and the errors of the steps here.
    """
    recipe, target = question.recipe, question.target
    require_edgecnn(python)
    measured, checks = list[Measurement](), list[Check]()
    with Child() as here, Child(python) as there:
        before, after = (_environment(c, where, question) for c, where in ((here, ""), (there, python)))
        _require_same_device(before, after)
        say(f"from {before.in_words} to {after.in_words}")
        for variant in variants_of(recipe, on_cpu=target.kind == "cpu"):
            say(f"{variant.name}: built, run and timed under both")
            found, why = _compared(question, variant, (here, before.in_words), (there, after.in_words))
            measured.append(found)
            checks += _checks(recipe, found, why)
    return Qualification(
        recipe=recipe.name,
        target=target.name,
        before=before,
        after=after,
        measurements=tuple(measured),
        verdict=Verdict(tuple(checks), recipe.tolerances.inconclusive),
    )


def require_edgecnn(python: str) -> None:
    """Raise `BackendError` where `python` is no Python interpreter that has this version of edgecnn."""
    where = f"--python {python}"
    hint = f"name an interpreter that has it: {python} -m pip install edgecnn=={__version__}"
    try:
        ran = subprocess.run(
            [python, "-c", SAY_VERSION], capture_output=True, stdin=subprocess.DEVNULL, timeout=PROBE_S, check=False
        )
    except OSError as exc:
        raise BackendError(f"{where}: cannot be started: {exc.strerror}", "name a Python interpreter") from exc
    except subprocess.TimeoutExpired as exc:
        raise BackendError(f"{where}: no answer within {PROBE_S} s", "name a Python interpreter") from exc
    found = ran.stdout.decode(errors="replace").strip()
    if found not in ("", __version__):
        raise BackendError(f"{where}: has edgecnn {found[:40]}, this is {__version__}", hint)
    said = [line for line in ran.stderr.decode(errors="replace").splitlines() if line.strip()]
    if ran.returncode:
        why = said[-1] if said and ran.returncode > 0 else f"it ended with {ran.returncode}"
        raise BackendError(f"{where}: edgecnn cannot be imported there: {why}", hint)
    if not found:
        raise BackendError(f"{where}: has edgecnn (none), this is {__version__}", hint)


def _environment(child: Child, python: str, question: Question) -> Environment:
    where, target = f"--python {python}" if python else "this interpreter", question.target
    try:
        found = child.call(where, "facts", {"backend": target.backend, "threads": question.threads})
    except CrashError:
        raise
    except EdgecnnError as exc:
        raise BackendError(f"{where}: {exc.message}", exc.hint) from exc
    if not found["tools"]:
        raise BackendError(f"{where}: has no runtime for the target {target.name}", "install one there")
    return Environment(
        python or "this interpreter",
        found["python"],
        found["tools"],
        record_from_mapping(Device, found["device"], where, "both run the same edgecnn"),
    )


def _require_same_device(before: Environment, after: Environment) -> None:
    ours, theirs = (dataclasses.replace(e.device, tensorrt="", cuda="") for e in (before, after))
    if ours != theirs:
        raise DeviceError(
            f"--python {after.path}: runs on {theirs}; this interpreter on {ours}",
            "compare both on one device, with the same driver and power mode",
        )


def _compared(
    question: Question, variant: Variant, before: tuple[Child, str], after: tuple[Child, str]
) -> tuple[Measurement, str]:
    """An engine there against the same graph's here, and why it could not be built or run there ("" where it could)."""
    name, (here, label), (there, label_there) = variant.name, before, after
    suffix = load_backend(question.target.backend).SUFFIXES[0]
    ours, theirs = (question.scratch / side / f"{name}{suffix}" for side in ("before", "after"))
    _build(here, question, variant, ours)
    found = Measurement(name=name, engine=read_sidecar(ours).engine)
    try:
        _build(there, question, variant, theirs)
    except CrashError as exc:
        return dataclasses.replace(found, crash=Crash("build", exc.ended)), ""
    except (BackendError, GraphError, ArtifactError) as exc:
        return found, f"it cannot be built: {label_there}: {exc.message}"
    found = Measurement(name=name, engine=read_sidecar(theirs).engine, facts=engine_facts(theirs))
    expected = _predict(here, question, ours)
    try:
        given = _predict(there, question, theirs)
    except CrashError as exc:
        return dataclasses.replace(found, crash=Crash("predict", exc.ended)), ""
    except BackendError as exc:
        return found, f"it cannot be run: {label_there}: {exc.message}"
    accuracy = measure_accuracy(name, read_predictions(given), read_predictions(expected))
    said = (*accuracy.findings, *without_images(read_sidecar(theirs)))
    found = dataclasses.replace(found, accuracy=dataclasses.replace(accuracy, findings=said))
    one = _opened(here, ours, question)
    try:
        other = _opened(there, theirs, question)
        found = dataclasses.replace(found, ratio=_ratio(question, name, label, one, other))
        there.call(str(theirs), "close", {})
    except CrashError as exc:
        if exc.message.startswith(str(ours)):
            raise
        return dataclasses.replace(found, crash=Crash("bench", exc.ended)), ""
    here.call(str(ours), "close", {})
    return found, ""


def _build(child: Child, question: Question, variant: Variant, output: Path) -> None:
    settings = {
        "graph": str((question.folder / variant.graph).absolute()),
        "output": str(output.absolute()),
        "target": question.target.name,
        "batch": dataclasses.asdict(question.recipe.batch),
        "threads": question.threads,
        "build_route": route_of(question.recipe, variant, question.target),
    }
    if variant.scheme == "implicit":
        ranges = str((question.folder / RANGES).absolute())
        settings |= {"weakly_typed": True, "ranges": ranges, "method": question.recipe.quantize.method}
    child.call(str(output), "build", settings)


def _predict(child: Child, question: Question, engine: Path) -> Path:
    output = engine.with_suffix(".npz")
    settings = {
        "engine": str(engine),
        "output": str(output),
        "images": question.images,
        "batch": min(VALIDATION_BATCH, question.recipe.batch.max),
        "threads": question.threads,
    }
    child.call(str(engine), "predict", settings)
    return output


class _InItsProcess(Session):
    """An engine that is open in another process, which times its queries: what lies between is in none of them."""

    def __init__(self, child: Child, engine: Path, pci_bus_id: str) -> None:
        self._child, self._engine, self._pci_bus_id = child, engine, pci_bus_id

    @property
    def info(self) -> SessionInfo:
        """The GPU that computes, whose clocks are read here; nothing else of it is known."""
        spec = TensorSpec("", (None,), "float32")
        return SessionInfo((spec,), (spec,), pci_bus_id=self._pci_bus_id)

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Never asked: its process compares what it computes, and here its queries are timed alone."""
        raise NotImplementedError

    def timed(self, batch: Array) -> Timing:
        """One query of its own input."""
        return Timing(**self._child.call(str(self._engine), "query", {}))


def _opened(child: Child, engine: Path, question: Question) -> _InItsProcess:
    settings = {"engine": str(engine), "batch": question.recipe.bench.batch, "threads": question.threads}
    return _InItsProcess(child, engine, **child.call(str(engine), "open", settings))


def _ratio(question: Question, name: str, label: str, ours: _InItsProcess, theirs: _InItsProcess) -> LatencyRatio:
    bench, nothing = question.recipe.bench, np.zeros(1, np.float32)
    sessions: dict[str, Session] = {label: ours, name: theirs}
    return compare_latency(sessions, nothing, warmup_ms=bench.warmup_ms, duration_s=bench.duration_s)[name]


def _checks(recipe: Recipe, found: Measurement, why: str) -> list[Check]:
    """What the recipe's margins say of an engine there; `why` it could not be built or run."""
    if why:
        return [Check(found.name, RUNS, None, None, None, "FAIL", why)]
    own = recipe.tolerances
    margin = own.top1_regression_pp_max if own.top1_regression_pp_max is not None else own.top1_drop_pp_max
    limits = Tolerances(
        top1_drop_pp_max=margin,
        agreement_pct_min=own.agreement_pct_min,
        int8_share_pct_min=own.int8_share_pct_min if found.engine.precision_requested == "int8" else None,
        latency_ratio_max=None if found.engine.simulated else LATENCY_MAX,
    )
    checks = [*judge(limits, [found]).checks]
    if margin is None:
        told = f"no margin: set tolerances.{MARGIN}, or top1_drop_pp_max"
        checks.append(Check(found.name, MARGIN, None, None, None, "INCONCLUSIVE", told))
    return [dataclasses.replace(c, name=found.name) for c in checks]
