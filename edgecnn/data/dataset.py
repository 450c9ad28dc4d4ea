"""Labelled images by position, and batches of them in a deterministic order."""

from __future__ import annotations

import functools
import hashlib
import heapq
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecnn.contract import InputForm
from edgecnn.data.preprocess import Preprocessing, is_colored, orientation_of
from edgecnn.errors import DataError
from edgecnn.machine.threads import Seats
from edgecnn.output import say

if TYPE_CHECKING:
    from edgecnn.session import Array

Split = Literal["train", "test"]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """`input` is float32 NCHW; `label` is -1 where unknown; `ids` name the images, `sha256s` are their identities where
    they were asked for."""

    input: Array
    label: Labels
    ids: tuple[str, ...]
    sha256s: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Images by position.

    `tensor(i)` is preprocessed float32 CHW, `image(i)` the decoded picture (None for `.npz`), `pixels(i)` the uint8
    [H, W, C] of packed images, `array(i)` what is preprocessed already. `content(i)` are the bytes whose sha256
    identifies the image, unless `sha256s` says which those of its source have. `by_position`: the labels count class
    folders, since nobody said which classes a model has. `oriented`: the images read so far that carry an EXIF
    orientation; `colored`: those in color that a network of one channel reads as gray.
    """

    name: str
    ids: tuple[str, ...]
    labels: Labels | None
    label_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    content: Callable[[int], bytes]
    image: Callable[[int], Image.Image] | None
    array: Callable[[int], Array] | None = None
    by_position: bool = False
    oriented: set[str] = field(default_factory=set)
    colored: set[str] = field(default_factory=set)
    form: InputForm = "normalised"
    pixels: Callable[[int], npt.NDArray[np.uint8]] | None = None
    sha256s: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def tensor(self, index: int) -> Array:
        """One preprocessed image, float32 [C, H, W], or in another `form`; raises `DataError` that names an unreadable
        one."""
        if self.array is not None:
            return self.array(index)
        assert self.preprocessing is not None
        if self.pixels is not None:
            return self.preprocessing.arrange(self.pixels(index), self.form)
        assert self.image is not None
        picture = self.image(index)
        if orientation_of(picture) != 1:
            self.oriented.add(self.ids[index])
        if self.preprocessing.channels == 1 and is_colored(picture):
            self.colored.add(self.ids[index])
        try:
            return self.preprocessing.tensor(picture, self.form)
        except DataError as exc:
            raise DataError(f"{self.ids[index]}: {exc.message}", exc.hint) from exc

    def in_form(self, form: InputForm) -> Dataset:
        """The same images as a serving contract takes them; raises `DataError` where only normalised ones are here."""
        if form != "normalised" and self.array is not None:
            raise DataError(
                f"{self.name}: its images are normalised already, what is to be fed takes pixels ({form})",
                "name pictures: an image folder, a data set, or a manifest",
            )
        return self if form == self.form else replace(self, form=form)

    def sha256(self, index: int) -> str:
        """Identity of one image: that of the file or the pixels it comes from, wherever they lie now."""
        if self.sha256s is not None:
            return self.sha256s[index]
        return self.content_sha256(index)

    def content_sha256(self, index: int) -> str:
        """Of the bytes that are read for one image now."""
        return hashlib.sha256(self.content(index)).hexdigest()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The images at `indices`, in that order."""
        order = list(indices)
        image, array, pixels, content = self.image, self.array, self.pixels, self.content
        return replace(
            self,
            ids=tuple(self.ids[i] for i in order),
            labels=None if self.labels is None else self.labels[order],
            content=lambda i: content(order[i]),
            image=None if image is None else lambda i: image(order[i]),
            array=None if array is None else lambda i: array(order[i]),
            pixels=None if pixels is None else lambda i: pixels(order[i]),
            sha256s=None if self.sha256s is None else tuple(self.sha256s[i] for i in order),
        )


