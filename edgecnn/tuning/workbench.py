"""The graphs of a search: made, built, judged and timed by the steps that do so anywhere else."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.artifact.write import atomic_path
from edgecnn.backends import load_backend
from edgecnn.data.dataset import Dataset
from edgecnn.data.sources.packed import write_packed
from edgecnn.machine.threads import spin_while_waiting
from edgecnn.measure.comparison import compare_latency
from edgecnn.measure.energy import require_energy
from edgecnn.measure.energy_ratio import EnergyRatio, energy_ratio
from edgecnn.recipe.schema import Around, BatchSettings, RangeMethod
from edgecnn.remote import engines
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.build_routes import Knob
from edgecnn.results.latency import LatencyFile, LatencyRatio
from edgecnn.results.search import ImageSet, JudgedLine, Objective
from edgecnn.session import Session
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import open_any
from edgecnn.steps.bench import input_for
from edgecnn.steps.build import build, rebuilt_path
from edgecnn.steps.quantize import GlobalPool, quantize
from edgecnn.steps.reference import reference
from edgecnn.targets import Target
from edgecnn.tuning.images import SearchImages

Kept = tuple[str, ...]  # nodes that stay in float, in the order of the graph
WARMUP_MS = 50.0
SENSED_S = 2.5  # until a sensor that averages over a second has told one of queries alone
MOMENT_S = 0.1
REBUILDS = 3  # of an engine, timed anew, by which luck is told from speed
AT_ONCE = 8  # engines on a processor that are open together


@dataclass(frozen=True)
class SearchTask:
    """What is searched, and by which means. `nodes` are those that can be INT8, in the order of the graph, `weighted`
    the products among them; `patterns` stay out of INT8 in every graph, and are no nodes."""

    graph: Path
    ranges: Path
    images: SearchImages
    target: Target
    scheme: Literal["tensorrt", "ort-cpu"]
    method: RangeMethod
    around: Around
    patterns: tuple[str, ...]
    global_pool: GlobalPool | None
    objective: Objective
    nodes: tuple[str, ...]
    weighted: tuple[str, ...]
    batch: int
    threads: int
    host: str = ""

    @property
    def measures(self) -> bool:
        """Whether graphs are compared by what a machine tells of their engines."""
        return self.objective != "coverage"

    @property
    def elsewhere(self) -> bool:
        """Whether engines are built, which are then judged and timed: on a device, or on another machine."""
        return self.measures and (self.target.kind == "gpu" or bool(self.host))

    @property
    def all_float(self) -> Kept:
        """What is kept where nothing is INT8."""
        return self.nodes

    def in_order(self, nodes: Sequence[str] | frozenset[str]) -> Kept:
        """These nodes in the order of the graph; all of them where no product is left to be INT8."""
        if set(self.weighted) <= set(nodes):
            return self.all_float
        return tuple(name for name in self.nodes if name in nodes)


class Workbench:
    """Files in `folder`, each named by the search's `key` and by what it keeps: what an earlier run has made is used
    again."""

    def __init__(self, task: SearchTask, folder: Path, key: str) -> None:
        self.task, self._folder, self._key = task, folder, key
        self.route, self.nth = "", 0

    def by(self, route: str, nth: int = 0) -> Workbench:
        """One that builds by a build route ("": by none) what it judges, and compares with others: the `nth` of
        `REBUILDS` builds, each timed anew, as those that it compares with are then; 0 for one of their own."""
        made = copy.copy(self)
        made.route, made.nth = route, nth
        return made

    def build_knobs(self) -> tuple[Knob, ...]:
        """Of which routes are made where engines are built; none where there is no such thing."""
        return load_backend(self.task.target.backend).build_knobs() if self.task.elsewhere else ()

    @property
    def at_once(self) -> int:
        """How many engines are measured in turn, before any of them counts as done."""
        return 1 if self.task.elsewhere or self.task.objective == "energy" else AT_ONCE

    def graph(self, kept: Kept, method: RangeMethod | None = None) -> Path:
        """The graph that keeps `kept` in float, by the task's `method` or another."""
        task, method = self.task, method or self.task.method
        if kept == task.all_float:
            return task.graph if task.scheme == "ort-cpu" else self._fp16()
        path = self._named("onnx", method, *kept)
        if not path.exists():
            quantize(
                task.graph,
                path,
                precision="int8",
                scheme=task.scheme,
                method=method,
                around=task.around,
                exclude=(*task.patterns, *kept),
                global_pool=task.global_pool,
                ranges=task.ranges,
                dataset=task.images.calibration if method == "auto" else None,
                targets=[task.target] if task.target.kind == "gpu" else None,
                threads=task.threads,
            )
        return path

    def judge(self, kept: Kept, images: ImageSet) -> JudgedLine:
        """Against the float graph, on these images: the engine where one can be built, else the graph."""
        graph, found = self.graph(kept), self._named("json", images, *kept, self.route)
        data, file = self._images(images)
        if graph == self.task.graph:
            return JudgedLine(images=images, kept=kept, n=len(data))
        accuracy = self._validate(self._engine(graph, self.route), self._reference(images, data), found, data, file)
        return JudgedLine(
            images=images,
            kept=kept,
            route=self.route,
            n=accuracy.n_labelled,
            lost=accuracy.top1_lost or 0,
            gained=accuracy.top1_gained or 0,
            int8_share_pct=float(read_sidecar(graph).facts.get("int8_share_pct", 0.0)),
        )

    def compare(self, against: Kept, others: Sequence[Kept], seconds: float) -> dict[Kept, LatencyRatio]:
        """The latency of each of `others` over that of `against`, built by no route: all in turn on one batch, or on a
        device each in turn with that one. The codes of the weights do not matter to it: those of the method "auto" are
        left to what is judged."""
        if self.task.elsewhere:
            return {kept: self._compare_elsewhere(against, kept, seconds) for kept in others}
        with contextlib.ExitStack() as stack:
            stack.enter_context(spin_while_waiting())
            opened = dict(self._open(stack, [against, *others]))
            first = next(iter(opened.values()))
            images = input_for(first, self.task.graph, self.task.batch)
            found = compare_latency(opened, images, warmup_ms=WARMUP_MS, duration_s=seconds)
        return {kept: found[str(k)] for k, kept in enumerate(others, 1)}

    def compare_energy(self, against: Kept, kept: Kept, seconds: float) -> EnergyRatio:
        """The energy of a query of `kept` over that of `against`, built by no route: four runs, forwards and backwards,
        each with the idle power before and after it."""
        first, second = self._two(against, kept)
        theirs, ours, ours_again, theirs_again = (
            require_energy(self._bench(engine, None, seconds)) for engine in (first, second, second, first)
        )
        return energy_ratio((ours, ours_again), (theirs, theirs_again))

    def require_power_sensor(self) -> str:
        """The sensor that tells the energy of the float graph, with its rails; raises `MeasurementError` where none
        does."""
        engine = self._engine(self._timed_graph(self.task.all_float))
        return require_energy(self._bench(engine, None, SENSED_S)).sensor_with_rails

    def require_device(self) -> None:
        """Time the float graph's engine for a moment, where engines are built; raises what that raises, as on a device
        that was lost."""
        if self.task.elsewhere:
            self._bench(self._engine(self._timed_graph(self.task.all_float)), None, MOMENT_S)

    def require_made(self, kept: Kept) -> None:
        """Make the engine whose latency is asked for; raises what its making raises."""
        self._engine(self._timed_graph(kept), self.route)

    def _two(self, against: Kept, kept: Kept) -> tuple[Path, Path]:
        return self._engine(self._timed_graph(against)), self._engine(self._timed_graph(kept), self.route)

    def _compare_elsewhere(self, against: Kept, kept: Kept, seconds: float) -> LatencyRatio:
        first, second = self._two(against, kept)
        found = self._bench(second, first, seconds).measurements[0].ratio
        assert found is not None
        return found

    def _validate(self, engine: Path, reference: Path, output: Path, data: Dataset, file: str) -> Accuracy:
        """In a process of its own, where the engine is native code: that finds the images in `file`."""
        accuracy = engines.validate(
            engine,
            reference,
            output,
            data=data.name,
            dataset=lambda: data,
            images=file,
            threads=self.task.threads,
        )
        output.unlink(missing_ok=True)
        return accuracy

    def _bench(self, engine: Path, versus: Path | None, seconds: float) -> LatencyFile:
        return engines.bench(
            engine,
            versus=versus,
            batch=self.task.batch,
            duration_s=seconds,
            warmup_ms=WARMUP_MS,
            threads=None if self.task.elsewhere else self.task.threads,
        )

    def _build(self, graph: Path, engine: Path, route: str) -> None:
        sizes = BatchSettings(self.task.batch, self.task.batch, max(self.task.batch, BatchSettings.max))
        target, batch = self.task.target.name, None if batch_is_frozen(graph) else sizes
        if not route and not self.nth:
            build(graph, engine, target=target, batch=batch)
            return
        rebuilds = REBUILDS if self.nth else 1
        engines.build(graph, engine, target=target, batch=batch, build_route=route, rebuilds=rebuilds)

    def _open(self, stack: contextlib.ExitStack, several: Sequence[Kept]) -> Iterator[tuple[str, Session]]:
        for k, kept in enumerate(several):
            path = self._engine(self._timed_graph(kept))
            yield str(k), stack.enter_context(open_any(path, threads=self.task.threads))

    def _timed_graph(self, kept: Kept) -> Path:
        path = self._named("onnx", self.task.method, *kept)
        return path if path.exists() else self.graph(kept, "mse" if self.task.method == "auto" else None)

    def _engine(self, graph: Path, route: str = "") -> Path:
        task = self.task
        if not self.task.elsewhere:
            return graph
        anew = ["anew"] if self.nth else []
        first = self._named(f"engine{load_backend(task.target.backend).SUFFIXES[0]}", graph.stem, route, *anew)
        engine = rebuilt_path(first, self.nth) if self.nth else first
        if not engine.exists():
            self._build(graph, first, route)
        return engine

    def _fp16(self) -> Path:
        path = self._named("onnx", "fp16")
        if not path.exists():
            targets = [self.task.target] if self.task.target.kind == "gpu" else None
            quantize(self.task.graph, path, precision="fp16", ranges=self.task.ranges, targets=targets)
        return path

    def _images(self, images: ImageSet) -> tuple[Dataset, str]:
        """The images, and for a device the file in which a process of its own finds them."""
        data = self.task.images.held_out if images == "held-out" else self.task.images.test
        if not self.task.elsewhere:
            return data, ""
        path = self._named("npz", "images", images)
        if not path.exists():
            with atomic_path(path) as temporary:
                if data.image is not None:
                    write_packed(temporary, data, "test", "")
                else:
                    tensors = np.stack([data.tensor(k) for k in range(len(data))])
                    np.savez(temporary, input=tensors, label=np.asarray(data.labels))
        return open_images(sidecar_of(self.task.graph), str(path), "test"), str(path)

    def _reference(self, images: ImageSet, data: Dataset) -> Path:
        path = self._named("npz", images)
        if not path.exists():
            reference(self.task.graph, path, data=data.name, dataset=data, threads=self.task.threads)
        return path

    def _named(self, ending: str, *words: str) -> Path:
        content = "\n".join([self._key, *words])
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.{ending}"


def batch_is_frozen(graph: Path) -> bool:
    """Whether a graph takes one batch alone, by its sidecar; not where it has none."""
    return sidecar_path(graph).exists() and isinstance(read_sidecar(graph).facts.get("batch"), int)
