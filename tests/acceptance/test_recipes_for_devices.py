"""Recipes that deploy weights as they are, with ImageNet as it lies on disks, calibration rules and test sets.

The right class of a picture is known from its colours: a graph of 1 000 classes reads which of six it shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from edgecnn.records import parse_toml
from tests.acceptance.channel_pictures import SIDE, Result, level, make_model, pooled, sidecar

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
PUBLISHED = {"n01440764": 0, "n01443537": 1, "n02099601": 207, "n02123045": 281, "n07753592": 954, "n15075141": 999}
WNIDS = tuple(PUBLISHED)  # tench, goldfish, golden retriever, tabby, banana, toilet tissue
SHOWN = (3, 0, 5, 1, 4, 2, 2, 4, 0, 3, 5, 1)  # which of them each picture is of
DEVICE_RECIPES = ("mobilenet_v2-orin", "resnet50-orin", "resnet50-rtx", "efficientnet_b0-rtx", "resnet20-cifar10-orin")


def all_wnids() -> list[str]:
    """Every class in the order of published weights."""
    import edgecnn.zoo

    rows = Path(edgecnn.zoo.__file__).with_name("imagenet.tsv").read_text(encoding="utf-8").splitlines()
    return [row.split("\t")[0] for row in rows if not row.startswith("#")]


def imagenet_model(gain: float = 40.0) -> onnx.ModelProto:
    """1 000 logits of the mean red: the six classes at their published places by nearest level, the others at -1000."""
    levels = np.array([level(k, 6) for k in range(6)]) / 255
    weight, bias = np.zeros((1000, 3), np.float32), np.full(1000, -1000, np.float32)
    for k, wnid in enumerate(WNIDS):
        weight[PUBLISHED[wnid], 0], bias[PUBLISHED[wnid]] = 2 * gain * levels[k], -gain * levels[k] ** 2
    nodes = [*pooled(), helper.make_node("Gemm", ["f", "w", "b"], ["logits"], "fc", transB=1)]
    return make_model(nodes, {"w": weight, "b": bias}, ["batch", 1000])


def save_picture(path: Path, k: int, number: int) -> Path:
    """A picture of class k, each another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (level(k, 6), number % 256, 90)).save(path, quality=100)
    return path


