"""A validation that was killed goes on with what is on disk now: images are known by their content, rows by a
checksum."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.packed import packed, write_packed
from edgecnn.errors import DataError
from edgecnn.measure.predict import Predictions, predict
from edgecnn.session import Array, Session, SessionInfo, TensorSpec

PREPROCESSING = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
COUNT, BATCH = 13, 2


class Means(Session):
    """A session whose logits are the mean of each channel; it keeps what it was asked."""

    def __init__(self) -> None:
        images, logits = TensorSpec("input", (None, 3, 8, 8), "float32"), TensorSpec("logits", (None, 3), "float32")
        self.facts = SessionInfo((images,), (logits,))
        self.images = 0

    @property
    def info(self) -> SessionInfo:
        return self.facts

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.images += len(inputs["input"])
        return {"logits": inputs["input"].mean(axis=(2, 3))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        path = tmp_path / "images" / "a" / f"{k:02d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(path)
    return tmp_path / "images" / "a"


def replace_image(path: Path, content: bytes | None = None) -> None:
    """Another image of the same name, size in bytes and times (or other `content`, padded to that size)."""
    before, now = path.stat(), bytearray(path.read_bytes())
    now[-200:] = bytes(255 - b for b in now[-200:])
    path.write_bytes(bytes(now) if content is None else content.ljust(len(now), b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def opened(folder: Path) -> Dataset:
    return open_dataset(str(folder.parent), PREPROCESSING, "test")


def kill(dataset: Dataset, journal: Path, after: int = 10) -> None:
    """A run that is killed when so many images are done."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(Means(), dataset, batch=BATCH, journal=journal, identity="e", progress=stop)


def resume(dataset: Dataset, journal: Path, *, strict: bool = False) -> tuple[Predictions, int]:
    """What comes of it, and of how many images it was asked for."""
    session = Means()
    found = predict(session, dataset, batch=BATCH, journal=journal, identity="e", strict=strict)
    return replace(found, logits=np.array(found.logits)), session.images


def require_equal(found: Predictions, dataset: Dataset) -> None:
    whole = predict(Means(), dataset, batch=BATCH)
    np.testing.assert_array_equal(found.logits, whole.logits)
    np.testing.assert_array_equal(found.labels, whole.labels)
    assert (found.ids, found.sha256s, found.unreadable) == (whole.ids, whole.sha256s, whole.unreadable)


@pytest.mark.parametrize(("which", "again"), [(0, 13), (5, 9), (9, 5), (11, 3)])
def test_a_replaced_image_is_done_again_though_size_times_and_name_are_the_same(
    folder: Path, tmp_path: Path, which: int, again: int
) -> None:
    kill(opened(folder), tmp_path / "j")
    replace_image(folder / f"{which:02d}.bmp")
    found, done = resume(opened(folder), tmp_path / "j")
    require_equal(found, opened(folder))
    assert done == again


def test_an_image_that_can_be_read_by_now_and_one_that_cannot_any_more(folder: Path, tmp_path: Path) -> None:
    good = (folder / "03.bmp").read_bytes()
    replace_image(folder / "03.bmp", b"no picture")
    kill(opened(folder), tmp_path / "j")
    found, done = resume(opened(folder), tmp_path / "j")
    assert (done, found.unreadable) == (3, ("a/03.bmp",))
    with pytest.raises(DataError, match=r"03\.bmp"):
        resume(opened(folder), tmp_path / "j", strict=True)
    kill(opened(folder), tmp_path / "j")
    replace_image(folder / "03.bmp", good)
    replace_image(folder / "06.bmp", b"no picture")
    found, done = resume(opened(folder), tmp_path / "j")
    require_equal(found, opened(folder))
    assert (done, found.unreadable) == (10, ("a/06.bmp",))


def test_packed_images_are_looked_at_themselves(folder: Path, tmp_path: Path) -> None:
    """They carry the identity of the images that they come from, whatever happens to their pixels."""
    path = tmp_path / "images.npz"
    write_packed(path, opened(folder), "test", "")
    kill(packed(path, PREPROCESSING, "test"), tmp_path / "j")
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files}
    arrays["pixels"][4, 0, 0] ^= 128
    np.savez(path, **arrays)
    found, done = resume(packed(path, PREPROCESSING, "test"), tmp_path / "j")
    require_equal(found, packed(path, PREPROCESSING, "test"))
    assert done == 9


