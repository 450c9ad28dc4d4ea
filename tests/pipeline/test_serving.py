"""A recipe that says what the graph takes and gives, and what the serving side does to pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.contract import ServingContract
from edgecnn.errors import RecipeError
from edgecnn.pipeline.run import run_recipe
from edgecnn.pipeline.tasks import all_tasks
from edgecnn.pipeline.workshop import Workshop
from edgecnn.recipe.load import load_recipe

pytestmark = pytest.mark.torch

SERVED = ["export.input=uint8-nhwc", "export.output=top-k", "input.geometry=cv2-bilinear"]


def test_every_step_behind_the_export_depends_on_the_contract(tmp_path: Path) -> None:
    recipe = load_recipe("lenet5-digits", SERVED)
    fields = {task.output.relative_to(tmp_path): task.fields for task in all_tasks(Workshop(recipe, tmp_path))}
    assert "export.input" not in fields[Path("model.safetensors")]
    assert "export.input" not in fields[Path("reference.npz")]
    for name in ("model.fp32.onnx", "model.calib.json", "model.int8-tensorrt.onnx", "cpu/fp16.onnx"):
        assert fields[Path(name)]["export.input"] == "uint8-nhwc", name
        assert fields[Path(name)]["export.output"] == "top-k", name
    assert fields[Path("cpu/int8.accuracy.json")]["input.geometry"] == "cv2-bilinear"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("export.input=bgr", "export.input = 'bgr': must be one of 'normalised', 'raw-nchw' or 'uint8-nhwc'"),
        ("export.output=argmax", "export.output = 'argmax': must be one of"),
        ("input.geometry=squash", "input.geometry = 'squash': must be one of"),
        ("tolerances.serving_drop_pp_max=1", "serving_drop_pp_max needs input.geometry"),
    ],
)
def test_what_a_recipe_cannot_say(override: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe("lenet5-digits", [override])


@pytest.mark.slow
def test_a_served_recipe_runs_to_its_verdict(tmp_path: Path) -> None:
    more = ["train.epochs=2", "bench.duration_s=0.1", "tolerances.serving_drop_pp_max=50"]
    outcome = run_recipe(load_recipe("lenet5-digits", [*SERVED, *more]), tmp_path, lambda line: None)
    (report,) = outcome.reports
    assert read_sidecar(tmp_path / "cpu" / "int8.onnx").contract == ServingContract("uint8-nhwc", "top-k", 10)
    for measurement in report.measurements:
        assert measurement.accuracy is not None
        assert measurement.accuracy.output == "top-k"
        assert measurement.accuracy.serving is not None
    assert {c.verdict for c in report.verdict.checks if c.tolerance == "serving_drop_pp_max"} == {"PASS"}
