"""Clocks by NVIDIA's management library: from a fake of the package nvidia-ml-py, and by the names of the real one."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

import pytest

from edgecnn.machine import gpu
from edgecnn.machine.clocks import clock_warnings, find_throttling, read_clocks
from edgecnn.machine.gpu import open_nvml
from tests.backends.conftest import unpacked
from tests.fakes.nvml import HERE, FakeNvml

NVIDIA_ML_PY = "13.615.71"


def test_clocks_of_a_desktop_gpu(tmp_path: Path) -> None:
    found = read_clocks(tmp_path, open_nvml(HERE, FakeNvml(0x4 | 0x40)))
    assert (found.gpu_mhz, found.memory_mhz, found.temperature_c, found.locked) == (1410, 877, 61, None)
    assert found.throttled == ("software power cap", "hardware thermal slowdown")
    assert find_throttling([found]) == ["the GPU was throttled: hardware thermal slowdown, software power cap"]
    assert isinstance(found.gpu_mhz, float)


@pytest.mark.parametrize(
    ("reasons", "mhz", "locked"),
    [
        (0x2, 1410, True),  # by the user's setting
        (0x2 | 0x1, 210, True),
        (0x0, 1410, False),  # below its highest, and nothing limits it
        (0x1, 210, None),  # idle
        (0x4, 1410, None),  # at its power limit, locked or not
        (0x0, 1980, None),  # at its highest, locked there or not
    ],
)
def test_whether_the_clock_is_locked(tmp_path: Path, reasons: int, mhz: int, locked: bool | None) -> None:
    found = read_clocks(tmp_path, open_nvml(HERE, FakeNvml(reasons, mhz)))
    assert found.locked is locked
    said = [w for w in clock_warnings([found]) if "not locked" in w]
    assert bool(said) is (locked is False)


def test_what_a_driver_does_not_support_is_left_out(tmp_path: Path) -> None:
    older = FakeNvml(0x4, unsupported=("event", "temperature"))
    assert read_clocks(tmp_path, open_nvml(HERE, older)).throttled == ("software power cap",)
    nothing = FakeNvml(unsupported=("event", "throttle", "clock", "temperature"))
    found = read_clocks(tmp_path, open_nvml(HERE, nothing))
    assert (found.gpu_mhz, found.temperature_c, found.throttled, found.locked) == (None, None, (), None)


def test_the_gpu_is_found_by_its_place_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's number 0 is the fastest GPU, NVML's the first on the bus."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert open_nvml(HERE, FakeNvml()) is not None
    assert open_nvml("0000:01:00.0", FakeNvml()) is None
    assert open_nvml("", FakeNvml()) is None, "a session on a processor has no GPU to read"
    assert open_nvml(HERE, FakeNvml(unsupported=("init",))) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml(HERE) is None


@pytest.mark.nvidia
def test_the_calls_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unpacked(f"nvidia-ml-py-{NVIDIA_ML_PY}", f"nvidia-ml-py=={NVIDIA_ML_PY}")
    monkeypatch.syspath_prepend(str(folder))
    nvidia_ml_py = importlib.import_module("pynvml")
    used = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(used) == 9
    source = inspect.getsource(gpu)
    for name in used:
        assert name in source
        taken, ours = (inspect.signature(getattr(of, name)).parameters for of in (nvidia_ml_py, FakeNvml()))
        assert list(taken) == list(ours), name
    for name in ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU"):
        assert getattr(nvidia_ml_py, name) == getattr(FakeNvml, name)
    assert nvidia_ml_py.nvmlClocksEventReasonGpuIdle == gpu.IDLE
    assert nvidia_ml_py.nvmlClocksEventReasonApplicationsClocksSetting == gpu.USER_SETTING
    slowing = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert {getattr(nvidia_ml_py, f"nvmlClocksEventReason{name}") for name in slowing} == gpu.THROTTLE_REASONS.keys()
    assert issubclass(nvidia_ml_py.NVMLError, Exception)
    assert isinstance(open_nvml(HERE), gpu.Nvml | None), "with a driver or without, and never an error"
