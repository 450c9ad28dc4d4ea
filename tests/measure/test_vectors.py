"""The vectors of a folder go on where a killed run stopped, and come back from their file as they were."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.data.dataset import Dataset
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.measure.vectors import (
    Vectors,
    collect_vectors,
    find_vector_output,
    join_vectors,
    read_vectors,
    write_vectors,
)
from edgecnn.session import Array, Session, SessionInfo, TensorSpec


class KilledError(Exception):
    pass


class Fake(Session):
    """The mean and the largest value of each image, until it is killed."""

    def __init__(self, most: int = 99) -> None:
        self.most, self.runs = most, 0

    @property
    def info(self) -> SessionInfo:
        return SessionInfo(
            (TensorSpec("input", (None, 1, 2, 2), "float32"),), (TensorSpec("pool", (None, 2), "float32"),)
        )

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.runs == self.most:
            raise KilledError
        self.runs += 1
        images = inputs["input"].reshape(len(inputs["input"]), -1)
        return {"pool": np.stack([images.mean(1), images.max(1)], axis=1)}


def images(count: int, changed: int = -1) -> Dataset:
    values = np.random.default_rng(0).standard_normal((count, 1, 2, 2), np.float32)
    if changed >= 0:
        values[changed] += 1
    ids = tuple(f"{k}.png" for k in range(count))
    labels = np.arange(count) % 2
    return Dataset("d", ids, labels, ("a", "b"), None, lambda i: values[i].tobytes(), None, array=lambda i: values[i])


def collect(session: Fake, data: Dataset, journal: Path) -> Vectors:
    return collect_vectors(session, "pool", data, "train", batch=2, journal=journal, identity="e")


@pytest.mark.parametrize(("changed", "again"), [(-1, 2), (3, 3), (0, 4)])
def test_a_killed_run_goes_on_up_to_the_first_image_that_changed(tmp_path: Path, changed: int, again: int) -> None:
    journal = tmp_path / "j"
    with pytest.raises(KilledError):
        collect(Fake(2), images(7), journal)
    session, now = Fake(), images(7, changed)
    found = collect(session, now, journal)
    assert session.runs == again
    whole = collect(Fake(), now, tmp_path / "other")
    np.testing.assert_array_equal(found.vectors, whole.vectors)
    assert (found.ids, found.sha256s) == (whole.ids, whole.sha256s)
    np.testing.assert_allclose(found.vectors[3], [now.tensor(3).mean(), now.tensor(3).max()], rtol=1e-6)


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    found = join_vectors([collect(Fake(), images(3), tmp_path / "j")] * 2)
    path = tmp_path / "F.npz"
    write_vectors(path, found, Sidecar(kind="features"))
    back = read_vectors(path)
    np.testing.assert_array_equal(back.vectors, found.vectors)
    assert (back.ids, back.splits, back.label_names) == (found.ids, found.splits, ("a", "b"))
    assert back.labels.tolist() == [0, 1, 0] * 2
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError):
        read_vectors(path)


def test_maps_are_no_vector() -> None:
    class Maps(Fake):
        @property
        def info(self) -> SessionInfo:
            return SessionInfo(super().info.inputs, (TensorSpec("C3", (None, 2, 4, 4), "float32"),))

    assert find_vector_output(Path("e"), Fake()) == "pool"
    with pytest.raises(MeasurementError, match="gives C3, of which 0"):
        find_vector_output(Path("e"), Maps())


HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("a pickle", {"ids": np.array(["a", {"b": 1}], object)}, "ids.npy is object"),
    ("numbers for names", {"ids": np.arange(2)}, "ids is int64"),
    ("names for numbers", {"vectors": np.array([["a"], ["b"]])}, "vectors is <U1"),
    ("labels that are not whole", {"labels": np.array([0.0, np.nan])}, "labels is float64"),
    ("a label below none", {"labels": np.array([0, -2])}, "do not belong together"),
    ("another split", {"splits": np.array(["train", "other"])}, "do not belong together"),
    ("a row too few", {"vectors": np.ones((1, 3), np.float32)}, "do not belong together"),
    ("one vector for all", {"vectors": np.ones(2, np.float32)}, "vectors is float32"),
    ("NaN", {"vectors": np.array([[1, 2], [np.nan, 1]], np.float32)}, "vector of 'b' is not finite"),
    ("beyond float32", {"vectors": np.array([[1, 2], [3, 1e300]])}, "vector of 'b' is not finite"),
    ("no ASCII in a hash", {"sha256": np.array([b"\xff" * 64] * 2, "S64")}, "not a file of features"),
    ("zeros that unpack to much", {"vectors": np.zeros((2, 1 << 23), np.float32)}, "unpacks to 67 MB"),
]


@pytest.mark.parametrize(("arrays", "said"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_file_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {
        "ids": np.array(["a", "b"]), "splits": np.array(["train", "test"]), "labels": np.array([0, 0]),
        "label_names": np.array(["x"]), "sha256": np.array([b"0" * 64] * 2), "unreadable": np.array([], np.str_),
        "vectors": np.ones((2, 3), np.float32),
    }  # fmt: skip
    path = tmp_path / "F.npz"
    write_artifact(path, lambda made: np.savez_compressed(made, **(good | arrays)), Sidecar(kind="features"))
    with pytest.raises(ArtifactError, match=said):
        read_vectors(path)


@pytest.mark.parametrize(("shape", "kind"), [((10**15,), "<U0"), ((10**15, 0), "<U8")])
def test_names_without_bytes_are_not_counted(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    """A header of 100 bytes may name any number of them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})

    def write(made: Path) -> None:
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("ids.npy", header.getvalue())

    write_artifact(tmp_path / "F.npz", write, Sidecar(kind="features"))
    with pytest.raises(ArtifactError, match="holds nothing"):
        read_vectors(tmp_path / "F.npz")


def test_an_engine_whose_vectors_are_not_finite(tmp_path: Path) -> None:
    data = images(3)
    data.tensor(1)[:] = np.inf
    with pytest.raises(MeasurementError, match="vector of '1.png' is not finite"):
        collect(Fake(), data, tmp_path / "j")
