"""Calibration sets that are rules or name images without their hashes; and test sets."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.calibration_rule import RESOLVED, choose, read_rule, resolve, resolved, rule_text, split_of
from edgecnn.data.calibration_set import (
    UNDECODED,
    Manifest,
    find_calibration_set,
    find_manifest,
    make_test_set,
    open_data,
    read_manifest,
    write_manifest,
)
from edgecnn.data.open import open_dataset
from edgecnn.errors import DataError

RULE = 'source = "folder"\nimages = 4\n'


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight images of a and two of b to train with, one of each to test."""
    random = np.random.default_rng(0)
    for split, counts in (("train", {"a": 8, "b": 2}), ("val", {"a": 1, "b": 1})):
        for name, count in counts.items():
            (tmp_path / "imgs" / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "imgs" / split / name / f"{k}.png")
    return tmp_path / "imgs"


def rule(tmp_path: Path, text: str = RULE) -> str:
    (tmp_path / "rule.toml").write_text(text)
    return str(tmp_path / "rule.toml")


def test_a_rule_becomes_a_manifest_beside_the_run_once(images: Path, tmp_path: Path) -> None:
    run, name = tmp_path / "run", rule(tmp_path)
    assert resolved(name, run) is None
    made = resolve(name, str(images), run)
    assert made == run / RESOLVED
    manifest = read_manifest(made)
    assert Counter(i.split("/")[0] for i in manifest.ids) == {"a": 2, "b": 2}
    assert manifest.hashed
    (images / "train/b/2.png").write_bytes((images / "train/a/0.png").read_bytes())
    assert read_manifest(resolve(name, str(images), run)) == manifest == resolved(name, run), "images that come later"
    moved = shutil.move(images, tmp_path / "elsewhere")
    assert len(open_data(f"{made}:{moved}", UNDECODED, "train")) == 4
    kept = Path(moved) / "train" / manifest.ids[0]
    kept.write_bytes(b"another")
    with pytest.raises(DataError, match="other sha256"):
        open_data(f"{made}:{moved}", UNDECODED, "train")


