"""Run the command line in this process, as a user would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
