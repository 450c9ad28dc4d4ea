"""The vectors of a folder go on where a killed run stopped, and come back from their file as they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar
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
