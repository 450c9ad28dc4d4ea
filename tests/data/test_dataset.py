"""Data sets: order, labels, subsets, pieces; and what is refused."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.calibration_set import make_manifest, open_data, read_manifest, select, write_manifest
from edgecnn.data.dataset import Split, batches, stratified
from edgecnn.data.open import has_test_split, images_sha256, is_split, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "test")
SMALL = Preprocessing(resize=8, crop=8, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, count in (("n02", 3), ("n01", 2)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 255, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{k}.png")
    return tmp_path / "pets"


def test_folders_are_matched_by_wnid_not_by_position(folder: Path) -> None:
    dataset = open_dataset(str(folder), SMALL, "test", ["zebra", "ant", "bee"], ["n09", "n02", "n01"])
    assert dataset.ids == ("n01/0.png", "n01/1.png", "n02/0.png", "n02/1.png", "n02/2.png")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 2, 1, 1, 1]


def test_a_folders_position_is_no_label_of_an_unknown_model(folder: Path) -> None:
    assert open_data(str(folder), SMALL, "test").labels is None
    assert open_data(str(folder), SMALL, "train").labels is not None, "calibration images are spread over the classes"
    assert open_data(str(folder), SMALL, "test", ["n01", "n02"]).labels is not None


def test_a_manifest_of_training_images_labels_no_unknown_model(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    write_manifest(path, make_manifest(open_dataset(str(folder), SMALL, "train"), str(folder), "train", 3))
    assert open_data(str(path), SMALL, "test").labels is None
    assert open_data(str(path), SMALL, "train").labels is not None
    known = open_data(str(path), SMALL, "test", ["n02", "n01"])
    assert known.labels is not None
    assert [("n02", "n01")[k] for k in known.labels] == [i.split("/")[0] for i in known.ids]


def test_wnids_alone_name_the_labels_they_give(folder: Path) -> None:
    dataset = open_dataset(str(folder), SMALL, "test", (), ["n09", "n02", "n01"])
    assert dataset.labels is not None
    assert dataset.label_names is not None
    assert [dataset.label_names[k] for k in dataset.labels] == [i.split("/")[0] for i in dataset.ids]


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lost+found"])
@pytest.mark.parametrize("inside", ["", "n01"])
def test_hidden_folders_are_no_classes_and_hold_no_images(
    folder: Path, name: str, inside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, identity = open_dataset(str(folder), SMALL, "train"), images_sha256(str(folder), "train")
    (folder / inside / name / "more").mkdir(parents=True)
    for copy in (folder / inside / name / "0.png", folder / inside / name / "more/0.png"):
        copy.write_bytes((folder / "n01/0.png").read_bytes())
    dataset = open_dataset(str(folder), SMALL, "train", ["n01", "n02"])
    assert (dataset.ids, dataset.label_names) == (clean.ids, clean.label_names)
    assert images_sha256(str(folder), "train") == identity
    assert open_dataset(str(folder / "n01"), SMALL, "test").ids == ("0.png", "1.png"), "nor beside images alone"
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"{folder}:")]
    assert len(said) == 1, "once, also where the folder is opened again"
    assert str(Path(inside) / name) in said[0]
    assert open_dataset(str(folder), SMALL, "train").ids == clean.ids
    assert f"{folder}:" not in capsys.readouterr().err


def test_hidden_files_are_no_images_and_other_kinds_of_pictures_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "photo.HEIC"):
        (folder / "n02" / name).write_bytes(b"\0\5\26\7")
    (folder / "._n01.jpg").write_bytes(b"\0\5\26\7")
    assert len(open_dataset(str(folder), SMALL, "train")) == 5
    said = capsys.readouterr().err
    assert all(name in said for name in ("n02/._0.png", "n02/photo.HEIC", "._n01.jpg"))
    assert "Thumbs" not in said
    assert "DS_Store" not in said


def test_every_kind_of_picture_that_is_said_to_be_read_is(tmp_path: Path) -> None:
    for suffix in ("tif", "tiff", "ppm", "gif", "jfif", "JPEG", "webp", "bmp", "png"):
        kind = {"jfif": "JPEG", "ppm": "PPM"}.get(suffix)
        Image.new("RGB", (8, 8), (200, 100, 0)).save(tmp_path / f"a.{suffix}", format=kind)
    Image.new("L", (8, 8), 100).save(tmp_path / "a.pgm", format="PPM")
    dataset = open_dataset(str(tmp_path), SMALL, "test")
    assert len(dataset) == 10
    assert all(dataset.tensor(i).shape == (3, 8, 8) for i in range(10))


def test_a_name_and_the_same_name_with_accents_apart_are_one(folder: Path) -> None:
    composed, apart = "fr\u00eane", "fre\u0302ne"
    (folder / "n02").rename(folder / apart)
    for labels in ([composed, "n01"], [apart, "n01"]):
        dataset = open_dataset(str(folder), SMALL, "test", labels)
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert open_dataset(str(folder), SMALL, "train").label_names == (composed, "n01")
    (folder / composed).mkdir()
    with pytest.raises(DataError, match=f"two class folders are called '{composed}'"):
        open_dataset(str(folder), SMALL, "train")


@pytest.mark.parametrize(("there", "asked"), [("train", "test"), ("val", "train")])
def test_the_folder_of_another_split_is_no_class(folder: Path, there: str, asked: Split) -> None:
    root = folder.parent / "whole"
    root.mkdir()
    folder.rename(root / there)
    with pytest.raises(DataError, match=f"holds {there}, but no folder {asked}"):
        open_dataset(str(root), SMALL, asked)


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_called_after_a_split_is_a_class(folder: Path, name: str) -> None:
    (folder / "n02").rename(folder / name)
    for split in SPLITS:
        dataset = open_dataset(str(folder), SMALL, split)
        assert dataset.label_names == ("n01", name)
        assert len(dataset) == 5
    assert not has_test_split(str(folder))
    whole = images_sha256(str(folder), "train")
    (folder / "n01" / "0.png").rename(folder / "n01" / "9.png")
    assert images_sha256(str(folder), "train") != whole


@pytest.mark.parametrize("other", ["notes", ".cache", "__MACOSX"])
def test_a_folder_without_images_makes_no_classes_of_splits(folder: Path, other: str) -> None:
    root = folder.parent / "whole"
    (root / other).mkdir(parents=True)
    folder.rename(root / "train")
    assert open_dataset(str(root), SMALL, "train").label_names == ("n01", "n02")


def test_train_and_test_are_splits_beside_anything(folder: Path) -> None:
    root = folder.parent / "whole"
    root.mkdir()
    folder.rename(root / "train")
    shutil.copytree(root / "train", root / "test")
    shutil.copytree(root / "train" / "n01", root / "extra")
    for split in SPLITS:
        assert open_dataset(str(root), SMALL, split).label_names == ("n01", "n02")
    assert has_test_split(str(root))


def test_what_may_be_a_split_or_a_class_is_refused(folder: Path) -> None:
    for name in ("train", "test"):
        shutil.copytree(folder / "n02", folder / name)
    for split in SPLITS:
        with pytest.raises(DataError, match="test, train beside n01: splits, or classes called so"):
            open_dataset(str(folder), SMALL, split)
    shutil.rmtree(folder / "test")
    shutil.rmtree(folder / "train")
    shutil.copytree(folder / "n02", folder / "train" / "2020")
    for ask in (lambda: open_dataset(str(folder), SMALL, "train"), lambda: has_test_split(str(folder))):
        with pytest.raises(DataError, match="train beside n01: splits, or classes called so"):
            ask()


def test_images_alone_have_no_labels(folder: Path) -> None:
    alone = open_dataset(str(folder / "n02"), SMALL, "train", ["ant"], ["n01"])
    assert alone.ids == ("0.png", "1.png", "2.png")
    assert alone.labels is None
    assert open_data(str(folder / "n02"), SMALL, "test").labels is None
    (folder / "n02" / "0.png").rename(folder / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png lies beside class folders"):
        open_dataset(str(folder), SMALL, "train")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        open_dataset(str(folder / "empty"), SMALL, "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_identifies_a_folder_changes_with_its_images_alone(folder: Path, split: Split) -> None:
    (folder / split).mkdir()
    for name in ("n01", "n02"):
        (folder / name).rename(folder / split / name)
    first = images_sha256(str(folder), split)
    (folder / "notes.txt").write_text("not an image")
    (folder / ("test" if split == "train" else "train")).mkdir()
    moved = folder.rename(folder.with_name("elsewhere"))
    assert first == images_sha256(str(moved), split)
    image = moved / split / "n01" / "0.png"
    content = image.read_bytes()
    image.write_bytes(content + b"more")
    assert images_sha256(str(moved), split) != first
    image.write_bytes(content)
    assert images_sha256(str(moved), split) == first
    image.rename(image.with_name("9.png"))
    assert images_sha256(str(moved), split) != first
    assert images_sha256(str(folder), split) is None


def test_what_identifies_files_of_rows_is_their_content(tmp_path: Path) -> None:
    np.zeros((2, 3073), np.uint8).tofile(tmp_path / "test_batch.bin")
    zeros = images_sha256(f"cifar10:{tmp_path}", "test")
    np.ones((2, 3073), np.uint8).tofile(tmp_path / "test_batch.bin")
    assert None not in (zeros, ones := images_sha256(f"cifar10:{tmp_path}", "test"))
    assert zeros != ones
    assert images_sha256(f"cifar10:{tmp_path}", "train") is None
    assert images_sha256("digits", "test") != images_sha256("digits", "train")


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_folder_of_images_with_the_name_of_a_data_set_is_asked_about(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename(name)
    with pytest.raises(
        DataError, match=f"^{name}: the data set of that name, or the folder of images /.*/{name}$"
    ) as e:
        open_data(name, SMALL, "test")
    assert f"write ./{name} for the folder" in e.value.hint
    assert open_data(f"./{name}", SMALL, "test").ids[0] == "n01/0.png"


def test_another_folder_with_the_name_of_a_data_set_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one for the results of a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 2))
    for name in ("digits", "cifar10"):
        known = images_sha256(name, "test")
        (tmp_path / name / "cpu").mkdir(parents=True)
        (tmp_path / name / "cpu" / "report.json").write_text("{}")
        assert has_test_split(name)
        assert is_split(name)
        assert images_sha256(name, "test") == known is not None
    assert len(open_dataset("cifar10", SMALL, "test")) == 2


def test_the_classes_of_a_named_data_set_are_matched_by_name(tmp_path: Path) -> None:
    rows = [np.concatenate([[label], np.zeros(3072)]).astype(np.uint8) for label in (0, 1, 2)]
    np.concatenate(rows).tofile(tmp_path / "test_batch.bin")
    np.concatenate(rows).tofile(tmp_path / "data_batch_1.bin")
    (tmp_path / "batches.meta.txt").write_text("airplane\nbird\ncat\n")
    source = f"cifar10:{tmp_path}"
    other = open_dataset(source, SMALL, "test", ["cat", "airplane", "bird"])
    assert other.labels is not None
    assert other.labels.tolist() == [1, 2, 0]
    assert other.label_names == ("cat", "airplane", "bird")
    with pytest.raises(DataError, match="'bird', are not the model's 3"):
        open_dataset(source, SMALL, "test", ["airplane", "dog", "cat"])
    assert len(open_dataset(source, SMALL, "train", ["tench"])) == 3, "calibration needs no classes"


def test_a_class_that_the_model_does_not_know(folder: Path) -> None:
    with pytest.raises(DataError, match="'n01'"):
        open_dataset(str(folder), SMALL, "test", ["n02", "n03"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_keep_the_order_and_the_ragged_end(folder: Path, workers: int) -> None:
    dataset = open_dataset(str(folder), SMALL, "train")
    made = list(batches(dataset, 2, workers))
    assert [b.input.shape[0] for b in made] == [2, 2, 1]
    assert [i for b in made for i in b.ids] == list(dataset.ids)
    whole = np.concatenate([b.input for b in made])
    np.testing.assert_array_equal(whole, np.stack([dataset.tensor(i) for i in range(5)]))


def test_the_split_folders_are_found(folder: Path) -> None:
    root = folder.parent / "whole"
    (root / "val").parent.mkdir()
    folder.rename(root / "val")
    (root / "train" / "n01").mkdir(parents=True)
    with pytest.raises(DataError, match="without images"):
        open_dataset(str(root), SMALL, "train")
    assert len(open_dataset(str(root), SMALL, "test")) == 5


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_an_unreadable_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "n01" / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=r"n01/0\.png"):
        open_dataset(str(folder), SMALL, "test").tensor(0)


@pytest.mark.parametrize("name", ["g.png", "g.tif", "big.tif", "g.pgm"])
def test_grey_of_sixteen_bits_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    if name == "g.pgm":
        (tmp_path / name).write_bytes(b"P5 8 8 65535\n" + levels.astype(">u2").tobytes())
    else:
        image = Image.fromarray(levels)
        if name == "big.tif":
            image = Image.frombytes("I;16B", (8, 8), levels.astype(">u2").tobytes())
        image.save(tmp_path / name)
    grey = Preprocessing(resize=8, crop=8, mean=(0.0,), std=(1.0,), channels=1)
    for preprocessing in (grey, Preprocessing(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)):
        tensor = open_dataset(str(tmp_path), preprocessing, "test").tensor(0)
        np.testing.assert_allclose(tensor, np.broadcast_to(levels / 65535, tensor.shape), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_whose_white_is_not_known_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.linspace(0, 1, 64).reshape(8, 8).astype(kind)).save(tmp_path / "g.tif")
    with pytest.raises(DataError, match="their white is not known"):
        open_dataset(str(tmp_path), SMALL, "test").tensor(0)


def test_a_manifest_keeps_names_with_separators(folder: Path, tmp_path: Path) -> None:
    for k, name in enumerate(("a\u2028b.png", "a\x85b.png", "a b.png")):
        (folder / "n02" / f"{k}.png").rename(folder / "n02" / name)
    path = tmp_path / "set.txt"
    write_manifest(path, make_manifest(open_dataset(str(folder), SMALL, "train"), str(folder), "train", 5))
    assert len(open_data(str(path), SMALL, "train")) == 5


def test_an_npz_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "cal.npz"
    values = np.random.default_rng(1).normal(size=(5, 3, 4, 4)).astype(np.float32)
    for save in (np.savez, np.savez_compressed):
        save(path, input=values, label=np.arange(5))
        dataset = open_dataset(str(path), None, "test")
        np.testing.assert_array_equal(np.concatenate([b.input for b in batches(dataset, 2)]), values)
        np.testing.assert_array_equal(dataset.tensor(1), values[1])
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros(3)}, "input"),
        ({"input": np.zeros((2, 3, 4, 4))}, "float64"),
        ({"input": np.zeros((2, 3), np.float32)}, "float32 \\[2, 3\\]"),
        ({"input": np.zeros((0, 3, 4, 4), np.float32)}, "no images"),
        ({"input": np.zeros((2, 3, 4, 4), np.float32), "label": np.zeros(3)}, "3 labels"),
        ({"input": np.zeros((2, 3, 4, 4), np.float32), "label": np.array([0, 0.5])}, "float64 \\[2\\], not one class"),
        (
            {"input": np.zeros((2, 3, 4, 4), np.float32), "label": np.eye(2, dtype=int)},
            "int64 \\[2, 2\\], not one class",
        ),
        ({"input": np.zeros((2, 3, 4, 4), np.float32), "label": np.array(["ash", "elm"])}, "not one class number"),
        ({"input": np.zeros((2, 3, 4, 4), np.float32), "label": np.array([0, -7])}, "not one class number"),
    ],
)
def test_an_npz_that_does_not_fit(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "cal.npz", **arrays)
    with pytest.raises(DataError, match=words):
        open_dataset(str(tmp_path / "cal.npz"), None, "test")


def test_mnist_files_plain_or_gzipped(tmp_path: Path) -> None:
    grey = Preprocessing(resize=28, crop=28, mean=(0.5,), std=(0.5,), channels=1)
    images = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28)) + bytes(2 * 28 * 28)
    labels = bytes([0, 0, 8, 1]) + (2).to_bytes(4, "big") + bytes([7, 3])
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    dataset = open_dataset(f"mnist:{tmp_path}", grey, "test")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 3]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images)[:40])
    with pytest.raises(DataError, match="IDX"):
        open_dataset(f"mnist:{tmp_path}", grey, "test")


@pytest.mark.parametrize("source", ["digitz", "cifar10:/nowhere", "mnist:/nowhere", "/nowhere/at/all"])
def test_a_missing_data_set(source: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(source, SMALL, "test")
    assert caught.value.hint


def test_stratified_is_even_and_repeatable() -> None:
    labels = np.repeat(np.arange(4), [10, 20, 30, 3])
    ids = [str(i) for i in range(63)]
    chosen = stratified(labels, ids, 23)
    assert np.bincount(labels[chosen]).tolist() == [7, 7, 6, 3] or sorted(np.bincount(labels[chosen])) == [3, 6, 7, 7]
    assert chosen == stratified(labels, ids, 23)
    assert chosen != stratified(labels, ids, 23, seed=1)


def test_a_manifest_brings_the_same_images_back(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(folder), SMALL, "train")
    path = tmp_path / "set.txt"
    write_manifest(path, make_manifest(dataset, str(folder), "train", 3))
    assert open_data(str(path), SMALL, "train").ids == read_manifest(path).ids
    assert len(open_data(f"{path}:{folder}", SMALL, "train")) == 3
    victim = read_manifest(path).ids[0]
    Image.new("RGB", (9, 9)).save(folder / victim)
    with pytest.raises(DataError, match="sha256"):
        open_data(str(path), SMALL, "train")
    (folder / victim).unlink()
    with pytest.raises(DataError, match="is not in"):
        select(read_manifest(path), open_dataset(str(folder), SMALL, "train"))


@pytest.mark.parametrize("text", ["", "x\n", "# edgecnn calibration set 1\n", "# edgecnn calibration set 1\na b\n"])
def test_a_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.txt").write_text(text)
    with pytest.raises(DataError, match="set.txt"):
        read_manifest(tmp_path / "set.txt")


def test_more_images_than_there_are(folder: Path) -> None:
    with pytest.raises(DataError, match="5 images, 6"):
        make_manifest(open_dataset(str(folder), SMALL, "train"), "pets", "train", 6)


@pytest.mark.parametrize("line", ["# split: validation", "# seed: none"])
def test_a_manifest_whose_header_says_something_else(tmp_path: Path, line: str) -> None:
    path = tmp_path / "set.txt"
    path.write_text(f"# edgecnn calibration set 1\n# source: digits\n{line}\na {'0' * 64}\n")
    with pytest.raises(DataError, match="split must be train or test"):
        read_manifest(path)
