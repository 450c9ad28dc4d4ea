"""What an engine is, as data: nothing is read out of a file's or a folder's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgecnn.records import STRICT

Role = Literal["reference", "graph", "engine"]
Scheme = Literal["", "tensorrt", "ort-cpu", "implicit"]
SharesBy = Literal["", "macs", "layers", "untold", "compiled_at_load"]
FREEDOM = (
    "weakly typed: TensorRT chose INT8, FP16 or FP32 for each layer by speed, and may choose otherwise in another "
    "build; `edgecnn layers` lists what it took"
)
CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"  # ONNX Runtime's


@dataclass(frozen=True)
class EngineInfo:
    """Which runtime runs what, for which target.

    `backend` is the module in `backends/` ("" for PyTorch), `provider` the part of it that computes, `scheme` where
    Q/DQ pairs stand ("" without any, "implicit" where TensorRT itself placed INT8), `target` the device by name (""
    where none was asked for).
    """

    __pydantic_config__ = STRICT

    role: Role = "engine"
    backend: str = ""
    provider: str = ""
    precision_requested: str = ""
    precision_obtained: str = ""
    scheme: Scheme = ""
    target: str = ""

    @property
    def simulated(self) -> bool:
        """Whether the numbers are the target's and the time is not: ONNX Runtime computes FP16 on a CPU in FP32 and
        rounds it, and Q/DQ pairs where TensorRT wants them in float; its CUDA provider has no integer convolutions."""
        if self.provider == CPU_PROVIDER:
            return self.scheme == "tensorrt" or self.precision_requested == "fp16"
        return self.provider == CUDA_PROVIDER and self.precision_requested == "int8"

    @property
    def simulation(self) -> str:
        """What is simulated, in words; "" where nothing is."""
        if not self.simulated:
            return ""
        if self.precision_requested == "int8":
            where = "TensorRT's placement" if self.scheme == "tensorrt" else "INT8"
            return f"simulated: the rounding of {where}, exactly, in float arithmetic; its speed says nothing"
        return "simulated: computed in FP32, every FP16 tensor rounded (storage only); its speed says nothing"


@dataclass(frozen=True)
class EngineFacts:
    """Size in MB (1e6 bytes), and what was read back of an engine's precision.

    The shares are per cent of multiply-adds or of Conv and Gemm layers, as `shares_by` says ("untold": the layers do
    not tell their precision; "compiled_at_load": the plan has none before a GPU compiles it, and then one; "": they
    were not read). `integer_kernels` are ONNX Runtime's, of `weighted_nodes`; `cpu_nodes`, of `graph_nodes`, are those
    that its provider for a GPU leaves to the CPU.
    """

    __pydantic_config__ = STRICT
    SPARSE: ClassVar[bool] = True

    size_mb: float | None = None
    shares_by: SharesBy = ""
    int8_share_pct: float | None = None
    fp16_share_pct: float | None = None
    fp32_share_pct: float | None = None
    graph_int8_share_pct: float | None = None
    quantize_layers: int | None = None
    reformat_layers: int | None = None
    integer_kernels: int | None = None
    weighted_nodes: int | None = None
    cpu_nodes: int | None = None
    graph_nodes: int | None = None
