"""The Dockerfiles for Jetsons, as far as they can be looked at where no image can be pulled."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgecnn.version import __version__

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "examples" / "jetson").glob("Dockerfile.*"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, lines that go on joined (Dockerfile reference, Format)."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined)]


def test_there_is_one_for_each_jetpack() -> None:
    assert [path.name for path in FILES] == ["Dockerfile.jetpack6", "Dockerfile.jetpack7"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_installs_the_wheel_of_this_version(path: Path) -> None:
    """With an extra that there is, into an environment that sees the system's TensorRT; its shell is a shell's."""
    found = instructions(path)
    assert {word for word, _ in found} == {"ARG", "FROM", "RUN", "COPY", "ENV", "VOLUME", "ENTRYPOINT", "CMD"}
    assert [word for word, _ in found][:2] == ["ARG", "FROM"]
    assert dict(found)["FROM"] == "${BASE}"
    runs = [rest for word, rest in found if word == "RUN"]
    for run in runs:
        subprocess.run(["sh", "-n", "-c", run], check=True)
    (environment,) = [run for run in runs if "-m venv" in run]
    assert "--system-site-packages" in environment
    (extra,) = re.findall(r'pip install --no-cache-dir "\$wheel\[(\w+)\]"', "\n".join(runs))
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert extra in content["project"]["optional-dependencies"]
    pattern = dict(found)["COPY"].split()[0]
    assert fnmatch.fnmatch(f"dist/edgecnn-{__version__}-py3-none-any.whl", pattern)
    assert json.loads(dict(found)["ENTRYPOINT"])[0] in content["project"]["scripts"]
    assert "Not verified" in path.read_text(encoding="utf-8")
