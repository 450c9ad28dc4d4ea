"""Several networks as one graph: what it computes, in each precision; which images choose its weights; what is no
ensemble."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from PIL import Image

import edgecnn as ec
from edgecnn import cli
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of
from edgecnn.artifact.stale import TRAIN_IMAGES, stale_reason
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import open_engine
from edgecnn.data.dataset import held_out
from edgecnn.data.open import images_sha256, open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import EdgecnnError
from edgecnn.session import Array, class_probabilities
from edgecnn.steps.validate import compare_stages
from edgecnn.steps.validate_views import validate_views
from tests.fakes.tiny import CLASSES, SIZE, tiny_graph

pytestmark = pytest.mark.onnx

LABELS = ["ant", "bee", "cat", "dog", "elk"]
EIGHT = Preprocessing(resize=10, crop=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
WEIGHTS = (0.5, 0.3, 0.2)


def network(seed: int) -> onnx.ModelProto:
    model, rng = tiny_graph("fp32"), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = rng.normal(0, 1.5, tensor.dims).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def write(path: Path, model: onnx.ModelProto, **changed: Any) -> Path:
    facts = {"classes": CLASSES, "params": 137, **changed.pop("facts", {})}
    known = Sidecar(kind="graph", precision_requested="fp32", precision_obtained="fp32", labels=LABELS, facts=facts)
    write_artifact(path, lambda p: onnx.save(model, p), replace(known, **{"preprocessing": EIGHT.to_json(), **changed}))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 training and 20 test pictures of each class, which is its tint."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    tints = rng.integers(0, 256, (CLASSES, 3))
    for split, count in (("train", 30), ("val", 20)):
        for name, tint in zip(LABELS, tints, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = np.clip(rng.normal(tint, 60, (11, 12, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two graphs, and a run's folder."""
    folder = tmp_path_factory.mktemp("members")
    (folder / "run").mkdir()
    write(folder / "run" / "model.fp32.onnx", network(3))
    return [*(write(folder / f"{name}.fp32.onnx", network(k)) for k, name in enumerate("ab", 1)), folder / "run"]


@pytest.fixture(scope="module")
def whole(members: list[Path]) -> Path:
    return ec.export_ensemble(members, members[0].parent / "ens.onnx", weights=WEIGHTS)


def run(path: Path, images: Array) -> Array:
    with open_engine(path) as session:
        return session.run(images)


def test_it_gives_the_weighted_average_of_its_members(members: list[Path], whole: Path) -> None:
    images = np.random.default_rng(0).standard_normal((5, 3, SIZE, SIZE), np.float32)
    logits = [run(m / "model.fp32.onnx" if m.is_dir() else m, images) for m in members]
    assert len({one.argmax(axis=1).tobytes() for one in logits}) > 1
    expected = sum(w * class_probabilities(one, 0.0) for w, one in zip(WEIGHTS, logits, strict=True))
    np.testing.assert_allclose(run(whole, images), expected, atol=1e-6)
    as_logits = ec.export_ensemble(members, whole.with_name("logits.onnx"), weights=WEIGHTS, gives="logits")
    np.testing.assert_allclose(run(as_logits, images), np.log(expected), atol=1e-4)


def test_certain_members_leave_no_infinite_logarithm(members: list[Path], whole: Path) -> None:
    as_logits = ec.export_ensemble(members, whole.with_name("logits.onnx"), gives="logits")
    assert np.isfinite(run(as_logits, np.full((1, 3, SIZE, SIZE), 1e4, np.float32))).all()