def batches(
    dataset: Dataset,
    size: int,
    workers: int = 0,
    unreadable: Callable[[str, DataError], None] | None = None,
    *,
    hashed: bool = False,
    seats: Seats | None = None,
) -> Iterator[Batch]:
    """The data set in order, `size` images at a time (the last may be smaller), decoded by `workers` threads ahead.

    At most three batches are held at once. An image that cannot be read raises `DataError`, or goes to `unreadable`
    and is left out. With `hashed` each image comes with its identity. Each thread takes one of the `seats` that it
    shares with what runs the images.
    """
    read = partial(_read, dataset, hashed, seats or Seats(max(workers, 1)))
    starts = range(0, len(dataset), size)
    if workers <= 0 or dataset.image is None:
        for start in starts:
            images = [partial(read, i) for i in range(start, min(start + size, len(dataset)))]
            yield from _batch(dataset, start, images, unreadable)
        _say_found(dataset)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending = []
        try:
            for start in [*starts, -1, -1]:
                if start >= 0:
                    stop = min(start + size, len(dataset))
                    pending.append((start, [pool.submit(read, i).result for i in range(start, stop)]))
                if pending and (len(pending) > 2 or start < 0):
                    yield from _batch(dataset, *pending.pop(0), unreadable)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    _say_found(dataset)


def _say_found(dataset: Dataset) -> None:
    """How many of the pictures that were read carry an EXIF orientation or lose their color, and what was done."""
    if dataset.colored:
        _say(
            f"{dataset.name}: {len(dataset.colored.intersection(dataset.ids))} of {len(dataset)} pictures are in "
            "color, and the network reads gray ones: they are read as gray; are they of its kind?"
        )
    if dataset.oriented and dataset.preprocessing is not None:
        turned = dataset.preprocessing.exif_orientation
        _say(
            f"{dataset.name}: {len(dataset.oriented.intersection(dataset.ids))} of {len(dataset)} pictures carry an "
            "EXIF orientation, and are "
            + ("turned by it" if turned else "read as they are stored; input.exif_orientation turns them")
        )


@functools.cache
def _say(line: str) -> None:
    """On stderr, once in a process."""
    say(line)


def _read(dataset: Dataset, hashed: bool, seats: Seats, index: int) -> tuple[Array, str]:
    with seats.take(1):
        return dataset.tensor(index), dataset.sha256(index) if hashed else ""


def _batch(
    dataset: Dataset,
    start: int,
    images: Sequence[Callable[[], tuple[Array, str]]],
    unreadable: Callable[[str, DataError], None] | None,
) -> Iterator[Batch]:
    read, positions = [], []
    for position, image in enumerate(images, start):
        try:
            read.append(image())
            positions.append(position)
        except DataError as exc:
            if unreadable is None:
                raise
            unreadable(dataset.ids[position], exc)
    if read:
        labels = np.full(len(read), -1, np.int64) if dataset.labels is None else dataset.labels[positions]
        tensors, sha256s = zip(*read, strict=True)
        ids = tuple(dataset.ids[p] for p in positions)
        yield Batch(np.stack(tensors), labels, ids, sha256s if sha256s[0] else ())


def nfc(name: str) -> str:
    """A name as it is compared: some file systems and archives take letters and their accents apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def spread(dataset: Dataset, count: int, seed: int = 0) -> list[int]:
    """`count` positions, or all there are: stratified where there are labels, else any; the same for the same seed."""
    labels = np.zeros(len(dataset), np.int64) if dataset.labels is None else dataset.labels
    return stratified(labels, dataset.ids, min(count, len(dataset)), seed)


def stratified(labels: Labels, ids: Sequence[str], count: int, seed: int = 0) -> list[int]:
    """`count` positions, spread over the classes as evenly as they allow; the same for the same ids and seed."""
    by_class: dict[int, list[int]] = {}
    for position in sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest()):
        by_class.setdefault(int(labels[position]), []).append(position)
    turns = ((turn, label, p) for label, members in by_class.items() for turn, p in enumerate(members))
    return sorted(p for _, _, p in heapq.nsmallest(count, turns))


def held_out(dataset: Dataset, share: float, seed: int) -> list[int]:
    """The positions of the images that training holds out of labelled ones to choose its epoch by."""
    assert dataset.labels is not None
    count = round(share * len(dataset))
    return stratified(dataset.labels, dataset.ids, count, seed) if count else []