def test_a_flipped_bit_anywhere_is_noticed_and_the_rows_before_it_stay(folder: Path, tmp_path: Path) -> None:
    dataset, journal = opened(folder), tmp_path / "j"
    kill(dataset, journal)
    written = journal.read_bytes()
    whole = predict(Means(), dataset, batch=BATCH)
    header = written.index(b"\n") + 1
    row = (len(written) - header) // 10
    asked: dict[int, int] = {}
    for at in [*range(0, header, 17), *range(header, len(written), 5)]:
        changed = bytearray(written)
        changed[at] ^= 1 << at % 8
        journal.write_bytes(changed)
        found, asked[at] = resume(dataset, journal)
        np.testing.assert_array_equal(found.logits, whole.logits)
        assert (found.ids, found.sha256s) == (whole.ids, whole.sha256s)
    assert {at: n for at, n in asked.items() if at < header} == dict.fromkeys(range(0, header, 17), COUNT)
    in_rows = {(at - header) // row: n for at, n in asked.items() if at >= header}
    assert in_rows == {k: COUNT - k // BATCH * BATCH for k in range(10)}


@pytest.mark.parametrize("cut", [1, 40, 200, 10_000])
def test_a_journal_cut_anywhere_gives_the_same(folder: Path, tmp_path: Path, cut: int) -> None:
    dataset, journal = opened(folder), tmp_path / "j"
    kill(dataset, journal)
    os.truncate(journal, max(0, journal.stat().st_size - cut))
    require_equal(resume(dataset, journal)[0], dataset)


@pytest.mark.parametrize("change", ["order", "engine"])
def test_a_journal_is_of_its_images_and_its_engine(folder: Path, tmp_path: Path, change: str) -> None:
    dataset, session = opened(folder), Means()
    kill(dataset, tmp_path / "j")
    again = dataset.subset(range(COUNT - 1, -1, -1)) if change == "order" else dataset
    predict(session, again, batch=BATCH, journal=tmp_path / "j", identity="f" if change == "engine" else "e")
    assert session.images == COUNT


def test_images_are_hashed_on_several_threads_and_in_order(folder: Path, tmp_path: Path) -> None:
    dataset, journal = opened(folder), tmp_path / "j"
    kill(dataset, journal)
    read: list[int] = []

    def content(index: int, before: Callable[[int], bytes] = dataset.content) -> bytes:
        read.append(index)
        return before(index)

    found = predict(Means(), replace(dataset, content=content), batch=BATCH, workers=3, journal=journal, identity="e")
    require_equal(found, dataset)
    assert sorted(read) == list(range(COUNT)), "each finished image once, and each of the rest once"


@pytest.mark.parametrize("classes", [b"9", b"0", b"-1", b'"3"', b"true", b"1000000000000", b"1e9", b"[3]", b"null"])
def test_a_damaged_head_of_a_journal_is_a_journal_that_is_not_there(
    folder: Path, tmp_path: Path, classes: bytes
) -> None:
    """The number of classes is not what the rows are of."""
    journal = tmp_path / "j"
    kill(opened(folder), journal)
    before = journal.read_bytes()
    assert b'"classes": 3' in before
    journal.write_bytes(before.replace(b'"classes": 3', b'"classes": ' + classes, 1))
    found, done = resume(opened(folder), journal)
    require_equal(found, opened(folder))
    assert done == COUNT


def test_memory_does_not_grow_with_the_images_that_are_finished(tmp_path: Path) -> None:
    """But for their names, hashes and positions: not by images, logits or what waits for a thread."""
    pixels = np.random.default_rng(0).random((3, 8, 8), np.float32)

    def peak_bytes(count: int) -> int:
        names = tuple(f"{k:06d}" for k in range(count))
        dataset = Dataset(
            name="many", ids=names, labels=None, label_names=None, preprocessing=PREPROCESSING,
            content=lambda i: names[i].encode(), image=None, array=lambda i: pixels,
        )  # fmt: skip
        kill(dataset, tmp_path / f"{count}", after=count - 2 * BATCH)
        gc.collect()
        tracemalloc.start()
        try:
            assert resume(dataset, tmp_path / f"{count}")[1] <= 2 * BATCH
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(200)
    few, many = 1500, 4500
    assert (peak_bytes(many) - peak_bytes(few)) / (many - few) < 900
