"""Data as users have it (folders, preprocessing files, labels files, 16-bit pictures): read as meant, or refused.

The right answer of each test is computed here, from the names of files and the colours of pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.acceptance.channel_pictures import (
    GREEN,
    PREPROCESSING,
    RED,
    SIDE,
    Result,
    class_model,
    import_model,
    level,
    save_color,
    sidecar,
    write_json,
)

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
NAMES = ("anchor", "buoy", "canal", "delta")


@pytest.fixture
def graph(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    """A graph of the four classes, which reads the red channel."""
    return import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", NAMES)


def put_classes(root: Path, names: Iterable[str] = NAMES, each: int = 3) -> Path:
    """`each` pictures of every class, in its red."""
    for name in names:
        for i in range(each):
            save_color(root / name / f"{i}.png", (level(NAMES.index(name), 4), 10 * i, 90))
    return root


# --- training: classes by name -------------------------------------------------------------------------------------

LETTERS = ("ape", "bee", "cow", "dog", "eel")
TRAIN = """
title = "rows"
precisions = ["fp32"]
targets = ["cpu"]
[model]
name = "lenet5"
[data]
source = "{source}"
[train]
epochs = 3
batch = 10
learning_rate = 0.05
schedule = "one-cycle"
seed = 3
"""


def put_bars(root: Path, names: Iterable[str], each: int, seed: int) -> None:
    """Class k is a white bar in the k-th fifth of the picture: a few epochs learn it."""
    rng = np.random.default_rng(seed)
    for name in names:
        k = LETTERS.index(name) if name in LETTERS else 0
        for i in range(each):
            pixels = rng.integers(0, 60, (32, 32)).astype(np.uint8)
            pixels[1 + 6 * k : 7 + 6 * k] = rng.integers(180, 255)
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def put_training(
    root: Path, train: Iterable[str], held: Iterable[str], split: str = "val", each: int = 40
) -> tuple[Path, Path]:
    """(data set, its recipe)."""
    put_bars(root / "data" / "train", train, each, 1)
    put_bars(root / "data" / split, held, 8, 2)
    recipe = root / "rows.toml"
    recipe.write_text(TRAIN.format(source=root / "data"))
    return root / "data", recipe


@pytest.mark.parametrize(
    ("held", "split"),
    [
        (("ape", "cow", "dog", "eel"), "val"),
        (("bee", "cow", "dog", "eel"), "test"),
        (("dog", "eel"), "validation"),
        (("eel",), "val"),
    ],
)
def test_training_counts_by_name_where_a_class_is_absent(
    edgecnn: Command, tmp_path: Path, held: tuple[str, ...], split: str
) -> None:
    data, recipe = put_training(tmp_path, LETTERS, held, split)
    result = edgecnn("train", recipe, "--out", tmp_path / "out", "--threads", 1, "--json")
    assert result.code == 0, result.said
    checkpoint = tmp_path / "out" / "model.safetensors"
    assert tuple(sidecar(checkpoint)["labels"]) == LETTERS
    predictions = tmp_path / "reference.npz"
    assert edgecnn("reference", checkpoint, "--data", data, "-o", predictions).code == 0
    found = np.load(predictions)
    right = [LETTERS.index(str(name).split("/")[0]) for name in found["ids"]]
    assert len(right) == 8 * len(held)
    top1 = 100 * float((found["logits"].argmax(1) == right).mean())
    assert top1 > 90, "the bars are to be learnt, or the test says nothing"
    said = json.loads(result.out)
    assert said["n"] == len(right)
    assert said["top1_pct"] == pytest.approx(top1)


@pytest.mark.parametrize(
    ("train", "held", "named"),
    [
        (LETTERS[:3], LETTERS[:4], "dog"),
        (("bee", "cow", "dog"), ("ape", "bee", "cow", "dog"), "ape"),
        (("ape", "bee", "cow"), ("ape", "bee", "dog"), "dog"),
        (("ape", "bee", "cow"), ("ape", "Bee", "cow"), "Bee"),
        (("ape", "bee"), ("ape", "bee "), "bee "),
        (("ape", "bee"), ("cow", "dog"), "cow"),
    ],
)
def test_training_refuses_a_class_it_cannot_learn(
    edgecnn: Command, tmp_path: Path, train: tuple[str, ...], held: tuple[str, ...], named: str
) -> None:
    _, recipe = put_training(tmp_path, train, held, each=6)
    result = edgecnn("train", recipe, "--out", tmp_path / "out", "--threads", 1)
    result.refused(named)
    assert not list(tmp_path.glob("out/**/*.safetensors")), "refused after an epoch"
    assert not list(tmp_path.glob("out/**/*.pt")), "refused after an epoch"


def test_run_refuses_a_class_it_cannot_learn(edgecnn: Command, tmp_path: Path) -> None:
    _, recipe = put_training(tmp_path, LETTERS[:3], LETTERS[:4], each=6)
    edgecnn("run", recipe, "--out", tmp_path / "out", "--threads", 1, "--until", "train").refused("dog")
    assert not list(tmp_path.glob("out/**/*.safetensors"))


# --- hidden folders ------------------------------------------------------------------------------------------------

HIDDEN = (".ipynb_checkpoints", ".git", "__MACOSX", ".Trash-1000", ".svn")


def lines_about(result: Result, hidden: str) -> list[str]:
    return [line for line in result.said.splitlines() if hidden in line]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_hidden_folder_among_the_classes_is_none(edgecnn: Command, graph: Path, tmp_path: Path, hidden: str) -> None:
    data = put_classes(tmp_path / "data")
    save_color(data / hidden / "anchor" / "0.png", (0, 0, 0))
    save_color(data / hidden / "0.png", (0, 0, 0))
    result = edgecnn("reference", graph, "--data", data, "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    found = np.load(tmp_path / "r.npz")
    assert sorted(map(str, found["ids"])) == sorted(f"{name}/{i}.png" for name in NAMES for i in range(3))
    assert [NAMES[k] for k in found["labels"]] == [str(i).split("/")[0] for i in found["ids"]]
    assert (found["logits"].argmax(1) == found["labels"]).all()
    assert len(lines_about(result, hidden)) == 1, result.said


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_hidden_folder_inside_classes_holds_no_pictures(
    edgecnn: Command, graph: Path, tmp_path: Path, hidden: str
) -> None:
    data = put_classes(tmp_path / "data")
    for name in NAMES:
        save_color(data / name / hidden / "0-checkpoint.png", (0, 0, 0))
        save_color(data / name / "more" / hidden / "deep" / "1.png", (0, 0, 0))
    result = edgecnn("reference", graph, "--data", data, "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    assert len(np.load(tmp_path / "r.npz")["ids"]) == 12
    assert len(lines_about(result, hidden)) == 1, result.said


def test_hidden_folders_without_known_labels(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A hidden folder sorts before every class: counted as one it would shift all others."""
    nameless = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx")
    data = put_classes(tmp_path / "data" / "test")
    save_color(data / ".ipynb_checkpoints" / "0.png", (0, 0, 0))
    result = edgecnn("reference", nameless, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    found = np.load(tmp_path / "r.npz")
    assert len(found["ids"]) == 12
    labels = found["labels"]
    assert (labels == -1).all() or [NAMES[k] for k in labels] == [str(i).split("/")[0] for i in found["ids"]]


def test_a_hidden_folder_beside_loose_pictures(edgecnn: Command, graph: Path, tmp_path: Path) -> None:
    for i in range(5):
        save_color(tmp_path / "data" / f"{i}.png", (level(i % 4, 4), 0, 0))
    save_color(tmp_path / "data" / ".ipynb_checkpoints" / "0-checkpoint.png", (0, 0, 0))
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    found = np.load(tmp_path / "r.npz")
    assert sorted(map(str, found["ids"])) == [f"{i}.png" for i in range(5)]
    assert [int(i[0]) % 4 for i in map(str, found["ids"])] == found["logits"].argmax(1).tolist()


@pytest.mark.parametrize("above", [".cache/set", ".data", "__MACOSX/set"])
def test_a_data_set_below_a_hidden_folder_is_read(edgecnn: Command, graph: Path, tmp_path: Path, above: str) -> None:
    data = put_classes(tmp_path / above)
    result = edgecnn("reference", graph, "--data", data, "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    assert len(np.load(tmp_path / "r.npz")["ids"]) == 12


def test_a_class_whose_pictures_are_all_hidden_is_refused(edgecnn: Command, graph: Path, tmp_path: Path) -> None:
    data = put_classes(tmp_path / "data", NAMES[:3])
    save_color(data / "delta" / ".ipynb_checkpoints" / "0.png", (0, 0, 0))
    edgecnn("reference", graph, "--data", data, "-o", tmp_path / "r.npz").refused("delta")


def test_training_makes_no_class_of_a_hidden_folder(edgecnn: Command, tmp_path: Path) -> None:
    data, recipe = put_training(tmp_path, LETTERS[:3], LETTERS[:3], each=10)
    save_color(data / "train" / ".ipynb_checkpoints" / "0.png", (9, 9, 9))
    save_color(data / "val" / ".git" / "0.png", (9, 9, 9))
    result = edgecnn("train", recipe, "--out", tmp_path / "out", "--threads", 1, "--json")
    assert result.code == 0, result.said
    assert tuple(sidecar(tmp_path / "out" / "model.safetensors")["labels"]) == LETTERS[:3]
    assert json.loads(result.out)["n"] == 24


def test_calibration_leaves_hidden_folders_out(edgecnn: Command, graph: Path, tmp_path: Path) -> None:
    """The ranges with hidden pictures are those without: the hidden one alone has blue and red at 255."""
    plain = put_classes(tmp_path / "plain" / "train")
    noisy = put_classes(tmp_path / "noisy" / "train")
    save_color(noisy / ".ipynb_checkpoints" / "0.png", (255, 255, 255))
    save_color(noisy / "buoy" / ".ipynb_checkpoints" / "0.png", (255, 255, 255))
    ranges = []
    for data in (plain, noisy):
        output = tmp_path / f"{data.parent.name}.calib.json"
        result = edgecnn("calibrate", graph, "--data", data.parent, "-o", output)
        assert result.code == 0, result.said
        content = json.loads(output.read_text())
        content.pop("provenance")
        ranges.append(json.dumps(content, sort_keys=True).replace("noisy", "plain"))
    assert ranges[0] == ranges[1]


# --- the preprocessing file ----------------------------------------------------------------------------------------


def try_preprocessing(edgecnn: Command, tmp_path: Path, content: Any, channels: int = 3) -> Result:
    source = tmp_path / "plain.onnx"
    onnx.save(class_model(4, 0, channels), str(source))
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / "pre.json").write_bytes(text)
    return edgecnn("import", source, "--preprocess", tmp_path / "pre.json", "-o", tmp_path / "made.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channel_order", "BGR"),
        ("mode", "squash"),
        ("to_rgb", False),
        ("swap_channels", True),
        ("scale", 1.0),
        ("rescale_factor", 0.5),
        ("divide_by", 1),
        ("pad", 4),
        ("crop_pct", 0.875),
        ("input_size", [3, 8, 8]),
        ("layout", "NHWC"),
        ("antialias", False),
        ("interpolaton", "bicubic"),
        ("Mean", [0.5, 0.5, 0.5]),
        ("std ", [0.5, 0.5, 0.5]),
        ("", 1),
    ],
)
def test_an_unknown_key_is_refused_by_name(edgecnn: Command, tmp_path: Path, key: str, value: Any) -> None:
    try_preprocessing(edgecnn, tmp_path, {**PREPROCESSING, key: value}).refused(repr(key)[1:-1])
    assert not (tmp_path / "made.onnx").exists()


