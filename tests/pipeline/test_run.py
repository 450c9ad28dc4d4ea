"""What `run` says of a task that it has done."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.pipeline import run
from edgecnn.pipeline.workshop import Task


@pytest.mark.parametrize("doubt", ["the images are nearly all of one kind to the network", ""])
def test_what_speaks_against_the_calibration_images_is_said(doubt: str, tmp_path: Path) -> None:
    output, said = tmp_path / "m.int8.onnx", list[str]()
    made = Sidecar(kind="graph", facts={"images_doubted": doubt} if doubt else {})

    def make() -> None:
        write_artifact(output, lambda path: path.write_bytes(b"graph"), made)

    run._do(Task("quantize", output, "graph", (), {}, make), "missing", tmp_path, said.append)
    assert any(f"warning: {doubt}" in line for line in said) == bool(doubt)
