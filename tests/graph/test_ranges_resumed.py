"""A calibration that was killed goes on with the images that are on disk now, and from what is whole of its journal."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecnn.artifact.journal import Journal
from edgecnn.data.dataset import Dataset
from edgecnn.errors import MeasurementError, WriteError
from edgecnn.graph.calibration import collect
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.histogram import Ranges
from tests.fakes.graphs import build
from tests.fakes.noise import NET, images

pytestmark = pytest.mark.onnx

COUNT, BATCH, SAVED = 100, 10, 30


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(collect, "_SAVE_EVERY", SAVED)
    path = tmp_path / "net.onnx"
    onnx.save(build(NET), path)
    return path


def kill(net: Path, data: Dataset, journal: Path) -> None:
    """A run that ends in its last batch: after 30, 60 and 90 images it has written a block."""

    def stop(done: int, total: int) -> None:
        if done == COUNT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_ranges(net, data, batch=BATCH, threads=1, progress=stop, resume=journal)


def resume(net: Path, data: Dataset, journal: Path) -> tuple[Ranges, int]:
    """What comes of it, and how many images were looked at."""
    seen: list[int] = []
    found = collect_ranges(
        net, data, batch=BATCH, threads=1, progress=lambda done, total: seen.append(done), resume=journal
    )
    return found, COUNT - seen[0] + BATCH


def require_equal(found: Ranges, net: Path, data: Dataset) -> None:
    whole = collect_ranges(net, data, batch=BATCH, threads=1)
    assert found.data_sha256 == whole.data_sha256
    assert found.tensors.keys() == whole.tensors.keys()
    for name, one in whole.tensors.items():
        for field in dataclasses.fields(one):
            assert np.array_equal(getattr(found.tensors[name], field.name), getattr(one, field.name)), name


def with_other(data: Dataset, which: int) -> Dataset:
    """The same names, and behind one of them another image."""
    other = images(COUNT, seed=5)
    assert data.array is not None
    assert other.array is not None
    pick: Callable[[int], Dataset] = lambda i: other if i == which else data  # noqa: E731
    return dataclasses.replace(data, array=lambda i: pick(i).tensor(i), content=lambda i: pick(i).content(i))


@pytest.mark.parametrize(("which", "again"), [(95, 10), (89, 40), (60, 40), (59, 70), (0, 100)])
def test_a_replaced_image_is_counted_again(net: Path, tmp_path: Path, which: int, again: int) -> None:
    data = images(COUNT)
    kill(net, data, tmp_path / "j")
    found, looked_at = resume(net, with_other(data, which), tmp_path / "j")
    require_equal(found, net, with_other(data, which))
    assert looked_at == again
    assert not (tmp_path / "j").exists()


def test_a_flipped_bit_costs_what_is_behind_it_alone(net: Path, tmp_path: Path) -> None:
    data, journal = images(COUNT), tmp_path / "j"
    kill(net, data, journal)
    written = journal.read_bytes()
    ends = [written.index(b"\n") + 1]
    while ends[-1] < len(written):
        ends.append(ends[-1] + 40 + int.from_bytes(written[ends[-1] : ends[-1] + 8], "little"))
    assert len(ends) == 4
    whole = collect_ranges(net, data, batch=BATCH, threads=1)
    for at in [3, *(e + k for e in ends[:3] for k in (0, 7, 12, 41, 300)), len(written) - 1]:
        changed = bytearray(written)
        changed[at] ^= 16
        journal.write_bytes(changed)
        found, looked_at = resume(net, data, journal)
        assert looked_at == COUNT - SAVED * max(sum(end <= at for end in ends) - 1, 0)
        assert np.array_equal(found.tensors["s"].positive, whole.tensors["s"].positive)
        assert found.data_sha256 == whole.data_sha256


def npz(**arrays: object) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize(
    "block",
    [
        b"no archive",
        npz(images=np.array(3)),
        npz(images=np.array([1, 2]), hash=np.array("x")),
        npz(images=np.array(10**9), hash=np.array("x")),
        npz(images=np.array(10), hash=np.array(hashlib.sha256(b"").hexdigest())),
        npz(images=np.array(10), hash=np.array("x"), bomb=np.zeros(1 << 22)),
    ],
)
def test_a_block_that_another_program_wrote_is_not_gone_on_from(net: Path, tmp_path: Path, block: bytes) -> None:
    data, path = images(COUNT), tmp_path / "j"
    kill(net, data, path)
    key = json.loads(path.read_bytes().split(b"\n")[0])["key"]
    path.unlink()
    with Journal(path, key) as journal:
        journal.append(block)
    found, looked_at = resume(net, data, path)
    require_equal(found, net, data)
    assert looked_at == COUNT


def test_blocks_are_cut_where_one_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, "k") as journal:
        for block in (b"one", b"", b"three"):
            journal.append(block)
    os.truncate(path, path.stat().st_size - 1)
    with Journal(path, "k") as journal:
        assert list(journal.blocks()) == [b"one", b""]
        journal.append(b"four")
        assert list(journal.blocks()) == [b"one", b"", b"four"]
        journal.keep(1)
        journal.append(b"five")
    with Journal(path, "other") as journal:
        assert list(journal.blocks()) == []
    with Journal(path, "k") as journal:
        assert not list(journal.blocks()), "without blocks of the other key, the file did not stay"


def test_one_process_has_a_journal_and_a_folder_is_none(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "k"), pytest.raises(MeasurementError, match="another process"):
        Journal(tmp_path / "j", "k")
    assert not (tmp_path / "j").exists()
    folder = tmp_path / "j"
    folder.mkdir()
    with pytest.raises(WriteError, match="Is a directory"):
        Journal(folder, "k")