def test_its_sidecar_says_what_it_is_made_of(members: list[Path], whole: Path) -> None:
    known = read_sidecar(whole)
    graphs = [m / "model.fp32.onnx" if m.is_dir() else m for m in members]
    assert known.parents == {str(g.relative_to(whole.parent)): sha256_of(g) for g in graphs}
    assert [(m["name"], m["weight"]) for m in known.facts["ensemble"]] == [("a", 0.5), ("b", 0.3), ("run", 0.2)]
    assert (known.labels, known.preprocessing, known.facts["params"]) == (LABELS, EIGHT.to_json(), 3 * 137)
    assert known.contract.output == "probabilities"
    expected = replace(known, fields={"ensemble.weights": list(WEIGHTS)})
    assert stale_reason(whole, expected, graphs) is None
    assert "ensemble.weights changed" in str(
        stale_reason(whole, replace(expected, fields={"ensemble.weights": [1]}), [])
    )


@pytest.mark.parametrize("scheme", ["fp16", "tensorrt", "ort-cpu"])
def test_every_precision_averages_in_float32(whole: Path, pictures: Path, tmp_path: Path, scheme: Any) -> None:
    ranges = ec.calibrate(whole, tmp_path / "ens.calib.json", data=pictures, images=50)
    how = {"precision": "fp16"} if scheme == "fp16" else {"precision": "int8", "scheme": scheme, "method": "mse"}
    made = ec.quantize(whole, tmp_path / "made.onnx", ranges=ranges, **how)  # type: ignore[arg-type]
    assert made.sidecar.precision_obtained == how["precision"]
    model = onnx.shape_inference.infer_shapes(onnx.load(made))
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    average = [kinds[name] for name in kinds if name.startswith("average.")]
    assert len(average) >= 5
    assert set(average) == {TensorProto.FLOAT}
    assert (TensorProto.FLOAT16 in kinds.values()) == (scheme != "ort-cpu")
    found = ec.validate(made, whole, data=pictures)
    assert found.agreement_pct is not None
    assert found.agreement_pct > 95
    assert found.n == 100


def test_no_member_is_a_stage_before_it(members: list[Path], pictures: Path, tmp_path: Path) -> None:
    whole = ec.export_ensemble(members, tmp_path / "ens.fp32.onnx", gives="logits")
    made = ec.quantize(whole, tmp_path / "ens.fp16.onnx", precision="fp16")
    [hop] = compare_stages(made.path, whole, data=str(pictures))
    assert (hop.source, hop.target) == ("ens.fp32.onnx", "ens.fp16.onnx")


def test_it_is_compared_with_a_member_on_the_same_images(whole: Path, members: list[Path], pictures: Path) -> None:
    found = ec.validate(whole, members[1], data=pictures)
    assert found.top1_lost is not None
    assert found.top1_gained is not None
    assert found.top1_drop_pp == pytest.approx(found.top1_lost - found.top1_gained)


def test_crops_and_scales_of_it_are_averaged_too(whole: Path, pictures: Path) -> None:
    [at_two, ten] = [
        validate_views(whole, whole, data=str(pictures), scales=(10, 11), ten_crop=ten_crop)
        for ten_crop in (False, True)
    ]
    assert (vars(at_two)["multi_scale_crops"], vars(ten)["multi_scale_crops"]) == (1, 10)
    assert vars(ten)["multi_scale_sizes_px"] == (10, 11)
    with open_engine(whole) as session:
        total = np.zeros((100, CLASSES))
        for resize in (10, 11):
            images = open_dataset(str(pictures), replace(EIGHT, resize=resize), "test", LABELS)
            total += session.run(np.stack([images.tensor(k) for k in range(len(images))]))
    assert images.labels is not None
    assert vars(at_two)["multi_scale_top1_pct"] == pytest.approx(100 * (total.argmax(1) == images.labels).mean())


