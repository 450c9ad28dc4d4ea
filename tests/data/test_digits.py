"""The digits of scikit-learn, read from its file; that they are the right ones, the hashes of a calibration set say."""

from __future__ import annotations

import gzip
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import DataError, MissingPackageError
from edgecnn.zoo import find_model

ROWS = [",".join(["1"] * 65)] * 1797


def open_digits() -> object:
    return open_dataset("digits", preprocessing_from_json(find_model("lenet5").preprocessing), "test")


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes) -> None:
    """A scikit-learn whose file holds `content`."""
    path = folder / "sklearn" / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    found = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    found.submodule_search_locations = [str(folder / "sklearn")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def test_a_table_of_that_shape_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, gzip.compress("\n".join(ROWS).encode()))
    assert open_digits().label_names == tuple(str(d) for d in range(10))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress("\n".join(ROWS).encode())[:100],
        gzip.compress("\n".join(ROWS[1:]).encode()),
        gzip.compress("\n".join(["1,2", *ROWS]).encode()),
        gzip.compress("\n".join(["a," * 64 + "1", *ROWS[1:]]).encode()),
    ],
    ids=["empty", "no gzip", "cut off", "a row less", "a short row", "words"],
)
@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_a_damaged_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    install(monkeypatch, tmp_path, content)
    with pytest.raises(DataError, match=r"digits\.csv\.gz") as caught:
        open_digits()
    assert "scikit-learn" in caught.value.hint


def test_without_scikit_learn_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match="scikit-learn"):
        open_digits()
