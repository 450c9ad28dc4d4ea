"""`edgecnn quantize` and a recipe's run make the INT8 and the FP16 graph by the same step, and say the same of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of
from edgecnn.artifact.write import write_artifact
from edgecnn.cli import main
from edgecnn.data.calibration_set import make_manifest, write_manifest
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.data.recipe_input import input_fields
from edgecnn.pipeline import tasks
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.workshop import Workshop
from edgecnn.recipe.load import load_recipe
from edgecnn.steps import quantize as step
from edgecnn.zoo import find_model
from tests.fakes.graphs import build

pytestmark = pytest.mark.torch

NET = """
    c = Conv(input, out=4, k=5)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    logits = Gemm(f, rows=4, out=10)
"""
RECIPE = """
precisions = ["fp32", "fp16", "int8"]
targets = ["cpu", "gpu"]
[model]
name = "lenet5"
[data]
source = "digits"
calibration = "{manifest}"
[quantize]
method = "{method}"
around = "{around}"
{exclude}
"""
GRAPHS = {
    "model.fp16.onnx": ["--precision", "fp16"],
    "model.int8-ort-cpu.onnx": ["--precision", "int8", "--scheme", "ort-cpu"],
    "model.int8-tensorrt.onnx": ["--precision", "int8", "--scheme", "tensorrt"],
}


@pytest.mark.parametrize(
    ("name", "method", "around", "exclude"),
    [
        ("model.fp16.onnx", "minmax", "fp16", ["gemv"]),
        ("model.int8-ort-cpu.onnx", "minmax", "fp32", []),
        ("model.int8-ort-cpu.onnx", "mse", "fp32", ["logits/*", "few-channels"]),
        ("model.int8-tensorrt.onnx", "minmax", "fp16", ["gemv"]),
        ("model.int8-tensorrt.onnx", "mse", "fp32", []),
    ],
)
def test_quantize_alone_and_in_a_run_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str, around: str, exclude: list[str]
) -> None:
    calls: list[dict[str, Any]] = []
    real = step.quantize

    def watched(*arguments: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(step, "quantize", watched)  # what the command line imports when it is called
    monkeypatch.setattr(tasks, "quantize", watched)
    preprocessing = find_model("lenet5").preprocessing
    images = open_dataset("digits", preprocessing_from_json(preprocessing), "train")
    manifest = tmp_path / "set.txt"
    write_manifest(manifest, make_manifest(images, "digits", "train", 32))
    path = tmp_path / "alike.toml"
    path.write_text(
        RECIPE.format(manifest=manifest, method=method, around=around, exclude=f"exclude = {exclude}" * bool(exclude))
    )
    recipe = load_recipe(str(path))
    run = tmp_path / "run"
    run.mkdir()
    fp32 = run / "model.fp32.onnx"
    made = Sidecar(
        kind="graph",
        recipe="alike",
        preprocessing=dict(preprocessing),
        labels=[str(k) for k in range(10)],
        precision_requested="fp32",
        fields={
            **recipe.values("model", "train", "transfer", "export", "batch.max"),
            **input_fields(recipe),
        },
    )
    write_artifact(fp32, lambda temporary: onnx.save(build(NET, channels=1, size=32), str(temporary)), made)
    ranges = run / "model.calib.json"
    assert main(["calibrate", str(fp32), "--data", f"{manifest}:digits", "-o", str(ranges)]) == 0

    flow = tasks.all_tasks(Workshop(recipe, run, threads=1))
    task = next(t for t in flow if t.output.name == name)
    task.make()
    inside = read_sidecar(task.output)
    digest = sha256_of(task.output)
    assert stale_tasks([task]) == []

    options = [] if "fp16" in name else ["--method", method, "--around", around, "--data", f"{manifest}:digits"]
    options += [word for pattern in exclude for word in ("--exclude", pattern) if options]
    ask = ["quantize", str(fp32), *GRAPHS[name], *options, "--ranges", str(ranges), "-o", str(task.output)]
    assert main(ask) == 0
    alone = read_sidecar(task.output)
    assert alone.fields == inside.fields
    assert (alone.facts, alone.scheme, alone.precision_obtained) == (
        inside.facts,
        inside.scheme,
        inside.precision_obtained,
    )
    assert alone.facts.get("excluded", []) == (["logits/Gemm"] if exclude and options else [])
    assert alone.parents == inside.parents
    assert sha256_of(task.output) == digest
    assert stale_tasks([task]) == [], "what was made alone is not made again"
    assert len(calls) == 2
    assert calls[0]["precision"] == calls[1]["precision"]
    assert calls[0]["scheme"] == calls[1]["scheme"]
