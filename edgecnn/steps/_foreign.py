"""Graphs and engines of other tools, which have no sidecar: what the reference and the file itself tell of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from edgecnn.artifact.sidecar import Sidecar, sidecar_path
from edgecnn.backends import open_engine
from edgecnn.contract import ServingContract
from edgecnn.recipe.schema import OrtProvider
from edgecnn.session import Array, Session, SessionInfo, TensorSpec
from edgecnn.steps._provenance import sidecar_of


def is_foreign(path: Path) -> bool:
    """Whether a file that is there has no sidecar."""
    return path.is_file() and not sidecar_path(path).exists()


def sidecar_beside(engine: Path, reference: Path) -> Sidecar:
    """The sidecar of `engine`; of a foreign one preprocessing, labels and wnids of `reference`, and whether it gives
    logits or probabilities. Raises `ArtifactError` where one of the two is missing, `GraphError` for a sigmoid for each
    of several classes."""
    own = sidecar_of(engine)
    if not is_foreign(engine):
        return own
    known = sidecar_of(reference)
    facts = ServingContract(output="probabilities").facts if _gives_probabilities(engine) else {}
    return dataclasses.replace(
        own, preprocessing=known.preprocessing, labels=known.labels, wnids=known.wnids, facts=facts
    )


def open_compared(
    path: Path, threads: int | None = None, trust: bool = False, *, provider: OrtProvider | None = None
) -> Session:
    """A session of `path`; a foreign one is given NCHW whatever its layout, and its output is one row an image."""
    session = open_engine(path, threads, trust, provider=provider)
    return ForeignSession(session) if is_foreign(path) else session


class ForeignSession(Session):
    """A session that is given images [N, C, H, W] and gives [N, classes]: it turns them to NHWC where the input's
    shape has the channels last, and takes axes of size 1 off the output."""

    def __init__(self, session: Session) -> None:
        self._session = session
        shape = session.input.shape
        self._channels_last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)

    @property
    def info(self) -> SessionInfo:
        """That of the session, in this layout."""
        found = self._session.info
        return dataclasses.replace(found, inputs=tuple(self._turned(spec) for spec in found.inputs))

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name."""
        if self._channels_last:
            inputs = {name: np.ascontiguousarray(batch.transpose(0, 2, 3, 1)) for name, batch in inputs.items()}
        return {name: _flat(rows) for name, rows in self._session.run_all(inputs).items()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def _turned(self, spec: TensorSpec) -> TensorSpec:
        if not self._channels_last:
            return spec
        batch, height, width, channels = spec.shape
        return dataclasses.replace(spec, shape=(batch, channels, height, width))


def _flat(rows: Array) -> Array:
    return rows.reshape(rows.shape[:2]) if rows.ndim > 2 and set(rows.shape[2:]) == {1} else rows


def _gives_probabilities(path: Path) -> bool:
    if path.suffix != ".onnx" or importlib.util.find_spec("onnx") is None:
        return False
    from edgecnn.graph.decision import ends_in_probabilities, final_sigmoid
    from edgecnn.graph.load import load_structure

    model = load_structure(path)
    if not ends_in_probabilities(model):
        return False
    dims = model.graph.output[0].type.tensor_type.shape.dim
    final_sigmoid(model, str(path), len(dims) > 1 and dims[1].dim_value != 1)
    return True
