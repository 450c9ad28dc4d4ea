"""The first layer at which an engine parts from its graph: it makes builds to look into, and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.backends import Backend, backend_for, open_engine
from edgecnn.data.dataset import spread
from edgecnn.diagnose.engine_bisect import Blamed, Looked, blame_by_debug_tensors, blame_by_outputs
from edgecnn.diagnose.graph_tensors import GraphTensors
from edgecnn.errors import ArtifactError, BackendError, MeasurementError
from edgecnn.machine.packages import missing_package
from edgecnn.output import say
from edgecnn.recipe.schema import OrtProvider
from edgecnn.results.divergence import Cause, EngineDivergence, Method, TensorDifference
from edgecnn.session import Array
from edgecnn.steps._arguments import FilePath, require_at_least
from edgecnn.steps._images import open_images
from edgecnn.steps._provenance import sidecar_of
from edgecnn.steps._sessions import GRAPH

BISECT_IMAGES = 8


def bisect_engine(
    engine: FilePath,
    *,
    data: str,
    threads: int | None = None,
    provider: OrtProvider | None = None,
    trust: bool = False,
) -> EngineDivergence:
    """The first layer of `engine` that differs from the graph beside it that it was built from, beyond the noise of
    rounding, on up to 8 images of `data`; a graph that is no engine yet is compared with itself, as its runtime (the
    `provider`) optimizes it.

    Where the runtime has debug tensors one build tells all that its layers leave unfused; else, and where it names them
    in its own way, each build has one tensor as a further output, chosen so that half of the suspects are cleared. What
    is made is not kept: after a kill it begins anew, with the timings of kernels that TensorRT has kept. Raises
    `ArtifactError` where the graph is not there or another than the engine's, `MeasurementError` for an engine whose
    output is not logits, and the errors of a build.
    """
    require_at_least(1, threads=threads)
    path = Path(engine)
    graph, sidecar = _graph_of(path)
    backend = backend_for(path, provider)
    if sidecar.contract.output != "logits":
        raise MeasurementError(
            f"{path}: gives {sidecar.contract.output}, and layers are compared on the way to logits",
            "compare the same recipe's engine exported with --output logits",
        )
    try:
        tensors = GraphTensors(graph)
    except ModuleNotFoundError as exc:
        raise missing_package("onnx", "looking into a graph", "light") from exc
    with open_engine(path, threads, trust, provider=provider) as session:
        batches = _batches(sidecar, data, session.input.shape[0] or session.info.fitting_batch(1))
        given = [session.run(batch) for batch in batches]
    tensors.measure(batches)
    look = _Builds(backend, path, graph, threads, tensors, batches)
    own = look.compare({tensors.output: given})[tensors.output]
    if not own.differs:
        return _result(look, own, Blamed("", ()), "none")
    method: Method = "debug-tensors"
    seen = look(None)
    blamed = None if seen is None else blame_by_debug_tensors(tensors.suspects, tensors.output, seen)
    if blamed is None:
        say("the engine's inner tensors are not told by the graph's names: they are made outputs, one in each build")
        blamed, method = blame_by_outputs(tensors.suspects, tensors.output, look.with_output), "extra-outputs"
    return _result(look, own, blamed, method)


class _Builds:
    """Builds like `engine` in which tensors are seen, compared with the graph's; it counts them."""

    def __init__(
        self,
        backend: Backend,
        engine: Path,
        graph: Path,
        threads: int | None,
        tensors: GraphTensors,
        batches: Sequence[Array],
    ) -> None:
        self.backend, self.engine, self.graph = backend, engine, graph
        self.tensors, self.batches = tensors, batches
        self._threads = threads
        self.made, self.unknown = 0, set[str]()
        self.seen: list[TensorDifference] = []

    def __call__(self, names: Sequence[str] | None) -> Looked | None:
        """One build that gives `names`, or with None all its debug tensors; None where there is no such build."""
        session = self.backend.build_watched(self.engine, self.graph, names, self._threads)
        if session is None:
            return None
        self.made += 1
        with session:
            runs = [session.run_all({session.input.name: batch}) for batch in self.batches]
        found = {name: [run[name] for run in runs] for name in runs[0] if all(name in run for run in runs)}
        return self.compare(found)

    def with_output(self, name: str) -> Looked:
        """One build that gives `name` as a further output."""
        found = self([name])
        if found is None:
            raise BackendError(
                f"{self.engine}: {self.backend.PROVIDER} gives no inner tensors", "report it with its version"
            )
        return found

    def compare(self, found: dict[str, list[Array]]) -> Looked:
        """What was told of each tensor of the graph, batch by batch, in the order of the graph."""
        known = [name for name in self.tensors.names if name in found]
        self.unknown |= found.keys() - set(known)
        wanted = [self.tensors.values(known, batch) for batch in self.batches]
        looked = dict[str, TensorDifference]()
        for name in known:
            pairs = [(theirs, ours[name]) for theirs, ours in zip(found[name], wanted, strict=True)]
            if any(theirs.shape != ours.shape for theirs, ours in pairs):
                self.unknown.add(name)  # laid out in another way
                continue
            looked[name] = self.tensors.difference(self.made, name, pairs)
        self.seen += looked.values()
        return looked


