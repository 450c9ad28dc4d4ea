"""Pictures, names and labels as users have them: read as meant, or counted and named."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, TiffImagePlugin

from tests.acceptance.channel_pictures import (
    BLUE,
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
Form = Literal["NFC", "NFD"]
CLASSES = ("ash", "birch", "cedar", "elm")
KINDS = (
    ".jpg", ".jpeg", ".JPG", ".jpe", ".jfif", ".png", ".PNG", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pnm", ".pbm", ".gif", ".avif",
)  # fmt: skip
FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM",
    ".pgm": "PPM", ".pnm": "PPM", ".pbm": "PPM", ".dib": "DIB", ".apng": "PNG",
}  # fmt: skip


def save_kind(path: Path, color: tuple[int, int, int], kind: str) -> None:
    picture = Image.new("RGB", (SIDE, SIDE), color)
    picture = picture.convert({".pgm": "L", ".pbm": "1"}.get(kind, "RGB"))
    made = path.with_suffix(kind)
    made.parent.mkdir(parents=True, exist_ok=True)
    picture.save(made, FORMATS.get(kind.lower(), kind[1:].upper()))


def test_every_kind_of_picture_is_read_and_every_other_named(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    for k, kind in enumerate(KINDS):
        save_kind(tmp_path / "data" / CLASSES[k % 4] / f"p{k}", (level(k % 4, 4),) * 3, kind)
    others = ["a.heic", "b.jxl", "c.jp2", "d.psd", "e", "f.NEF"]
    for name in others:
        (tmp_path / "data" / "ash" / name).write_bytes(b"other")
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    assert "left out" in result.err
    assert "and 3 more" in result.err
    found = np.load(tmp_path / "r.npz")
    assert len(found["ids"]) == len(KINDS)
    wrong = found["ids"][found["labels"] != found["logits"].argmax(1)].tolist()
    assert [name for name in wrong if not name.endswith(".pbm")] == []  # which is black and white


def renamed(names: Iterable[str], form: Form) -> list[str]:
    return [unicodedata.normalize(form, name) for name in names]


WRITTEN = ("Zitrone", "Äpfel", "Éclair", "Öl")


def put_pictures(folder: Path, form: Form) -> Path:
    """Pictures whose order by bytes is another in the other form."""
    for k, name in enumerate(renamed(WRITTEN, form)):
        for file in renamed((f"é{k}.png", f"ez{k}.png", f"f{k}.png"), form):
            save_color(folder / name / file, (level(k, 4), 9, 9))
    return folder


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_together_or_apart_are_the_same_names(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, forms: tuple[Form, Form]
) -> None:
    here, there = forms
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", renamed(WRITTEN, here))
    other = import_model(capfd, class_model(4, RED), tmp_path / "h" / "red.onnx", renamed(WRITTEN, there))
    first, second = put_pictures(tmp_path / "here" / "data", here), put_pictures(tmp_path / "there" / "data", there)
    assert edgecnn("reference", graph, "--data", first, "-o", tmp_path / "r.npz").code == 0
    command = ("validate", other, "--reference", tmp_path / "r.npz", "--data", second, "--json")
    result = edgecnn(*command, *(f"--threshold={name}=0.5" for name in renamed(WRITTEN[1:], here)))
    assert result.code == 0, result.said
    assert json.loads(result.out)["top1_pct"] == 100
    made = ("--images", 8, "-o", tmp_path / "set.txt")
    assert edgecnn("calibration-set", first, *made).code == 0
    result = edgecnn("calibrate", other, "--data", f"{tmp_path / 'set.txt'}:{second}", "-o", tmp_path / "c.calib.json")
    assert result.code == 0, result.said


def test_two_pictures_of_one_name_are_refused(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    forms: tuple[Form, ...] = ("NFC", "NFD")
    for form in forms:
        save_color(tmp_path / "data" / "ash" / renamed(["é.png"], form)[0], (9, 9, 9))
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    result.refused("two images are called", "é.png")


TABLES = {
    "comma": 'index,name\n0,"ash, common"\n1,birch\n2,cedar\n3,elm\n',
    "semicolon": "ID;Label\n3;elm\n0;ash, common\n1;birch\n2;cedar\n",
    "no heading": '0,"ash, common"\n1,birch\n2,cedar\n3,elm\n',
    "names alone": 'class\n"ash, common"\nbirch\ncedar\nelm\n',
    "wnids": 'class_id,wnid,name\n0,n00000001,"ash, common"\n1,n00000002,birch\n2,n00000003,cedar\n3,n00000004,elm\n',
    "more columns": (
        'class_index,class,height,data set,scientific name\n0,"ash, common",8,train,Fraxinus\n'
        "1,birch,8,train,Betula\n2,cedar,8,train,Cedrus\n3,elm,8,train,Ulmus\n"
    ),
    "carriage returns": '\ufeffindex,name\r\n0,"ash, common"\r\n1,birch\r\n2,cedar\r\n3,elm\r\n',
}
TOLD = ["ash, common", "birch", "cedar", "elm"]


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_of_a_table(edgecnn: Command, tmp_path: Path, kind: str, suffix: str) -> None:
    text = TABLES[kind]
    if suffix == ".tsv":
        text = text.replace(", ", "\0").replace(",", "\t").replace(";", "\t").replace("\0", ", ")
    (tmp_path / f"labels{suffix}").write_text(text, newline="", encoding="utf-8")
    onnx.save(class_model(4, RED), str(tmp_path / "s.onnx"))
    named = ("--labels", tmp_path / f"labels{suffix}", "--preprocess", write_json(tmp_path / "p.json", PREPROCESSING))
    result = edgecnn("import", tmp_path / "s.onnx", *named, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    made = sidecar(tmp_path / "x.onnx")
    assert made["labels"] == TOLD
    assert (made["wnids"] or [""])[0] == ("n00000001" if kind == "wnids" else "")


@pytest.mark.parametrize(
    "text",
    [
        "index,name\n0,ash\n1,birch\n1,cedar\n3,elm\n",  # a number twice
        "index,name\n1,ash\n2,birch\n3,cedar\n4,elm\n",  # from 1
        "index,name\n0,ash\n1\n2,cedar\n3,elm\n",  # a cell is missing
        "index,name,label\n0,ash,a\n1,birch,b\n2,cedar,c\n3,elm,d\n",  # two names
        "speed,weight\n0,ash\n1,birch\n2,cedar\n3,elm\n",  # a heading of other things
        "image,class\na.png,ash\nb.png,ash\n",  # pictures and their classes
    ],
)
def test_a_table_that_can_be_read_in_two_ways_is_refused(edgecnn: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    onnx.save(class_model(4, RED), str(tmp_path / "s.onnx"))
    named = ("--labels", tmp_path / "labels.csv", "--preprocess", write_json(tmp_path / "p.json", PREPROCESSING))
    edgecnn("import", tmp_path / "s.onnx", *named, "-o", tmp_path / "x.onnx").refused(str(tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'ash', 1: 'birch', 2: 'cedar', 3: 'elm'}"),
        ("labels", '["ash", "birch", "cedar", "elm"]'),
        ("id2label", '{"0": "ash", "1": "birch", "2": "cedar", "3": "elm"}'),
        ("classes", "ash\nbirch\ncedar\nelm"),
        ("class_names", "['ash', 'birch', 'cedar', 'elm']"),
    ],
)
def test_labels_of_the_metadata(edgecnn: Command, tmp_path: Path, key: str, text: str) -> None:
    model = class_model(4, RED)
    helper.set_model_props(model, {key: text, "task": "classify"})
    onnx.save(model, str(tmp_path / "s.onnx"))
    preprocess = write_json(tmp_path / "p.json", PREPROCESSING)
    result = edgecnn("import", tmp_path / "s.onnx", "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert f"labels taken from the metadata entry {key!r}" in result.said
    assert tuple(sidecar(tmp_path / "x.onnx")["labels"]) == CLASSES


@pytest.mark.parametrize("text", ["{0: 'person', 1: 'car'}", "__import__('os')", "{0: [1, 2]}", "ash, birch"])
def test_metadata_that_is_no_list_of_the_classes_is_named_and_not_taken(
    edgecnn: Command, tmp_path: Path, text: str
) -> None:
    model = class_model(4, RED)
    helper.set_model_props(model, {"names": text})
    onnx.save(model, str(tmp_path / "s.onnx"))
    preprocess = write_json(tmp_path / "p.json", PREPROCESSING)
    result = edgecnn("import", tmp_path / "s.onnx", "--preprocess", preprocess, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert "metadata entry 'names' not taken as labels" in result.said
    assert sidecar(tmp_path / "x.onnx")["labels"] is None


CAFFE = [104.0, 117.0, 123.0]  # of blue, green and red, in 0..255


@pytest.mark.parametrize("turned", [True, False])
def test_a_network_of_caffe_sees_blue_first_in_0_to_255(edgecnn: Command, tmp_path: Path, turned: bool) -> None:
    """Its first channel is blue, and takes values less their mean."""
    model = class_model(4, 0)
    weight, bias = (numpy_helper.to_array(i).copy() for i in model.graph.initializer)
    arrays = {"w": weight / 255, "b": bias + weight[:, 0] * CAFFE[0] / 255}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    helper.set_model_props(model, {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"})
    onnx.save(model, str(tmp_path / "s.onnx"))
    content: dict[str, Any] = {**PREPROCESSING, "mean": [v / 255 for v in CAFFE], "std": [1 / 255] * 3, "bgr": turned}
    named = ("--preprocess", write_json(tmp_path / "p.json", content), "--labels", tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text("\n".join(CLASSES))
    result = edgecnn("import", tmp_path / "s.onnx", *named, "-o", tmp_path / "x.onnx")
    assert result.code == 0, result.said
    assert ("warning" in result.said and '"bgr": true' in result.said) is not turned
    for k, name in enumerate(CLASSES):
        color = [9, 9, 9]
        color[BLUE] = level(k, 4)
        save_color(tmp_path / "data" / name / "0.png", color)
    assert edgecnn("reference", tmp_path / "x.onnx", "--data", tmp_path / "data", "-o", tmp_path / "r.npz").code == 0
    found = np.load(tmp_path / "r.npz")
    assert (found["labels"].tolist() == found["logits"].argmax(1).tolist()) is turned


def background_model() -> onnx.ModelProto:
    """1001 outputs, of which the first is a background; of a picture of red r / 255 class r is the answer."""
    model = class_model(4, RED)
    levels = np.arange(1001) / 255
    weight = np.zeros((1001, 3), np.float32)
    weight[:, RED] = 2 * levels
    arrays = {"w": weight, "b": (-(levels**2)).astype(np.float32)}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1001]))
    return model


def test_a_background_before_the_classes_of_imagenet(edgecnn: Command, tmp_path: Path) -> None:
    onnx.save(background_model(), str(tmp_path / "s.onnx"))
    preprocess = write_json(tmp_path / "p.json", PREPROCESSING)
    command = ["import", tmp_path / "s.onnx", "--preprocess", preprocess, "-o", tmp_path / "x.onnx", "--labels"]
    edgecnn(*command, "imagenet").refused("1000 labels for 1001 classes", "--labels imagenet-background")
    result = edgecnn(*command, "imagenet-background")
    assert result.code == 0, result.said
    assert sidecar(tmp_path / "x.onnx")["labels"][:2] == ["background", "tench"]
    for number, wnid in ((1, "n01440764"), (2, "n01443537"), (8, "n01514668")):
        save_color(tmp_path / "data" / wnid / "0.png", (number, 9, 9))
    assert edgecnn("reference", tmp_path / "x.onnx", "--data", tmp_path / "data", "-o", tmp_path / "r.npz").code == 0
    found = np.load(tmp_path / "r.npz")
    assert found["labels"].tolist() == [1, 2, 8]
    assert found["logits"].argmax(1).tolist() == [1, 2, 8]


def test_what_pillow_warns_of_is_not_printed(
    edgecnn: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = import_model(capfd, class_model(4, RED), tmp_path / "g" / "red.onnx", CLASSES)
    for k, name in enumerate(CLASSES):
        save_color(tmp_path / "data" / name / "0.png", (level(k, 4), 9, 9))
    palette = Image.new("P", (SIDE, SIDE))
    palette.putpalette([level(0, 4), 9, 9] * 256)
    palette.save(tmp_path / "data" / "ash" / "p.png", transparency=bytes(range(256)))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[TiffImagePlugin.SOFTWARE] = "a scanner"
    Image.new("RGB", (SIDE, SIDE), (level(1, 4), 9, 9)).save(tmp_path / "data" / "birch" / "t.tif", tiffinfo=tags)
    whole = (tmp_path / "data" / "birch" / "t.tif").read_bytes()
    (tmp_path / "data" / "birch" / "cut.tif").write_bytes(whole[: len(whole) - 40])
    result = edgecnn("reference", graph, "--data", tmp_path / "data", "-o", tmp_path / "r.npz")
    assert result.code == 0, result.said
    assert "Warning" not in result.said
    assert "site-packages" not in result.said