def test_weights_are_chosen_on_images_that_no_member_learned_from(pictures: Path, tmp_path: Path) -> None:
    told = {"facts": {TRAIN_IMAGES: images_sha256(str(pictures), "train")}}
    trained = [
        write(tmp_path / f"{k}.onnx", network(k), **told, fields={"train.validation": 0.85, "train.seed": k})
        for k in (1, 2)
    ]
    made = read_sidecar(ec.export_ensemble(trained, tmp_path / "ens.onnx", weights_from=pictures))
    images = open_dataset(str(pictures), EIGHT, "train", LABELS)
    unseen = set(held_out(images, 0.85, 1)) & set(held_out(images, 0.85, 2))
    assert made.facts["member_weights"]["n"] == len(unseen) < 125
    assert sum(made.fields["ensemble.weights"]) == pytest.approx(1)
    assert made.facts["member_weights"]["log_loss"] < made.facts["member_weights"]["equal_log_loss"]
    write(trained[1], network(2), **told, fields={"train.validation": 0.0, "train.seed": 1})
    with pytest.raises(EdgecnnError, match=r"which of its training images .*2\.onnx has not learned from is not known"):
        ec.export_ensemble(trained, tmp_path / "ens.onnx", weights_from=pictures)
    with pytest.raises(EdgecnnError, match="no data set"):
        ec.export_ensemble(trained, tmp_path / "ens.onnx", weights_from=tmp_path / "absent")
    plain = ec.export_ensemble(trained, tmp_path / "ens.onnx", weights_from=pictures / "val")
    assert read_sidecar(plain).facts["member_weights"]["n"] == 100
    told_so = "100 of 100 images chose the ensemble's weights: it may do worse on others"
    assert told_so in ec.validate(plain, trained[0], data=pictures).findings
    fair = ec.export_ensemble(trained, tmp_path / "fair.onnx")
    assert told_so not in ec.validate(fair, trained[0], data=pictures).findings


def other(tmp_path: Path, **changed: Any) -> list[Path]:
    return [write(tmp_path / "other.onnx", changed.pop("model", network(9)), **changed)]


def of_size(size: int) -> onnx.ModelProto:
    model = network(9)
    for dim in list(model.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.dim_value = size
    return model


def resaved(tmp_path: Path) -> list[Path]:
    model = network(1)
    model.producer_name = "another"
    return other(tmp_path, model=model)


def without_sidecar(tmp_path: Path) -> list[Path]:
    onnx.save(network(9), tmp_path / "other.onnx")
    return [tmp_path / "other.onnx"]


REFUSED: dict[str, tuple[Callable[[Path], list[Path]], str]] = {
    "one": (lambda tmp: [], "fewer than two networks"),
    "the same file": (lambda tmp: other(tmp, model=network(1)), r"other\.onnx: the same graph as .*a\.fp32\.onnx"),
    "the same network": (resaved, r"other\.onnx: computes what .*a\.fp32\.onnx computes"),
    "features": (lambda tmp: other(tmp, facts={"features": {"pool": [4]}}), "a features graph"),
    "INT8": (lambda tmp: other(tmp, precision_requested="int8"), "a graph of INT8; members are float32"),
    "an engine": (lambda tmp: other(tmp, kind="engine"), "an engine of FP32"),
    "opset 17": (lambda tmp: other(tmp, facts={"opset": 17}), "of opset 17"),
    "pixels": (lambda tmp: other(tmp, facts={"serving_input": "raw-nchw"}), "takes raw-nchw"),
    "one logit": (lambda tmp: other(tmp, facts={"classes": 1}), "gives one logit"),
    "other classes": (lambda tmp: other(tmp, labels=[*LABELS[:4], "fox"]), "class 4 is 'fox'; of the 5 of .* 'elk'"),
    "another order": (lambda tmp: other(tmp, labels=LABELS[::-1]), "class 0 is 'elk'; of the 5 of .* it is 'ant'"),
    "pairs that its sidecar does not tell": (lambda tmp: other(tmp, model=tiny_graph("int8")), "other.onnx: .*uantize"),
    "other logits than classes": (lambda tmp: other(tmp, labels=[*LABELS, "fox"]), "gives 5 logits, .* 6 classes"),
    "no classes": (lambda tmp: other(tmp, labels=None), "its classes are not known"),
    "no preprocessing": (lambda tmp: other(tmp, preprocessing=None), "its preprocessing is not known"),
    "another preprocessing": (
        lambda tmp: other(tmp, preprocessing=replace(EIGHT, resize=12).to_json()),
        "not that of .*: resize 12 against 10",
    ),
    "another size": (lambda tmp: other(tmp, model=of_size(16)), "takes images of 3x16x16, .* 3x8x8"),
    "no sidecar": (without_sidecar, "has no sidecar"),
    "no run": (lambda tmp: [tmp], "no model.fp32.onnx in this folder"),
    "no file": (lambda tmp: [tmp / "absent.onnx"], "no such file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_ensemble_is_refused_by_name(members: list[Path], tmp_path: Path, kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(EdgecnnError, match=said):
        ec.export_ensemble([members[0], *make(tmp_path)], tmp_path / "ens.onnx")
    assert not (tmp_path / "ens.onnx").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1.0,), "1 weights for 3 members"),
        ((1, 2, 3), "add up to 1, found 6"),
        ((1.5, -0.5, 0), "at least 0"),
        ((0.5, 0, 0.5), "the weight of b is 0"),
        ((float("nan"), 0.5, 0.5), "found nan"),
    ],
)
def test_weights_that_are_none(members: list[Path], tmp_path: Path, weights: Any, said: str) -> None:
    with pytest.raises(EdgecnnError, match=said):
        ec.export_ensemble(members, tmp_path / "ens.onnx", weights=weights)