def test_an_unknown_key_below_preprocessing_is_refused(edgecnn: Command, tmp_path: Path) -> None:
    """The form of a sidecar."""
    content = {"preprocessing": {**PREPROCESSING, "channel_order": "BGR"}}
    try_preprocessing(edgecnn, tmp_path, content).refused("channel_order")


def test_a_key_beside_the_preprocessing_of_no_sidecar_is_refused(edgecnn: Command, tmp_path: Path) -> None:
    content = {"preprocessing": PREPROCESSING, "channel_order": "BGR"}
    try_preprocessing(edgecnn, tmp_path, content).refused("channel_order")


@pytest.mark.parametrize("key", ["resize", "mean"])
def test_a_key_that_stands_twice_is_refused(edgecnn: Command, tmp_path: Path, key: str) -> None:
    other = {"resize": 12, "mean": [0.9, 0.9, 0.9]}
    text = json.dumps({key: other[key]})[:-1] + ", " + json.dumps(PREPROCESSING)[1:]
    try_preprocessing(edgecnn, tmp_path, text.encode()).refused(key)


def test_an_unknown_key_in_the_metadata_of_a_graph_is_refused(edgecnn: Command, tmp_path: Path) -> None:
    model = class_model(4, RED)
    entry = model.metadata_props.add()
    entry.key, entry.value = "preprocessing", json.dumps({**PREPROCESSING, "channel_order": "BGR"})
    onnx.save(model, str(tmp_path / "plain.onnx"))
    edgecnn("import", tmp_path / "plain.onnx", "-o", tmp_path / "made.onnx").refused("channel_order")


