"""Documents run: every `sh` and `python` block of the README and of docs/, but those marked `<!-- not run: why -->`,
and every example in a command's help, but those marked `# needs what`."""

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
BLOCK = r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```{language}\n(?P<body>.*?)^```$"


def blocks(path: Path, language: str = "sh") -> list[str]:
    found = re.finditer(BLOCK.format(language=language), path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [m["body"] for m in found if not m["mark"]]


@pytest.fixture
def scratch(digits: Path, tmp_path: Path) -> Path:
    """A folder to run examples in: that of a checkout where `lenet5-digits` was run."""
    shutil.copytree(digits, tmp_path / "runs" / "lenet5-digits")
    for name in ("calibration", "recipes", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_readme_has_blocks_that_run() -> None:
    assert len(blocks(ROOT / "README.md")) >= 2


@pytest.mark.cpu_s(40)  # each of a document's commands is a process, and half of them import PyTorch
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks(path: Path, scratch: Path) -> None:
    (scratch / "bin").mkdir()
    command = scratch / "bin" / "edgecnn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgecnn "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for body in blocks(path):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body], cwd=scratch, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"


@pytest.mark.cpu_s(20)
def test_python_blocks(scratch: Path) -> None:
    """Each document's are one program, in a process of its own."""
    documents = [p for p in DOCUMENTS if blocks(p, "python")]
    assert ROOT / "docs" / "python-api.md" in documents
    for path in documents:
        program = "\n".join(blocks(path, "python"))
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{path}\n{done.stdout}\n{done.stderr}"
