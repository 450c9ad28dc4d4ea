"""The settings of nvinfer, read back as its INI file, and applied as nvinfer applies them."""

from __future__ import annotations

import configparser
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.bundle.deepstream import config_text, write_for_deepstream
from edgecnn.bundle.served import Served
from edgecnn.cli import main
from edgecnn.contract import ServingContract
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import RecipeError
from edgecnn.recipe.schema import BatchSettings, DecisionSettings, InputSettings, Recipe
from tests.bundle.conftest import Build

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from edgecnn.graph.serving import fold_contract
    from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.torch

PREPROCESSING = {"resize": 8, "crop": 8, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": 3}
LABELS = ["tench, Tinca", "rose", "owl", "cup", "bee"]


def served(graph: Path, labels: list[str] | None = None, *, geometry: Any = "nvinfer-squash", **more: Any) -> Served:
    takes, gives = more.pop("contract", ("raw-nchw", "probabilities"))
    facts = {"classes": more.pop("classes", 5), "serving_input": takes, "serving_output": gives}
    sidecar = Sidecar(
        kind="graph", preprocessing={**PREPROCESSING, **more.pop("preprocessing", {})}, labels=labels or LABELS,
        facts=facts,
    )  # fmt: skip
    inputs = InputSettings(geometry=geometry)
    recipe = Recipe(batch=BatchSettings(1, 4, 16), path=Path("flowers.toml"), input=inputs, **more)
    return Served(recipe, "fp32", graph, sidecar, graph, graph, "10.3")


def settings_of(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def test_what_nvinfer_makes_of_pixels_gives_the_probabilities_of_the_plain_network(
    tmp_path: Path, build: Build
) -> None:
    """y = net-scale-factor * (x - offsets), the output in [0, 1], the greatest above the threshold."""
    plain, model = tiny_graph("fp32"), tiny_graph("fp32")
    preprocessing = preprocessing_from_json(PREPROCESSING)
    fold_contract(model, ServingContract("raw-nchw", "probabilities", 5), preprocessing)
    onnx.save(model, str(tmp_path / "raw.onnx"))
    (tmp_path / "made").mkdir()
    write_for_deepstream(served(tmp_path / "raw.onnx"), tmp_path / "made")
    found = settings_of((tmp_path / "made" / "nvinfer.txt").read_text())
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    offsets = np.array([float(v) for v in found["offsets"].split(";")], np.float32)
    fed = np.float32(found["net-scale-factor"]) * (pixels.astype(np.float32) - offsets)
    assert found["infer-dims"] == "3;8;8"
    session = onnxruntime.InferenceSession(str(tmp_path / "made" / "model.onnx"))
    (probabilities,) = session.run([found["output-blob-names"]], {"input": fed.transpose(2, 0, 1)[None]})
    image = preprocessing.tensor(Image.fromarray(pixels))[None]
    (logits,) = onnxruntime.InferenceSession(plain.SerializeToString()).run(None, {"input": image})
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
    assert probabilities.max() > float(found["classifier-threshold"])
    assert (tmp_path / "made" / found["labelfile-path"]).read_text().strip().split(";") == LABELS
    assert build(tmp_path / "made" / "build.sh", 100300)[0] == 0
    assert (tmp_path / "made" / found["model-engine-file"]).exists()
    assert found["batch-size"] == "16"


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, {"maintain-aspect-ratio": "0", "model-color-format": "0"}),
        ({"geometry": "letterbox"}, {"maintain-aspect-ratio": "1", "symmetric-padding": "1"}),
        ({"preprocessing": {"bgr": True}}, {"model-color-format": "1"}),
        (
            {"preprocessing": {"channels": 1, "mean": [0.5], "std": [0.5]}},
            {"model-color-format": "2", "offsets": "0", "infer-dims": "1;8;8"},
        ),
    ],
)
def test_geometry_and_colors_are_those_of_the_recipe(more: dict[str, Any], wanted: dict[str, str]) -> None:
    found = settings_of(config_text(served(Path("x.onnx"), **more)))
    assert {key: found[key] for key in wanted} == wanted
    assert (found["network-type"], found["network-mode"], found["net-scale-factor"]) == ("1", "0", "1")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"contract": ("normalised", "probabilities")}, "takes normalised and gives probabilities"),
        ({"contract": ("raw-nchw", "logits")}, "takes raw-nchw and gives logits"),
        ({"contract": ("uint8-nhwc", "probabilities")}, "takes uint8-nhwc"),
        ({"contract": ("raw-nchw", "top-k")}, "gives top-k"),
        ({"geometry": None}, "nvinfer scales the whole picture"),
        ({"geometry": "cv2-bilinear"}, "nvinfer scales the whole picture"),
        ({"classes": 1, "labels": ["a", "b"]}, "one output"),
        ({"labels": ["a;b", "c", "d", "e", "f"]}, "has a semicolon"),
        ({"decision": DecisionSettings(threshold=0.7)}, "the most probable class"),
        ({"preprocessing": {"channels": 4, "mean": [0.5] * 4, "std": [0.5] * 4}}, "takes 4 channels"),
    ],
)
def test_what_nvinfer_would_get_wrong_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        config_text(served(Path("x.onnx"), **more))


def test_an_older_tensorrt_is_refused(tmp_path: Path) -> None:
    old = dataclasses.replace(served(Path("x.onnx")), tensorrt="8.6.2")
    with pytest.raises(RecipeError, match="TensorRT 10 and later"):
        write_for_deepstream(old, tmp_path)


def test_a_plain_run_is_refused_with_the_line_that_exports_it(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bundle", str(digits), "--for", "deepstream", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "takes normalised and gives logits" in said
    assert "--set export.input=raw-nchw --set export.output=probabilities" in said
    assert "edgecnn export NETWORK --input raw-nchw --output probabilities" in said
    assert list(tmp_path.iterdir()) == []
