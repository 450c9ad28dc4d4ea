"""The graph of least latency or energy, or of the largest share of INT8, whose drop stays within a budget."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sha256_of, sidecar_path, tool_versions
from edgecnn.artifact.trial_log import TrialLog
from edgecnn.artifact.write import check_output, write_artifact, write_json_artifact
from edgecnn.backends import load_backend
from edgecnn.data.dataset import Dataset
from edgecnn.errors import BackendError, DeviceError, RecipeError
from edgecnn.machine.threads import allowed_threads, limit_threads
from edgecnn.recipe.schema import Around, QuantizeSettings, RangeMethod
from edgecnn.records import to_plain
from edgecnn.results.device import Device
from edgecnn.results.search import Candidate, ComparedLine, JudgedLine, Objective, Search, SearchPoint
from edgecnn.statistics import drop_interval
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_at_least, require_one_of, require_packages
from edgecnn.steps._images import Progress
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps._sessions import open_any
from edgecnn.steps.bench import require_batch
from edgecnn.steps.quantize import GlobalPool
from edgecnn.targets import Target, find_target, target_mismatch
from edgecnn.tuning.budget import Budget
from edgecnn.tuning.choice import Chosen, choose
from edgecnn.tuning.fastest import SECONDS, find_fastest
from edgecnn.tuning.images import open_search_images
from edgecnn.tuning.on_host import HostWorkbench
from edgecnn.tuning.ranking import Ranking, find_nodes, rank_nodes
from edgecnn.tuning.routes import Routes, choose_routes, try_routes
from edgecnn.tuning.trials import Say, Trials
from edgecnn.tuning.workbench import Kept, SearchTask, Workbench, batch_is_frozen
from edgecnn.version import __version__

HELD_OUT_IMAGES = 4096


def search(
    graph: FilePath,
    output: FilePath | None = None,
    *,
    max_drop_pp: float,
    objective: Objective = "latency",
    data: FilePath,
    ranges: FilePath | None = None,
    held_out: FilePath = "",
    test: FilePath = "",
    images: int = HELD_OUT_IMAGES,
    target: str = "cpu",
    method: RangeMethod = QuantizeSettings.method,
    around: Around = QuantizeSettings.around,
    exclude: Sequence[str] = (),
    global_pool: GlobalPool | None = None,
    batch: int = 1,
    threads: int | None = None,
    calibration: Dataset | None = None,
    host: str = "",
    routes: str = "",
    say: Say = lambda line: None,
    progress: Progress | None = None,
) -> Search:
    """Find which nodes of a float32 graph to keep out of INT8, so that top-1 drops by at most `max_drop_pp` points.

        import edgecnn as ec
        found = ec.search("m.fp32.onnx", max_drop_pp=0.5, data="imgs")
        found.answer, found.kept, found.latency_ratio

    The `objective` is the least latency of one `batch` [N, C, H, W] on the `target`, which must be this machine, or its
    least energy above idle, or the largest share ("coverage") of multiply-adds in INT8, which any machine can tell:
    graphs for a GPU are then judged by their rounding. The drop is that of the upper end of its 95 % interval, on the
    test images of `data`, or of `test`. Graphs are chosen by at most `images` of the training images of `data` that are
    not among those of `ranges` (left out: X.calib.json beside the graph; their images are found again where they were,
    unless they are `calibration`), or by those of `held_out`. `method`, `around`, `exclude` and `global_pool` are those
    of `quantize`. `routes` says which build routes are tried on the best graph where TensorRT has them: the first
    32 (""), "all", "none", or "-knob=[a|b] -knob=c".

    Writes the graph that was found (X.int8-SCHEME-search.onnx beside the input, or `output`; none where the answer is
    "none", or the graph as it is), the result beside it (.search.json), and each trial (.trials.jsonl), from which the
    same call goes on after a kill. Raises `DataError` where the images share one, are too few, or cannot prove so small
    a drop, `ArtifactError` for ranges of another graph, `DeviceError` where the target is not here, `MeasurementError`
    for a batch that a frozen graph does not take, and for an energy that no sensor tells.
    """
    graph = Path(graph)
    require_packages("quantize")
    require_one_of("objective", objective, Objective)
    require_one_of("method", method, RangeMethod)
    require_at_least(1, images=images, batch=batch, threads=threads)
    require_at_least(0.0, max_drop_pp=max_drop_pp)
    device = find_target(target)
    scheme: Literal["tensorrt", "ort-cpu"] = "ort-cpu" if device.kind == "cpu" else "tensorrt"
    output = path_or_none(output) or named(graph, f"int8-{scheme}-search.onnx")
    ranges = path_or_none(ranges) or named(graph, "calib.json")
    check_output(output, ".onnx", graph, ranges)
    source = sidecar_of(graph, verified=True).require_classes(graph)
    sidecar_of(ranges)
    measured_on = _require_device(device, objective, host)
    _require_batch(graph, batch, objective)
    found = open_search_images(
        graph,
        ranges,
        os.fspath(data),
        held_out=os.fspath(held_out),
        test=os.fspath(test),
        count=images,
        max_drop_pp=max_drop_pp,
        calibration=calibration,
    )
    ranking = find_nodes(graph, ranges, method, exclude, scheme)
    task = SearchTask(
        graph=graph,
        ranges=ranges,
        images=found,
        target=device,
        scheme=scheme,
        method=method,
        around="fp32" if device.kind == "cpu" else around,
        patterns=tuple(exclude),
        global_pool=global_pool,
        objective=objective,
        nodes=ranking.nodes,
        weighted=ranking.weighted,
        batch=batch,
        threads=threads or allowed_threads(),
        host=host,
    )
    key = _key(task, measured_on)
    folder = output.with_name(f".{output.stem}.search")
    bench = (HostWorkbench if host else Workbench)(task, folder, key)
    chosen_routes = choose_routes(() if routes == "none" else bench.build_knobs(), routes)
    power_sensor = bench.require_power_sensor() if objective == "energy" else ""
    with limit_threads(task.threads), TrialLog(output.with_name(f"{output.stem}.trials.jsonl"), key) as log:
        trials = Trials(bench, log, say, power_sensor)
        noise = rank_nodes(ranking, found.calibration, log, progress)
        costs, chosen = _search(trials, max_drop_pp / 100, ranking, noise, chosen_routes.tried)
        result = output.with_name(f"{output.stem}.search.json")
        file = _write_graph(chosen, bench, output, result)
        made = _result(trials, chosen, costs, max_drop_pp, file, chosen_routes)
        provenance = derived(source, result, (graph, ranges), step="search", kind="search")
        provenance = dataclasses.replace(provenance, scheme=scheme, tools=_tools(task), device=measured_on)
        write_json_artifact(result, to_plain(made), provenance)
        shutil.rmtree(folder, ignore_errors=True)
    return made


def _require_device(target: Target, objective: Objective, host: str) -> Device | None:
    """The device that is to be measured here; None where none is. Raises `DeviceError` where it is not here,
    `RecipeError` for a `host` on which nothing would be measured."""
    if objective == "coverage" and host:
        raise RecipeError(f"--objective coverage with --on {host}: it needs no other machine", "leave --on out")
    if objective == "coverage" or host:
        return None
    hint = "search on the device itself, or with --on HOST; or --objective coverage, which any machine can judge"
    try:
        here = load_backend(target.backend).device(None)
    except BackendError as exc:
        raise DeviceError(f"target {target.name}: no {objective} can be measured here: {exc.message}", hint) from exc
    if mismatch := target_mismatch(target, here):
        raise DeviceError(mismatch, hint)
    return here


def _require_batch(graph: Path, batch: int, objective: Objective) -> None:
    if objective != "coverage":
        with open_any(graph) as session:
            require_batch(graph, session, batch)


def _tools(task: SearchTask) -> dict[str, str]:
    """The versions of what makes the graphs, and of what is timed."""
    measured = task.measures and not task.host
    more = load_backend(task.target.backend).tools() if measured else {}
    return {**tool_versions(*TOOLS["quantize"]), **more}


def _search(
    trials: Trials, most: float, ranking: Ranking, noise: Mapping[str, float], routes: Sequence[str]
) -> tuple[dict[Candidate, float], Chosen]:
    """The costs of what was tried, and what came of it."""
    task = trials.task
    budget = Budget(trials, len(task.images.test), most)
    starts: list[Kept] = [find_fastest(trials), ()] if task.measures else [()]
    for start in dict.fromkeys(starts):
        for order in (ranking.by_noise(noise), ranking.by_noise_per_multiply_add(noise)):
            holding = budget.find_holding(start, order, ranking.multiply_adds)
            if holding is None or holding == task.all_float or holding == start:
                break
    trials.judge(task.all_float)
    _judge_safer(budget, starts[0], ranking.by_noise(noise))
    if not task.measures:
        costs = {line.candidate: -line.int8_share_pct for line in trials.judged}
    else:
        tried = [line.kept for line in trials.judged if line.kept != task.all_float and not line.route]
        compared = trials.compare(task.all_float, tried, SECONDS[task.objective])
        costs = {(task.all_float, ""): 1.0} | {line.candidate: line.ratio for line in compared}
        costs |= try_routes(budget, costs, routes)
    return costs, choose(trials, budget, most, costs)


def _judge_safer(budget: Budget, start: Kept, order: Sequence[str]) -> None:
    """Two graphs with more in float than is needed: should the test images refuse what the held-out ones allow."""
    rest = [name for name in order if name not in start]
    for share in (4, 2):
        budget.holds({*start, *rest[: -(-len(rest) // share)]})


def _write_graph(chosen: Chosen, bench: Workbench, output: Path, result: Path) -> Path | None:
    """The file of the answer: `output`, or the float graph where that is it; None where there is no answer. The
    `output` that an earlier `result` had is then no answer to this budget, and does not stay."""
    made = None if chosen.answer is None else bench.graph(chosen.answer.kept)
    if made is None or made == bench.task.graph:
        for old in (output, sidecar_path(output)) if result.exists() else ():
            old.unlink(missing_ok=True)
        return made
    sidecar: Sidecar = dataclasses.replace(
        read_sidecar(made), parents=parents_of(output, bench.task.graph, bench.task.ranges)
    )
    write_artifact(output, lambda temporary: shutil.copyfile(made, temporary), sidecar)
    return output


def _result(
    trials: Trials,
    chosen: Chosen,
    costs: Mapping[Candidate, float],
    max_drop_pp: float,
    file: Path | None,
    routes: Routes,
) -> Search:
    task, answer = trials.task, chosen.answer
    points = [_point(trials, line, chosen) for line in trials.judged]
    points.sort(key=lambda point: (costs.get(point.candidate, 0.0), point.expected_bound_pp))
    of_answer = next((point for point in points if answer is not None and point.candidate == answer.candidate), None)
    return Search(
        graph=task.graph.name,
        graph_sha256=sha256_of(task.graph),
        target=task.target.name,
        scheme=task.scheme,
        method=task.method,
        around=task.around,
        objective=task.objective,
        max_drop_pp=max_drop_pp,
        data=task.images.test.name,
        calibration_n=len(task.images.calibration),
        held_out_n=len(task.images.held_out),
        n=len(task.images.test),
        answer="none" if answer is None else "float" if answer.kept == task.all_float else "int8",
        output="" if file is None else file.name,
        kept=() if answer is None else answer.kept,
        int8_share_pct=None if answer is None else answer.int8_share_pct,
        top1_drop_pp=None if answer is None else _drop(answer),
        top1_drop_ci_pp=None if answer is None else _interval(answer),
        latency_ratio=of_answer.latency_ratio if of_answer else None,
        latency_ratio_ci=of_answer.latency_ratio_ci if of_answer else None,
        latency_ms_p50=of_answer.latency_ms_p50 if of_answer else None,
        latency_batch=task.batch if task.measures else None,
        latency_threads=task.threads if task.measures and not task.elsewhere else None,
        points=tuple(points),
        failed=trials.failed,
        energy_ratio=of_answer.energy_ratio if of_answer else None,
        energy_ratio_ci=of_answer.energy_ratio_ci if of_answer else None,
        joules_per_inference=of_answer.joules_per_inference if of_answer else None,
        power_sensor=trials.power_sensor,
        build_route="" if answer is None else answer.route,
        routes_tried=len(routes.tried),
        routes_known=routes.known,
        batch_is_frozen=batch_is_frozen(task.graph),
    )


def _point(trials: Trials, line: JudgedLine, chosen: Chosen) -> SearchPoint:
    task = trials.task
    found = chosen.compared.get(line.candidate) or _compared(trials, line)
    time, energy = (None, found) if task.objective == "energy" else (found, None)
    test = chosen.asked.get(line.candidate)
    known = test is not None and not test.failed
    n = len(task.images.test)
    return SearchPoint(
        kept=line.kept,
        all_float=line.kept == task.all_float,
        int8_share_pct=line.int8_share_pct,
        n=line.n,
        top1_drop_pp=_drop(line),
        top1_drop_ci_pp=_interval(line),
        expected_bound_pp=100 * drop_interval(line.lost * n / line.n, line.gained * n / line.n, n)[1],
        latency_ratio=time.ratio if time else None,
        latency_ratio_ci=time.ratio_ci if time else None,
        latency_ms_p50=time.ratio * time.against_ms_p50 if time else None,
        test_n=test.n if test and known else None,
        test_top1_drop_pp=_drop(test) if test and known else None,
        test_top1_drop_ci_pp=_interval(test) if test and known else None,
        energy_ratio=energy.ratio if energy else None,
        energy_ratio_ci=energy.ratio_ci if energy else None,
        joules_per_inference=energy.ratio * energy.against_joules if energy else None,
        route=line.route,
    )


def _compared(trials: Trials, line: JudgedLine) -> ComparedLine | None:
    task = trials.task
    if not task.measures or line.candidate == (task.all_float, ""):
        return None
    return next(iter(trials.compare(task.all_float, [line.kept], SECONDS[task.objective], line.route)), None)


def _drop(line: JudgedLine) -> float:
    return 100 * (line.lost - line.gained) / line.n


def _interval(line: JudgedLine) -> tuple[float, float]:
    low, high = drop_interval(line.lost, line.gained, line.n)
    return 100 * low, 100 * high


def _key(task: SearchTask, device: Device | None) -> str:
    """Of what trials depend on; not of the budget, so that another one goes on with them."""
    made_with = [__version__, *_tools(task).values()]
    facts = [
        sha256_of(task.graph),
        sha256_of(task.ranges),
        str(to_plain(sidecar_of(task.graph).contract)),
        task.images.sha256,
        *(task.target.name, task.scheme, task.method, task.around, str(task.global_pool), *task.patterns),
        *(task.objective, str(task.batch), str(task.threads), task.host, device.key if device else "", *made_with),
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
