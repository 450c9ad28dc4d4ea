"""The processes of one job: alone, or as torchrun starts them (torch.distributed; gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from edgecnn.errors import EdgecnnError, TrainingError
from edgecnn.machine.cpu import cpu_name
from edgecnn.results.device import Device

TIMEOUT = datetime.timedelta(minutes=10)  # of a peer that hangs; one that died is noticed at once

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the job, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Only one process writes files and prints."""
        return self.rank == 0

    def facts(self) -> Device:
        """What the job computes on: the GPU of this process, or the processor, with the threads of each process."""
        on_gpu = self.device.type == "cuda"
        return Device(
            cpu="" if on_gpu else cpu_name(),
            gpu_name=torch.cuda.get_device_name(self.device) if on_gpu else "",
            threads=torch.get_num_threads(),
            processes=self.size,
        )

    def shard(self, items: Any) -> Any:
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

    def all_reduce(self, values: Tensor) -> Tensor:
        """`values` summed over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the tensors of rank 0, such as BN statistics."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def on_all_ranks(self, what: str, action: Callable[[], Result]) -> Result:
        """`action` on every rank; where it fails on one, all ranks raise, each with what happened where."""
        try:
            result, error = action(), None
        except EdgecnnError as exc:
            result, error = None, exc
        messages = self.all_gather(error.message if error else None)
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise TrainingError(f"rank {rank} could not {what}: {message}", "every rank needs what rank 0 has")
        assert result is not None
        return result

    def on_first_rank(self, what: str, action: Callable[[], Result]) -> Result:
        """What `action` gives on rank 0, on every rank; its error is everybody's."""
        if self.size == 1:
            return action()
        found: list[Any] = self.on_all_ranks(what, lambda: [action()] if self.writes else [None])
        distributed.broadcast_object_list(found, 0)
        result: Result = found[0]
        return result

    def check_agreement(self, what: str, value: Mapping[str, object]) -> None:
        """Raises `TrainingError` naming the first rank and key whose value is not that of rank 0."""
        everyone: list[Mapping[str, object]] = self.all_gather(value)
        for rank, other in enumerate(everyone):
            for key in sorted(everyone[0].keys() | other.keys()):
                if everyone[0].get(key) != other.get(key):
                    raise TrainingError(
                        f"{what} differs between ranks: {key} is {other.get(key)!r} on rank {rank}, "
                        f"{everyone[0].get(key)!r} on rank 0",
                        "start every rank with the same command, recipe and data",
                    )


def rank_from_environment() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine) as torchrun's environment says, else those of one process.

    Raises `TrainingError` where the environment contradicts itself.
    """
    said = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if (said["WORLD_SIZE"] or "1") == "1":
        return 0, 1, 0
    numbers = [text if text is None or not text.isdecimal() else int(text) for text in said.values()]
    rank, size, local = numbers[0], numbers[1], 0 if numbers[2] is None else numbers[2]
    if not (isinstance(rank, int) and isinstance(size, int) and isinstance(local, int) and rank < size):
        shown = ", ".join(f"{name} is {'not set' if text is None else repr(text)}" for name, text in said.items())
        raise TrainingError(
            f"the environment names no process of a job: {shown}", "start the job with torchrun, or unset WORLD_SIZE"
        )
    return rank, size, local


def join_process_group_on_cpu() -> contextlib.AbstractContextManager[ProcessGroup]:
    """`join_process_group` for work on processors alone, keeping the connection."""
    return join_process_group(lambda local: torch.device("cpu"), keep=True)


@contextlib.contextmanager
def join_process_group(device: Callable[[int], torch.device], *, keep: bool = False) -> Iterator[ProcessGroup]:
    """This process's place in its job: what torchrun's environment says, else alone.

    `device(local_rank)` chooses the device; with `keep` the connection stays, to be used again. Raises `TrainingError`
    when the others cannot be reached, and for a process that died while this one waited for it.
    """
    rank, size, local = rank_from_environment()
    if size == 1:
        yield ProcessGroup(0, 1, device(0))
        return
    here = device(local)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if here.type == "cuda" else "gloo", timeout=TIMEOUT)
            atexit.register(_leave)  # gloo's threads, if still there, abort the process at its end
    except (RuntimeError, ValueError) as exc:
        raise TrainingError(
            f"rank {rank} of {size} cannot join the job at {where}: {str(exc).splitlines()[0]}",
            "another job may hold the port: give torchrun another --master-port; check the address and the firewall",
        ) from exc
    try:
        yield ProcessGroup(rank, size, here)
    except RuntimeError as exc:
        if not _is_lost_peer(exc):
            raise
        raise TrainingError(
            f"rank {rank} of {size}: another process of the job ended: {str(exc).splitlines()[0][:200]}",
            "its own error stands above; go on from the last completed epoch with --resume",
        ) from exc
    finally:
        if not keep:
            _leave()


def _leave() -> None:
    """Close the connection, where there is one."""
    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


def _is_lost_peer(exc: RuntimeError) -> bool:
    text = str(exc)
    signs = ("Connection closed by peer", "Connection reset", "gloo", "NCCL", "Broken pipe", "Timed out waiting")
    return isinstance(exc, distributed.DistError) or any(sign in text for sign in signs)