def test_another_rule_chooses_anew(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    resolve(rule(tmp_path), str(images), run)
    other = rule(tmp_path, RULE + "balanced = false\n")
    assert resolved(other, run) is None
    ids = read_manifest(resolve(other, str(images), run)).ids
    every = tuple(open_dataset(str(images), UNDECODED, "train").ids)
    assert len(ids) == 4
    assert set(ids) <= set(every)
    seeds = {read_manifest(resolve(rule(tmp_path, f"{RULE}seed = {s}\n"), str(images), run)).ids for s in range(4)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images = 4\n", "source is missing"),
        ('source = "folder"\n', "images is missing"),
        ('source = "folders"\nimages = 4\n', "did you mean 'folder'"),
        (RULE.replace("4", "0"), "at least 1"),
        (RULE.replace("4", '"4"'), "whole number"),
        (RULE + "split = 'val'\n", "must be one of"),
        (RULE + "seeds = 1\n", "did you mean 'seed'"),
        ("source = [", "not a calibration rule"),
    ],
)
def test_a_rule_that_cannot_be_read(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_rule(Path(rule(tmp_path, text)))


def test_a_rule_for_other_images_is_refused(images: Path, tmp_path: Path) -> None:
    path = Path(rule(tmp_path, 'source = "imagenet"\nimages = 4\n'))
    with pytest.raises(DataError, match="a rule for imagenet, and the images are of") as caught:
        choose(path, str(images))
    assert "folder-512" in caught.value.hint
    with pytest.raises(DataError, match="10 images, 40 were asked for"):
        choose(Path(rule(tmp_path, RULE.replace("4", "40"))), str(images))
    with pytest.raises(DataError, match="have no classes"):
        choose(Path(rule(tmp_path)), str(images / "train/a"))
    assert len(choose(Path(rule(tmp_path, RULE + "balanced = false\n")), str(images / "train/a")).ids) == 4


def test_a_rule_is_no_manifest_yet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest yet") as caught:
        find_manifest(rule(tmp_path))
    assert "calibration-set" in caught.value.hint


def test_hashes_are_filled_in_at_the_first_use(images: Path, tmp_path: Path) -> None:
    named, run = tmp_path / "named.txt", tmp_path / "run"
    write_manifest(named, Manifest("imgs", "train", 0, ("a/3.png", "b/1.png"), ("-", "-")))
    with pytest.raises(DataError, match="without their sha256"):
        open_data(f"{named}:{images}", UNDECODED, "train")
    filled = read_manifest(resolve(str(named), str(images), run))
    assert filled.ids == ("a/3.png", "b/1.png")
    assert filled.hashed
    assert open_data(f"{run / RESOLVED}:{images}", UNDECODED, "train").ids == filled.ids
    (images / "train/b/1.png").unlink()
    shutil.rmtree(run)
    with pytest.raises(DataError, match=r"b/1.png is not in"):
        resolve(str(named), str(images), run)


def test_a_hash_that_is_known_is_never_written_over(images: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.txt"
    write_manifest(named, Manifest("imgs", "train", 0, ("a/3.png", "b/1.png"), ("-", "0" * 64)))
    with pytest.raises(DataError, match=r"b/1.png is another in .* \(other sha256\)"):
        choose(named, str(images))


def test_a_manifest_with_hashes_is_taken_as_it_is(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    write_manifest(path, replace(choose(Path(rule(tmp_path)), str(images)), rule=""))
    assert rule_text(str(path)) == ""
    assert resolve(str(path), str(images), tmp_path / "run") == path
    assert not (tmp_path / "run").exists()
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(DataError, match="more than once"):
        read_manifest(path)


def test_the_sets_that_ship(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    names = {p.stem for p in (root / "calibration").iterdir()}
    assert names == {"lenet5-digits", "mnist-512", "cifar10-512", "imagenet-1024", "folder-512"}
    assert {split_of(name) for name in names} == {"train"}
    assert [name for name in sorted(names) if rule_text(name)] == ["cifar10-512", "folder-512", "imagenet-1024"]
    assert len(set(read_manifest(find_calibration_set("cifar10-512")).ids)) == 512


def test_mnist_s_is_of_the_real_images(root: Path, shared: Path) -> None:
    path = root / "calibration" / "mnist-512.txt"
    dataset = open_data(f"{path}:mnist:{shared / 'data/mnist'}", replace(UNDECODED, channels=1), "train")
    assert dataset.labels is not None
    assert set(Counter(dataset.labels.tolist()).values()) == {51, 52}


def test_a_name_for_two_sets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calibration").mkdir()
    for suffix in ("txt", "toml"):
        (tmp_path / "calibration" / f"mine.{suffix}").write_text(RULE)
    with pytest.raises(DataError, match="bear one name"):
        find_calibration_set("mine")


def test_a_test_set_has_a_name_a_version_and_a_hash(images: Path, tmp_path: Path) -> None:
    made = make_test_set(str(images), "pets", "2")
    path = tmp_path / "pets.txt"
    write_manifest(path, made)
    assert read_manifest(path) == made
    assert made.title.startswith("pets 2 (")
    assert make_test_set(str(images), "pets", "2").title == made.title
    dataset = open_data(f"{path}:{images}", UNDECODED, "test", ["b", "a"])
    assert dataset.ids == ("a/0.png", "b/0.png")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0], "the names of the classes may stand in another order"


def test_a_test_set_whose_labels_changed_is_refused(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "flat.txt"
    data = tmp_path / "flat.npz"
    for labels in ([0, 0, 1], [0, 1, 1]):
        np.savez(data, input=np.zeros((3, 1, 2, 2), np.float32), label=np.array(labels))
        if not path.exists():
            write_manifest(path, make_test_set(str(data), "flat", "1"))
            assert len(open_data(f"{path}:{data}", None, "test")) == 3
    with pytest.raises(DataError, match="flat 1 .* not of one class"):
        open_data(f"{path}:{data}", None, "test")
