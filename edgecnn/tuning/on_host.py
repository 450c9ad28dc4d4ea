"""The graphs of a search on another machine: made here, built, judged and timed there over ssh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecnn.data.dataset import Dataset
from edgecnn.errors import BackendError, RefusedError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.records import record_from_mapping
from edgecnn.remote.command import Argument, Output, Source, command_on
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.build_routes import BuildRoutes, Knob
from edgecnn.results.latency import LatencyFile
from edgecnn.tuning.workbench import REBUILDS, WARMUP_MS, Workbench, batch_is_frozen

AGAIN = "bring the edgecnn of that machine up to this one: edgecnn remote setup HOST"


class HostWorkbench(Workbench):
    """Each step is the command of that name on the task's `host`, to which files go once. Raises `RemoteError` where it
    is lost, or where it refuses a graph built by no route: which of both is in the words of that machine."""

    def build_knobs(self) -> tuple[Knob, ...]:
        found = self._run("routes", f"--target={self.task.target.name}")
        listed: BuildRoutes = record_from_mapping(BuildRoutes, found, f"{self.task.host}: its answer", AGAIN)
        return listed.knobs

    def _build(self, graph: Path, engine: Path, route: str) -> None:
        batch = self.task.batch
        sizes = [] if batch_is_frozen(graph) else [f"--profile={batch}:{batch}:{max(batch, BatchSettings.max)}"]
        by = [f"--build-route={route}"] if route else []
        by += [f"--rebuilds={REBUILDS}"] if self.nth else []
        self._run("build", f"--target={self.task.target.name}", *sizes, *by, Output(engine, "--output"), Source(graph))

    def _validate(self, engine: Path, reference: Path, output: Path, data: Dataset, file: str) -> Accuracy:
        found = self._run("validate", Source(reference, "--reference"), Source(Path(file), "--data"), Source(engine))
        return record_from_mapping(Accuracy, found, f"{self.task.host}: its answer", AGAIN)

    def _bench(self, engine: Path, versus: Path | None, seconds: float) -> LatencyFile:
        numbers = [f"--batch={self.task.batch}", f"--duration={seconds:g}", f"--warmup={WARMUP_MS:g}"]
        compared = [] if versus is None else [Source(versus, "--vs")]
        found = self._run("bench", *numbers, Source(engine, "--engine"), *compared)
        return record_from_mapping(LatencyFile, found, f"{self.task.host}: its answer", AGAIN)

    def _run(self, *arguments: Argument) -> Any:
        (lane,) = command_on([self.task.host], arguments, as_json=True)
        if self.route and isinstance(lane.error, RefusedError):  # a build route that fails there ends no search
            raise BackendError(lane.error.message, lane.error.hint)
        if lane.error is not None:
            raise lane.error
        assert lane.found is not None
        return lane.found.result
