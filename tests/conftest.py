"""Fixtures for all groups of tests."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "timm")
IMPORTED = pytest.StashKey[set[str]]()
CPU_LIMIT_S = 10.0
UNLIMITED = ("slow", "gpu")
NEEDS = re.compile(r"^pytestmark = .*\bmark\.(torch|onnx)\b", re.MULTILINE)

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores: PyTorch's threads of one wait for the other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over a file whose mark names a package that is not installed: it could not be imported."""
    if collection_path.suffix != ".py":
        return None
    needed = NEEDS.search(collection_path.read_text(encoding="utf-8"))
    return True if needed and importlib.util.find_spec(needed[1]) is None else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which of the packages that take seconds the collection has imported."""
    session.config.stash[IMPORTED] = set(HEAVY) & sys.modules.keys()


def import_late(module: ModuleType) -> None:
    """Run the imports below `if TYPE_CHECKING:` of a test file, and of those that it takes functions from."""
    if not module.__name__.startswith("tests.") or hasattr(module, "_imported_late"):
        return
    module._imported_late = True  # type: ignore[attr-defined]
    for statement in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            imports = ast.Module(statement.body, type_ignores=[])
            exec(compile(imports, str(module.__file__), "exec"), vars(module))  # noqa: S102 - our own imports
    for name in {str(getattr(value, "__module__", "")) for value in list(vars(module).values())} & sys.modules.keys():
        import_late(sys.modules[name])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Import what the test's file keeps below `if TYPE_CHECKING:`, before its first test."""
    if isinstance(item, pytest.Function):
        import_late(item.module)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose call costs more processor time than CPU_LIMIT_S, ended child processes and threads included.
    `cpu_s(SECONDS)` sets another limit. Exempt: what is marked slow or gpu, and fixtures, for one of a session or
    module serves many tests."""
    before = sum(os.times()[:4])
    result = yield
    spent = sum(os.times()[:4]) - before
    mark = item.get_closest_marker("cpu_s")
    limit = mark.args[0] if mark else CPU_LIMIT_S
    if spent > limit and not any(item.get_closest_marker(name) for name in UNLIMITED):
        pytest.fail(f"took {spent:.1f} s of processor time, of {limit:g} s that a test may take", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked slow or gpu has half an hour by the clock, unless it says otherwise."""
    for item in items:
        if any(item.get_closest_marker(name) for name in UNLIMITED) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def one_application() -> Iterator[None]:
    """Typer reads the signatures of all commands at every call, which takes 50 ms: here, once per process."""
    import typer.main

    from edgecnn.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "application", functools.cache(app.application))
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """A folder with real images (`data/`) and weights (`weights/`): EDGECNN_SHARED, else `../shared`."""
    folder = Path(os.environ.get("EDGECNN_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real images: {folder}/data is absent (EDGECNN_SHARED names another folder)")
    return folder
