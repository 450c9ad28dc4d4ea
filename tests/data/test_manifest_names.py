"""Whatever images are called, a manifest brings their names back."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.calibration_set import (
    HEADER,
    TEST_HEADER,
    Manifest,
    make_manifest,
    open_data,
    read_manifest,
    write_manifest,
)
from edgecnn.data.dataset import nfc
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError

SMALL = Preprocessing(resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)
PARTS = [
    "#",
    '"',
    "\\",
    "\n",
    "\r",
    "\x1b[31m",
    "\x85",
    "\u2028",
    "\u202e",
    " ",
    "/",
    "'",
    "a",
    "é",
    "😀",
    "# source: x",
    "1",
    "=",
    "\t",
]


def names(rng: random.Random) -> list[str]:
    made = ("".join(rng.choice(PARTS) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 8)))
    return list(dict.fromkeys(map(nfc, made)))


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path, rng, forms = tmp_path / "set.txt", random.Random(0), set[str]()
    for case in range(400):
        ids = tuple(names(rng))
        digests = tuple(f"{k:064x}" for k in range(len(ids)))
        source, rule = rng.choice(PARTS) + "x", rng.choice(["", "4 images", "\n# seed: 7", '"'])
        plain = Manifest(source, "train", case, ids, digests, rule)
        for made in (plain, replace(plain, split="test", name=f"set{rng.choice(PARTS)}", version="1")):
            write_manifest(path, made)
            assert read_manifest(path) == made, made
            forms.add(path.read_text(encoding="utf-8").split("\n")[0])
    assert forms == {HEADER, TEST_HEADER, HEADER.replace("1", "2"), TEST_HEADER.replace("1", "2")}


def test_a_class_folder_that_begins_as_a_comment_does_not_vanish(tmp_path: Path) -> None:
    for name in ("#1", "plain", '"2"', "a\nb"):
        (tmp_path / "data" / name).mkdir(parents=True)
        pixels = np.full((8, 8, 3), len(name), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / name / "#x.png")
    dataset = open_dataset(str(tmp_path / "data"), SMALL, "train")
    write_manifest(tmp_path / "set.txt", make_manifest(dataset, str(tmp_path / "data"), "train", 4))
    assert open_data(str(tmp_path / "set.txt"), SMALL, "train").ids == dataset.ids
    assert len(dataset.ids) == 4


def test_a_manifest_without_such_names_is_as_it_always_was(tmp_path: Path) -> None:
    """And one of before is read as it was meant: a quotation mark was part of the name."""
    path, digest = tmp_path / "set.txt", "0" * 64
    write_manifest(path, Manifest("digits", "train", 0, ("a b.png", 'c"d'), (digest, digest)))
    assert (
        path.read_text() == f'{HEADER}\n# source: digits\n# split: train\n# seed: 0\na b.png {digest}\nc"d {digest}\n'
    )
    path.write_text(f'{HEADER}\n# source: "x"\n"a".png {digest}\n"b" {digest}\n')
    assert read_manifest(path).ids == ('"a".png', '"b"')
    assert read_manifest(path).source == '"x"'


@pytest.mark.parametrize("line", ['"a', '"a" "b"', '"\\ud800"', '"\\x"'])
def test_a_damaged_quotation(tmp_path: Path, line: str) -> None:
    path = tmp_path / "set.txt"
    path.write_text(f"{HEADER.replace('1', '2')}\n{line} {'0' * 64}\n")
    with pytest.raises(DataError, match=r"set\.txt:2: .* is not a quoted name"):
        read_manifest(path)
