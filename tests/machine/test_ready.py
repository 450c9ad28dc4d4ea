"""Whether a Jetson is fit to be measured: from a made-up sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn import cli
from edgecnn.errors import MeasurementError
from edgecnn.machine import clocks
from edgecnn.machine.clocks import clock_warnings, find_obstacles, find_throttling, read_clocks, require_ready
from edgecnn.steps.bench import bench
from edgecnn.steps.end_to_end import bench_end_to_end

READY = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0000 fmode:quiet",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=15W >\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "2201600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2201600\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
}


def board(root: Path, **changes: str | None) -> Path:
    """A Jetson's files; a change to None takes a file away. Names are the last parts of paths."""
    for name, text in READY.items():
        key = next((k for k in changes if name.endswith(k.replace("__", "/"))), "")
        content = changes[key] if key else text
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
    return root


@pytest.mark.parametrize("mode", ["pmode:0000", "pmode:0001"])
def test_a_board_that_is_ready(tmp_path: Path, mode: str) -> None:
    """At its fastest or at 15 W: a power mode is a choice."""
    root = board(tmp_path, status=mode)
    assert find_obstacles(read_clocks(root), root) == []
    assert read_clocks(root).overcurrent_events == 37, "of before, whoever caused them"
    require_ready(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": None}, "the power mode cannot be read"),
        ({"gpu__min_freq": "306000000"}, "the GPU clock is not locked: run `sudo jetson_clocks`"),
        ({"gpu__cur_freq": None}, "whether `sudo jetson_clocks` holds the GPU clock cannot be read"),
        ({"scaling_min_freq": "729600"}, "the CPU clock is not locked"),
        ({"cooling_device1__cur_state": "1"}, r"throttled before the run \(gpu-throttle-alert\)"),
    ],
)
def test_what_speaks_against_it_is_said_and_refused_where_that_is_asked(
    tmp_path: Path, changes: dict[str, str | None], words: str
) -> None:
    root = board(tmp_path, **changes)
    with pytest.raises(MeasurementError, match=f"Orin Developer Kit is not ready to be measured: .*{words}") as caught:
        require_ready(root)
    assert "without --strict" in caught.value.hint
    before = read_clocks(root)
    (said,) = find_obstacles(before, root)
    assert clock_warnings([before, before], root).count(said) == 1


def test_it_is_looked_at_before_the_run(tmp_path: Path) -> None:
    hot = read_clocks(board(tmp_path, cooling_device1__cur_state="1"))
    cool = read_clocks(board(tmp_path))
    assert [w for w in clock_warnings([hot, cool], tmp_path) if "before the run" in w]
    assert not [w for w in clock_warnings([cool, hot], tmp_path) if "before the run" in w]
    assert find_throttling([cool, hot]) == ["the GPU was throttled: gpu-throttle-alert"]


def test_events_of_the_supply_count_where_they_rise_during_the_run(tmp_path: Path) -> None:
    before = read_clocks(board(tmp_path))
    after = read_clocks(board(tmp_path, oc3_event_cnt="40", oc1_event_cnt="1"))
    assert find_throttling([before, before]) == []
    assert find_throttling([before, after]) == ["the board was slowed down by 4 over-current or under-voltage events"]


def test_another_machine_is_refused_where_it_is_asked_for_and_else_nothing_is_said(tmp_path: Path) -> None:
    assert find_obstacles(read_clocks(tmp_path), tmp_path) == []
    with pytest.raises(MeasurementError, match="and this machine is none"):
        require_ready(tmp_path)


def test_a_strict_bench_is_refused_before_the_engine_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = board(tmp_path, gpu__min_freq="306000000")
    monkeypatch.setattr(clocks.require_ready, "__defaults__", (root,))
    with pytest.raises(MeasurementError, match="not ready to be measured"):
        bench(tmp_path / "absent.plan", strict=True)
    with pytest.raises(MeasurementError, match="not ready to be measured"):
        bench_end_to_end(tmp_path / "absent.plan", data="digits", strict=True)


@pytest.mark.parametrize("more", [[], ["--end-to-end", "--data", "digits"]])
def test_it_is_asked_for_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    for root, words in ((board(tmp_path, status=None), "not ready to be measured"), (tmp_path / "no", "is none")):
        monkeypatch.setattr(clocks.require_ready, "__defaults__", (root,))
        assert cli.main(["bench", "--engine", "absent.plan", "--strict", *more]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "hint:" in said
