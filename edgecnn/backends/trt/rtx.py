"""What TensorRT-RTX alone has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecnn.backends.trt.library import Message, failure
from edgecnn.errors import BackendError
from edgecnn.targets import version_tuple


def set_compute_capabilities(trt: Any, config: Any, capabilities: Sequence[str], messages: Sequence[Message]) -> None:
    """Build for these GPUs and no others ("7.5", "8.9"); raises `BackendError` for one that is unknown or refused."""
    known = {
        _capability_of(name): value for name, value in trt.ComputeCapability.__members__.items() if name[2:].isdigit()
    }
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        hint = f"it builds for {', '.join(sorted(known, key=version_tuple))}"
        if capability not in known:
            raise BackendError(f"TensorRT-RTX {trt.__version__} knows no compute capability {capability}", hint)
        if not config.set_compute_capability(known[capability], index):
            raise failure(f"TensorRT-RTX refuses compute capability {capability}", messages, hint)


def _capability_of(name: str) -> str:
    """ "8.6" of "SM86"."""
    return f"{name[2:-1]}.{name[-1]}"
