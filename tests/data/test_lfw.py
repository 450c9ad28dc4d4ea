"""LFW's folder and its pairs, in a small tree of the same layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.lfw import lfw, lfw_pairs, lfw_root
from edgecnn.errors import DataError

PEOPLE = {"Ann_Lee": 3, "Bo_Chan": 2, "Cy": 1}
PAIRS = "1\t2\nAnn_Lee\t1\t3\nBo_Chan\t1\t2\nAnn_Lee\t2\tCy\t1\nBo_Chan\t2\tCy\t1\n"
GRAY = Preprocessing(resize=8, crop=8, mean=(0.5,), std=(0.5,), channels=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, count in PEOPLE.items():
        folder = tmp_path / "lfw-deepfunneled" / name
        folder.mkdir(parents=True)
        for k in range(1, count + 1):
            Image.new("L", (10, 10), 20 * k).save(folder / f"{name}_{k:04d}.jpg")
    (tmp_path / "pairs.txt").write_text(PAIRS)
    return tmp_path


def test_the_pairs_and_the_pictures_that_they_name(root: Path) -> None:
    assert lfw_root(f"lfw:{root}") == root
    assert lfw_root(str(root)) is None
    pairs = lfw_pairs(root)
    assert pairs[0] == ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0003.jpg", True)
    assert pairs[2] == ("Ann_Lee/Ann_Lee_0002.jpg", "Cy/Cy_0001.jpg", False)
    found = lfw(root, GRAY)
    assert found.labels is not None
    assert found.label_names == ("Ann_Lee", "Bo_Chan", "Cy")
    assert np.bincount(found.labels).tolist() == [3, 2, 1]
    assert found.tensor(0).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "pairs.txt:1: '' is no number"),
        ("10 300 7\n", "pairs.txt:1"),
        ("1\t2\nAnn_Lee\t1\t3\n", "1 pairs of one person and 0 of two; 2 of each are promised"),
        (PAIRS.replace("Bo_Chan\t1\t2", "Bo_Chan 1 2"), "pairs.txt:3: 'Bo_Chan 1 2' is not NAME"),
        (PAIRS.replace("Cy\t1", "../Cy\t1"), "pairs.txt:4: '../Cy'"),
        (PAIRS.replace("Bo_Chan\t1\t2", "Bo_Chan\t1\t9"), "no Bo_Chan/Bo_Chan_0009.jpg, which pairs.txt names"),
        (PAIRS.replace("Ann_Lee", "Zoe"), "which pairs.txt names"),
    ],
)
def test_what_is_not_its_layout_is_refused_with_its_line(root: Path, text: str, said: str) -> None:
    (root / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=said.replace(".", r"\.")):
        lfw(root, GRAY)


def test_without_the_pairs_there_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs LFW's pairs\.txt|pairs\.txt: cannot be read"):
        lfw(tmp_path, GRAY)
