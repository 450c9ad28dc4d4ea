"""`pynvml`, the module of nvidia-ml-py, for one GPU."""

from __future__ import annotations

from typing import Any

HERE = "0000:41:00.0"


class FakeNvml:
    """`pynvml` of one GPU: its functions raise what they do not support."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, reasons: int = 0, mhz: int = 1410, unsupported: tuple[str, ...] = ()) -> None:
        self.reasons, self.mhz, self.unsupported = reasons, mhz, unsupported

    def _supported(self, name: str) -> None:
        if name in self.unsupported:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:  # noqa: N802
        self._supported("init")

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:  # noqa: N802, N803
        if pciBusId != HERE:
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:  # noqa: N802
        assert handle == "handle"
        self._supported("clock")
        return {1: self.mhz, 2: 877}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, type: int) -> int:  # noqa: N802
        return {1: 1980, 2: 877}[type]

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        self._supported("temperature")
        return 61

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        self._supported("energy")
        return 8_123_456

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        self._supported("power")
        return 71_250

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:  # noqa: N802
        self._supported("event")
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:  # noqa: N802
        self._supported("throttle")
        return self.reasons
