"""The processes of one job: alone, or as torchrun starts them (torch.distributed; gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

TIMEOUT = datetime.timedelta(seconds=25)  # a peer that died is noticed by then


@dataclass(frozen=True)
class World:
    """This process among those of the job, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Only one process writes files and prints."""
        return self.rank == 0

    def share(self, items: Any) -> Any:
        """This rank's contiguous part of a sequence; the parts differ by at most one item."""
        start, stop = (len(items) * r // self.size for r in (self.rank, self.rank + 1))
        return items[start:stop]

    def parallel(self, body: nn.Module) -> nn.Module:
        """`body` with its gradients averaged over all processes."""
        if self.size == 1:
            return body
        return nn.parallel.DistributedDataParallel(
            body, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values
