"""ImageNet as it lies on disks: class folders, the flat validation folder, the development kit's numbers, CSVs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.open import has_test_split, images_sha256, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.devkit import class_order
from edgecnn.errors import DataError
from edgecnn.zoo import imagenet_classes

SMALL = Preprocessing(resize=2, crop=2, mean=(0.5,) * 3, std=(0.5,) * 3)
NAMES, WNIDS = imagenet_classes()
TRUTH = [7, 999, 0, 7, 134]  # the outputs of the five images' classes; 134 is one of the two called crane
KIT = random.Random(0).sample(WNIDS, 1000)  # an order of its own, as the kit's is
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path, format="JPEG")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """DIR/val of five images, and DIR/train of two classes."""
    for k in range(5):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{k + 1:08d}.JPEG")
    for wnid in (WNIDS[0], WNIDS[7]):
        picture(tmp_path / "train" / wnid / f"{wnid}_1.JPEG")
    return tmp_path


def labels(root: Path, **classes: tuple[str, ...]) -> list[int]:
    dataset = open_dataset(f"imagenet:{root}", SMALL, "test", classes.get("labels", NAMES), classes.get("wnids", WNIDS))
    assert dataset.labels is not None
    assert len(dataset) == 5
    assert dataset.tensor(0).shape == (3, 2, 2)
    return list(dataset.labels)


def kit_numbers() -> list[str]:
    return [str(KIT.index(WNIDS[k]) + 1) for k in TRUTH]


def write_map(folder: Path, order: list[str] = KIT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "map_clsloc.txt").write_text("".join(f"{w} {k} a_name\n" for k, w in enumerate(order, 1)))


def csv_text(rows: list[str], head: str = "ImageId,PredictionString\n") -> str:
    return head + "".join(f"ILSVRC2012_val_{k:08d},{row}\n" for k, row in enumerate(rows, 1))


@pytest.mark.parametrize("where", [".", "val", "ILSVRC2012_devkit_t12/data"])
def test_the_kits_numbers_are_in_the_kits_order(flat: Path, where: str) -> None:
    write_map(flat / where)
    (flat / where / GROUND_TRUTH).write_text("\n".join(kit_numbers()) + "\n")
    assert labels(flat) == TRUTH


@pytest.mark.parametrize("compressed", [True, False])
def test_the_kits_own_table_is_read_without_scipy(flat: Path, compressed: bool) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O"), ("wordnet_height", "O")]
    above = [(1001 + k, f"n0000{k:04d}") for k in range(860)]  # the nodes above the classes
    rows = [(k, wnid, f"words, {k}", 0, 5) for k, wnid in [*enumerate(KIT, 1), *above]]
    table = np.array(rows, dtype=kinds).reshape(-1, 1)
    scipy_io.savemat(flat / "meta.mat", {"synsets": table}, do_compression=compressed)
    assert class_order(flat / "meta.mat") == dict(enumerate(KIT, 1))
    (flat / GROUND_TRUTH).write_text("\n".join(kit_numbers()))
    assert labels(flat) == TRUTH
    whole = (flat / "meta.mat").read_bytes()
    for cut in (100, 130, 2000, len(whole) - 9):
        (flat / "meta.mat").write_bytes(whole[:cut])
        with pytest.raises(DataError, match="meta.mat: "):
            labels(flat)


def test_wnids_by_line_and_csvs(flat: Path) -> None:
    forms = {
        "imagenet_2012_validation_synset_labels.txt": "\n".join(WNIDS[k] for k in TRUTH),
        "LOC_val_solution.csv": csv_text([f"{WNIDS[k]} 85 1 499 272 {WNIDS[k]} 1 2 3 4" for k in TRUTH]),
        "val.csv": "filename,wnid\n"
        + "".join(f"ILSVRC2012_val_{k + 1:08d}.JPEG,{WNIDS[TRUTH[k]]}\n" for k in (3, 1, 0, 2, 4)),
        "val.txt": "".join(f"ILSVRC2012_val_{k:08d}.JPEG {c}\n" for k, c in enumerate(TRUTH, 1)),
    }
    for name, text in forms.items():
        (flat / name).write_text(text)
        assert labels(flat) == TRUTH, name
        (flat / name).unlink()
    for name, text in forms.items():
        (flat / name).write_text(text)
    assert labels(flat) == TRUTH, "several that agree"
    (flat / "val.csv").write_text(forms["val.csv"].replace(WNIDS[0], WNIDS[1]))
    with pytest.raises(DataError, match="say other classes"):
        labels(flat)


def test_class_folders_of_torchvision_and_of_kaggle(tmp_path: Path) -> None:
    for below in ("a/val", "b/ILSVRC/Data/CLS-LOC/val", "c"):
        for k, output in enumerate(TRUTH):
            picture(tmp_path / below / WNIDS[output] / f"{k}.JPEG")
        root = tmp_path / below.split("/")[0]
        assert sorted(labels(root)) == sorted(TRUTH), below
        assert open_dataset(f"imagenet:{root}", SMALL, "test").by_position


def test_names_of_a_model_s_own_order_are_followed(flat: Path) -> None:
    (flat / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(WNIDS[k] for k in TRUTH))
    turned = tuple(reversed(WNIDS))
    assert labels(flat, labels=tuple(reversed(NAMES)), wnids=turned) == [999 - k for k in TRUTH]
    with pytest.raises(DataError, match=f"class '{WNIDS[999]}' is not one of the model's"):
        labels(flat, labels=(), wnids=WNIDS[:200])
    assert open_dataset(f"imagenet:{flat}", SMALL, "test").by_position, "whose order is not known"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (GROUND_TRUTH, "1\n2\n3\n4\n", r"4 lines, and .*val has 5 images"),
        (GROUND_TRUTH, "1\n2\n3\n4\n5\n6\n", r"6 lines, and .*val has 5 images"),
        (GROUND_TRUTH, "1\n2\n0\n4\n5\n", r":3: '0' is no class from 1 to 1000"),
        (GROUND_TRUTH, "1\n2\n1001\n4\n5\n", "'1001' is no class"),
        (GROUND_TRUTH, "1\n2\nthree\n4\n5\n", "'three' is no class"),
        (GROUND_TRUTH, "", "0 lines"),
        ("val.csv", "", "says nothing of"),
        ("val.csv", "x" * 200_000, "not a CSV"),
        ("val.csv", csv_text([WNIDS[0]] * 4), "says nothing of"),
        ("val.csv", csv_text([WNIDS[0]] * 6), "6 rows, and .* has 5 images: ILSVRC2012_val_00000006"),
        ("val.csv", csv_text([WNIDS[0]] * 5) + f"ILSVRC2012_val_00000002,{WNIDS[1]}\n", "row 6: .*_00000002 has its"),
        ("val.csv", csv_text([WNIDS[0]] * 4 + [f"{WNIDS[0]} 1 2 3 4 {WNIDS[1]} 1 2 3 4"]), "its one class"),
        ("val.csv", csv_text([WNIDS[0]] * 4 + [""]), "its one class"),
        ("val.csv", csv_text(["1", "2", "3", "4", "5"], ""), "not surely"),
        ("val.csv", csv_text(["0", "2", "3", "4", "1000"], ""), "not surely"),
        ("val.csv", csv_text(["0", WNIDS[0], "3", "4", "1"], ""), "not surely"),
        ("val.txt", "".join(f"ILSVRC2012_val_{k:08d} {k}\n" for k in range(1, 6)), "not surely"),
        ("val.txt", "\0\xff", "cannot be read|is not"),
    ],
)
def test_a_ground_truth_that_is_another_s_is_refused(flat: Path, name: str, text: str, words: str) -> None:
    write_map(flat)
    (flat / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words) as caught:
        labels(flat)
    assert caught.value.hint


def test_what_is_missing_is_named(flat: Path) -> None:
    with pytest.raises(DataError, match="nothing that says their classes") as caught:
        labels(flat)
    assert "meta.mat" in caught.value.hint
    (flat / GROUND_TRUTH).write_text("\n".join(kit_numbers()))
    with pytest.raises(DataError, match="not the order of published weights") as caught:
        labels(flat)
    assert "meta.mat" in caught.value.hint
    write_map(flat, [*KIT[:999], KIT[0]])
    with pytest.raises(DataError, match="one of them twice"):
        labels(flat)
    write_map(flat)
    (flat / "val/ILSVRC2012_val_00000002.JPEG").rename(flat / "val/ILSVRC2012_val_00000009.JPEG")
    with pytest.raises(DataError, match="image 2 is ILSVRC2012_val_00000003"):
        labels(flat)


def test_splits(flat: Path, tmp_path: Path) -> None:
    train = open_dataset(f"imagenet:{flat}", SMALL, "train")
    assert (len(train), train.label_names) == (2, (WNIDS[0], WNIDS[7]))
    assert has_test_split(f"imagenet:{flat}")
    (flat / "train").rename(flat / "elsewhere")
    with pytest.raises(DataError, match="no training images") as caught:
        open_dataset(f"imagenet:{flat}", SMALL, "train")
    assert "--calibration-data" in caught.value.hint
    assert len(open_dataset(f"imagenet:{flat / 'elsewhere'}", SMALL, "train")) == 2
    assert not has_test_split(f"imagenet:{flat / 'elsewhere'}")
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(f"imagenet:{flat / 'absent'}", SMALL, "test")


def test_the_identity_of_the_images_is_of_their_classes_too(flat: Path) -> None:
    truth = flat / "imagenet_2012_validation_synset_labels.txt"
    truth.write_text("\n".join(WNIDS[k] for k in TRUTH))
    before = images_sha256(f"imagenet:{flat}", "test")
    assert before is not None
    truth.write_text("\n".join(WNIDS[k] for k in reversed(TRUTH)))
    assert images_sha256(f"imagenet:{flat}", "test") != before
    assert images_sha256(f"imagenet:{flat}/absent", "test") is None
