"""Rails from made-up sysfs trees, each laid out as recorded of a board, and a GPU's energy by a fake of nvidia-ml-py.

Layouts: Orin NX (p3767) and AGX Orin (p3701) by the labels of their device trees in Linux (arch/arm64/boot/dts/nvidia/
tegra234-p3767.dtsi and -p3701.dtsi), the sum of shunts by Documentation/hwmon/ina3221.rst; that VIN_SYS_5V0 holds
VDDQ_VDD2_1V8AO: Jetson Linux Developer Guide r36.4.3. Thor (JetPack 7): an INA238 with `label` and `power1_input`
beside an INA3221, as tegrastats and two public readers of its hwmon name them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgecnn.errors import MeasurementError
from edgecnn.machine.power_sensor import open_power_sensor
from tests.fakes.nvml import HERE, FakeNvml

ORIN_NX = {
    "hwmon1": {
        "name": "ina3221",
        "in1_label": "VDD_IN",
        "in1_input": "4912",
        "curr1_input": "1016",
        "in2_label": "VDD_CPU_GPU_CV",
        "in2_input": "4912",
        "curr2_input": "160",
        "in3_label": "VDD_SOC",
        "in3_input": "4920",
        "curr3_input": "288",
        "in4_input": "5080",
        "in5_input": "800",
        "in6_input": "1440",
        "in7_label": "sum of shunt voltages",
        "in7_input": "7",
    },
    "hwmon0": {"name": "pwmfan"},
}
AGX_ORIN = {
    "hwmon3": {
        "name": "ina3221",
        "in1_label": "VDD_GPU_SOC",
        "in1_input": "19000",
        "curr1_input": "200",
        "in2_label": "VDD_CPU_CV",
        "in2_input": "19000",
        "curr2_input": "100",
        "in3_label": "VIN_SYS_5V0",
        "in3_input": "5000",
        "curr3_input": "800",
    },
    "hwmon4": {
        "name": "ina3221",
        "in1_label": "NC",
        "in2_label": "VDDQ_VDD2_1V8AO",
        "in2_input": "5000",
        "curr2_input": "100",
        "in3_label": "NC",
    },
}
THOR = {
    "hwmon2": {"name": "ina238", "label": "VIN", "power1_input": "23000000", "in1_input": "20000"},
    "hwmon5": {
        "name": "ina3221",
        "in1_label": "VDD_GPU",
        "in1_input": "20000",
        "curr1_input": "-20",
        "in2_label": "VDD_CPU_SOC_MSS",
        "in2_input": "20000",
        "curr2_input": "325",
        "in3_label": "VIN_SYS_5V0",
        "in3_input": "5000",
        "curr3_input": "1300",
    },
}


def laid_out(root: Path, folders: Mapping[str, Mapping[str, str]], model: str = "NVIDIA Jetson") -> Path:
    for folder, files in folders.items():
        (root / "sys/class/hwmon" / folder).mkdir(parents=True)
        for name, text in files.items():
            (root / "sys/class/hwmon" / folder / name).write_text(f"{text}\n")
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text(f"{model}\0")
    return root


@pytest.mark.parametrize(
    ("board", "rails", "watts", "parts"),
    [
        (ORIN_NX, ("VDD_IN",), 4.912 * 1.016, {"VDD_CPU_GPU_CV", "VDD_SOC"}),
        (AGX_ORIN, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 3.8 + 1.9 + 4.0, {"VDDQ_VDD2_1V8AO"}),
        (THOR, ("VIN",), 23.0, {"VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"}),
        ({"hwmon5": THOR["hwmon5"]}, ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), -0.4 + 6.5 + 6.5, set()),
    ],
)
def test_the_rails_that_make_up_a_board_are_added_and_their_parts_are_not(
    tmp_path: Path, board: Mapping[str, Mapping[str, str]], rails: tuple[str, ...], watts: float, parts: set[str]
) -> None:
    sensor = open_power_sensor(HERE, laid_out(tmp_path, board))
    assert sensor is not None
    assert (sensor.rails, sensor.counts_energy) == (rails, False)
    read = sensor.read()
    assert read is not None
    assert sum(read[name] for name in sensor.rails) == pytest.approx(watts)
    assert read.keys() - set(rails) == parts


def test_a_rail_that_stops_answering_is_no_reading(tmp_path: Path) -> None:
    sensor = open_power_sensor("", laid_out(tmp_path, ORIN_NX))
    assert sensor is not None
    current = tmp_path / "sys/class/hwmon/hwmon1/curr3_input"
    for broken in ("", "nan", "inf", "12 mA"):
        current.write_text(broken)
        assert sensor.read() is None
    current.unlink()
    assert sensor.read() is None


def test_rails_that_nobody_knows_are_not_added_up(tmp_path: Path) -> None:
    unknown = {"hwmon1": {"name": "ina3221", "in1_label": "CVB_ATX_12V", "in1_input": "12000", "curr1_input": "900"}}
    with pytest.raises(MeasurementError, match="which of the rails CVB_ATX_12V make up NVIDIA Jetson"):
        open_power_sensor("", laid_out(tmp_path / "board", unknown))
    assert open_power_sensor("", laid_out(tmp_path / "desktop", unknown, "")) is None


def test_a_gpu_counts_its_joules_or_tells_its_watts_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*unsupported: str) -> tuple[bool, float, Mapping[str, float] | None] | None:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(unsupported=unsupported))
        sensor = open_power_sensor(HERE, tmp_path)
        return None if sensor is None else (sensor.counts_energy, sensor.averages_s, sensor.read())

    assert opened() == (True, 0.0, {"GPU board": 8_123.456})
    assert opened("energy") == (False, 1.0, {"GPU board": 71.25})
    assert opened("energy", "power") is None
    assert open_power_sensor("", tmp_path) is None
