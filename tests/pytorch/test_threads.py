"""PyTorch's threads are lent, and put back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.machine import threads as machine
from edgecnn.results.device import Device

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.reference import Reference
    from edgecnn.pytorch.threads import torch_threads
    from edgecnn.pytorch.training import loop

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def before() -> int:
    return torch.get_num_threads()


def test_a_session_puts_the_threads_back(before: int) -> None:
    session = Reference(torch.nn.Flatten(), (1, 2, 2), 4, threads=before + 2)
    assert torch.get_num_threads() == before, "opened, but not entered"
    with pytest.raises(ZeroDivisionError), session:
        assert torch.get_num_threads() == before + 2
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_without_a_number_as_many_as_are_allowed_and_no_more_than_the_environment_says(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(3)
    try:
        for allowed, threads in ((1, 1), (2, 2), (8, 3)):
            with machine.limit_threads(allowed), torch_threads(None):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_run_goes_on_with_the_threads_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights depend on them; the load of the moment does not count then."""
    monkeypatch.setattr(loop, "spare_threads", lambda threads: threads or 1)
    monkeypatch.setattr(loop, "allowed_threads", lambda: 4)
    assert loop._threads_of_the_run(tmp_path, True, None) == 1, "nothing is there"
    last = tmp_path / "last.safetensors"
    write_artifact(last, lambda path: path.write_bytes(b"x"), Sidecar(kind="checkpoint", device=Device(threads=3)))
    for resume, asked, threads in ((True, None, 3), (None, None, 3), (False, None, 1), (True, 2, 2)):
        assert loop._threads_of_the_run(tmp_path, resume, asked) == threads
    monkeypatch.setattr(loop, "allowed_threads", lambda: 2)
    assert loop._threads_of_the_run(tmp_path, True, None) == 2, "this machine has no more"
