"""What latencies may be compared: the key of a device, read from a made-up machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgecnn.machine.clocks import read_clocks
from edgecnn.machine.cpu import cpu_clock_locked, cpu_device, cpu_id, cpu_name
from edgecnn.machine.gpu import driver_description
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.device import Device
from edgecnn.results.latency import Clocks
from edgecnn.steps.bench import _at_clocks

X86 = """processor\t: {0}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: {1}
model name\t: Intel(R) Xeon(R) Processor @ 2.60GHz
stepping\t: 8
"""
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x0\nCPU part\t: 0xd42\nCPU revision\t: 1\n"
ORIN = Device(gpu_name="Orin", compute_capability="8.7", tensorrt="10.3.0", power_mode="MAXN")


def machine(root: Path, cpuinfo: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    return root


def test_two_processors_of_one_name_have_two_keys(tmp_path: Path) -> None:
    names, keys = set(), set()
    for model in (106, 143):
        (tmp_path / str(model)).mkdir()
        root = machine(tmp_path / str(model), X86.format(0, model) + "\n" + X86.format(1, 1))
        names.add(cpu_name(root))
        keys.add(Device(cpu=cpu_name(root), cpu_id=cpu_id(root), threads=4).key)
    assert names == {"Intel(R) Xeon(R) Processor @ 2.60GHz"}
    start = "intel-r-xeon-r-processor-2.60ghz"
    assert keys == {f"{start}-6-106-8-4threads", f"{start}-6-143-8-4threads"}


def test_an_arm_processor_and_one_that_tells_nothing(tmp_path: Path) -> None:
    assert cpu_id(machine(tmp_path, ARM)) == "0x41-0xd42-1"
    assert cpu_id(tmp_path / "none") == ""
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel\t\t: 6\n")
    assert cpu_id(tmp_path) == ""


def test_this_machine_s_key_holds_its_threads() -> None:
    assert cpu_device(3).threads == 3
    assert cpu_device(3).key == cpu_device(4).key.replace("4threads", "3threads")
    assert cpu_device(3).cpu_id == cpu_id()


@pytest.mark.parametrize(
    ("told", "locked"),
    [((True, True), True), ((True, False), False), ((None, True), None), ((None, None), None), ((False,), False)],
)
def test_latencies_at_locked_clocks_have_a_key_of_their_own(told: tuple[bool | None, ...], locked: bool | None) -> None:
    rows: Any = [SimpleNamespace(latency=SimpleNamespace(clocks=Clocks(locked=one))) for one in told]
    device = _at_clocks(ORIN, rows)
    assert device == dataclasses.replace(ORIN, clocks_locked=locked)
    assert device.key == "orin-sm8.7-trt10.3-maxn" + ("-locked" if locked else "")


def test_a_processor_s_own_clocks_decide_where_it_is_what_was_measured(tmp_path: Path) -> None:
    """On a board that measures its processor, the GPU's clocks say nothing."""
    assert cpu_clock_locked(tmp_path) is None
    for core, lowest in ((0, 2_600_000), (1, 800_000)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_min_freq").write_text(f"{lowest}\n")
        (folder / "scaling_max_freq").write_text("2600000\n")
    assert read_clocks(tmp_path).cpu_locked is False
    (folder / "scaling_min_freq").write_text("2600000\n")
    clocks = dataclasses.replace(read_clocks(tmp_path), locked=False)
    assert clocks.cpu_locked is True
    rows: Any = [SimpleNamespace(latency=SimpleNamespace(clocks=clocks))]
    assert _at_clocks(Device(cpu="a processor", threads=2), rows).key == "a-processor-locked-2threads"
    assert _at_clocks(ORIN, rows).key == "orin-sm8.7-trt10.3-maxn"


def test_a_device_is_written_sparsely_and_read_without_the_new_fields() -> None:
    old = {"cpu": "a processor", "threads": 2}
    assert to_plain(record_from_mapping(Device, old, "x", "y")) == old
    assert to_plain(dataclasses.replace(ORIN, clocks_locked=False))["clocks_locked"] is False


def test_the_driver_in_its_own_words(tmp_path: Path) -> None:
    assert driver_description(tmp_path) == "none"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\nmore\n")
    assert driver_description(tmp_path) == "R36 (release), REVISION: 4.3"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX 580.95.05\nGCC version: 13\n")
    assert driver_description(tmp_path) == "NVIDIA UNIX 580.95.05"
