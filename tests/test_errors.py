"""Errors as users and other processes see them."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgecnn import errors
from edgecnn.cli import OF_THE_CORE, main
from edgecnn.records import parse_toml


@pytest.mark.parametrize(
    "error",
    [
        errors.GraphError("node 'a': broken", "mend it"),
        errors.WriteError("no room", "make some"),
        errors.MissingPackageError("onnx", "exporting", "cpu"),
    ],
)
def test_an_error_survives_the_way_from_a_worker_process(error: errors.EdgecnnError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.hint, str(copy)) == (error.message, error.hint, str(error))
    assert copy.exit_code == 2


def test_the_packages_of_the_core_are_those_that_pip_installs(root: Path) -> None:
    project: Any = parse_toml((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted: list[str] = project["dependencies"]
    here = [w.partition(";")[0] for w in wanted if "python_version < '3.11'" not in w or sys.version_info < (3, 11)]
    assert sorted(OF_THE_CORE.values()) == sorted(here)


def test_a_checkout_that_was_copied_names_all_that_is_missing(root: Path) -> None:
    """An interpreter without site-packages."""
    command = [sys.executable, "-S", "-m", "edgecnn", "--version"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: edgecnn needs {', '.join(OF_THE_CORE)}: not installed here"
    assert hint == "hint: install with: pip install " + " ".join(f"'{wanted}'" for wanted in OF_THE_CORE.values())


@pytest.mark.parametrize("package", OF_THE_CORE)
def test_a_package_of_the_core_that_is_missing_is_no_bug(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> None:
        raise ModuleNotFoundError(f"No module named '{package}.part'", name=f"{package}.part")

    monkeypatch.setattr("edgecnn.cli.app.application", command)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: edgecnn needs {package}: not installed here",
        f"hint: install with: pip install '{OF_THE_CORE[package]}'",
    ]


def test_a_package_that_lacks_another_is_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "carrier/__init__.py": "import a_part_of_it",
        "the_carrier-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: the-carrier\nVersion: 1.0\n",
        "the_carrier-1.0.dist-info/top_level.txt": "carrier\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def command(*words: str) -> None:
        importlib.import_module("carrier")

    monkeypatch.setattr("edgecnn.cli.app.application", command)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: carrier needs a_part_of_it: not installed here",
        "hint: what is installed is not whole: pip install --force-reinstall the-carrier",
    ]


def test_a_module_of_ones_own_that_lacks_a_package_is_not_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_module_of_mine.py").write_text("import a_part_of_it", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("edgecnn.cli.app.application", lambda *words: importlib.import_module("a_module_of_mine"))
    assert main(["doctor"]) == 101
    assert "pip install" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "the machine has no more"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried\nat"), "DefaultCPUAllocator"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
    ],
)
def test_memory_that_is_used_up_is_no_bug(
    raised: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> None:
        raise raised

    monkeypatch.setattr("edgecnn.cli.app.application", command)
    assert main(["doctor"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: not enough memory: ")
    assert told in error
    assert hint == "hint: use a smaller batch or input size"


def test_a_package_that_nobody_asks_for_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> None:
        importlib.import_module("edgecnn.no_such_module")

    monkeypatch.setattr("edgecnn.cli.app.application", command)
    assert main(["doctor"]) == 101
    assert re.search("^ModuleNotFoundError: .*edgecnn.no_such_module", capsys.readouterr().err, re.MULTILINE)
