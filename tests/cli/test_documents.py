"""Documents run: every `sh` block of the README and of docs/, but those marked `<!-- not run: why -->`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```sh\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[str]:
    return [m["body"] for m in BLOCK.finditer(path.read_text(encoding="utf-8")) if not m["mark"]]


def test_the_readme_has_blocks_that_run() -> None:
    assert len(blocks(ROOT / "README.md")) >= 2


@pytest.mark.cpu_s(40)  # each of a document's commands is a process, and half of them import PyTorch
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks(path: Path, digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "runs" / "lenet5-digits")
    for name in ("calibration", "recipes", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "edgecnn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgecnn "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for body in blocks(path):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
