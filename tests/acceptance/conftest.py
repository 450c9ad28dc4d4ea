"""The command line, as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result


@pytest.fixture
def edgecnn(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`edgecnn("models", "--json")` -> Result, in this process."""
    from tests.acceptance.channel_pictures import call  # imports onnx, which a core installation lacks

    return lambda *arguments: call(capfd, *arguments)
