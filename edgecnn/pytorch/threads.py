"""PyTorch's threads, which are a setting of the whole process: changed for a block, and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from edgecnn.machine.threads import allowed_threads


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """PyTorch with so many threads within the block; None: those allowed here, but no more than the environment
    (OMP_NUM_THREADS) or the caller gave it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count_torch_threads(threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def count_torch_threads(threads: int | None) -> int:
    """How many `torch_threads` gives."""
    return threads or min(torch.get_num_threads(), allowed_threads())
