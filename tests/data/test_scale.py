"""What many files cost in memory."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from edgecnn.data.calibration_set import UNDECODED
from edgecnn.data.dataset import spread
from edgecnn.data.open import images_sha256, listing_each_folder_once, open_dataset

FEW, MANY = 300, 1500
MOST_BYTES = 600  # of a file, its name of 36 characters twice, what is remembered of it, and its turn in the sample


def peak_bytes(root: Path, files: int) -> int:
    for k in range(files):
        folder = root / "train" / f"n{k % 20:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"n{k % 20:08d}_{k:08d}.JPEG").touch()
    gc.collect()
    tracemalloc.start()
    try:
        with listing_each_folder_once():
            dataset = open_dataset(str(root), UNDECODED, "train")
            assert len(dataset) == files
            assert images_sha256(str(root), "train")
            assert len(spread(dataset, 100)) == 100
            return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_memory_of_a_listed_file_is_that_of_its_name(tmp_path: Path) -> None:
    peak_bytes(tmp_path / "first", 100)
    slope = (peak_bytes(tmp_path / "many", MANY) - peak_bytes(tmp_path / "few", FEW)) / (MANY - FEW)
    assert 100 < slope < MOST_BYTES


@pytest.mark.slow
def test_two_hundred_thousand_files_are_listed_split_and_sampled(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path, 200_000) < MOST_BYTES * 200_000
