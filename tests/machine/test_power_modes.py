"""nvpmodel's modes on a made-up /etc and a made-up nvpmodel, which speaks as recorded.

What it says of a mode that takes a reboot, and that it changes nothing when that is declined, was recorded on an AGX
Orin and an AGX Thor (two public notes); the file's format is that of nvpmodel.conf's own header.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecnn import cli
from edgecnn.errors import DeviceError, WriteError
from edgecnn.machine import power
from edgecnn.machine.power import (
    PowerMode,
    current_power_mode,
    list_power_modes,
    power_mode_kept,
    restore_power_mode,
    set_power_mode,
)
from edgecnn.pipeline.power_modes import sweep_power_modes
from edgecnn.results.device import Device
from edgecnn.results.latency import LatencyFile, LatencyRow
from tests.fakes.measurements import latency

CONF = """# NAME=NOT_A_MODE
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_30W >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=2 >
"""
MAXN, W30, W7 = PowerMode(0, "MAXN"), PowerMode(2, "MODE_30W"), PowerMode(3, "7W")
NVPMODEL = """#!/bin/sh
echo "$@" >> ROOT/asked
[ "$1" = -q ] && exit 0
if [ "$2" = 3 ]; then
    echo "NVPM WARN: Reboot required for changing to this power mode: 3"
    echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
    read answer
    [ "$answer" = YES ] || [ "$answer" = yes ] && touch ROOT/rebooted
    echo "NVPM ERROR: optMask is 1, no request for power mode" >&2
    exit 1
fi
[ -e ROOT/broken ] && { echo "NVPM ERROR: failed to write" >&2; exit 1; }
echo "pmode:000$2 fmode:quiet" > ROOT/var/lib/nvpmodel/status
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A board in MODE_30W, and who may set its modes."""
    for folder in ("etc", "var/lib/nvpmodel", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/nvpmodel.conf").write_text(CONF)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002 fmode:quiet\n")
    (tmp_path / "bin/nvpmodel").write_text(NVPMODEL.replace("ROOT", str(tmp_path)))
    (tmp_path / "bin/sudo").write_text('#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    for program in ("nvpmodel", "sudo"):
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def left(root: Path) -> Path:
    return root / "state/edgecnn/power-mode/mode-to-restore"


def test_each_mode_is_measured_but_one_that_takes_a_reboot_and_the_first_is_set_again(root: Path) -> None:
    assert list_power_modes(root) == (MAXN, W30, W7)

    def measure() -> LatencyFile:
        mode = current_power_mode(root)
        assert mode is not None
        assert left(root).read_text() == "2"
        row = LatencyRow(latency=latency("e"))
        return LatencyFile(device=Device(power_mode=mode.name), reference=None, measurements=(row,))

    found = sweep_power_modes(measure, root)
    assert [(r.power_mode, r.result.device.power_mode if r.result else None) for r in found.modes] == [
        ("MAXN", "MAXN"),
        ("MODE_30W", "MODE_30W"),
        ("7W", None),
    ]
    assert found.modes[2].refused == "nvpmodel asks for a reboot to set 7W, which is declined"
    assert (found.restored, current_power_mode(root)) == ("MODE_30W", W30)
    assert not (root / "rebooted").exists()
    assert not left(root).exists()


def test_a_sweep_goes_back_to_what_a_killed_one_began_with(root: Path) -> None:
    left(root).parent.mkdir(parents=True)
    left(root).write_text("0")
    with power_mode_kept(root) as before:
        assert (before, left(root).read_text()) == (MAXN, "0")
        set_power_mode(W30, root)
    assert current_power_mode(root) == MAXN


def test_without_its_variable_the_folder_lies_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert power.state_folder() == tmp_path / ".local/state/edgecnn/power-mode"


@pytest.mark.parametrize("how", [RuntimeError, KeyboardInterrupt])
def test_the_mode_is_set_again_however_the_block_ends(root: Path, how: type[BaseException]) -> None:
    with pytest.raises(how), power_mode_kept(root):
        set_power_mode(MAXN, root)
        assert current_power_mode(root) == MAXN
        raise how
    assert current_power_mode(root) == W30


def test_a_killed_process_leaves_the_mode_to_the_next_one(root: Path) -> None:
    """While it lives it is left alone."""
    program = (
        "import os, sys, time; from pathlib import Path; os.geteuid = lambda: 0\n"
        "from edgecnn.machine.power import PowerMode, power_mode_kept, set_power_mode\n"
        f"root = Path({str(root)!r})\n"
        "with power_mode_kept(root):\n"
        "    set_power_mode(PowerMode(0, 'MAXN'), root); print('set', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "set\n"
        assert restore_power_mode(root) is None
        assert current_power_mode(root) == MAXN
        with pytest.raises(WriteError, match="another run is at work"), power_mode_kept(root):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.01)
    assert restore_power_mode(root) == W30
    assert current_power_mode(root) == W30
    assert restore_power_mode(root) is None


def test_what_cannot_be_restored_is_said_with_the_command_and_kept(root: Path) -> None:
    with pytest.raises(DeviceError, match="did not set mode 2") as caught, power_mode_kept(root):
        set_power_mode(MAXN, root)
        (root / "broken").touch()
    assert "sudo nvpmodel -m 2" in caught.value.hint
    assert left(root).read_text() == "2"
    (root / "broken").unlink()
    left(root).write_text("x; rm -rf /")
    with pytest.raises(DeviceError, match="names no power mode of this board"):
        restore_power_mode(root)


def test_who_may_not_set_modes_is_told_how(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (root / "bin/sudo").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(DeviceError, match="root's to set") as caught, power_mode_kept(root):
        pass
    assert "visudo" in caught.value.hint
    assert not (root / "asked").exists()
    with pytest.raises(DeviceError, match="no power modes"), power_mode_kept(tmp_path / "nowhere"):
        pass


def test_bench_sweeps_and_restores_what_was_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("list_power_modes", "current_power_mode", "power_mode_kept", "restore_power_mode", "set_power_mode"):
        function = getattr(power, name)
        monkeypatch.setattr(getattr(function, "__wrapped__", function), "__defaults__", (root,))
    monkeypatch.setattr(sweep_power_modes, "__defaults__", (root,))
    row = LatencyRow(latency=latency("e"))
    made = LatencyFile(device=Device(cpu="x"), reference=None, measurements=(row,))
    monkeypatch.setattr("edgecnn.remote.engines.bench", lambda *_, **__: made)
    left(root).parent.mkdir(parents=True)
    left(root).write_text("0")
    assert cli.main(["bench", "--engine", "x.onnx", "--power-modes", "--json"]) == 0
    printed = capsys.readouterr()
    assert [run["power_mode_id"] for run in json.loads(printed.out)["modes"]] == [0, 2, 3]
    assert "power mode MAXN is set again: a sweep of the modes was killed" in printed.err
    assert cli.main(["bench", "--engine", "x.onnx", "--power-modes"]) == 0
    printed = capsys.readouterr()
    assert "MODE_30W" in printed.out
    assert "asks for a reboot" in printed.err
    assert cli.main(["bench", "--engine", "x.onnx", "--power-modes", "-o", "y.json"]) == 2
