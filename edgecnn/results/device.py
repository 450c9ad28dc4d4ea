"""What was measured on, as facts that do not move from run to run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Device:
    """A processor with its threads, or a GPU; what a machine does not have stays empty. Memory is in GB (1e9 bytes).

    `cpu_id` is family, model and stepping, `provider` what of ONNX Runtime computes on a GPU.
    `clocks_locked` is known of latencies alone, and not of every machine.
    """

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    cpu: str = ""
    cpu_id: str = ""
    threads: int | None = None
    processes: int | None = None
    gpu_name: str = ""
    compute_capability: str = ""
    memory_gb: float | None = None
    multiprocessors: int | None = None
    board: str = ""
    driver: str = ""
    cuda: str = ""
    power_mode: str = ""
    tensorrt: str = ""
    provider: str = ""
    clocks_locked: bool | None = None

    def __bool__(self) -> bool:
        return self != Device()

    @property
    def key(self) -> str:
        """What latencies may be compared with each other, as a file name: GPU, compute capability, TensorRT
        major.minor, provider, power mode and whether its clocks are locked, or the processor with family, model,
        stepping and threads."""
        tensorrt = ".".join(self.tensorrt.split(".")[:2])
        parts = [
            self.board or self.gpu_name or self.cpu or "unknown",
            f"sm{self.compute_capability}" if self.compute_capability else "",
            f"trt{tensorrt}" if tensorrt else "",
            self.provider,
            self.power_mode,
            "locked" if self.clocks_locked else "",
            self.cpu_id,
            f"{self.threads}threads" if self.threads else "",
        ]
        return re.sub(r"[^a-z0-9.]+", "-", "_".join(p for p in parts if p).lower()).strip("-")

    @property
    def engine_key(self) -> str:
        """Where an engine runs as it was judged: the key without what changes its speed alone (power mode, clocks,
        threads)."""
        return replace(self, power_mode="", clocks_locked=None, threads=None).key

    def __str__(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in vars(self).items() if v not in (None, ""))
