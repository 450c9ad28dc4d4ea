"""Neighbors: near images are found, copies between the splits, and a label that its neighbors do not bear."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.errors import DataError
from edgecnn.inspection.neighbours import neighbours
from edgecnn.measure.vectors import Vectors, write_vectors


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two classes far apart, 20 training and 5 test images of each; b/0 lies among a; test a/0 is training a/1's file,
    test b/1 nearly training b/2."""
    random = np.random.default_rng(0)
    ids = [f"{c}/{k}" for c in "ab" for k in range(20)] + [f"{c}/{k}" for c in "ab" for k in range(5)]
    labels = np.array([0] * 20 + [1] * 20 + [0] * 5 + [1] * 5)
    vectors = random.standard_normal((50, 64)).astype(np.float32) + 10
    vectors[labels == 0] += np.eye(64, dtype=np.float32)[0] * 8
    vectors[labels == 1] += np.eye(64, dtype=np.float32)[1] * 8
    vectors[20] += (np.eye(64)[0] - np.eye(64)[1]).astype(np.float32) * 8
    vectors[40] = vectors[1]
    vectors[46] = vectors[22] + 0.01
    shas = [hashlib.sha256(b"%d" % (1 if k == 40 else k)).hexdigest() for k in range(50)]
    splits = ("train",) * 40 + ("test",) * 10
    found = Vectors(tuple(ids), splits, labels, ("a", "b"), tuple(shas), vectors)
    write_vectors(tmp_path / "F.npz", found, Sidecar(kind="features"))
    return tmp_path / "F.npz"


def test_what_is_near_is_found(index: Path) -> None:
    found = neighbours(index, "train:a/3", 4)
    assert (found.image, found.split, found.label_name, found.n_train, found.n_test) == ("a/3", "train", "a", 40, 10)
    assert [n.label_name for n in found.nearest if n.image != "b/0"] == ["a"] * sum(
        n.image != "b/0" for n in found.nearest
    )
    assert "a/3" not in {n.image for n in found.nearest}
    assert len(found.nearest) == 4
    assert [n.cosine for n in found.nearest] == sorted((n.cosine for n in found.nearest), reverse=True)
    same, near = found.near_duplicates
    assert found.near_checked
    assert (same.train_image, same.test_image, same.same_file) == ("a/1", "a/0", True)
    assert (near.train_image, near.test_image, near.same_file) == ("b/2", "b/1", False)
    assert [(d.image, d.label_name, d.neighbours_label_name) for d in found.disagreements] == [("b/0", "b", "a")]
    assert neighbours(index, "test:a/0", 1).nearest[0].image == "a/1"


@pytest.mark.parametrize(
    ("image", "k", "said", "hint"),
    [
        ("b/91", 3, "no image 'b/91' in it", "'b/1"),
        ("a/3", 3, "'a/3' is in both splits", "train:a/3"),
        ("a/19", 40, "-k 40: the index has 40 training images", "1 to 39"),
    ],
)
def test_what_cannot_be_looked_up(index: Path, image: str, k: int, said: str, hint: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        neighbours(index, image, k)
    assert hint in raised.value.hint


def test_a_file_that_is_not_in_it(index: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"7")
    assert neighbours(index, str(tmp_path / "x.png"), 2).image == "a/7"
    (tmp_path / "y.png").write_bytes(b"other")
    with pytest.raises(DataError, match="no image"):
        neighbours(index, str(tmp_path / "y.png"), 2)