def test_every_known_key_is_accepted(edgecnn: Command, tmp_path: Path) -> None:
    result = try_preprocessing(edgecnn, tmp_path, {**PREPROCESSING, "interpolation": "bicubic"})
    assert result.code == 0, result.said
    assert sidecar(tmp_path / "made.onnx")["preprocessing"] == {**PREPROCESSING, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("changed", "channels", "named"),
    [
        ({"mean": [125.3, 123.0, 113.9], "std": [63.0, 62.1, 66.7]}, 3, "mean"),
        ({"mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0]}, 3, "mean"),
        ({"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]}, 3, "deviation"),
        ({"mean": [0.48, 0.46, 0.41], "std": [58.4, 57.1, 57.4]}, 3, "deviation"),
        ({"mean": [0.5, 0.5, 113.9], "std": [0.2, 0.2, 0.2]}, 3, "mean"),
        ({"mean": [127.5], "std": [127.5], "channels": 1}, 1, "mean"),
        ({"mean": [33.3], "std": [78.6], "channels": 1}, 1, "mean"),
    ],
)
def test_units_of_0_to_255_are_named(
    edgecnn: Command, tmp_path: Path, changed: dict[str, Any], channels: int, named: str
) -> None:
    result = try_preprocessing(edgecnn, tmp_path, {**PREPROCESSING, **changed}, channels)
    assert result.code in (0, 2), result.said
    line = next((text for text in result.said.splitlines() if "255" in text and (named in text or "std" in text)), None)
    assert line is not None, result.said


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.0] * 3, [1 / 255] * 3),
        ([104 / 255, 117 / 255, 123 / 255], [1 / 255] * 3),
        ([0.5] * 3, [0.5] * 3),
        ([0.0] * 3, [1.0] * 3),
        ([1.0, 0.0, 0.3], [0.01, 0.3, 1.0]),
    ],
)
def test_units_of_0_to_1_are_not_complained_of(
    edgecnn: Command, tmp_path: Path, mean: list[float], std: list[float]
) -> None:
    result = try_preprocessing(edgecnn, tmp_path, {**PREPROCESSING, "mean": mean, "std": std})
    assert result.code == 0, result.said
    assert "0..255" not in result.said
    assert "warning" not in result.said.lower()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"mean": [float("nan"), 0.5, 0.5]}, "mean"),
        ({"mean": [float("inf"), 0.5, 0.5]}, "mean"),
        ({"std": [float("nan"), 0.5, 0.5]}, "deviation"),
        ({"std": [0.5, float("inf"), 0.5]}, "deviation"),
        ({"resize": 8.7}, "resize"),
        ({"crop": 7.9}, "crop"),
        ({"resize": [8, 9]}, "resize"),
        ({"mean": "000"}, "mean"),
        ({"channels": True, "mean": [0.5], "std": [0.5]}, "channels"),
    ],
)
def test_a_value_that_means_nothing_is_refused(
    edgecnn: Command, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    channels = 1 if "channels" in changed else 3
    result = try_preprocessing(edgecnn, tmp_path, {**PREPROCESSING, **changed}, channels)
    assert result.code == 2, result.said
    assert named in result.err or (named == "deviation" and "std" in result.err), result.err


def test_a_preprocessing_file_with_a_bom_is_read_or_refused(edgecnn: Command, tmp_path: Path) -> None:
    result = try_preprocessing(edgecnn, tmp_path, b"\xef\xbb\xbf" + json.dumps(PREPROCESSING).encode())
    if result.code:
        result.refused("pre.json")
    else:
        assert sidecar(tmp_path / "made.onnx")["preprocessing"]["resize"] == SIDE


@pytest.mark.parametrize("content", [b"[]", b"[1, 2]", b"null", b"3", b"{}", b"", b"\xff\xfe{\x00}\x00"])
def test_a_file_that_is_no_preprocessing_is_refused(edgecnn: Command, tmp_path: Path, content: bytes) -> None:
    try_preprocessing(edgecnn, tmp_path, content).refused()


# --- 16-bit pictures -----------------------------------------------------------------------------------------------


def put_grey(root: Path, wide: Callable[[np.ndarray], np.ndarray], side: int = SIDE) -> tuple[Path, Path]:
    """The same pictures, noise around the grey of their class, in 8 and in 16 bits."""
    rng = np.random.default_rng(4)
    for k, name in enumerate(NAMES):
        for i in range(4):
            pixels = np.clip(level(k, 4) + rng.integers(-25, 26, (side, side)), 0, 255).astype(np.uint8)
            for kind in ("narrow", "wide"):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / "narrow" / name / f"{i}.png")
            Image.fromarray(wide(pixels).astype(np.uint16)).save(root / "wide" / name / f"{i}.png")
    with Image.open(root / "wide" / NAMES[0] / "0.png") as picture:
        assert picture.mode in ("I;16", "I")
    return root / "narrow", root / "wide"


