"""Running a session over a data set: order, corrupt images, resuming, frozen batches; and the artifact."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar, sidecar_path
from edgecnn.artifact.write import write_artifact
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ArtifactError, DataError, MeasurementError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import predict, read_predictions, write_predictions
from edgecnn.session import Array, Session, SessionInfo, TensorSpec

PREPROCESSING = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Means(Session):
    """A session whose logits are simple facts about each image; counts what it is asked."""

    def __init__(self, batch: int | None = None, size: int = 8, classes: int = 3, least: int = 1) -> None:
        images = TensorSpec("input", (batch, 3, size, size), "float32")
        self.facts = SessionInfo(
            (images,), (TensorSpec("logits", (batch, classes), "float32"),), batches=((least, 4096),)
        )
        self.sizes: list[int] = []

    @property
    def info(self) -> SessionInfo:
        return self.facts

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        batch = inputs["input"]
        self.sizes.append(len(batch))
        return {"logits": batch.mean(axis=(2, 3))[:, : self.output.shape[1]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(11):
        path = tmp_path / "images" / "abc"[k % 3] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(str(folder), PREPROCESSING, "test")


@pytest.mark.parametrize("workers", [0, 3])
def test_logits_are_in_the_order_of_the_data_whatever_the_batch(dataset: Dataset, workers: int) -> None:
    whole = np.stack([dataset.tensor(k).mean(axis=(1, 2)) for k in range(len(dataset))])
    steps: list[tuple[int, int]] = []
    found = predict(Means(), dataset, batch=4, workers=workers, progress=lambda *step: steps.append(step))
    np.testing.assert_allclose(found.logits, whole, rtol=1e-6)
    assert found.ids == dataset.ids
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert found.preprocessing_sha256 == PREPROCESSING.sha256
    assert steps == [(4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize("queries", [3, 0])
def test_decoding_and_queries_share_the_threads(
    dataset: Dataset, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a query takes threads of this processor; one that computes elsewhere does not wait for the decoders."""
    lock, busy, most = threading.Lock(), {"decoder": 0, "query": 0}, [0, 0]

    def count(kind: str, change: int) -> None:
        with lock:
            busy[kind] += change
            most[0] = max(most[0], sum(busy.values()))
            most[1] = max(most[1], busy["decoder"] if busy["query"] else 0)

    plain = Dataset.tensor

    def decode(self: Dataset, index: int) -> Array:
        count("decoder", 1)
        time.sleep(0.01)
        count("decoder", -1)
        return plain(self, index)

    class Queries(Means):
        def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            count("query", 3)
            time.sleep(0.03)
            count("query", -3)
            return super().run_all(inputs)

    session = Queries()
    session.facts = replace(session.facts, threads=queries)
    monkeypatch.setattr(Dataset, "tensor", decode)
    found = predict(session, dataset, batch=2, workers=3)
    assert found.ids == dataset.ids
    assert most[0] == 3 if queries else most[1] >= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named_and_counted_or_stops_a_strict_run(folder: Path, workers: int) -> None:
    (folder / "b" / "04.png").write_bytes(b"\x89PNG not really")
    dataset = open_dataset(str(folder), PREPROCESSING, "test")
    found = predict(Means(), dataset, batch=4, workers=workers)
    assert found.unreadable == ("b/04.png",)
    assert len(found.ids) == len(found.logits) == len(found.labels) == 10
    assert "b/04.png" not in found.ids
    with pytest.raises(DataError, match=r"04\.png"):
        predict(Means(), dataset, batch=4, workers=workers, strict=True)


def test_nothing_readable_and_nothing_at_all_are_errors(folder: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="no images"):
        predict(Means(), dataset.subset([]), batch=4)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 11 images"):
        predict(Means(), dataset, batch=4)


