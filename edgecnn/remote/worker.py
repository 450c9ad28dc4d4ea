"""A process that runs steps for another one: requests by standard input, answers by standard output, a line of JSON
each. Whatever else is printed goes to standard error. It ends with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.backends import load_backend
from edgecnn.data.dataset import Dataset
from edgecnn.errors import EdgecnnError
from edgecnn.graph.decision import decision_threshold
from edgecnn.measure.latency import query_of
from edgecnn.measure.predict import write_predictions
from edgecnn.recipe.schema import BatchSettings, BenchSettings
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.steps import bench as latency
from edgecnn.steps._images import Progress, open_images
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import batch_of, open_any
from edgecnn.steps._shared import predict_shared
from edgecnn.steps.build import rebuild
from edgecnn.steps.end_to_end import EndToEndSettings, bench_end_to_end
from edgecnn.steps.engine_bisect import bisect_engine
from edgecnn.steps.validate import validate
from edgecnn.steps.verification import validate_verification

BUG = 101
PR_SET_PDEATHSIG = 1  # prctl(2)


class Worker:
    """What can be asked of the process: each public method by its name, with its arguments as JSON has them."""

    def __init__(self, progress: Progress, held: contextlib.ExitStack) -> None:
        self._progress, self._held = progress, held
        self._query: Callable[[], Any] | None = None

    def facts(self, backend: str, threads: int | None = None) -> Mapping[str, Any]:
        """Versions of the runtime and of Python, and the device; raises the errors of the backend."""
        module = load_backend(backend)
        tools, device = module.tools(), module.device(threads)
        return {"python": sys.version.split()[0], "tools": tools, "device": to_plain(device)}

    def build(self, graph: str, output: str, batch: Mapping[str, Any] | None, **settings: Any) -> str:
        """`steps.rebuild`; the first of them."""
        sizes = None if batch is None else _record(BatchSettings, batch)
        return str(rebuild(graph, output, batch=sizes, **{"rebuilds": 1, **settings})[0])

    def validate(self, engine: str, images: str = "", **settings: Any) -> Mapping[str, Any]:
        """`steps.validate`; `images` are opened in place of what `data` names."""
        chosen = _images(engine, images) if images else None
        return _plain(validate(engine, dataset=chosen, progress=self._progress, **settings))

    def validate_verification(self, engine: str, reference: str, **settings: Any) -> Mapping[str, Any]:
        """`steps.validate_verification`."""
        return _plain(validate_verification(Path(engine), Path(reference), progress=self._progress, **settings))

    def bisect_engine(self, engine: str, **settings: Any) -> Mapping[str, Any]:
        """`steps.bisect_engine`."""
        return _plain(bisect_engine(engine, **settings))

    def bench(self, engine: str, **settings: Any) -> Mapping[str, Any]:
        """`steps.bench`."""
        return _plain(latency.bench(engine, progress=self._progress, **settings))

    def bench_end_to_end(self, engine: str, settings: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
        """`steps.bench_end_to_end`."""
        return _plain(bench_end_to_end(engine, settings=EndToEndSettings(**settings), **more))

    def bench_all(
        self,
        engines: Mapping[str, str],
        output: str,
        checkpoint: str,
        settings: Mapping[str, Any],
        device: Mapping[str, Any] | None,
        **more: Any,
    ) -> Mapping[str, Any]:
        """`steps.bench_all`."""
        found = latency.bench_all(
            {name: Path(path) for name, path in engines.items()},
            Path(output),
            checkpoint=Path(checkpoint),
            settings=_record(BenchSettings, settings),
            device=None if device is None else _record(Device, device),
            progress=self._progress,
            **more,
        )
        return _plain(found)

    def predict(self, engine: str, output: str, images: str, batch: int, threads: int | None = None) -> None:
        """Write an engine's predictions on images."""
        path, sidecar = Path(engine), sidecar_of(Path(engine))
        with open_any(path, threads) as session:
            found = predict_shared(
                session,
                _images(engine, images),
                batch=batch_of(session, sidecar, batch),
                progress=self._progress,
                threshold=decision_threshold(path, sidecar, session.output),
                contract=sidecar.contract,
            )
        write_predictions(Path(output), found, Sidecar(kind="predictions", made_by="edgecnn qualify"))

    def open(self, engine: str, batch: int, threads: int | None = None) -> Mapping[str, Any]:
        """Open an engine to be timed, in place of the one before, on the input that `bench` gives it; tells the PCI bus
        id of the GPU that computes, "" on a CPU."""
        self.close()
        session = self._held.enter_context(open_any(Path(engine), threads))
        own = latency.input_for(session, Path(engine), batch)
        one = query_of(session)
        self._query = lambda: one(own)
        return {"pci_bus_id": session.info.pci_bus_id}

    def close(self) -> None:
        """Close the engine that is timed."""
        self._query = None
        self._held.close()

    def query(self) -> Mapping[str, Any]:
        """One query of the open engine, timed here."""
        assert self._query is not None
        return dict(vars(self._query()))


def main() -> int:
    """Answer requests until there are no more."""
    _end_with_parent()
    faulthandler.enable()
    sys.excepthook = _end_as_bug
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def send(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    send(ready=True)
    with contextlib.ExitStack() as held:
        worker = Worker(lambda done, total: send(progress=[done, total]), held)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                send(result=getattr(worker, request["call"])(**request["arguments"]))
            except EdgecnnError as exc:
                send(error={"kind": type(exc).__name__, "message": exc.message, "hint": exc.hint})
            except KeyboardInterrupt:
                return 130
    return 0


def _images(engine: str, images: str) -> Dataset:
    return open_images(read_sidecar(Path(engine)), images, "test")


def _record(kind: Any, content: Mapping[str, Any]) -> Any:
    return record_from_mapping(kind, content, kind.__name__, "both processes run the same edgecnn")


def _plain(record: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = to_plain(record)
    return found


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_as_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An exit code that says that it was Python: native code ends with others."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(BUG)
