"""Steps and commands on a disk that fails: the old files or the new ones, a word about it, and the next start is whole.

Where an operation fails for good, nothing after it changes the disk, as after a kill.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.artifact.write import write_bytes
from edgecnn.cli import main
from edgecnn.errors import ArtifactError
from tests.fakes.faulty_disk import every_fault

pytestmark = pytest.mark.torch

if TYPE_CHECKING:
    from edgecnn.pytorch.training import loop

FAST = ["--set", "train.epochs=1", "--threads", "1"]
NET = "model.fp32.onnx"
COMMANDS: dict[str, list[str]] = {
    "export": ["export", "lenet5", "--checkpoint", "{run}/model.safetensors", "-o", "{run}/" + NET],
    "import": ["import", "{run}/" + NET, "-o", "{run}/imported.onnx"],
    "calibrate": ["calibrate", "{run}/" + NET, "--data", "digits", "--images", "8", "-o", "{run}/new.calib.json"],
    "quantize": ["quantize", "{run}/" + NET, "--precision", "fp16", "-o", "{run}/model.fp16.onnx"],
    "reference": ["reference", "{run}/model.safetensors", "--data", "digits", "-o", "{run}/reference.npz"],
    "build": ["build", "{run}/" + NET, "-o", "{run}/cpu/fp32.onnx"],
    "validate": ["validate", "{run}/cpu/fp32.onnx", "--reference", "{run}/reference.npz", "--data", "digits", "-o",
                 "{run}/cpu/fp32.accuracy.json"],
    "bench": ["bench", "--engine", "{run}/cpu/fp32.onnx", "--duration", "0.01", "-o", "{run}/lat.json"],
    "gate": ["gate", "{run}", "--markdown", "{run}/gate.md", "--junit", "{run}/gate.xml"],
    "report": ["report", "{run}", "-o", "{run}/report.html"],
    "recipe": ["recipe", "copy", "lenet5-digits", "{run}/copied.toml"],
    "calibration-set": ["calibration-set", "digits", "--images", "8", "-o", "{run}/set.txt"],
    "bundle": ["bundle", "{run}", "--for", "cpu", "-o", "{run}/run.tar"],
    "release": ["release", "{run}", "-o", "{run}/r.tar", "--unsigned", "--threads", "1"],
    "unpack": ["run", "{run}/run.tar", "--out", "{run}/there", "--until", "reference"],
    "run": ["run", "lenet5-digits", "--out", "{run}", "--until", "quantize", "--set", "batch.max=4"],
    "train": ["train", "lenet5-digits", "--retrain", *FAST, "--out", "{run}"],
}  # fmt: skip
SLOW = {"train", "run", "reference", "validate", "bench", "bundle", "release", "unpack"}


def arguments(command: str, run: Path) -> list[str]:
    return [word.replace("{run}", str(run)) for word in COMMANDS[command]]


def content(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def hidden(run: Path) -> list[str]:
    return [str(p.relative_to(run)) for p in run.rglob(".*edgecnn-*")]


def require_pairs(run: Path) -> None:
    """Every file that has a sidecar is the one that this describes, once somebody has looked."""
    found = 0
    for path in [p for p in run.rglob("*") if sidecar_path(p).exists() and "edgecnn-" not in str(p)]:
        verified_sidecar(path)
        found += 1
    assert found > 3


def sweep(run: Path, digits: Path, command: str, chosen: Callable[[int], bool]) -> Iterator[tuple[Any, int | None]]:
    before = run.with_name("before")
    shutil.copytree(digits, before)
    if command == "unpack":
        assert main(["bundle", str(before), "--for", "cpu", "-o", str(before / "run.tar")]) == 0
    code: list[int | None] = [None]

    def prepare() -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(before, run)
        code[0] = None

    def action() -> None:
        code[0] = main(arguments(command, run))

    for disk, raised in every_fault(run, prepare, action, chosen):
        assert raised is None, (disk, raised)
        yield disk, code[0]


def check(run: Path, digits: Path, command: str, chosen: Callable[[int], bool], capfd: Any) -> int:
    count = 0
    for disk, code in sweep(run, digits, command, chosen):
        count += 1
        said = capfd.readouterr().err
        if disk.fault == "fails":
            assert code in (0, 1, 2, 3), (disk.seen[disk.at], code, said)
            assert code != 2 or ("error: " in said and "hint: " in said and "Traceback" not in said)
        require_pairs(run)
        (run / "copied.toml").unlink(missing_ok=True)
        assert main(arguments(command, run)) in (0, 1, 3), (disk.seen[disk.at], capfd.readouterr().err)
        require_pairs(run)
        for name in hidden(run):  # where the command had nothing to write any more
            write_bytes((run / name).with_name("another"), b"")
        assert hidden(run) == [], disk.seen[disk.at]
        capfd.readouterr()
    return count


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in SLOW])
def test_a_few_faults_of_each_quick_command(command: str, digits: Path, tmp_path: Path, capfd: Any) -> None:
    """The last operations are those by which the new files take the place of the old ones."""
    assert check(tmp_path / "run", digits, command, lambda number: number in (2, 5, 8), capfd) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_fault_of_every_command(
    command: str, digits: Path, tmp_path: Path, capfd: Any, record_testsuite_property: Callable[[str, object], None]
) -> None:
    count = check(tmp_path / "run", digits, command, bool, capfd)
    record_testsuite_property(f"faults of {command}", count)
    assert count >= 2


def test_a_bundle_that_fails_leaves_the_one_before(digits: Path, tmp_path: Path, capfd: Any) -> None:
    run = tmp_path / "run"
    for disk, _ in sweep(run, digits, "unpack", lambda number: number in (1, 3)):
        assert (run / "run.tar").exists(), disk


def test_a_stale_run_on_a_read_only_folder_fails_before_it_measures(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits, run)
    for name in ("fp32.accuracy.json", "verdict.json", "report.json"):
        (run / "cpu" / name).unlink()
    there = content(run)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: access(path, mode) and not (
        mode & os.W_OK and str(path).startswith(str(run))))  # fmt: skip
    monkeypatch.setattr("edgecnn.steps.validate.open_compared", lambda *a, **k: pytest.fail("it measures"))
    assert main(["run", str(run)]) == 2
    said = capfd.readouterr().err
    assert f"error: {run}/cpu: cannot be written: {run}/cpu is not writable\n" in said
    assert content(run) == there


def test_training_refuses_an_epoch_that_it_cannot_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Nothing is trained, and what is needed and free is said."""
    monkeypatch.setattr("edgecnn.artifact.temporary.free_bytes", lambda path: 300_000)
    monkeypatch.setattr(loop.Trainer, "train_epoch", lambda *a: pytest.fail("it trains"))
    assert main(["train", "lenet5-digits", *FAST, "--out", str(tmp_path / "run")]) == 2
    said = capfd.readouterr().err
    assert f"error: {tmp_path}/run/training-state.pt: cannot be written: No space left on device: 1." in said
    assert " MB needed, 300.0 kB free" in said