def _until(count: int) -> Callable[[int, int], None]:
    def stop(done: int, total: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return stop


def test_a_killed_run_goes_on_where_it_stopped(folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    (folder / "a" / "03.png").write_bytes(b"")
    journal = tmp_path / "validate.partial"
    whole = predict(Means(), dataset, batch=2)
    with pytest.raises(KeyboardInterrupt):
        predict(Means(), dataset, batch=2, journal=journal, identity="e", progress=_until(6))
    with journal.open("ab") as file:
        file.write(b"half a record")
    session = Means()
    resumed = predict(session, dataset, batch=2, journal=journal, identity="e")
    assert sum(session.sizes) == 5
    np.testing.assert_array_equal(resumed.logits, whole.logits)
    assert resumed.ids == whole.ids
    assert resumed.unreadable == whole.unreadable == ("a/03.png",)


@pytest.mark.parametrize("other", ["engine", "data"])
def test_a_journal_of_something_else_is_not_resumed(dataset: Dataset, tmp_path: Path, other: str) -> None:
    journal = tmp_path / "validate.partial"
    predict(Means(), dataset, batch=4, journal=journal, identity="e")
    session = Means()
    data = replace(dataset, ids=tuple(reversed(dataset.ids))) if other == "data" else dataset
    predict(session, data, batch=4, journal=journal, identity="f" if other == "engine" else "e")
    assert sum(session.sizes) == 11


class Sleeping(Means):
    """An engine that takes 30 ms for a batch and leaves the processor alone."""

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(0.03)
        return super().run_all(inputs)


def slow_images(count: int) -> Dataset:
    """Pictures that take 8 ms each to decode, without holding the processor."""
    pixels = np.zeros((8, 8, 3), np.uint8)

    def image(index: int) -> Image.Image:
        time.sleep(0.008)
        return Image.fromarray(pixels)

    ids = tuple(map(str, range(count)))
    return Dataset("slow", ids, np.zeros(count, np.int64), ("a",), PREPROCESSING, lambda i: b"", image)


def test_decoding_runs_beside_the_engine() -> None:
    """20 batches of 8, decoded in two threads beside the engine, against one after the other in the same run."""

    def seconds(workers: int) -> float:
        started = time.perf_counter()
        predict(Sleeping(), slow_images(160), batch=8, workers=workers)
        return time.perf_counter() - started

    assert seconds(2) < 0.7 * seconds(0)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    class Wide(Means):
        def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"logits": np.ones((len(inputs["input"]), 1000), np.float32)}

    def peak(count: int) -> int:
        values = np.zeros((3, 64, 64), np.float32)
        ids = tuple(map(str, range(count)))
        dataset = Dataset("flat", ids, None, None, None, lambda i: b"", None, lambda i: values.copy())
        journal = tmp_path / "journal"
        journal.unlink(missing_ok=True)
        tracemalloc.start()
        predict(Wide(size=64, classes=1000), dataset, batch=16, workers=2, journal=journal)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(64)
    few, many = peak(64), peak(2048)
    assert many - few < 0.1 * 2048 * 4000, "the logits stay on disk"
    assert many < 1.2 * few


def test_two_processes_do_not_share_a_journal(dataset: Dataset, tmp_path: Path) -> None:
    journal = tmp_path / ".partial"

    class Beside(Means):
        """Meets another run into the same journal after its first batch."""

        def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
            if len(self.sizes) == 1:
                with pytest.raises(MeasurementError, match="another process is measuring into it"):
                    predict(Means(), dataset, batch=4, journal=journal)
            return super().run_all(inputs)

    found = predict(Beside(), dataset, batch=4, journal=journal)
    np.testing.assert_array_equal(found.logits, predict(Means(), dataset, batch=4).logits)


def test_a_run_that_gave_nothing_leaves_no_journal(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError):
        predict(Means(size=16), dataset, batch=4, journal=tmp_path / ".partial")
    assert list(tmp_path.glob(".partial")) == []


def test_a_batch_below_the_least_is_filled_up_and_cut(dataset: Dataset) -> None:
    session = Means(least=2)
    np.testing.assert_array_equal(predict(session, dataset, batch=5).logits, predict(Means(), dataset, batch=11).logits)
    assert session.sizes == [5, 5, 2]


def test_a_frozen_batch_is_filled_up_and_cut(dataset: Dataset) -> None:
    session = Means(batch=4)
    found = predict(session, dataset, batch=4)
    assert session.sizes == [4, 4, 4]
    np.testing.assert_array_equal(found.logits, predict(Means(), dataset, batch=4).logits)


def test_data_that_do_not_fit_the_session(dataset: Dataset) -> None:
    with pytest.raises(MeasurementError, match="images of 3x8x8, the engine takes 3x16x16"):
        predict(Means(size=16), dataset, batch=4)
    with pytest.raises(MeasurementError, match="label 2, the engine only 2 classes"):
        predict(Means(classes=2), dataset, batch=16)


def test_predictions_survive_their_file_and_a_changed_file_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    found = replace(predict(Means(), dataset, batch=4), unreadable=("gone.png",))
    write_predictions(path, found, Sidecar(kind="reference"))
    again = read_predictions(path)
    np.testing.assert_array_equal(again.logits, found.logits)
    np.testing.assert_array_equal(again.labels, found.labels)
    assert replace(again, logits=found.logits, labels=found.labels) == found
    first = path.read_bytes()
    write_predictions(path, found, Sidecar(kind="reference"))
    assert path.read_bytes() == first
    path.write_bytes(first[:-20])
    with pytest.raises(ArtifactError, match="sha256"):
        read_predictions(path)
    sidecar_path(path).unlink()
    with pytest.raises(ArtifactError, match="no sidecar"):
        read_predictions(path)


@pytest.mark.parametrize("name", ["ids", "dataset", "label_names", "output"])
def test_letters_beyond_unicode_are_a_damaged_file(dataset: Dataset, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npz"
    sidecar = write_predictions(path, predict(Means(), dataset, batch=4), Sidecar(kind="reference"))
    with np.load(path) as held:
        arrays = dict(held)
    arrays[name] = np.full([max(size, 1) for size in arrays[name].shape], 2**32 - 1, np.uint32).view("U1")

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_artifact(path, write, sidecar)
    with pytest.raises(ArtifactError, match="not a file of predictions"):
        read_predictions(path)


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, logits=np.zeros(3))

    write_artifact(tmp_path / "x.npz", write, Sidecar(kind="reference"))
    with pytest.raises(ArtifactError, match="not a file of predictions"):
        read_predictions(tmp_path / "x.npz")


def test_one_output_has_two_classes_and_keeps_its_threshold(folder: Path, tmp_path: Path) -> None:
    three = open_dataset(str(folder), PREPROCESSING, "test")
    with pytest.raises(MeasurementError, match="label 2, the engine only 2 classes"):
        predict(Means(classes=1), three, batch=4)
    two = three.subset(range(8))
    found = predict(Means(classes=1), two, batch=4, threshold=0.5)
    assert (found.classes, found.logits.shape) == (2, (8, 1))
    path = tmp_path / "reference.npz"
    assert write_predictions(path, found, Sidecar(kind="predictions")).facts["classes"] == 2
    assert read_predictions(path).threshold == 0.5


def test_other_pixels_under_the_same_name_are_refused_at_the_first_image(folder: Path, dataset: Dataset) -> None:
    """The names, the sizes, even the labels agree: what an image is, its bytes say."""
    known = predict(Means(), dataset, batch=4)
    assert known.sha256s == tuple(dataset.sha256(k) for k in range(len(dataset)))
    picture = folder / "a" / "03.png"
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    session = Means()
    with pytest.raises(MeasurementError, match=r"a/03\.png.* is not the one that the reference was made on"):
        predict(session, dataset, batch=1, known=known)
    assert len(session.sizes) == 1
    changed = predict(Means(), dataset, batch=4)
    with pytest.raises(MeasurementError, match=r"a/03\.png"):
        measure_accuracy("engine", changed, known)
    measure_accuracy("engine", changed, replace(known, sha256s=()))  # of an earlier version: it cannot be told


def test_identities_survive_the_journal_and_the_file(dataset: Dataset, tmp_path: Path) -> None:
    whole = predict(Means(), dataset, batch=2)
    with pytest.raises(KeyboardInterrupt):
        predict(Means(), dataset, batch=2, journal=tmp_path / ".j", identity="e", progress=_until(6))
    resumed = predict(Means(), dataset, batch=2, journal=tmp_path / ".j", identity="e")
    assert resumed.sha256s == whole.sha256s
    write_predictions(tmp_path / "r.npz", resumed, Sidecar(kind="predictions"))
    assert read_predictions(tmp_path / "r.npz").sha256s == whole.sha256s
    assert whole.without({dataset.ids[0]}).sha256s == whole.sha256s[1:]
