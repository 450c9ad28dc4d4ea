"""Wheels for another machine, found and made on this one: our own, and those of what it needs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecnn.errors import MissingPackageError, RemoteError
from edgecnn.records import parse_toml
from edgecnn.version import __version__

JETPACK = {"3.10": "jetson", "3.12": "jetson7"}  # JetPack 6 and 7 by their Python: the extra with its CUDA bindings
_EPOCH = (1980, 1, 1, 0, 0, 0)
_OLDEST_GLIBC = 5
_EXTRA = re.compile(r"(?:\band\s+)?extra\s*==\s*['\"]([\w-]+)['\"]")
_MARKER = re.compile(r"python_version\s*(<|>=)\s*['\"]3\.(\d+)['\"]")


@dataclass(frozen=True)
class Machine:
    """What decides which wheels fit: "3.10", "aarch64", and the minor version of its glibc."""

    python: str
    architecture: str
    glibc_minor: int
    jetson: bool = False

    def __str__(self) -> str:
        return f"Python {self.python} on {self.architecture}, glibc 2.{self.glibc_minor}"


def write_own_wheel(folder: Path) -> Path:
    """This package as a wheel (PEP 427), the same file for the same code."""
    info = f"edgecnn-{__version__}.dist-info"
    package = Path(__file__).resolve().parents[1]
    files = {
        f"edgecnn/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    needs = "".join(f"Requires-Dist: {text}\n" for text, extra in _declared() if not extra)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: edgecnn\nVersion: {__version__}\n{needs}".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: edgecnn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    temporary = folder / f"edgecnn-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(temporary, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return temporary


def requirements(machine: Machine) -> tuple[str, ...]:
    """What the core needs there: the requirements without an extra, and on a Jetson those of its JetPack."""
    wanted = {"", JETPACK.get(machine.python, "") if machine.jetson else ""}
    parts = [(text.partition(";"), extra) for text, extra in _declared()]
    return tuple(
        requirement.strip() for (requirement, _, marker), extra in parts if extra in wanted and _holds(marker, machine)
    )


def _declared() -> list[tuple[str, str]]:
    """(requirement, the extra that it is of, or ""): of a checkout as it says, what is installed may be of before."""
    checkout = Path(__file__).resolve().parents[2] / "pyproject.toml"
    content: Any = parse_toml(checkout.read_text(encoding="utf-8")) if checkout.is_file() else {}
    project = content.get("project", {})
    if project.get("name") == "edgecnn":
        extras = project["optional-dependencies"].items()
        own = [(text, "") for text in project["dependencies"]]
        return [*own, *((text, extra) for extra, texts in extras for text in texts)]
    found = []
    for text in importlib.metadata.requires("edgecnn") or ():
        asked = _EXTRA.search(text)
        found.append((_EXTRA.sub("", text), asked[1] if asked else ""))
    return found


def _holds(marker: str, machine: Machine) -> bool:
    """Of a marker that asks for a version of Python: pip asks this interpreter, and not the other machine's."""
    asked, own = _MARKER.search(marker), int(machine.python.partition(".")[2])
    return asked is None or (own < int(asked[2])) == (asked[1] == "<")


def resolve(machine: Machine, folder: Path, local: Path | None) -> list[Path]:
    """The wheels that the core needs on a machine, into `folder`: from pip's index, or from the folder `local` alone.

    Raises `RemoteError` that lists what has no wheel for it.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingPackageError("pip", "finding wheels for another machine", "cpu")
    needed = requirements(machine)
    failed = _download(machine, folder, local, needed)
    if failed:
        lacking = [one for one in needed if _download(machine, folder, local, (one,), alone=True)]
        where = f"in {local}" if local else "in pip's index"
        raise RemoteError(
            f"no wheels for {machine} {where}: {', '.join(lacking) or failed}",
            "name a folder that has them: --wheels DIR; or an interpreter there with a newer Python: --python PATH",
        )
    return sorted(folder.glob("*.whl"))


def _download(machine: Machine, folder: Path, local: Path | None, needed: Sequence[str], *, alone: bool = False) -> str:
    """Why pip found no wheels; "" where it did."""
    version = machine.python.replace(".", "")
    platforms = [f"manylinux_2_{k}_{machine.architecture}" for k in range(machine.glibc_minor, _OLDEST_GLIBC - 1, -1)]
    named = [*platforms, *(f"manylinux{year}_{machine.architecture}" for year in (2014, 2010, 1))]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={machine.python}"]
    options += [f"--abi={abi}" for abi in (f"cp{version}", "abi3", "none")]
    options += [f"--platform={name}" for name in (*named, f"linux_{machine.architecture}")]
    options += ["--no-index", f"--find-links={local.absolute()}"] if local else []
    options += ["--no-deps"] if alone else []
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    ran = subprocess.run(
        [*pip, f"--dest={folder}", *options, "--", *needed],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    lines = [line for line in ran.stderr.decode(errors="replace").splitlines() if line.startswith("ERROR:")]
    told = lines[-1].removeprefix("ERROR:").strip() if lines else f"pip ended with {ran.returncode}"
    return told if ran.returncode else ""


def contents(paths: Sequence[Path]) -> Mapping[str, Path]:
    """Files by the sha256 of their content."""
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}
