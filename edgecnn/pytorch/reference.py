"""The reference: a checkpoint as the PyTorch model in FP32 in eval mode, behind the Session protocol."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgecnn.artifact.sidecar import Sidecar, verified_sidecar
from edgecnn.contract import EMBEDDING, OUTPUT
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.pytorch.checkpoint import read_weights
from edgecnn.pytorch.embedding import EmbeddingNetwork
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.own import build_again, in_nchw
from edgecnn.pytorch.threads import count_torch_threads, torch_threads
from edgecnn.session import Array, Session, SessionInfo, TensorSpec, Timing
from edgecnn.zoo import ModelCard

if TYPE_CHECKING:
    from typing_extensions import Self


class Reference(Session):
    """A torch module in FP32, on the CPU; `threads` as `torch_threads` takes them, from entering it to leaving it."""

    SYNC = SessionInfo.sync

    def __init__(
        self, network: nn.Module, input_shape: tuple[int, int, int], classes: int, threads: int | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        output = EMBEDDING if isinstance(network, EmbeddingNetwork) else OUTPUT
        self._threads = torch_threads(threads)
        self._info = SessionInfo(
            inputs=(TensorSpec("input", (None, *input_shape), "float32"),),
            outputs=(TensorSpec(output, (None, classes), "float32"),),
            sync=self.SYNC,
            threads=count_torch_threads(threads),
        )

    @property
    def info(self) -> SessionInfo:
        """An `input` NCHW and `logits` [N, classes], or an `embedding` [N, D]."""
        return self._info

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """`logits`; raises `BackendError` for another input, or for a batch of another shape."""
        self._info.require_inputs(inputs)
        return {self.output.name: self._logits(inputs[self.input.name])}

    def _logits(self, batch: Array) -> Array:
        self._check(batch)
        try:
            with torch.inference_mode():
                logits = self.network(torch.from_numpy(np.ascontiguousarray(batch, np.float32)))
        except (Exception, SystemExit) as exc:  # a network of one's own raises what it likes
            said = next(iter(str(exc).strip().splitlines()), "")[:200]
            raise BackendError(
                f"the reference raised {type(exc).__name__} at batch {len(batch)}: {said}", "it must take every batch"
            ) from exc
        result: Array = logits.numpy().copy()
        return result

    def _check(self, batch: Array) -> None:
        if batch.shape[1:] != self.input.shape[1:]:
            raise BackendError(
                f"the reference takes [N, {', '.join(map(str, self.input.shape[1:]))}], not {list(batch.shape)}",
                "use the preprocessing in its sidecar",
            )

    def __enter__(self) -> Self:
        self._threads.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.__exit__(None, None, None)
        del self.network


class CudaReference(Reference):
    """The same on a GPU, in FP32 without TF32; timed by CUDA events as an engine is, from and to pinned memory."""

    SYNC = "the host waits for the last event"

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int], classes: int) -> None:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        super().__init__(network.to("cuda"), input_shape, classes)
        gpu: Any = torch.cuda.get_device_properties(torch.cuda.current_device())  # its PCI fields are untyped
        bus = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"
        self._info = replace(self._info, pci_bus_id=bus, threads=0)

    def _logits(self, batch: Array) -> Array:
        return self._query(batch)[0]

    def timed(self, batch: Array) -> Timing:
        """H2D, compute and D2H in milliseconds."""
        return self._query(batch)[1]

    def _query(self, batch: Array) -> tuple[Array, Timing]:
        self._check(batch)
        host = torch.from_numpy(np.ascontiguousarray(batch, np.float32)).pin_memory()
        make: Any = torch.cuda.Event  # untyped in torch
        events = [make(enable_timing=True) for _ in range(4)]
        with torch.inference_mode():
            events[0].record()
            images = host.to("cuda", non_blocking=True)
            events[1].record()
            logits = self.network(images)
            events[2].record()
            back = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True).copy_(logits, non_blocking=True)
            events[3].record()
        events[3].synchronize()
        h2d, compute, d2h = (a.elapsed_time(b) for a, b in itertools.pairwise(events))
        result: Array = back.numpy().copy()
        return result, Timing(h2d, compute, d2h, "cuda events")


def cuda_is_available() -> bool:
    """Whether this PyTorch reaches a GPU."""
    return torch.cuda.is_available()


def why_no_cuda() -> str:
    """Why this PyTorch computes nothing on the GPU: wheels of another architecture say that it is available, and fail
    at every operation. "" where it does."""
    try:
        found = (torch.ones(4, device="cuda") + 1).cpu()
    except (RuntimeError, AssertionError) as exc:
        return " ".join(str(exc).split())[:300]
    return "" if bool((found == 2).all()) else "an addition on the GPU gave a wrong result"


def open_cuda_reference(checkpoint: Path, *, trust_code: bool = False) -> CudaReference:
    """The network in a checkpoint, on the GPU; raises `ArtifactError` as `open_reference` does."""
    return CudaReference(*_network_of(checkpoint, trust_code))


def open_reference(checkpoint: Path, threads: int | None = None, *, trust_code: bool = False) -> Reference:
    """The network in a checkpoint that this package wrote, on the CPU; raises `ArtifactError` when it is not one, and
    without `trust_code` for a network that is made by a user's code. PyTorch has `threads` while the session is
    open."""
    return Reference(*_network_of(checkpoint, trust_code), threads)


def open_module(network: nn.Module, card: ModelCard, threads: int | None = None) -> Reference:
    """A network with its weights, on the CPU; PyTorch has `threads` while the session is open."""
    return Reference(network, card.input_shape, card.classes, threads)


def _network_of(checkpoint: Path, trust_code: bool) -> tuple[nn.Module, tuple[int, int, int], int]:
    sidecar = verified_sidecar(checkpoint)
    if sidecar.kind != "checkpoint" or "model" not in sidecar.facts or sidecar.preprocessing is None:
        raise ArtifactError(f"{checkpoint}: not a checkpoint but {sidecar.kind}", "name a model.safetensors")
    if "origin" in sidecar.facts:
        network = build_again(checkpoint, sidecar, trust_code=trust_code)
    else:
        network = build_model(sidecar.facts["model"], _outputs_of(sidecar))
    try:
        network.load_state_dict(read_weights(checkpoint))
    except RuntimeError as exc:
        raise ArtifactError(
            f"{checkpoint}: does not fit {sidecar.facts['model']}: {exc}", "train again with this version"
        ) from exc
    network = in_nchw(network, sidecar.facts.get("layout"))
    if sidecar.embeds:
        network = EmbeddingNetwork(network)
    return network, preprocessing_from_json(sidecar.preprocessing).input_shape, _outputs_of(sidecar)


def _outputs_of(sidecar: Sidecar) -> int:
    found: int = sidecar.facts["features"][EMBEDDING][0] if sidecar.embeds else sidecar.facts["classes"]
    return found
