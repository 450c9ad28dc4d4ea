"""Our evaluation transform against torchvision's on real JPEGs; labels of half of ImageNet's classes by wnid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.folder import decode

if TYPE_CHECKING:  # imported before the first test of this file
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

pytestmark = pytest.mark.torch

CASES = [(256, 224, "bilinear"), (232, 224, "bilinear"), (160, 160, "bicubic"), (342, 299, "bilinear")]


def differences(paths: list[Path], resize: int, crop: int, interpolation: str) -> np.ndarray:
    """Largest difference of each image, in units of one grey level."""
    ours = Preprocessing(resize, crop, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), interpolation)  # type: ignore[arg-type]
    theirs = v2.Compose(
        [
            v2.Resize(resize, interpolation=InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(crop),
            v2.PILToTensor(),
        ]
    )
    worst = []
    for path in paths:
        image = decode(path)
        other = theirs(image.convert("RGB")).numpy().astype(np.float32)
        worst.append(np.abs(255 * ours.tensor(image) - other).max())
    return np.array(worst)


@pytest.fixture(scope="module")
def jpegs(shared: Path) -> list[Path]:
    return sorted((shared / "data" / "imagenet-500").glob("*/*.jpg"))


@pytest.mark.parametrize(("resize", "crop", "interpolation"), CASES)
def test_equal_to_torchvision_on_real_jpegs(jpegs: list[Path], resize: int, crop: int, interpolation: str) -> None:
    some = jpegs[::25]
    assert len(some) >= 20
    assert differences(some, resize, crop, interpolation).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("resize", "crop", "interpolation"), CASES)
def test_equal_to_torchvision_on_every_jpeg(jpegs: list[Path], resize: int, crop: int, interpolation: str) -> None:
    assert len(jpegs) == 500
    assert differences(jpegs, resize, crop, interpolation).max() <= 1


def test_decoding_is_deterministic_in_threads_and_without(jpegs: list[Path], shared: Path) -> None:
    from edgecnn.data.dataset import batches

    preprocessing = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    dataset = open_dataset(str(shared / "data" / "imagenet-500"), preprocessing, "test").subset(range(24))
    alone, threaded = ([b.input for b in batches(dataset, 5, workers)] for workers in (0, 4))
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(threaded))


def test_half_of_the_classes_come_out_right_by_wnid_and_by_name(
    jpegs: list[Path], shared: Path, tmp_path: Path
) -> None:
    rows = [line.split("\t") for line in (shared / "data" / "imagenet_classes.tsv").read_text().splitlines()]
    rows = [r for r in rows if r[0].isdigit()]
    wnids, names = [r[1] for r in rows], [r[2] for r in rows]
    assert len(wnids) == 1000
    preprocessing = Preprocessing(256, 224, (0.0,) * 3, (1.0,) * 3)
    dataset = open_dataset(str(shared / "data" / "imagenet-500"), preprocessing, "test", names, wnids)
    assert dataset.labels is not None
    assert len(set(dataset.labels.tolist())) == 500
    for name, label in zip(dataset.ids, dataset.labels, strict=True):
        assert wnids[label] == name.split("/")[0]
    for k in (3, 977):
        folder = tmp_path / "named" / names[k]
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(jpegs[0].read_bytes())
    named = open_dataset(str(tmp_path / "named"), preprocessing, "test", names, wnids)
    assert sorted(named.labels.tolist()) == [3, 977]  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (41, 40)])
@pytest.mark.parametrize(("resize", "crop"), [(20, (16, 20)), (16, (16, 29)), (17, (16, 40)), (18, (45, 16))])
def test_rectangles_are_those_of_torchvision_black_where_the_picture_ends(
    shape: tuple[int, int], resize: int, crop: tuple[int, int]
) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    theirs = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop), v2.PILToTensor()])(picture)
    ours = Preprocessing(resize, crop, (0.0,) * 3, (1.0,) * 3).tensor(picture)
    np.testing.assert_allclose(255 * ours, theirs.numpy(), atol=1e-3)
