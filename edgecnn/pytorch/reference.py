"""The reference: a checkpoint as the PyTorch model in FP32 in eval mode, behind the Session protocol."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import nn

from edgecnn.artifact import verified_sidecar
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.preprocess import preprocessing_from_json
from edgecnn.pytorch.checkpoint import read_weights
from edgecnn.pytorch.models import build_model
from edgecnn.session import Array, TensorSpec


class Reference:
    """A torch module that satisfies `edgecnn.session.Session`."""

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int], classes: int) -> None:
        self.network = network.eval().requires_grad_(False)
        self.input = TensorSpec("input", (None, *input_shape), "float32")
        self.output = TensorSpec("logits", (None, classes), "float32")

    def run(self, batch: Array) -> Array:
        """Logits [N, classes]; raises `BackendError` for a batch of another shape."""
        if batch.shape[1:] != self.input.shape[1:]:
            raise BackendError(
                f"the reference takes [N, {', '.join(map(str, self.input.shape[1:]))}], not {list(batch.shape)}",
                "use the preprocessing in its sidecar",
            )
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(np.ascontiguousarray(batch, np.float32)))
        result: Array = logits.numpy().copy()
        return result

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.network


def open_reference(checkpoint: Path, threads: int | None = None) -> Reference:
    """The network in a checkpoint that this package wrote, on the CPU; raises `ArtifactError` when it is not one."""
    sidecar = verified_sidecar(checkpoint)
    if sidecar.kind != "checkpoint" or "model" not in sidecar.facts or sidecar.preprocessing is None:
        raise ArtifactError(f"{checkpoint}: not a checkpoint but {sidecar.kind}", "name a model.safetensors")
    if threads is not None:
        torch.set_num_threads(threads)
    network = build_model(sidecar.facts["model"], sidecar.facts["classes"])
    try:
        network.load_state_dict(read_weights(checkpoint))
    except RuntimeError as exc:
        raise ArtifactError(
            f"{checkpoint}: does not fit {sidecar.facts['model']}: {exc}", "train again with this version"
        ) from exc
    return Reference(network, preprocessing_from_json(sidecar.preprocessing).input_shape, sidecar.facts["classes"])
