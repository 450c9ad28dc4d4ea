"""Run the command line in this process, as a user would."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgecnn.cli import main


@dataclass(frozen=True)
class Result:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The message of a refusal: exit code 2, one `error:` line, one `hint:` line, no traceback."""
        lines = self.err.splitlines()
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        assert len([line for line in lines if line.startswith("error: ")]) == 1, self.err
        assert len([line for line in lines if line.startswith("hint: ") and len(line) > 8]) == 1, self.err
        return self.err


@pytest.fixture
def edgecnn(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`edgecnn("models", "--json")` -> Result."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of lenet5-digits, made once for all workers of the session; copy it to change it."""
    everyone = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        everyone = everyone.parent  # each worker's folder lies below that of the session
    folder = everyone / "lenet5-digits"
    with (everyone / "lenet5-digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=everyone)) / "lenet5-digits"
            assert main(["run", "lenet5-digits", "--out", str(made)]) == 0
            made.rename(folder)
    return folder