def flat_validation(root: Path) -> Path:
    """The validation folder as its tar unpacks: no class folders."""
    for i, k in enumerate(SHOWN):
        save_picture(root / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG", k, 20 * i)
    return root


def kit_order() -> list[str]:
    """An order of all classes that is not the published one."""
    return list(np.random.default_rng(3).permutation(all_wnids()))


def put_kit(root: Path, newline: str = "\n") -> Path:
    """The development kit's ground truth and table of classes; the ground truth."""
    order = kit_order()
    (root / "map_clsloc.txt").write_text("".join(f"{wnid} {i + 1} name\n" for i, wnid in enumerate(order)))
    truth = root / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_bytes("".join(f"{order.index(WNIDS[k]) + 1}{newline}" for k in SHOWN).encode())
    return truth


@pytest.fixture
def graph(edgecnn: Command, tmp_path: Path) -> Path:
    """The graph of 1 000 classes, imported."""
    onnx.save(imagenet_model(), str(tmp_path / "theirs.onnx"))
    settings = {"resize": SIDE, "crop": SIDE, "mean": [0.0] * 3, "std": [1.0] * 3, "channels": 3}
    (tmp_path / "pre.json").write_text(json.dumps(settings))
    command = ("import", tmp_path / "theirs.onnx", "--preprocess", tmp_path / "pre.json", "--labels", "imagenet")
    assert edgecnn(*command, "-o", tmp_path / "ours.onnx").code == 0
    return tmp_path / "ours.onnx"


def top1(edgecnn: Command, graph: Path, data: str) -> float:
    """Of the graph on `data`, against itself."""
    result = edgecnn("validate", graph, "--reference", graph, "--data", data, "--json")
    assert result.code == 0, result.said
    found = json.loads(result.out)
    assert found["n"] == len(SHOWN)
    return float(found["top1_pct"])


# --- ImageNet as users have it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["kit", "kit with Windows line ends", "kit beside the images", "Kaggle", "wnids"])
def test_the_flat_folder_is_read_with_any_ground_truth(
    edgecnn: Command, graph: Path, tmp_path: Path, form: str
) -> None:
    root = flat_validation(tmp_path / "imagenet")
    if form.startswith("kit"):
        put_kit(root / "val" if "beside" in form else root, "\r\n" if "Windows" in form else "\n")
    elif form == "Kaggle":
        rows = [f"ILSVRC2012_val_{i + 1:08d},{WNIDS[k]} 1 2 3 4 {WNIDS[k]} 5 6 7 8 " for i, k in enumerate(SHOWN)]
        (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    else:
        (root / "val.csv").write_text(
            "".join(f"ILSVRC2012_val_{i + 1:08d}.JPEG,{WNIDS[k]}\n" for i, k in enumerate(SHOWN))
        )
    assert top1(edgecnn, graph, f"imagenet:{root}") == 100
    wrong = "imagenet:" + str(root / "val" if "beside" in form else root)
    assert top1(edgecnn, graph, wrong) == 100


def test_class_folders_are_read_by_wnid(edgecnn: Command, graph: Path, tmp_path: Path) -> None:
    for i, k in enumerate(SHOWN):
        save_picture(tmp_path / "imagenet" / "val" / WNIDS[k] / f"{i}.JPEG", k, 20 * i)
    assert top1(edgecnn, graph, f"imagenet:{tmp_path / 'imagenet'}") == 100
    assert top1(edgecnn, graph, f"imagenet:{tmp_path / 'imagenet' / 'val'}") == 100


def validate_flat(edgecnn: Command, graph: Path, root: Path) -> Result:
    return edgecnn("validate", graph, "--reference", graph, "--data", f"imagenet:{root}")


@pytest.mark.parametrize("lines", [-1, 1, -12])
def test_a_ground_truth_of_another_length_is_refused(edgecnn: Command, graph: Path, tmp_path: Path, lines: int) -> None:
    root = flat_validation(tmp_path / "imagenet")
    truth = put_kit(root)
    found = truth.read_text().splitlines(keepends=True)
    truth.write_text("".join(found[:lines] if lines < 0 else [*found, found[0]]))
    validate_flat(edgecnn, graph, root).refused(truth.name, str(len(SHOWN)))


@pytest.mark.parametrize("odd", ["0", "1001", "-3", "n02", "7.5", "seven", "\x00", "\xff"])
def test_a_ground_truth_that_names_no_class_is_refused(edgecnn: Command, graph: Path, tmp_path: Path, odd: str) -> None:
    root = flat_validation(tmp_path / "imagenet")
    truth = put_kit(root)
    truth.write_bytes(truth.read_bytes().replace(b"\n", f"\n{odd}\n".encode("latin-1"), 1).rstrip().rsplit(b"\n", 1)[0])
    validate_flat(edgecnn, graph, root).refused(truth.name)


def hostile_tables() -> dict[str, bytes]:
    """Files called meta.mat that are none."""
    import struct
    import zlib

    head = b"MATLAB 5.0".ljust(124) + b"\0\x01IM"

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    return {
        "empty": b"",
        "other": b"PK\3\4" + b"\0" * 300,
        "head": head,
        "compressed nothing": head + struct.pack("<II", 15, 8) + zlib.compress(b""),
        "truncated": head + struct.pack("<II", 14, 1 << 30) + b"\0" * 64,
        "no fields": head + element(14, element(6, struct.pack("<II", 2, 0))),
        "bomb": head + struct.pack("<II", 15, len(b := zlib.compress(b"\0" * (70 << 20)))) + b,
    }


@pytest.mark.parametrize("name", list(hostile_tables()))
def test_a_table_of_classes_that_is_none_is_refused(edgecnn: Command, graph: Path, tmp_path: Path, name: str) -> None:
    root = flat_validation(tmp_path / "imagenet")
    put_kit(root)
    (root / "map_clsloc.txt").unlink()
    (root / "meta.mat").write_bytes(hostile_tables()[name])
    validate_flat(edgecnn, graph, root).refused("meta.mat")


# --- recipes -------------------------------------------------------------------------------------------------------


def written(path: Path) -> dict[str, Any]:
    """A recipe's file as it is."""
    found: dict[str, Any] = parse_toml(path.read_text())
    return found


@pytest.mark.parametrize("name", DEVICE_RECIPES)
def test_a_device_recipe_deploys_weights_as_they_are(edgecnn: Command, root: Path, name: str) -> None:
    found = written(root / "recipes" / f"{name}.toml")
    assert found["train"]["epochs"] == 0
    assert "cpu" not in found["targets"]
    assert found["data"]["calibration"]
    assert {"latency_ratio_max", "latency_ms_p99_max", "int8_share_pct_min", "top1_drop_pp_max"} <= set(
        found["tolerances"]
    )
    assert name in (root / "README.md").read_text()
    assert edgecnn("recipe", "show", name).code == 0


def test_a_copy_keeps_the_file_but_for_the_line(edgecnn: Command, root: Path, tmp_path: Path) -> None:
    to = tmp_path / "mine.toml"
    settings = ("--set", "model.classes=37", "--set", "tolerances.latency_ms_p99_max=12.5")
    assert edgecnn("recipe", "copy", "mobilenet_v2-orin", to, *settings).code == 0
    old = (root / "recipes" / "mobilenet_v2-orin.toml").read_text().splitlines()
    new = to.read_text().splitlines()
    assert written(to)["model"]["classes"] == 37
    assert written(to)["tolerances"]["latency_ms_p99_max"] == 12.5
    assert len(set(old) - set(new)) == 1, "the latency's line alone is replaced"
    edgecnn("recipe", "copy", "mobilenet_v2-orin", to).refused(str(to))
    assert to.read_text().splitlines() == new


@pytest.mark.parametrize(
    "setting",
    [
        "model.clases=37",
        "model.classes=0",
        "model.classes=x",
        "model",
        "=",
        "model.classes",
        "targets=['agx-orion']",
        "",
    ],
)
def test_a_copy_with_a_wrong_setting_writes_nothing(edgecnn: Command, tmp_path: Path, setting: str) -> None:
    to = tmp_path / "mine.toml"
    result = edgecnn("recipe", "copy", "mobilenet_v2-orin", to, "--set", setting)
    assert result.code == 2, result.said
    assert "Traceback" not in result.said
    assert not to.exists()


def test_a_copy_is_found_by_its_name(edgecnn: Command, tmp_path: Path) -> None:
    edgecnn("recipe", "copy", "mobilenet_v2-orin", tmp_path / "mine").refused("mine.toml")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("weights", ["none", "default"])
def test_weights_that_nobody_publishes_are_asked_for_by_the_line_that_helps(
    edgecnn: Command, tmp_path: Path, weights: str
) -> None:
    command = ("run", "resnet20-cifar10-orin", "--set", f"model.weights={weights}", "--out", tmp_path / "made")
    refused = edgecnn(*command)
    refused.refused("--set model.weights=FILE")
    assert "'default':" not in refused.err.splitlines()[-1], "it would lead to the other of the two errors"
    assert not (tmp_path / "made").exists()


# --- a recipe of one's own with rules, test sets, moved images -----------------------------------------------------


def put_images(root: Path, train: int = 3) -> Path:
    """DIR/train by wnid, and the flat DIR/val with the kit's ground truth."""
    flat_validation(root)
    put_kit(root)
    for k, wnid in enumerate(WNIDS):
        for i in range(train):
            save_picture(root / "train" / wnid / f"{wnid}_{i}.JPEG", k, 40 * i + 11)
    return root


RECIPE = """
precisions = ["fp32"]
targets = ["cpu"]
[model]
onnx = "theirs.onnx"
labels = "imagenet"
[input]
mean = [0, 0, 0]
std = [1, 1, 1]
[data]
source = "imagenet:imagenet"
calibration = "mine.toml"
[bench]
duration_s = 0.1
warmup_ms = 1
"""
RULE = 'source = "imagenet"\nsplit = "train"\nimages = 12\nseed = 4\nbalanced = true\n'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the graph, the recipe and the rule; the images lie in `there`."""
    monkeypatch.chdir(tmp_path)
    onnx.save(imagenet_model(), "theirs.onnx")
    Path("orders.toml").write_text(RECIPE.replace('["fp32"]', '["int8"]'))
    Path("mine.toml").write_text(RULE)
    put_images(tmp_path / "there")
    return tmp_path


def rows(path: Path) -> dict[str, str]:
    """Image -> sha256 of a manifest."""
    return dict(line.rsplit(" ", 1) for line in path.read_text().splitlines() if not line.startswith("#"))


def test_a_rule_is_resolved_once_and_written_down(edgecnn: Command, own: Path) -> None:
    import hashlib

    run: Sequence[Any] = ("run", "orders.toml", "--data", "there", "--until", "validate")
    first = edgecnn(*run)
    assert first.code == 0, first.said
    manifest = own / "runs/orders/calibration.txt"
    written = manifest.read_text()
    assert len(rows(manifest)) == 12
    assert {sum(wnid in name for name in rows(manifest)) for wnid in WNIDS} == {2}, "balanced"
    for name, digest in rows(manifest).items():
        assert hashlib.sha256((own / "there" / "train" / name).read_bytes()).hexdigest() == digest
    accuracy = json.loads((own / "runs/orders/cpu/int8.accuracy.json").read_text())
    assert accuracy["top1_pct"] == 100
    save_picture(own / "there" / "train" / WNIDS[0] / "another.JPEG", 0, 200)
    (own / "there").rename(own / "moved")
    again = edgecnn("run", "orders.toml", "--data", "moved", "--until", "validate")
    assert again.code == 0, again.said
    assert "up to date" in again.said
    assert manifest.read_text() == written
    chosen = own / "moved" / "train" / next(iter(rows(manifest)))
    chosen.write_bytes(chosen.read_bytes() + b"x")
    for made in [*(own / "runs/orders").glob("model.*"), *(own / "runs/orders/cpu").iterdir()]:
        made.unlink()
    edgecnn("run", "orders.toml", "--data", "moved", "--until", "validate").refused(chosen.name)


def test_a_test_set_is_in_the_provenance_and_other_pixels_are_refused(edgecnn: Command, own: Path) -> None:
    made = edgecnn("calibration-set", "imagenet:there", "--test", "--version", "2026-1", "-o", "judged.txt")
    assert made.code == 0, made.said
    run: Sequence[Any] = ("run", "orders.toml", "--data", "there", "--set", "data.test=judged.txt")
    done = edgecnn(*run, "--until", "validate")
    assert done.code == 0, done.said
    said = json.dumps(sidecar(own / "runs/orders/reference.npz"))
    assert "judged 2026-1" in said
    truth = own / "there" / "ILSVRC2012_validation_ground_truth.txt"
    right = truth.read_text()
    truth.write_text("\n".join(reversed(right.splitlines())) + "\n")
    edgecnn(*run, "--out", "other").refused("judged 2026-1")
    truth.write_text(right)
    save_picture(own / "there" / "val" / "ILSVRC2012_val_00000001.JPEG", 4, 3)
    edgecnn(*run, "--out", "another").refused("ILSVRC2012_val_00000001")


def test_a_graph_is_not_calibrated_on_the_images_that_it_is_judged_by(edgecnn: Command, own: Path) -> None:
    for i, k in enumerate(SHOWN):
        save_picture(own / "one" / WNIDS[k] / f"{i}.JPEG", k, 20 * i)
    more = ("--set", "data.calibration=", "--out", "made")
    edgecnn("run", "orders.toml", "--data", "one", *more).refused("judged by")
    edgecnn("run", "orders.toml", "--set", "data.source=one", *more).refused("judged by")
    edgecnn("run", "orders.toml", "--data", "there", "--calibration-data", "there/val", *more).refused()
    assert not (own / "made").exists()


@pytest.mark.parametrize("version", ["  ", "1\n# split: train"])
def test_a_test_set_needs_a_version_of_one_line(edgecnn: Command, own: Path, version: str) -> None:
    edgecnn("calibration-set", "imagenet:there", "--test", "--version", version, "-o", "set.txt").refused("version")
    assert not (own / "set.txt").exists()


def test_a_manifest_of_other_images_stops_before_anything_is_made(edgecnn: Command, own: Path) -> None:
    command = ("run", "orders.toml", "--data", "there", "--set", "data.calibration=cifar10-512")
    edgecnn(*command).refused("cifar10-512.txt")
    assert not (own / "runs").exists()


@pytest.mark.parametrize(
    "rule",
    [
        'source = "imagenet"\n',
        'source = "imagenet"\nimages = 0\n',
        'source = "imagenet"\nimages = 99\n',
        'source = "imagenette"\nimages = 3\n',
        'source = "cifar10"\nimages = 3\n',
        'source = "imagenet"\nimages = 3\nsplit = "val"\n',
        'source = "imagenet"\nimages = 3\nballanced = true\n',
        'source = "imagenet"\nimages = 3\nsplit = "test"\n',
        'source = "imagenet"\nimages = true\n',
        "source = ",
        "\x00",
        "",
    ],
)
def test_a_rule_that_cannot_be_followed_stops_before_anything_is_made(edgecnn: Command, own: Path, rule: str) -> None:
    Path("mine.toml").write_text(rule)
    edgecnn("run", "orders.toml", "--data", "there").refused()
    assert not (own / "runs").exists()
