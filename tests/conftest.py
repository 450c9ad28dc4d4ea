"""Fixtures for all groups of tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