def test_a_file_that_cannot_grow_while_it_trains_is_one_error(tmp_path: Path, capfd: Any) -> None:
    """The kernel's limit on the size of a file stops what Rust and C++ write as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert main(["train", "lenet5-digits", *FAST, "--out", str(tmp_path / "run")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capfd.readouterr().err
    assert f"error: {tmp_path}/run/best.safetensors: cannot be written: " in said
    assert "File too large" in said
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("command", ["run", "validate"])
def test_without_locks_it_is_said_where_and_what_to_do(
    command: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits, run)

    def no_locks(*unused: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert main(arguments(command, run)) == 2
    said = capfd.readouterr().err
    name = ".lock" if command == "run" else "cpu/.fp32.accuracy.json.partial"
    assert f"error: {run}/{name}: cannot be locked: No locks available\n" in said
    assert "hint: its file system has no locks: mount it with them" in said


def test_sigterm_ends_it_as_an_interrupt_does(digits: Path, tmp_path: Path, root: Path) -> None:
    """A word, its exit code, and no temporary file, neither in the folder nor where the system keeps such."""
    (tmp_path / "tmp").mkdir()
    command = ["bench", "--engine", str(digits / "cpu" / "fp32.onnx"), "--duration", "60", "--warmup", "0", "--threads"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "big.txt"), *command, "1"],
        cwd=root,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 50
    while not hidden(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(hidden(tmp_path)) == 1, "it is writing"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "terminated\n")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["tmp"]


PROGRAM = """
import sys
from pathlib import Path
from edgecnn.artifact.write import atomic_path
from edgecnn.cli import main
import edgecnn.remote.engines as engines
measured = engines.bench
def bench(*arguments, **settings):
    with atomic_path(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(b"half")
        return measured(*arguments, **settings)
engines.bench = bench
sys.exit(main(sys.argv[2:]))
"""


def test_an_engine_that_is_damaged_all_the_same_is_said(digits: Path, tmp_path: Path) -> None:
    """The checks above can fail."""
    run = tmp_path / "run"
    shutil.copytree(digits, run)
    (run / NET).write_bytes((run / NET).read_bytes() + b" ")
    with pytest.raises(ArtifactError):
        require_pairs(run)
