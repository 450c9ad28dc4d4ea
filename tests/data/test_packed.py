"""Packed images: what a device gets is what the host saw, row by row, with the identity of each source image."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.open import images_sha256, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.packed import write_packed
from edgecnn.errors import DataError

GEOMETRY = Preprocessing(resize=10, crop=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(7):
        path = tmp_path / "images" / "test" / "ab"[k % 2] / f"{k}é.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (13, 17, 3), np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def pack(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "packed.npz"
    found = images_sha256(str(folder), "test")
    assert found
    assert write_packed(path, open_dataset(str(folder), GEOMETRY, "test"), "test", found) == 7
    return path


def test_packed_images_are_those_of_the_folder(folder: Path, pack: Path) -> None:
    before, after = (open_dataset(str(source), GEOMETRY, "test", ["b", "a"]) for source in (folder, pack))
    assert (after.ids, after.name, after.label_names) == (before.ids, before.name, ("b", "a"))
    np.testing.assert_array_equal(after.labels, before.labels)  # type: ignore[arg-type]
    for k in range(7):
        np.testing.assert_array_equal(after.tensor(k), before.tensor(k))
        assert after.sha256(k) == hashlib.sha256((folder / "test" / after.ids[k]).read_bytes()).hexdigest()
    part = after.subset([5, 2])
    assert [part.sha256(0), part.sha256(1)] == [before.sha256(5), before.sha256(2)]
    assert images_sha256(str(pack), "test") == images_sha256(str(folder), "test")


def test_one_file_serves_every_normalization(folder: Path, pack: Path) -> None:
    other = replace(GEOMETRY, mean=(0.0, 0.0, 0.0))
    before, after = (open_dataset(str(source), other, "test") for source in (folder, pack))
    np.testing.assert_array_equal(after.tensor(3), before.tensor(3))


def test_the_same_images_give_the_same_file_and_unreadable_ones_are_left_out(folder: Path, pack: Path) -> None:
    again = pack.with_name("again.npz")
    write_packed(again, open_dataset(str(folder), GEOMETRY, "test"), "test", images_sha256(str(folder), "test") or "")
    assert again.read_bytes() == pack.read_bytes()
    (folder / "test" / "a" / "0é.png").write_bytes(b"no picture")
    assert write_packed(again, open_dataset(str(folder), GEOMETRY, "test"), "test", "") == 6
    assert "a/0é.png" not in open_dataset(str(again), GEOMETRY, "test").ids
    assert list(pack.parent.glob("*.rows")) == []


@pytest.mark.parametrize(
    ("change", "split", "words"),
    [
        ({"resize": 12}, "test", "packed with resize 10, the model takes 12"),
        ({"interpolation": "bicubic"}, "test", "packed with interpolation bilinear, the model takes bicubic"),
        ({}, "train", "holds test images, not train images"),
    ],
)
def test_another_geometry_or_split_is_refused(pack: Path, change: dict[str, object], split: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(str(pack), replace(GEOMETRY, **change), split)  # type: ignore[arg-type]


def test_other_classes_are_refused(pack: Path) -> None:
    with pytest.raises(DataError, match="its 2 classes"):
        open_dataset(str(pack), GEOMETRY, "test", ["a", "c"])


def rewrite(pack: Path, name: str, content: bytes, **info: int) -> None:
    with zipfile.ZipFile(pack) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members[name] = content
    with zipfile.ZipFile(pack, "w") as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)


def npy(array: np.ndarray, tmp: Path) -> bytes:
    np.save(tmp / "x.npy", array)
    return (tmp / "x.npy").read_bytes()


def header(shape: tuple[int, ...], descr: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_a_damaged_file_is_one_error(pack: Path, tmp_path: Path) -> None:
    whole = pack.read_bytes()
    hostile = {
        "facts.npy": [npy(np.array('{"format": 2}'), tmp_path), npy(np.array('{"format": 1, "x": 1}'), tmp_path)],
        "ids.npy": [header((1 << 40,), "<U4"), npy(np.array(["a"]), tmp_path), npy(np.zeros(7, object), tmp_path)],
        "sha256.npy": [npy(np.array(["a"] * 7), tmp_path), header((7, 1 << 40), "|S64")],
        "pixels.npy": [header((7, 8, 8), "|u1"), header((7, 8, 8, 3), "<f4"), b"", header((7, 9, 9, 3), "|u1")],
    }
    beyond_unicode = np.full(7, 2**32 - 1, np.uint32).view("U1")
    hostile["ids.npy"].append(npy(beyond_unicode, tmp_path))
    hostile["facts.npy"].append(npy(beyond_unicode.reshape(7, 1)[0].reshape(()), tmp_path))
    hostile["pixels.npy"].append(header((7, 8, 8, 3), "|u1") + bytes(7 * 8 * 8 * 3 - 1))
    for name, contents in hostile.items():
        for content in contents:
            pack.write_bytes(whole)
            rewrite(pack, name, content)
            with pytest.raises(DataError) as refused:
                open_dataset(str(pack), GEOMETRY, "test")
            assert "\n" not in refused.value.message
            assert str(pack) in refused.value.message


def test_a_truncated_file_is_one_error(pack: Path) -> None:
    whole = pack.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        pack.write_bytes(whole[:length])
        with pytest.raises(DataError):
            open_dataset(str(pack), GEOMETRY, "test")
