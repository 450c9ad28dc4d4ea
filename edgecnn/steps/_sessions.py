"""Sessions of whatever a step may be given: an engine, a graph, a checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.backends import backend_for, open_engine, open_with_any_outputs
from edgecnn.backends._graph_facts import scheme_of_graph
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.packages import missing_package
from edgecnn.recipe.schema import OrtProvider
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineInfo
from edgecnn.session import Session
from edgecnn.steps._arguments import load_torch

CHECKPOINT, GRAPH = ".safetensors", ".onnx"
VALIDATION_BATCH = 64


def open_any(
    path: Path,
    threads: int | None = None,
    trust: bool = False,
    *,
    trust_code: bool = False,
    provider: OrtProvider | None = None,
) -> Session:
    """A session of an engine, a graph (by the `provider`) or a checkpoint; raises the errors of each."""
    if path.suffix == CHECKPOINT:
        if provider is not None:
            raise BackendError(
                f"{path}: --provider {provider} is ONNX Runtime's, and a checkpoint is PyTorch's",
                "export it: the graph can be run by each provider",
            )
        return open_checkpoint(path, threads, trust_code=trust_code)
    opening = open_with_any_outputs if gives_embedding(path) else open_engine
    return opening(path, threads, trust, provider=provider)


def gives_embedding(path: Path) -> bool:
    """Whether an engine, a graph or a checkpoint is of an embedding network, by its sidecar."""
    return sidecar_path(path).exists() and read_sidecar(path).embeds


def device_of_session(session: Session) -> Device | None:
    """This processor with the threads of a session's queries, as it stands in a sidecar; None for another device."""
    return cpu_device(session.info.threads) if session.info.threads else None


def open_reference_source(source: Path, threads: int | None, *, trust_code: bool = False) -> Session:
    """A session of what `--reference` may name: a checkpoint or a graph; raises `ArtifactError` for another file."""
    if source.suffix == GRAPH:
        return open_engine(source, threads)
    if source.suffix == CHECKPOINT:
        return open_checkpoint(source, threads, trust_code=trust_code)
    raise ArtifactError(f"{source}: not a checkpoint or a graph", "name a .safetensors or an .onnx file")


def open_checkpoint(source: Path, threads: int | None, *, trust_code: bool = False) -> Session:
    """The network of a checkpoint in PyTorch, on the CPU."""
    require_named(source)
    if importlib.util.find_spec("torch") is None:
        raise missing_package("torch", "running a checkpoint", "cpu")
    load_torch()
    from edgecnn.pytorch.reference import open_reference

    return open_reference(source, threads, trust_code=trust_code)


def require_named(source: Path) -> None:
    """Raise `ArtifactError` for weights that do not say which network they are of."""
    if source.suffix == CHECKPOINT and source.is_file() and not sidecar_path(source).exists():
        raise ArtifactError(
            f"{source}: weights without a sidecar {source.name}.json do not say which network they are of",
            f"`edgecnn export NETWORK --checkpoint {source.name}` makes a graph that can be the reference",
        )


def engine_info(path: Path, sidecar: Sidecar, provider: OrtProvider | None = None) -> EngineInfo:
    """What `path` is when it is run here: an engine as its sidecar says, a graph under the backend that takes it, or
    that of the `provider`."""
    known = sidecar.engine
    if known.backend or path.suffix == CHECKPOINT:
        return known
    backend = backend_for(path, provider)
    return dataclasses.replace(
        known,
        role="graph",
        backend=backend.NAME,
        provider=backend.PROVIDER,
        precision_requested=known.precision_requested or backend.precision_of(path),
        scheme=known.scheme if sidecar.sha256 or path.suffix != GRAPH else scheme_of_graph(path),
        target=backend.DEFAULT_TARGET,
    )


def batch_of(session: Session, sidecar: Sidecar, wanted: int | None) -> int:
    """The batch to run: the frozen one, the one that is wanted, or the largest that is served, up to 64."""
    frozen = session.input.shape[0]
    if frozen is not None:
        return frozen
    served = [p["max"][0] for p in sidecar.facts.get("profiles") or []] or [most for _, most in session.info.batches]
    return wanted or min(VALIDATION_BATCH, max(served, default=VALIDATION_BATCH))
