"""Why an engine is worse than its reference, from what its run folder holds: nothing is measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecnn.artifact.run_folder import TargetRun, find_sensitivity
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.data.calibration_set import find_calibration_set
from edgecnn.diagnose.losses import class_drops, image_changes, largest_loss, stage_losses
from edgecnn.diagnose.remedies import Evidence, Places, next_steps
from edgecnn.errors import ArtifactError, DataError, MeasurementError, nearest
from edgecnn.recipe.rules import require_classifier
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.records import record_and_problems
from edgecnn.results.engine import CPU_PROVIDER
from edgecnn.results.explanation import Explanation
from edgecnn.results.quantization import LayerNoise
from edgecnn.results.report import Measurement
from edgecnn.results.sensitivity import Sensitivity
from edgecnn.results.verdict import Outcome, Verdict

FP32 = "model.fp32.onnx"
ORDER: dict[Outcome, int] = {"FAIL": 0, "INCONCLUSIVE": 1, "PASS": 2}
COARSENESS = {"int8": 0, "fp16": 1}  # which of two that fare alike is explained


@dataclass(frozen=True)
class _Layers:
    """Which layers make the noise, by the sidecar of a graph."""

    rows: tuple[LayerNoise, ...] = ()
    weights_pct: float | None = None
    source: str = ""


def explain(
    judged: Sequence[tuple[TargetRun, Verdict]], recipe: Recipe, rerun: tuple[str, ...], engine: str = ""
) -> Explanation:
    """Why an engine of a judged run is worse than its reference: the one of that name, or the one that fares worst.

    `rerun` are the arguments of `edgecnn run` that make the run again. Stages are paired on the images of the
    accuracies; layers come from what `sensitivity` measured on the same float graph, or from the sidecar of a graph
    that `quantize --explain` made of it. Raises `MeasurementError` for an engine that is not there, or that is there
    on several targets.
    """
    require_classifier(recipe, "an explanation")
    run, verdict, found = _chosen(judged, engine)
    targets = {one.target: one.measurements for one, _ in judged}
    folder, made_of = run.folder.parent, _graph_of(found, recipe)
    losses, not_compared = stage_losses(found, targets, recipe)
    worst, accuracy = largest_loss(losses), found.accuracy
    layers = _layers_in(folder, found, recipe)
    sidecar = _sidecar(folder / made_of) if made_of else None
    classes_n, classes = class_drops(accuracy) if accuracy else (0, ())
    explained = Explanation(
        recipe=recipe.name,
        target=run.target,
        name=found.name,
        verdict=verdict.outcome_of(found.name),
        simulation=found.engine.simulation,
        checks=tuple(c for c in verdict.checks if c.name in (found.name, "all") and c.verdict != "PASS"),
        data=accuracy.data if accuracy else "",
        n=accuracy.n if accuracy else 0,
        n_labelled=accuracy.n_labelled if accuracy else 0,
        top1_pct=accuracy.top1_pct if accuracy else None,
        reference_top1_pct=accuracy.reference_top1_pct if accuracy else None,
        top1_drop_pp=accuracy.top1_drop_pp if accuracy else None,
        top1_drop_ci_pp=accuracy.top1_drop_ci_pp if accuracy else None,
        top1_lost=accuracy.top1_lost if accuracy else None,
        top1_gained=accuracy.top1_gained if accuracy else None,
        mcnemar_p=accuracy.mcnemar_p if accuracy else None,
        agreement_pct=accuracy.agreement_pct if accuracy else None,
        findings=accuracy.findings if accuracy else (),
        stages=losses,
        not_compared=not_compared,
        lost_by=worst.stage if worst else None,
        layers=layers.rows,
        layers_from=layers.source,
        weights_logit_noise_pct=layers.weights_pct,
        kept_float32=tuple(map(str, sidecar.facts.get("kept_float32", ()))) if sidecar else (),
        classes_n=classes_n,
        classes=classes,
        images=image_changes(accuracy) if accuracy else (),
        next_steps=(),
    )
    others = [m for m in run.measurements if m is not found]
    places = _places(run, found, folder / made_of if made_of else None, recipe, rerun)
    return replace(explained, next_steps=next_steps(Evidence(explained, found, others, recipe, places)))


def _chosen(judged: Sequence[tuple[TargetRun, Verdict]], engine: str) -> tuple[TargetRun, Verdict, Measurement]:
    rows = [(run, verdict, m) for run, verdict in judged for m in run.measurements]
    if engine:
        named = [row for row in rows if row[2].name == engine]
        if not named:
            known = dict.fromkeys(m.name for _, _, m in rows)
            raise MeasurementError(
                f"no engine {engine!r} was measured there; measured are: {', '.join(known)}",
                nearest(engine, known) or "name one of them with --engine",
            )
        if len(named) > 1:
            where = ", ".join(str(run.folder) for run, _, _ in named)
            raise MeasurementError(f"{engine} was measured on several targets", f"name one of their folders: {where}")
        return named[0]
    return min(rows, key=lambda row: _badness(row[2], row[1]))


def _badness(m: Measurement, verdict: Verdict) -> tuple[int, float, int]:
    """What sorts the engine that fares worst to the front."""
    drop = (m.accuracy.top1_drop_pp or 0.0) if m.accuracy else 0.0
    return ORDER[verdict.outcome_of(m.name)], -drop, COARSENESS.get(m.engine.precision_requested, 2)


def _graph_of(m: Measurement, recipe: Recipe) -> str:
    """The file in the run folder that an engine is made from; "" where the recipe does not ask for it."""
    asked, on_cpu = m.engine, m.engine.provider == CPU_PROVIDER
    wanted = (asked.precision_requested, asked.scheme)
    return next((v.graph for v in variants_of(recipe, on_cpu=on_cpu) if (v.precision, v.scheme) == wanted), "")


def _sidecar(graph: Path) -> Sidecar | None:
    return read_sidecar(graph) if sidecar_path(graph).is_file() else None


def _layers_in(folder: Path, m: Measurement, recipe: Recipe) -> _Layers:
    """The noise of each layer by the newest graph that tells it: of the engine's scheme and settings, and made of the
    run's own float graph."""
    if m.engine.precision_requested != "int8" or not (folder / FP32).is_file():
        return _Layers()
    float_graph, settings = _sidecar(folder / FP32), recipe.values("quantize.method", "quantize.exclude")
    if m.engine.scheme == "tensorrt" and float_graph and (file := find_sensitivity(folder, float_graph.sha256)):
        return _Layers(_noise_by_node(file.content), source=file.path.name)
    if m.engine.scheme == "tensorrt":  # what ort-cpu has no choice of
        settings = recipe.values("quantize")
    told = []
    for path in sorted(folder.glob("*.onnx")):
        made = _sidecar(path)
        noise = made.facts.get("layer_noise") if made else None
        if made is None or float_graph is None or not isinstance(noise, list) or made.scheme != m.engine.scheme:
            continue
        same = all(made.fields.get(key) == value for key, value in settings.items())
        if same and made.parents.get(FP32) == float_graph.sha256:
            told.append((made.created, path, made, noise))
    if not told:
        return _Layers()
    _, path, made, noise = max(told, key=lambda row: row[:2])
    rows = [record_and_problems(LayerNoise, row) if isinstance(row, dict) else (None, ["it"]) for row in noise]
    if any(problems for _, problems in rows):
        raise ArtifactError(f"{sidecar_path(path)}: its layer_noise is damaged", "make it again: quantize --explain")
    pct = made.facts.get("weights_logit_noise_pct")
    kept = tuple(row for row, _ in rows if row is not None)
    return _Layers(kept, float(pct) if isinstance(pct, (int, float)) else None, path.name)


