"""Ensembles from the outside: an ensemble as a member, each precision of it, weights and scales that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import edgecnn as ec
from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import open_engine
from edgecnn.session import class_probabilities
from tests.acceptance.channel_pictures import BLUE, GREEN, PREPROCESSING, RED, SIDE, class_model, level, save_color

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx

NAMES = ["ant", "bee", "cat"]
Command = Callable[..., "Result"]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three networks, each of which reads another channel."""
    folder, made = tmp_path_factory.mktemp("members"), []
    known = Sidecar(
        kind="graph",
        precision_requested="fp32",
        precision_obtained="fp32",
        labels=NAMES,
        preprocessing=PREPROCESSING | {"interpolation": "bilinear"},
        facts={"classes": len(NAMES)},
    )
    for name, channel in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        model = class_model(len(NAMES), channel)
        made.append(folder / f"{name}.fp32.onnx")
        write_artifact(made[-1], lambda path, model=model: onnx.save(model, path), known)
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 of each class, which the red channel tells of one half of them and the green one of the other."""
    folder, random = tmp_path_factory.mktemp("val"), np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        for k in range(40):
            color = random.integers(0, 255, 3)
            color[k % 2] = level(number, len(NAMES))
            save_color(folder / name / f"{k}.png", color.tolist())
    return folder


def run(path: Path, images: Any) -> Any:
    with open_engine(path) as session:
        return session.run(images)


def test_an_ensemble_is_a_member_and_averages_in_float32_too(
    edgecnn: Command, members: list[Path], pictures: Path, tmp_path: Path
) -> None:
    red, green, blue = members
    two, whole = tmp_path / "two.onnx", tmp_path / "whole.onnx"
    assert edgecnn("export", "--ensemble", red, green, "-o", two, "--output", "logits").code == 0
    assert edgecnn("export", "--ensemble", two, blue, "--member-weights", "0.6,0.4", "-o", whole).code == 0
    images = np.random.default_rng(0).random((4, 3, SIDE, SIDE), np.float32)
    shares = [class_probabilities(run(path, images), 0.0) for path in members]
    np.testing.assert_allclose(run(whole, images), np.tensordot([0.3, 0.3, 0.4], shares, 1), atol=1e-5)
    ranges = ec.calibrate(whole, tmp_path / "c.json", data=pictures)
    for precision in ("fp16", "int8"):
        made = tmp_path / f"whole.{precision}.onnx"
        options = ["--ranges", ranges, "--method", "mse"] if precision == "int8" else []
        told = edgecnn("quantize", whole, "--precision", precision, *options, "-o", made)
        assert told.code == 0, told.said
        kinds = onnx.shape_inference.infer_shapes(onnx.load(made)).graph.value_info
        averaged = [v for v in kinds if "average." in v.name]
        assert len({v.name.partition("average.")[0] for v in averaged}) == 2, "of the whole, and of the member"
        assert {v.type.tensor_type.elem_type for v in averaged} == {TensorProto.FLOAT}
        assert ec.validate(made, whole, data=pictures).agreement_pct == pytest.approx(100, abs=6)


def test_what_is_imported_keeps_saying_which_images_chose_its_weights(
    edgecnn: Command, members: list[Path], pictures: Path, tmp_path: Path
) -> None:
    made, served, own = tmp_path / "e.onnx", tmp_path / "served.onnx", tmp_path / "own.fp32.onnx"
    named = ["export", "--ensemble", *members[:2], "--member-weights-from", pictures, "-o"]
    assert edgecnn(*named, made, "--output", "logits").code == 0
    assert edgecnn("import", made, "-o", own).code == 0
    for graph in (made, own):
        findings = ec.validate(graph, members[0], data=pictures).findings
        assert "120 of 120 images chose the ensemble's weights: it may do worse on others" in findings
    assert edgecnn(*named, served).code == 0
    edgecnn("import", served, "-o", own).refused("gives probabilities already", "--output logits")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("0.5,0.6", "add up to 1, found 1.1"),
        ("1.5,-0.5", "at least 0"),
        ("nan,0.5", "found nan"),
        ("inf,-inf", "add up to 1"),
        ("0,1", "the weight of red is 0"),
        ("1", "1 weights for 2 members"),
        ("0.5,", "not numbers"),
    ],
)
def test_weights_that_are_none(edgecnn: Command, members: list[Path], tmp_path: Path, weights: str, said: str) -> None:
    made = tmp_path / "e.onnx"
    edgecnn("export", "--ensemble", *members[:2], "--member-weights", weights, "-o", made).refused(said)
    assert not made.exists()


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ("8,9999999999", "scale 9999999999: a picture is resized to at most 8192 pixels a side"),
        ("0,8", "scale 0"),
        ("8,-9", "scale -9"),
        ("8", "at least two"),
        ("8,,9", "not whole numbers"),
    ],
)
def test_scales_that_no_picture_can_have(
    edgecnn: Command, members: list[Path], pictures: Path, scales: str, said: str
) -> None:
    graph = members[0]
    edgecnn("validate", graph, "--reference", graph, "--data", pictures, "--scales", scales).refused(said)


def test_each_command_is_listed_once(edgecnn: Command) -> None:
    lines = edgecnn("--help").out.partition("Commands:")[2].splitlines()
    listed = [line.split()[0] for line in lines if line[2:3].strip()]
    assert len(listed) > 40
    assert sorted(listed) == sorted(set(listed))