def test_more_than_one_file_holds(members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.steps.ensemble.GRAPH_BYTES", 1000)
    with pytest.raises(EdgecnnError, match="together, more than"):
        ec.export_ensemble(members, tmp_path / "ens.onnx")


def test_weights_beside_the_graph_of_a_member(members: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "beside.onnx"
    onnx.save(network(7), path, save_as_external_data=True, location="beside.data", size_threshold=0)
    told = json.loads(members[0].with_name("a.fp32.onnx.json").read_text(encoding="utf-8"))
    path.with_name("beside.onnx.json").write_text(json.dumps(told | {"sha256": sha256_of(path)}), encoding="utf-8")
    made = ec.export_ensemble([members[0], path], tmp_path / "ens.onnx")
    assert run(made, np.zeros((1, 3, SIZE, SIZE), np.float32)).shape == (1, CLASSES)


def test_the_command(members: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "ens.onnx")
    named = [str(m) for m in members]
    assert cli.main(["export", "--ensemble", *named, "-o", out, "--member-weights", "0.5,0.3,0.2", "--json"]) == 0
    row = json.loads(capfd.readouterr().out)
    assert [m["weight"] for m in row["ensemble"]] == [0.5, 0.3, 0.2]
    assert cli.main(["export", "--ensemble", *named, "-o", out, "--member-weights", "0.6,0.395,0.005"]) == 0
    assert "run adds next to nothing and costs its time: leave it out" in capfd.readouterr().out
    for more, said in (
        (["--ensemble", *named, "-o", out, "--size", "8", "--weights", "none"], "--weights, --size with --ensemble"),
        (["--ensemble", *named], "--ensemble without -o"),
        (["--ensemble", *named, "-o", out, "--member-weights", "x"], "--member-weights x: not numbers"),
        (named, "one network is exported at a time"),
    ):
        assert cli.main(["export", *more]) == 2
        assert said in capfd.readouterr().err


def test_scales_on_the_command_line(whole: Path, pictures: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["validate", str(whole), "--reference", str(whole), "--data", str(pictures), "--scales"]
    assert cli.main([*command, "10,11", "--tta", "ten-crop"]) == 0
    assert "ten-crop at 10, 11 pixels, not what an engine does: top-1 " in capfd.readouterr().out
    for scales, said in (
        ("7,10", "scale 7: the crop of 8 pixels does not fit in"),
        ("10", "scales 10: at least two different ones"),
        ("10,10", "scales 10, 10: at least two different ones"),
        ("big", "--scales big: not whole numbers of pixels"),
    ):
        assert cli.main([*command, scales]) == 2
        assert f"error: {said}" in capfd.readouterr().err