def _noise_by_node(found: Sensitivity) -> tuple[LayerNoise, ...]:
    """What the weights of each node and what it reads make together, the largest share first."""
    shares: dict[str, float] = {}
    for row in found.rows:
        shares[row.node] = shares.get(row.node, 0.0) + row.noise_pct
    rows = [LayerNoise(tensor=name, nodes=(name,), logit_noise_pct=share) for name, share in shares.items()]
    return tuple(sorted(rows, key=lambda row: -row.logit_noise_pct))


def _places(run: TargetRun, m: Measurement, graph: Path | None, recipe: Recipe, rerun: tuple[str, ...]) -> Places:
    folder = run.folder.parent
    file = next((f for f in run.accuracies if f.content.name == m.name), None)
    parents = [run.folder / name for name in (file.provenance.parents if file and file.provenance else ())]
    kinds = {made.kind: _short(path) for path in reversed(parents) if path.is_file() and (made := _sidecar(path))}
    ranges = sorted(folder.glob("*.calib.json"))
    return Places(
        rerun=rerun,
        engine=kinds.get("engine"),
        graph=_short(graph) if graph and graph.is_file() else None,
        fp32=_short(folder / FP32) if (folder / FP32).is_file() else None,
        ranges=_short(ranges[0]) if len(ranges) == 1 else None,
        reference=next((path for kind, path in kinds.items() if kind not in ("engine", "graph")), None),
        test=recipe.data.source,
        calibration=_calibration(recipe),
    )


def _short(path: Path) -> Path:
    """As it is named from here, without detours."""
    plain, here = path.resolve(), Path.cwd().resolve()
    short = plain.relative_to(here) if plain.is_relative_to(here) else plain
    return plain if str(short).startswith("-") else short


def _calibration(recipe: Recipe) -> str:
    """What `--data` takes for the recipe's calibration images: a manifest where it has one, else training images."""
    data = recipe.data
    source = data.calibration_source or data.source
    try:
        chosen = find_calibration_set(data.calibration) if data.calibration else None
    except DataError:
        chosen = None
    if chosen is None or chosen.suffix != ".txt":
        return source
    return f"{chosen}:{source}" if Path(source).is_dir() else str(chosen)
