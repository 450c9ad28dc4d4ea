"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecnn.artifact.hold import LOCK, held
from edgecnn.errors import WriteError

HOLDER = "import sys, time\nfrom pathlib import Path\nfrom edgecnn.artifact.hold import held\n"
HOLDER += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def start(folder: Path, root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it_and_a_killed_holder_holds_nothing(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, root)
    try:
        with pytest.raises(WriteError) as refused, held(folder):
            pass
        assert f"process {process.pid} on {os.uname().nodename} since 20" in refused.value.message
        assert "`-c " in refused.value.message
    finally:
        process.kill()
        process.communicate()
    assert (folder / LOCK).exists()
    with held(folder):
        with pytest.raises(WriteError, match=f"process {os.getpid()}"), held(folder):
            pass
        (folder / "made").touch()
    assert [p.name for p in folder.iterdir()] == ["made"]


@pytest.mark.parametrize("told", ["[" * 4000, '{"pid": 1}', "\x00"])
def test_a_holder_that_says_nonsense_holds_it_all_the_same(tmp_path: Path, told: str) -> None:
    with (tmp_path / LOCK).open("w") as file:
        file.write(told)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(WriteError, match="another run is at work in it: a process that has just begun"),
            held(tmp_path),
        ):
            pass


def test_what_was_only_held_leaves_nothing(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_take_turns(tmp_path: Path, root: Path) -> None:
    """The lock file goes with its holder: whoever waits at that moment does not hold a file that is gone."""
    program = HOLDER.split("with held")[0] + (
        "from edgecnn.errors import WriteError\nend = time.monotonic() + 1.0\nturns = 0\n"
        "while time.monotonic() < end:\n    try:\n        with held(Path(sys.argv[1])):\n"
        "            one = Path(sys.argv[1], 'one')\n            one.touch(exist_ok=False)\n            one.unlink()\n"
        "            turns += 1\n    except WriteError:\n        pass\nassert turns\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").touch()
    environment = {**os.environ, "PYTHONPATH": str(root)}
    three = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")], env=environment) for _ in range(3)
    ]
    assert [process.wait() for process in three] == [0, 0, 0]


def test_a_folder_that_cannot_be_written_to_is_not_held(tmp_path: Path, root: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    tmp_path.chmod(0o755)
    if os.geteuid() != 0:
        with held(folder):
            pass
        return
    pid = os.fork()  # root may write anywhere: a child that is nobody may not
    if pid == 0:
        os.chdir(tmp_path)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            with held(Path(folder.name)):
                os._exit(1 if Path(folder.name, LOCK).exists() else 0)
        finally:
            os._exit(2)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done == (pid, 0)


def test_a_disk_that_refuses_the_lock_file_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*unused: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(WriteError, match=r"\.lock: cannot be written: No space left on device"), held(tmp_path):
            pass
    with held(tmp_path):
        pass