def grey_preprocessing(channels: int, resize: int = SIDE) -> dict[str, Any]:
    return {"resize": resize, "crop": SIDE, "mean": [0.0] * channels, "std": [1.0] * channels, "channels": channels}


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_pictures_give_what_their_8_bit_versions_give(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, channels: int
) -> None:
    engine = import_model(
        capfd, class_model(4, 0, channels), tmp_path / "g.onnx", NAMES, preprocessing=grey_preprocessing(channels)
    )
    found = []
    for data in put_grey(tmp_path, lambda pixels: pixels.astype(np.uint16) * 257):
        result = edgecnn("reference", engine, "--data", data, "-o", tmp_path / f"{data.name}.npz")
        assert result.code == 0, result.said
        found.append(np.load(tmp_path / f"{data.name}.npz"))
    narrow, wide = found
    assert narrow["ids"].tolist() == wide["ids"].tolist()
    assert (narrow["logits"].argmax(1) == narrow["labels"]).all()
    np.testing.assert_array_equal(narrow["logits"], wide["logits"])


def test_16_bit_grey_pictures_are_resized_like_8_bit_ones(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine = import_model(capfd, class_model(4, 0), tmp_path / "g.onnx", NAMES, preprocessing=grey_preprocessing(3, 10))
    found = []
    for data in put_grey(tmp_path, lambda pixels: pixels.astype(np.uint16) << 8, side=23):
        result = edgecnn("reference", engine, "--data", data, "-o", tmp_path / f"{data.name}.npz")
        assert result.code == 0, result.said
        found.append(np.load(tmp_path / f"{data.name}.npz"))
    narrow, wide = (f["logits"] for f in found)
    assert (narrow.argmax(1) == found[0]["labels"]).all()
    np.testing.assert_array_equal(narrow.argmax(1), wide.argmax(1))
    np.testing.assert_allclose(narrow, wide, atol=0.5)  # 1/255 of grey is 0.3 of a logit at most


def test_predict_scales_a_16_bit_picture(edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    engine = import_model(capfd, class_model(4, 0, 1), tmp_path / "g.onnx", NAMES, preprocessing=grey_preprocessing(1))
    narrow, wide = put_grey(tmp_path, lambda pixels: pixels.astype(np.uint16) * 257)
    for k, name in enumerate(NAMES):
        tops = []
        for folder in (narrow, wide):
            result = edgecnn("predict", engine, folder / name / "0.png", "--json")
            assert result.code == 0, result.said
            tops.append(json.loads(result.out)[0]["top5"])
        assert tops[0] == tops[1]
        assert tops[0][0]["class"] == k


@pytest.mark.parametrize("kind", ["<u2.tif", ">u2.tif", "u2.pgm", "f4.tif"])
def test_other_files_of_16_bits_are_scaled_or_refused(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    """Never white: the picture is of class 1 in 8 bits."""
    engine = import_model(capfd, class_model(4, 0, 1), tmp_path / "g.onnx", NAMES, preprocessing=grey_preprocessing(1))
    value = level(1, 4) * 257
    path = tmp_path / f"one{Path(kind).suffix}"
    if kind == "u2.pgm":
        path.write_bytes(f"P5 {SIDE} {SIDE} 65535\n".encode() + np.full(SIDE * SIDE, value, ">u2").tobytes())
    elif kind == "f4.tif":
        Image.fromarray(np.full((SIDE, SIDE), value, np.float32)).save(path)
    else:
        big = kind.startswith(">")
        raw = np.full((SIDE, SIDE), value, kind[:3]).tobytes()
        Image.frombytes("I;16B" if big else "I;16", (SIDE, SIDE), raw).save(path)
    result = edgecnn("predict", engine, path, "--json")
    if result.code:
        result.refused(path.name)
    else:
        assert json.loads(result.out)[0]["top5"][0]["class"] == 1


def test_training_sees_16_bit_pictures(edgecnn: Command, tmp_path: Path) -> None:
    """Bars between two greys of 16 bits, all of them above 255: clipped, every picture is white."""
    rng = np.random.default_rng(5)
    for split, each in (("train", 40), ("val", 10)):
        for k, name in enumerate(("ape", "bee")):
            for i in range(each):
                pixels = rng.integers(3000, 9000, (32, 32)).astype(np.uint16)
                pixels[6 + 12 * k : 14 + 12 * k] = rng.integers(40000, 60000)
                path = tmp_path / "data" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (tmp_path / "rows.toml").write_text(TRAIN.format(source=tmp_path / "data"))
    result = edgecnn("train", tmp_path / "rows.toml", "--out", tmp_path / "out", "--threads", 1, "--json")
    assert result.code == 0, result.said
    assert json.loads(result.out)["top1_pct"] > 90


# --- the labels file -----------------------------------------------------------------------------------------------

MEANT = ("lime tree", "oak", "été")
PLAIN = "\n".join(MEANT) + "\n"


def indexed(separator: str, order: Iterable[int] = (0, 1, 2)) -> str:
    return "".join(f"{k}{separator}{MEANT[k]}\n" for k in order)


LABEL_FILES: dict[str, tuple[str, bytes]] = {
    "plain": ("l.txt", PLAIN.encode()),
    "bom": ("l.txt", PLAIN.encode("utf-8-sig")),
    "bom and crlf": ("l.txt", PLAIN.replace("\n", "\r\n").encode("utf-8-sig")),
    "cr": ("l.txt", PLAIN.replace("\n", "\r").encode()),
    "no last newline": ("l.txt", PLAIN.rstrip().encode()),
    "blank end": ("l.txt", (PLAIN + "\n  \n").encode()),
    "utf-16": ("l.txt", PLAIN.encode("utf-16")),
    "latin-1": ("l.txt", PLAIN.encode("latin-1")),
    "json list": ("l.json", json.dumps(MEANT).encode()),
    "json list, not escaped": ("l.json", json.dumps(MEANT, ensure_ascii=False).encode()),
    "json list, one name a line": ("l.json", json.dumps(MEANT, indent=1).encode()),
    "json list with a bom": ("l.json", json.dumps(MEANT).encode("utf-8-sig")),
    "json list named txt": ("l.txt", json.dumps(MEANT).encode()),
    "json by index": ("l.json", json.dumps({str(k): name for k, name in enumerate(MEANT)}).encode()),
    "json by index, out of order": ("l.json", json.dumps({str(k): MEANT[k] for k in (2, 0, 1)}, indent=1).encode()),
    "json by name": ("l.json", json.dumps({name: k for k, name in enumerate(MEANT)}).encode()),
    "json, pairs": ("l.json", json.dumps([[k, name] for k, name in enumerate(MEANT)], indent=1).encode()),
    "index and space": ("l.txt", indexed(" ").encode()),
    "index and colon": ("l.txt", indexed(": ").encode()),
    "index and tab": ("l.txt", indexed("\t").encode()),
    "index and comma": ("l.txt", indexed(",").encode()),
    "index, out of order": ("l.txt", indexed(" ", (1, 0, 2)).encode()),
    "index, backwards with a bom": ("l.txt", indexed(" ", (2, 1, 0)).encode("utf-8-sig")),
    "index from one": ("l.txt", "".join(f"{k + 1} {name}\n" for k, name in enumerate(MEANT)).encode()),
    "a gap": ("l.txt", "lime tree\n\noak\nété\n".encode()),
    "nul bytes": ("l.txt", PLAIN.encode("utf-16-le")),
}


def read_labels(edgecnn: Command, tmp_path: Path, name: str, content: bytes, classes: int = 3) -> list[str] | None:
    """The labels that came of a file; None where it was refused as a user's mistake is."""
    onnx.save(class_model(classes, RED), str(tmp_path / "plain.onnx"))
    write_json(tmp_path / "pre.json", PREPROCESSING)
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "made.onnx"
    arguments = ["--preprocess", tmp_path / "pre.json", "--labels", tmp_path / name, "-o", output]
    result = edgecnn("import", tmp_path / "plain.onnx", *arguments)
    if result.code:
        result.refused()
        assert not output.exists()
        return None
    found: list[str] = sidecar(output)["labels"]
    return found


@pytest.mark.parametrize("case", LABEL_FILES)
def test_a_labels_file_is_read_as_meant_or_refused(edgecnn: Command, tmp_path: Path, case: str) -> None:
    found = read_labels(edgecnn, tmp_path, *LABEL_FILES[case])
    assert found is None or found == list(MEANT)


def test_a_json_list_is_not_counted_by_its_lines(edgecnn: Command, tmp_path: Path) -> None:
    """Three names in five lines, for five classes."""
    content = json.dumps(MEANT, indent=1).encode()
    assert read_labels(edgecnn, tmp_path, "l.json", content, classes=5) is None


def test_a_json_object_is_not_counted_by_its_lines(edgecnn: Command, tmp_path: Path) -> None:
    content = json.dumps({str(k): name for k, name in enumerate(MEANT)}, indent=1).encode()
    assert read_labels(edgecnn, tmp_path, "l.txt", content, classes=5) is None


@pytest.mark.parametrize("case", ["plain", "bom and crlf", "no last newline"])
def test_a_plain_labels_file_is_read(edgecnn: Command, tmp_path: Path, case: str) -> None:
    assert read_labels(edgecnn, tmp_path, *LABEL_FILES[case]) == list(MEANT)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_what_only_unicode_calls_a_line_end_does_not_part_a_name(
    edgecnn: Command, tmp_path: Path, separator: str
) -> None:
    """Two names for three classes are one too few, and three names stay three."""
    two = f"lime{separator}tree\noak\n".encode()
    assert read_labels(edgecnn, tmp_path, "two.txt", two) is None
    found = read_labels(edgecnn, tmp_path, "three.txt", f"lime{separator}tree\noak\nash\n".encode())
    assert found is None or [name.split() for name in found] == [["lime", "tree"], ["oak"], ["ash"]]


@pytest.mark.parametrize(
    "names",
    [("3 series", "5 series", "7 series"), ("0", "1", "2"), ("4x4", "2-door", "#1"), ("a, b", "c: d", "e [f]")],
)
def test_names_that_only_look_like_something_else_are_kept(
    edgecnn: Command, tmp_path: Path, names: tuple[str, ...]
) -> None:
    assert read_labels(edgecnn, tmp_path, "l.txt", "\n".join(names).encode()) == list(names)


@pytest.mark.parametrize(
    "content",
    [
        b'["a", "b"]',
        b'["a", "b", 3]',
        b'["a", "b", null]',
        b'["a", "b", ""]',
        b'{"0": "a", "1": "b", "3": "c"}',
        b'{"0": "a", "0": "b", "1": "c", "2": "d"}',
        b'["a", "b", "c"',
        b'[["a", "b", "c"]]',
        b'"abc"',
    ],
)
def test_json_that_names_no_three_classes_is_refused(edgecnn: Command, tmp_path: Path, content: bytes) -> None:
    assert read_labels(edgecnn, tmp_path, "l.json", content) is None


def test_green_is_what_the_green_graph_reads(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The pictures and graphs of these tests do what they are said to do."""
    engine = import_model(capfd, class_model(4, GREEN), tmp_path / "g.onnx", NAMES)
    for k in range(4):
        save_color(tmp_path / "data" / NAMES[k] / "0.png", (0, level(k, 4), 255))
    assert edgecnn("reference", engine, "--data", tmp_path / "data", "-o", tmp_path / "r.npz").code == 0
    assert np.load(tmp_path / "r.npz")["logits"].argmax(1).tolist() == [0, 1, 2, 3]