def _result(look: _Builds, own: TensorDifference, blamed: Blamed, method: Method) -> EngineDivergence:
    suspects = {suspect.tensor: suspect for suspect in look.tensors.suspects}
    first = suspects.get(blamed.tensor)
    told = next((d for d in look.seen if d.tensor == blamed.tensor and d.build), own) if first else own
    cause: Cause = "fusion-or-tactic" if blamed.cured else "layer" if first else "none"
    return EngineDivergence(
        engine=look.engine.name,
        graph=look.graph.name,
        backend=look.backend.NAME,
        n=sum(len(batch) for batch in look.batches),
        cause=cause,
        method=method,
        builds=look.made,
        node=first.node if first else "",
        operator=first.operator if first else "",
        nodes=tuple(dict.fromkeys(suspects[name].node for name in blamed.left)),
        tensor=blamed.tensor,
        sqnr_db=told.sqnr_db,
        explained_db=told.explained_db,
        output_sqnr_db=own.sqnr_db,
        output_explained_db=own.explained_db,
        unknown_n=len(look.unknown),
        seen=tuple(look.seen),
    )


def _graph_of(engine: Path) -> tuple[Path, Sidecar]:
    """The graph that an engine was built from, by its sidecar, and that sidecar; raises `ArtifactError`."""
    sidecar = sidecar_of(engine)
    if engine.suffix == GRAPH and sidecar.kind != "engine":
        return engine, sidecar
    if sidecar.kind != "engine":
        raise ArtifactError(
            f"{engine}: not an engine that a graph is known of",
            "name what `edgecnn build` made, with its sidecar, or an .onnx",
        )
    known = {name: digest for name, digest in sidecar.parents.items() if name.endswith(GRAPH)}
    for name, digest in known.items():
        graph = engine.parent / name
        if not graph.is_file():
            continue
        if (found := sha256_of(graph)) != digest:
            raise ArtifactError(
                f"{graph}: is not the graph that {engine.name} was built from: its sha256 is {found[:12]}, of that one "
                f"{digest[:12]}",
                f"copy that graph here, or build this one: edgecnn build {graph.name}",
            )
        return graph, sidecar
    raise ArtifactError(
        f"{engine}: the graph that it was built from is not here: {', '.join(known) or 'its sidecar names none'}",
        "copy the graph to where the sidecar names it",
    )


def _batches(sidecar: Sidecar, data: str, size: int) -> list[Array]:
    """Up to 8 images, `size` at a time; the last ones again where they do not fill a batch."""
    dataset = open_images(sidecar, data, "test")
    chosen = dataset.subset(spread(dataset, max(BISECT_IMAGES, size))).in_form(sidecar.contract.input)
    count = -(-min(len(chosen), max(BISECT_IMAGES, size)) // size) * size
    images = np.stack([chosen.tensor(min(k, len(chosen) - 1)) for k in range(count)])
    return [images[k : k + size] for k in range(0, count, size)]
