"""Fixtures for all groups of tests."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "timm")
IMPORTED = pytest.StashKey[set[str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which of the packages that take seconds the collection has imported."""
    session.config.stash[IMPORTED] = set(HEAVY) & sys.modules.keys()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Import what the test's file keeps below `if TYPE_CHECKING:`, before its first test."""
    module = getattr(item, "module", None)
    if isinstance(module, ModuleType) and not hasattr(module, "_imported_late"):
        for statement in ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                imports = ast.Module(statement.body, type_ignores=[])
                exec(compile(imports, str(module.__file__), "exec"), vars(module))  # noqa: S102 - our own imports
        module._imported_late = True  # type: ignore[attr-defined]


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
