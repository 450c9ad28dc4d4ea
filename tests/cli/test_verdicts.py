"""validate, bench, gate and report as a user calls them, on a small graph that needs no training."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lxml import etree
from onnx import helper, numpy_helper
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_json, read_sidecar
from edgecnn.artifact.write import write_artifact, write_json_artifact
from edgecnn.recipe.load import load_recipe
from edgecnn.records import to_plain
from edgecnn.results.correctness import pack_bits, unpack_bits
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineFacts
from edgecnn.results.latency import LatencyFile, LatencyRatio, LatencyRow
from edgecnn.steps.gate import baseline_path
from tests.fakes.graphs import build
from tests.fakes.measurements import engine, latency

pytestmark = pytest.mark.torch

PREPROCESSING = {
    "resize": 8,
    "crop": 8,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bilinear",
    "channels": 3,
}
NET = """
    c = Conv(input, out=8, k=3)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    logits = Gemm(f, rows=8, out=4)
"""
RECIPE = """
title = "small"
precisions = ["fp32", "int8"]
[model]
name = "lenet5"
[data]
source = "images"
[tolerances]
top1_drop_pp_max = 10
agreement_pct_min = 80
"""


def sidecar(**more: Any) -> Sidecar:
    return Sidecar(kind="graph", recipe="small", preprocessing=PREPROCESSING, labels=["a", "b", "c", "d"], **more)


def write_graph(path: Path, model: onnx.ModelProto, described: Sidecar) -> Path:
    write_artifact(path, lambda temporary: onnx.save(model, str(temporary)), described)
    return path


def noisy(model: onnx.ModelProto, share: float, seed: int = 0) -> onnx.ModelProto:
    """A copy whose weights carry noise; share 1 is a graph with random weights."""
    made, rng = onnx.ModelProto(), np.random.default_rng(seed)
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor)
        noise = rng.normal(0, value.std() + 1e-6, value.shape)
        tensor.CopyFrom(numpy_helper.from_array(((1 - share) * value + share * noise).astype(np.float32), tensor.name))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images labelled as the FP32 graph sees most of them, its graphs, and a reference."""
    from edgecnn.cli import main

    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    model = build(NET, channels=3)
    fp32 = write_graph(folder / "fp32.onnx", model, sidecar(precision_requested="fp32"))
    pixels = [rng.integers(0, 255, (8, 8, 3), np.uint8) // rng.integers(1, 6) for _ in range(240)]
    for k, image in enumerate(pixels):  # first anywhere, to be sorted by what the graph says
        path = folder / "unsorted" / "a" / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    assert main(["reference", str(fp32), "--data", str(folder / "unsorted"), "-o", str(folder / "first.npz")]) == 0
    logits = np.load(folder / "first.npz")["logits"]
    logits = logits - np.median(logits, axis=0)
    bias = -np.median(np.load(folder / "first.npz")["logits"], axis=0)
    for tensor in model.graph.initializer:
        if tensor.name == "logits.bias":
            value = (numpy_helper.to_array(tensor) + bias).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    write_graph(fp32, model, sidecar(precision_requested="fp32"))
    for k, image in enumerate(pixels):
        label = int(logits[k].argmax()) if k % 10 else int(rng.integers(4))
        path = folder / "images" / "abcd"[label] / f"{k:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    near = sidecar(precision_requested="int8", scheme="ort-cpu", parents=parents_of(folder / "int8.onnx", fp32))
    write_graph(folder / "int8.onnx", noisy(model, 0.01), near)
    write_graph(folder / "int8-tensorrt.onnx", noisy(model, 0.01), dataclasses.replace(near, scheme="tensorrt"))
    write_graph(folder / "random.onnx", noisy(model, 1.0, seed=3), near)
    data = ["--data", str(folder / "images")]
    assert main(["reference", str(fp32), *data, "-o", str(folder / "reference.npz")]) == 0
    return folder


def validate(
    edgecnn: Callable[..., Any], made: Path, engine: str, *more: object, reference: str = "reference.npz"
) -> Any:
    return edgecnn("validate", made / engine, "--reference", made / reference, "--data", made / "images", *more)


def test_validate_gives_the_paired_numbers(edgecnn: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    result = validate(edgecnn, made, "int8.onnx", "--json", "-o", tmp_path / "int8.accuracy.json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["n"] == 240
    assert found["reference_top1_pct"] > 80
    assert found["top1_drop_ci_pp"][0] <= found["top1_drop_pp"] <= found["top1_drop_ci_pp"][1]
    written = read_json(tmp_path / "int8.accuracy.json")
    assert written["top1_pct"] == found["top1_pct"]
    assert len(written["provenance"]["parents"]) == 2
    assert not list(tmp_path.glob(".*partial"))
    text = validate(edgecnn, made, "int8.onnx").out
    assert "95 % interval" in text


def test_a_graph_as_reference_gives_the_same(edgecnn: Callable[..., Any], made: Path) -> None:
    saved, live = (
        json.loads(validate(edgecnn, made, "int8.onnx", "--json", reference=r).out)
        for r in ("reference.npz", "fp32.onnx")
    )
    assert saved == live


def test_stages_follow_the_parents(edgecnn: Callable[..., Any], made: Path) -> None:
    result = validate(edgecnn, made, "random.onnx", "--stages", "--json")
    assert result.code == 0, result.err
    first, last = json.loads(result.out)["stages"]
    assert (first["source"], first["target"], first["changed"]) == ("reference.npz", "fp32.onnx", 0)
    assert (last["source"], last["target"], last["explained"]) == ("fp32.onnx", "random.onnx", False)
    assert last["parting"]["node"] == "c/Conv"
    text = validate(edgecnn, made, "random.onnx", "--stages").out
    assert "moved at fp32.onnx -> random.onnx" in text


def test_what_the_serving_side_does_is_a_stage(edgecnn: Callable[..., Any], made: Path) -> None:
    result = validate(edgecnn, made, "int8.onnx", "--stages", "--geometry", "letterbox", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [hop["target"] for hop in found["stages"]] == ["fp32.onnx", "int8.onnx", "int8.onnx served as letterbox"]
    assert found["serving_geometry"] == "letterbox"


def test_fp16_is_a_stage_before_int8_around_it(edgecnn: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    """The FP16 graph of the same float graph, where it lies beside; around FP32 it is none."""
    for name in ("fp32.onnx", "fp32.onnx.json", "reference.npz", "reference.npz.json"):
        shutil.copy(made / name, tmp_path / name)
    model, parents = onnx.load(made / "fp32.onnx"), parents_of(tmp_path / "int8.onnx", tmp_path / "fp32.onnx")
    write_graph(tmp_path / "half.onnx", model, sidecar(precision_requested="fp16", parents=parents))
    write_graph(tmp_path / "other.onnx", model, sidecar(precision_requested="fp16", parents={"x.onnx": "0" * 64}))
    ask = ("--reference", tmp_path / "reference.npz", "--data", made / "images", "--stages", "--json")
    for around, wanted in (("fp16", ["fp32.onnx", "half.onnx", "int8.onnx"]), ("fp32", ["fp32.onnx", "int8.onnx"])):
        described = sidecar(precision_requested="int8", parents=parents, fields={"quantize.around": around})
        write_graph(tmp_path / "int8.onnx", noisy(model, 0.01), described)
        found = json.loads(edgecnn("validate", tmp_path / "int8.onnx", *ask).out)
        assert [hop["target"] for hop in found["stages"]] == wanted


def test_bisect_says_when_there_is_nothing_to_bisect(edgecnn: Callable[..., Any], made: Path) -> None:
    result = validate(edgecnn, made, "int8.onnx", "--bisect", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["bisect"]
    assert (found["cause"], found["builds"], found["engine"]) == ("none", 0, "int8.onnx")
    assert "agrees with int8.onnx on 8 images" in validate(edgecnn, made, "int8.onnx", "--bisect").out
    assert "--bisect with --on" in validate(edgecnn, made, "int8.onnx", "--bisect", "--on", "nowhere").refused()


def test_bisect_names_the_layer(edgecnn: Callable[..., Any], made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(path: Path) -> bytes:
        model = onnx.load(path)
        first = model.graph.node[0]
        name, first.output[0] = first.output[0], "right"
        model.graph.node.insert(1, helper.make_node("Neg", ["right"], [name], "wrong"))
        return bytes(model.SerializeToString())

    monkeypatch.setattr("edgecnn.backends.ort.session._rounding_fp16", faulty)
    result = validate(edgecnn, made, "int8.onnx", "--bisect")
    assert result.code == 0, result.err
    assert "int8.onnx differs from int8.onnx" in result.out
    assert f"first at Conv {onnx.load(made / 'int8.onnx').graph.node[0].name}" in result.out
    assert "by extra outputs" in result.out


def changed(made: Path, to: Path, **more: Any) -> Path:
    """int8.onnx with another sidecar."""
    return write_graph(to, onnx.load(made / "int8.onnx"), dataclasses.replace(sidecar(), **more))


def test_what_cannot_be_compared_is_refused_before_anything_runs(
    edgecnn: Callable[..., Any], made: Path, tmp_path: Path
) -> None:
    ask = ("--reference", made / "reference.npz", "--data")
    other = changed(made, tmp_path / "e.onnx", preprocessing={**PREPROCESSING, "resize": 9})
    refusal = edgecnn("validate", other, *ask, made / "images").refused()
    assert "resize 9 against 8 in the reference" in refusal
    renamed = changed(made, tmp_path / "l.onnx", labels=["a", "b", "d", "c"])
    refusal = edgecnn("validate", renamed, *ask, made / "images").refused()
    assert "class 2 is 'd' here and 'c'" in refusal
    (tmp_path / "few" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "few" / "a" / "x.png")
    refusal = edgecnn("validate", made / "int8.onnx", *ask, tmp_path / "few").refused()
    assert "image 0 is 'a/x.png' here" in refusal
    np.savez(
        tmp_path / "d.npz",
        input=np.zeros((2, 3, 8, 8), np.float32),
        preprocessing=json.dumps({**PREPROCESSING, "mean": [0.1] * 3}),
    )
    refusal = edgecnn("validate", made / "int8.onnx", *ask, tmp_path / "d.npz").refused()
    assert "mean [0.1, 0.1, 0.1] against [0.5, 0.5, 0.5]" in refusal
    assert "no such file" in edgecnn("validate", made / "none.onnx", *ask, made / "images").refused()
    assert "no such file" in validate(edgecnn, made, "int8.onnx", reference="none.npz").refused()


def test_a_corrupt_image_is_counted_or_stops(edgecnn: Callable[..., Any], made: Path, tmp_path: Path) -> None:

    images = Path(shutil.copytree(made / "images", tmp_path / "images"))
    victim = next(images.glob("b/*.png"))
    victim.write_bytes(b"no picture")
    ask = ("validate", made / "int8.onnx", "--reference", made / "reference.npz", "--data", images)
    found = json.loads(edgecnn(*ask, "--json").out)
    assert found["n"] == 239
    assert found["unreadable"] == [f"b/{victim.name}"]
    assert victim.name in edgecnn(*ask, "--strict").refused()
    stages = edgecnn(*ask, "--stages", "--json")
    assert [hop["n"] for hop in json.loads(stages.out)["stages"]] == [239, 239]


@pytest.mark.usefixtures("short_blocks")
def test_bench_sweeps_batches_and_compares(
    edgecnn: Callable[..., Any], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("--duration", 0.05, "--warmup", 5)
    ask = ("bench", "--engine", made / "int8.onnx", "--vs", made / "fp32.onnx", *short)
    result = edgecnn(*ask, "--batch", "1,4", "--json", "-o", tmp_path / "latency.json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["measurements"]
    assert [r["batch"] for r in rows] == [1, 4]
    for row in rows:
        assert row["latency_ratio_ci"][0] <= row["latency_ratio"] <= row["latency_ratio_ci"][1]
        assert row["latency_reference"] == "fp32"
        assert row["size_mb"] > 0
    assert read_json(tmp_path / "latency.json")["device"]["threads"] >= 1
    starved = LatencyRatio("fp32", 0.1, (0.1, 0.1), 10, ("fp32: starved",), 10.0)
    monkeypatch.setattr("edgecnn.steps.bench.compare_latency", lambda *unused, **more: {"int8": starved})
    assert "warning: fp32: starved" in edgecnn(*ask).err
    text = edgecnn("bench", "--engine", made / "int8.onnx", *short, "--throughput")
    assert "p50 ms" in text.out
    assert "single-shot mode, clock host, without transfers, no CUDA graph" in text.err
    for more, said in (
        (["--mode", "fast"], "--mode fast: not known"),
        (["--mode", "pipelined"], "mode pipelined: only engines of TensorRT"),
        (["--streams", "2"], "2 streams: single-shot"),
        (["--no-transfers"], "no transfers: single-shot"),
        (["--export", tmp_path / "analysis"], "its runtime does not time layers"),
    ):
        assert said in edgecnn("bench", "--engine", made / "int8.onnx", *short, *more).refused(), more
    assert not (tmp_path / "analysis").exists()
    assert "--batch 1,x" in edgecnn("bench", "--engine", made / "int8.onnx", "--batch", "1,x").refused()


@pytest.fixture
def run_folder(edgecnn: Callable[..., Any], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./runs/small/cpu with the measurements of fp32 and int8, and the recipe beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.toml").write_text(RECIPE)
    folder = tmp_path / "runs" / "small" / "cpu"
    folder.mkdir(parents=True)
    for name in ENGINES:
        assert validate(edgecnn, made, f"{name}.onnx", "-o", folder / f"{name}.accuracy.json").code == 0
    write_latency(folder, *(timed(name) for name in ENGINES))
    return folder


ENGINES = {"fp32": engine("fp32"), "int8": engine("int8"), "int8-tensorrt": engine("int8", scheme="tensorrt")}
HERE = Device(cpu="Some CPU", threads=2)


def timed(name: str, **more: Any) -> LatencyRow:
    return LatencyRow(latency=latency(name, **more), engine=ENGINES[name], facts=EngineFacts(size_mb=0.1))


def write_latency(folder: Path, *rows: LatencyRow, device: Device = HERE) -> None:
    found = LatencyFile(device=device, reference="fp32", measurements=rows)
    write_json_artifact(folder / "latency.json", to_plain(found), Sidecar(kind="latency", recipe="small"))


def test_gate_by_recipe_by_run_and_by_target(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    for name in ("small", "runs/small", run_folder):
        result = edgecnn("gate", name, "--json")
        assert result.code == 0, result.err
        (verdict,) = json.loads(result.out)
        assert verdict["verdict"] == "PASS"
        assert len(verdict["checks"]) == 6
        assert (verdict["recipe"], verdict["target"], verdict["device_key"]) == ("small", "cpu", "some-cpu-2threads")
    assert read_json(run_folder / "verdict.json")["verdict"] == "PASS"
    assert "small on cpu: PASS" in edgecnn("gate", "small").out


def test_a_recipe_that_lies_elsewhere_can_be_named(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipes" / "small.toml").rename(tmp_path / "other.toml")
    assert "no recipe 'small'" in edgecnn("gate", "runs/small").refused()
    assert edgecnn("gate", "runs/small", "--recipe", tmp_path / "other.toml").code == 0
    assert edgecnn("report", "runs/small", "--recipe", tmp_path / "other.toml", "-o", "r.md").code == 0


def test_numbers_of_an_engine_that_was_replaced_are_not_judged(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path
) -> None:
    path = run_folder / "int8.accuracy.json"
    content = json.loads(path.read_text())
    engine = next(name for name in content["provenance"]["parents"] if name.endswith("int8.onnx"))
    content["provenance"]["parents"][engine] = "0" * 64
    path.write_text(json.dumps(content))
    assert "measured with another" in edgecnn("gate", "small").refused()


def test_an_engine_that_the_recipe_asks_for_and_nobody_measured_leaves_the_verdict_open(
    edgecnn: Callable[..., Any], run_folder: Path
) -> None:
    (run_folder / "int8.accuracy.json").unlink()
    result = edgecnn("gate", "small", "--json")
    assert result.code == 3
    open_ones = [j for j in json.loads(result.out)[0]["checks"] if j["verdict"] != "PASS"]
    assert [(j["name"], j["tolerance"]) for j in open_ones] == [
        ("int8", "top1_drop_pp_max"),
        ("int8", "agreement_pct_min"),
    ]
    assert "not measured" in edgecnn("gate", "small", "--markdown", "c.md").out
    write_latency(run_folder, *(timed(name) for name in ENGINES if name != "int8"))
    result = edgecnn("gate", "small")
    assert result.code == 3
    assert "nothing was measured" in result.out


def test_numbers_made_with_other_settings_than_the_recipe_has_are_not_judged(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path
) -> None:
    path = run_folder / "int8.accuracy.json"
    content = json.loads(path.read_text())
    content["provenance"]["fields"] = load_recipe("small").values("model", "train", "quantize")
    path.write_text(json.dumps(content))
    assert edgecnn("gate", "small").code == 0
    recipe = tmp_path / "recipes" / "small.toml"
    recipe.write_text(RECIPE.replace("= 10", "= 9"))
    assert edgecnn("gate", "small").code == 0
    recipe.write_text(RECIPE + '[quantize]\nmethod = "minmax"\n')
    assert "measured with quantize.method = 'auto'" in edgecnn("gate", "small").refused()


@pytest.mark.parametrize("mapping", ["inconclusive", "pass"])
def test_a_perfect_engine_on_too_few_images_is_inconclusive_in_every_output(
    edgecnn: Callable[..., Any], made: Path, run_folder: Path, tmp_path: Path, mapping: str
) -> None:
    """FP32 against itself on 12 images of two classes, all of them right."""
    few = tmp_path / "few"
    for name in "ab":
        (few / name).mkdir(parents=True)
    expected = np.load(made / "reference.npz")
    right = expected["logits"].argmax(1) == expected["labels"]
    for label in range(2):
        for k in np.flatnonzero(right & (expected["labels"] == label))[:6]:
            (few / expected["ids"][k]).write_bytes((made / "images" / expected["ids"][k]).read_bytes())
    assert edgecnn("reference", made / "fp32.onnx", "--data", few, "-o", tmp_path / "few.npz").code == 0
    for name in ENGINES:
        same = write_graph(
            tmp_path / f"{name}.onnx", onnx.load(made / "fp32.onnx"), read_sidecar(made / f"{name}.onnx")
        )
        ask = ("validate", same, "--reference", tmp_path / "few.npz", "--data", few)
        assert edgecnn(*ask, "-o", run_folder / f"{name}.accuracy.json").code == 0
    loose = RECIPE.replace("= 10", "= 60").replace("= 80", "= 30") + f'inconclusive = "{mapping}"\n'
    (tmp_path / "recipes" / "small.toml").write_text(loose)
    result = edgecnn("gate", "small", "--junit", "j.xml", "--markdown", "c.md", "--json")
    assert result.code == 3, result.err
    rows = {(j["name"], j["tolerance"]): j for j in json.loads(result.out)[0]["checks"]}
    for tolerance in ("top1_drop_pp_max", "agreement_pct_min"):
        row = rows["fp32", tolerance]
        assert (row["verdict"], row["images_needed"]) == ("INCONCLUSIVE", 28)
        assert "cannot be told from guessing" in row["evidence"]
    errors = etree.parse("j.xml").findall(".//error[@type='INCONCLUSIVE']")
    assert len([e for e in errors if "about 28 images" in str(e.get("message"))]) == 6
    assert Path("c.md").read_text().count("- **INCONCLUSIVE**") >= 6
    assert "small on cpu: INCONCLUSIVE" in edgecnn("gate", "small").out


def test_gate_fails_random_weights_and_says_inconclusive_with_the_images_needed(
    edgecnn: Callable[..., Any], made: Path, run_folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipes" / "small.toml"
    _, high = read_json(run_folder / "int8.accuracy.json")["top1_drop_ci_pp"]
    recipe.write_text(RECIPE.replace("drop_pp_max = 10", f"drop_pp_max = {high - 0.1}"))
    result = edgecnn("gate", "small", "--json")
    assert result.code == 3
    needed = [j["images_needed"] for j in json.loads(result.out)[0]["checks"] if j["verdict"] == "INCONCLUSIVE"]
    assert needed
    assert all(n is None or n > 240 for n in needed)
    recipe.write_text(RECIPE.replace("= 10", "= 100").replace("= 80", "= 0"))
    assert edgecnn("gate", "small").code == 0
    assert validate(edgecnn, made, "random.onnx", "-o", run_folder / "int8.accuracy.json").code == 0
    result = edgecnn("gate", "small")
    assert result.code == 1
    assert "does no better than guessing" in result.out


def test_outputs_for_ci(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    outputs = ("--junit", "j.xml", "--gitlab", "g.json", "--markdown", "c.md", "--github")
    result = edgecnn("gate", "small", *outputs)
    assert result.code == 0, result.err
    assert "::notice file=" in result.out
    assert summary.read_text().startswith("before\n# small on cpu: PASS")
    schema = etree.XMLSchema(etree.parse(root / "tests" / "report" / "junit.xsd"))
    schema.assertValid(etree.parse("j.xml"))
    assert json.loads(Path("g.json").read_text()) == []
    assert "All 6 checks passed" in Path("c.md").read_text()
    machine = edgecnn("gate", "small", "--github", "--json")
    assert json.loads(machine.out)[0]["verdict"] == "PASS"
    assert "::notice" in machine.err
    Path("taken").write_text("")
    assert "taken/j.xml" in edgecnn("gate", "small", "--junit", "taken/j.xml").refused()


def test_recorded_numbers_are_written_on_request_alone_and_hold_later_runs(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path
) -> None:
    kept = Path("recipes/baselines")
    assert edgecnn("gate", "small").code == 0
    assert not kept.exists()
    assert edgecnn("gate", "small", "--record").code == 0
    path = baseline_path(load_recipe("small"), HERE)
    assert path == kept / "small" / "some-cpu-2threads.json"
    written = read_json(path)
    assert (written["device_key"], written["engines"].keys()) == ("some-cpu-2threads", ENGINES.keys())
    assert written["engines"]["int8"]["latency_ms_p50"] == 1.0
    assert {p.name for p in path.parent.iterdir()} == {path.name, "ort-fp32.json", "ort-int8.json"}
    assert "latency_ms_p50" not in written["engines"]["int8-tensorrt"], "a simulation is held to no time"
    assert edgecnn("gate", "small", "--markdown", "c.md").code == 0
    assert "(+0)" in Path("c.md").read_text()
    before = path.read_bytes()
    slower = [timed(name, latency_ms_p50=1.5, latency_ms_p50_ci=(1.4, 1.6)) for name in ("int8", "int8-tensorrt")]
    write_latency(run_folder, timed("fp32"), *slower)
    result = edgecnn("gate", "small", "--json")
    assert result.code == 1
    failed = [j["tolerance"] for j in json.loads(result.out)[0]["checks"] if j["verdict"] == "FAIL"]
    assert failed == ["baseline latency_ms_p50"]
    assert path.read_bytes() == before
    there = Device(cpu="Some CPU", threads=4)
    write_latency(run_folder, timed("fp32"), *slower, device=there)
    assert edgecnn("gate", "small").code == 0, "another device has no baseline"
    other = baseline_path(load_recipe("small"), there)
    other.write_bytes(before)
    assert "2threads, this run is from" in edgecnn("gate", "small").refused()
    other.write_text("{}")
    assert "not a baseline: device_key is missing; engines is missing" in edgecnn("gate", "small").refused()
    renamed = json.loads(before)
    renamed["accepted"] = renamed.pop("engines")
    path.write_text(json.dumps(renamed))
    write_latency(run_folder, timed("fp32"), *slower)
    assert edgecnn("gate", "small").code == 1, "what earlier versions called `accepted` is read"


def test_a_model_that_became_worse_fails_against_its_baseline_on_any_device(
    edgecnn: Callable[..., Any], made: Path, run_folder: Path, tmp_path: Path
) -> None:
    """Engine and reference agree all the time: the images are labelled otherwise, as for a badly trained network."""
    assert edgecnn("gate", "small", "--record").code == 0
    kept = Path("recipes/baselines/small/ort-int8.json")
    before = kept.read_bytes()
    path = run_folder / "int8.accuracy.json"
    good = json.loads(path.read_text())
    logits = np.load(made / "reference.npz")
    wrong = np.flatnonzero(logits["logits"].argmax(1) == logits["labels"])[:40]
    rows = unpack_bits(good["top1_bits"], 240, good["top1_n"], "", "")
    rows[wrong] = False
    worse = {"top1_n": int(rows.sum()), "top1_pct": 100 * float(rows.mean()), "top1_bits": pack_bits(rows)}
    path.write_text(json.dumps(good | worse))
    write_latency(run_folder, *map(timed, ENGINES), device=Device(cpu="Other CPU", threads=8))
    result = edgecnn("gate", "small", "--json", "--junit", "j.xml", "--markdown", "c.md")
    assert result.code == 1, result.err
    checks = {(c["name"], c["tolerance"]): c for c in json.loads(result.out)[0]["checks"]}
    assert checks["int8", "top1_regression_pp_max"]["verdict"] == "FAIL"
    assert checks["fp32", "top1_regression_pp_max"]["verdict"] == "PASS"
    assert "0 gained of the same 240 images" in checks["int8", "top1_regression_pp_max"]["evidence"]
    assert etree.parse("j.xml").find(".//testcase[@name='top1_regression_pp_max']/failure") is not None
    assert "| int8 | 7" in Path("c.md").read_text()
    assert "(-1" in Path("c.md").read_text()
    verdict = read_json(run_folder / "verdict.json")
    assert any(name.endswith("baselines/small/ort-int8.json") for name in verdict["provenance"]["parents"])
    assert kept.read_bytes() == before, "only --record writes it"
    assert edgecnn("gate", "small", "--record").code == 0
    (int8, _) = read_json(kept)["engines"]
    assert (int8["last"]["top1_n"], int8["best"]["top1_n"]) == (worse["top1_n"], good["top1_n"])
    assert edgecnn("gate", "small").code == 1, "the best baseline ever stays one"


def test_a_baseline_that_cannot_be_one_is_refused_with_the_way_to_go_on(
    edgecnn: Callable[..., Any], run_folder: Path
) -> None:
    assert edgecnn("gate", "small", "--record").code == 0
    path = Path("recipes/baselines/small/ort-int8.json")
    whole = json.loads(path.read_text())
    first = whole["engines"][0]

    def said(change: dict[str, Any]) -> str:
        path.write_text(json.dumps(whole | change))
        told = {edgecnn("gate", "small", *more).refused() for more in ((), ("--record",))}
        assert len(told) == 1, "what cannot be read is not written over"
        return str(told.pop())

    other = {**whole["provenance"], "recipe": "other"}
    assert "a baseline of the recipe other, not of small" in said({"provenance": other})
    for key, value in (
        ("top1_bits", "AAAA"),
        ("top1_n", 7),
        ("top1_pct", 1.0),
        ("n_labelled", 0),
        ("images_sha256", 3),
    ):
        text = said({"engines": [{**first, "last": {**first["last"], key: value}}]})
        assert "ort-int8.json" in text
        assert "remove it, and record anew" in text
    data = {**first["last"], "images_sha256": "0" * 64, "data": "elsewhere"}
    assert "has data = elsewhere, this run has images" in said({"engines": [{**first, "last": data}]})
    path.write_text("{")
    assert "ort-int8.json: not valid JSON" in edgecnn("gate", "small").refused()


def test_a_baseline_of_an_earlier_version_is_refused_and_recorded_again(
    edgecnn: Callable[..., Any], run_folder: Path
) -> None:
    """It had the accuracies as figures, and nothing of single images."""
    assert edgecnn("gate", "small", "--record").code == 0
    path = baseline_path(load_recipe("small"), HERE)
    content = json.loads(path.read_text())
    content["engines"]["int8"] |= {"data": "images", "n": 240, "top1_pct": 90.0, "top1_drop_pp": 0.0}
    path.write_text(json.dumps(content))
    text = edgecnn("gate", "small").refused()
    assert "not a baseline: engines.int8.data is not known" in text
    assert "hint: record it again: `edgecnn gate RUN --record`" in text
    assert edgecnn("gate", "small", "--record").code == 0
    assert edgecnn("gate", "small").code == 0


def test_decisions_are_measured_and_judged_at_the_recipes_threshold(
    edgecnn: Callable[..., Any], made: Path, run_folder: Path, tmp_path: Path
) -> None:
    decide = ("--threshold", "0.26", "--reject")
    for name in ENGINES:
        assert validate(edgecnn, made, f"{name}.onnx", *decide, "-o", run_folder / f"{name}.accuracy.json").code == 0
    told = validate(edgecnn, made, "int8.onnx", *decide).out
    assert "at the threshold: " in told
    assert "precision_pct" in told
    limits = "decision_flips_pct_max = 30\nclass_recall_pct_min = 1\ncalibration_error_pp_max = 5\n"
    recipe = tmp_path / "recipes" / "small.toml"
    assert "measured with decision.threshold = 0.26" in edgecnn("gate", "small").refused()
    recipe.write_text(RECIPE + limits + "[decision]\nthreshold = 0.26\nreject = true\n")
    result = edgecnn("gate", "small", "--json")
    assert result.code in (0, 3), result.err
    judged = {c["tolerance"] for c in json.loads(result.out)[0]["checks"]}
    assert {"decision_flips_pct_max", "class_recall_pct_min", "calibration_error_pp_max"} <= judged


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--threshold", "1.5"), "threshold = 1.5: must be at most 1"),
        (("--threshold", "nan"), "must be a finite number"),
        (("--threshold", "a=2"), "threshold.a = 2.0: must be at most 1"),
        (("--threshold", "high"), "not a number from 0 to 1"),
        (("--threshold", "a="), "not a number from 0 to 1"),
        (("--threshold", "0.5", "--threshold", "a=0.5"), "one number, or each class once"),
        (("--threshold", "a=0.1", "--threshold", "a=0.5"), "one number, or each class once"),
        (("--threshold", "e=0.5"), "names the class 'e', which is none of the 4"),
        (("--threshold", "0.5"), "what is decided below it, of 4 classes, is not said"),
        (("--reject",), "reject = true without a threshold"),
    ],
)
def test_a_threshold_that_is_none_is_refused_before_anything_runs(
    edgecnn: Callable[..., Any], made: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in validate(edgecnn, made, "int8.onnx", *options).refused()


def test_a_baseline_where_earlier_versions_kept_it_is_refused_with_the_way_to_go_on(
    edgecnn: Callable[..., Any], run_folder: Path
) -> None:
    assert edgecnn("gate", "small", "--record").code == 0
    path = baseline_path(load_recipe("small"), HERE)
    before = Path("recipes/accepted/small") / path.name
    before.parent.mkdir(parents=True)
    path.rename(before)
    for ask in (("gate", "small"), ("gate", "small", "--record")):
        said = edgecnn(*ask).refused()
        assert f"{before}: a baseline lies where earlier versions looked for it" in said
        assert f"hint: move it to {path}" in said
    before.rename(path)
    assert edgecnn("gate", "small").code == 0


def test_failing_numbers_are_not_recorded(edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipes" / "small.toml").write_text(RECIPE + "size_mb_max = 0.01\n")
    assert "not recorded" in edgecnn("gate", "small", "--record").refused()
    assert not (tmp_path / "recipes" / "baselines").exists()


def test_accuracy_alone_can_be_judged_but_not_recorded(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    (run_folder / "latency.json").unlink()
    assert edgecnn("gate", "small").code == 0
    assert edgecnn("report", "runs/small", "-o", "r.md").code == 0
    assert "which device" in edgecnn("gate", "small", "--record").refused()


def test_nothing_is_recorded_beside_a_packaged_recipe(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "_packaged" / "recipes"
    packaged.mkdir(parents=True)
    (tmp_path / "recipes" / "small.toml").rename(packaged / "small.toml")
    monkeypatch.setattr("edgecnn.recipe.load.packaged_folders", lambda name: [packaged])
    assert edgecnn("gate", "small").code == 0
    assert "recipe copy small" in edgecnn("gate", "small", "--record").refused()
    assert not (packaged / "baselines").exists()


def test_progress_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from edgecnn.cli import progress

    clock = iter([0.0, 1.0, 3.0, 11.0, 12.0, 31.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    show = progress.Counter("validate", "images")
    for done in (100, 120, 200, 210, 400):
        show(done, 500)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["validate 200/500 images, 10/s, 30 s left", "validate 400/500 images, 10/s, 10 s left"]


def test_a_count_begins_anew_with_each_thing_counted_and_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgecnn.cli import progress

    clock = iter([0.0, 1.0, 2.0, 10.0, 30.0, 40.0, 50.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "is_terminal", lambda stream: True)
    show = progress.Counter("quantize", "parts")
    for done, total in ((0, 5), (5, 5), (10, 30), (20, 30), (30, 30)):
        show(done, total)
    drawn = capsys.readouterr().err
    assert drawn == "\r\033[K" + "\r\033[Kquantize 20/30 parts, 0/s, 20 s left" + "\r\033[K"
    seconds = pickle.loads(pickle.dumps(progress.Counter("bench", "s")))  # as a process of its own gets it
    clock = iter([51.0, 52.0])
    for done in (0, 1):
        seconds(done, 6)
    assert capsys.readouterr().err == "\r\033[Kbench 1/6 s, 5 s left"


def test_report_in_every_format(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    assert "nothing was judged" in edgecnn("report", "runs/small", "-o", "r.md").refused()
    assert edgecnn("gate", "small").code == 0
    for suffix in ("md", "html", "json", "xml"):
        result = edgecnn("report", "runs/small", "-o", f"r.{suffix}")
        assert result.code == 0, result.err
        assert Path(f"r.{suffix}").stat().st_size > 300
    assert "suffix .doc" in edgecnn("report", "runs/small", "-o", "r.doc").refused()


def test_a_report_shows_no_verdict_on_other_measurements_or_by_another_recipe(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path
) -> None:
    assert edgecnn("gate", "small").code == 0
    other = tmp_path / "stricter.toml"
    other.write_text(RECIPE.replace("= 10", "= 9"))
    said = edgecnn("report", "runs/small", "--recipe", other, "-o", "r.md").refused()
    assert "judged by the recipe small, not by stricter" in said
    path = run_folder / "int8.accuracy.json"
    measured = path.read_text()
    path.write_text(json.dumps(json.loads(measured) | {"top1_pct": 1.0}))
    said = edgecnn("report", "runs/small", "-o", "r.md").refused()
    assert "judged before int8.accuracy.json was measured as it is now" in said
    assert not Path("r.md").exists()
    path.write_text(measured)
    assert edgecnn("report", "runs/small", "-o", "r.md").code == 0


def test_judging_writes_over_nothing_that_it_reads(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    assert edgecnn("gate", "small").code == 0
    files = {name: (run_folder / name).read_bytes() for name in ("latency.json", "verdict.json", "int8.accuracy.json")}
    for name in files:
        written = run_folder / ".." / run_folder.name / name
        for option in ("--junit", "--gitlab", "--markdown"):
            assert "it is read from" in edgecnn("gate", "small", option, written).refused()
        assert "it is read from" in edgecnn("report", "small", "-o", written).refused()
    assert all((run_folder / name).read_bytes() == content for name, content in files.items())


def test_a_target_folder_is_known_from_within(
    edgecnn: Callable[..., Any], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder)
    recipe = tmp_path / "recipes" / "small.toml"
    result = edgecnn("gate", ".", "--recipe", recipe)
    assert result.code == 0, result.err
    assert "small on cpu: PASS" in result.out
    assert edgecnn("report", ".", "--recipe", recipe, "-o", "r.md").code == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("measurements"),
        lambda c: c.pop("device"),
        lambda c: c.update(measurements={}),
        lambda c: c["measurements"][0].pop("name"),
        lambda c: c.update(measurements=["fast"]),
    ],
)
def test_a_latency_file_of_another_tool_is_named(
    edgecnn: Callable[..., Any], run_folder: Path, damage: Callable[[Any], Any]
) -> None:
    path = run_folder / "latency.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    assert "latency.json: damaged, or of another version" in edgecnn("gate", "small").refused()


@pytest.mark.cpu_s(30)
def test_a_damaged_value_is_an_error_or_open_and_never_a_bug(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    assert edgecnn("gate", "small").code == 0
    for name in ("int8.accuracy.json", "latency.json", "verdict.json"):
        path = run_folder / name
        whole = path.read_text()
        command = ("report", "small", "-o", "r.md") if name == "verdict.json" else ("gate", "small")
        content, refused = json.loads(whole), 0
        places = [content, content["provenance"]]
        places += [rows[0] for rows in (content.get("measurements"), content.get("checks")) if rows]
        for place in places:
            for key in list(place):
                kept = place.pop(key)
                without = json.dumps(content)
                place[key] = 7 if isinstance(kept, str) else "x"
                for text in (without, json.dumps(content)):
                    path.write_text(text)
                    done = edgecnn(*command)
                    assert done.code in (0, 2, 3), (name, key, done.err)
                    refused += done.code == 2 and bool(done.refused())
                place[key] = kept
        assert refused >= 8, name
        path.write_text(whole)


def test_every_problem_of_a_file_is_named_at_once(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    path = run_folder / "int8.accuracy.json"
    content = json.loads(path.read_text())
    del content["n"], content["agreement_pct"]
    content |= {"top1_pct": "high", "nan_count": 0.5, "style": "cpu"}
    path.write_text(json.dumps(content))
    for command in (("gate", "small"), ("report", "small", "-o", "r.md")):
        said = edgecnn(*command).refused()
        assert "int8.accuracy.json: damaged, or of another version: " in said
        for problem in ("n is missing", "agreement_pct is missing", "top1_pct = 'high'", "nan_count = 0.5", "style is"):
            assert problem in said
        assert "hint: remove it, and make it again: `edgecnn validate` or `edgecnn run`" in said


def test_a_verdict_that_contradicts_its_checks_is_not_reported(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    assert edgecnn("gate", "small").code == 0
    path = run_folder / "verdict.json"
    whole = json.loads(path.read_text())
    whole["checks"][0]["verdict"] = "FAIL"
    path.write_text(json.dumps(whole))
    assert "verdict is 'PASS', its other values say 'FAIL'" in edgecnn("report", "small", "-o", "r.md").refused()
    assert edgecnn("gate", "small").code == 0, "judged anew, whatever the last verdict was"


def test_of_two_batch_sizes_none_is_judged_for_both(edgecnn: Callable[..., Any], run_folder: Path) -> None:
    path = run_folder / "latency.json"
    content = json.loads(path.read_text())
    content["measurements"] += [row | {"batch": 8} for row in content["measurements"] if row["name"] == "int8"]
    path.write_text(json.dumps(content))
    assert "int8 was measured more than once" in edgecnn("gate", "small").refused()


def test_a_run_that_is_not_there(edgecnn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing was measured" in edgecnn("gate", ".").refused()
    assert "no recipe 'smal'" in edgecnn("gate", "smal").refused()


def test_calibrate_check_finds_a_leak(edgecnn: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    ask = ("calibrate", made / "fp32.onnx", "--check", "--images", 60, "--data")
    leaked = edgecnn(*ask, made / "images", "--json")
    assert leaked.code == 3, leaked.err  # 1 is the gate's
    assert len(json.loads(leaked.out)["duplicates"]) == 60
    rng = np.random.default_rng(9)
    for k in range(24):
        path = tmp_path / "fresh" / "abcd"[k % 4] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    clean = edgecnn(*ask, tmp_path / "fresh", "--test", made / "images")
    assert clean.code == (0 if "nothing to complain of" in clean.out else 3), clean.err
    assert "are test images" not in clean.out
    assert "suggested_n" in clean.out
    assert "-o is missing" in edgecnn("calibrate", made / "fp32.onnx", "--data", made / "images").refused()


@pytest.mark.slow
def test_half_of_imagenets_classes_come_out_right(edgecnn: Callable[..., Any], shared: Path, tmp_path: Path) -> None:
    """SqueezeNet 1.1 on one image of every other class, the folders matched by wnid: 65 +- 3 % top-1."""
    weights = shared / "weights" / "squeezenet1_1_imagenet.safetensors"
    graph = tmp_path / "squeezenet1_1.fp32.onnx"
    assert edgecnn("export", "squeezenet1_1", "--checkpoint", weights, "-o", graph).code == 0
    images = shared / "data" / "imagenet-500"
    result = edgecnn("validate", graph, "--reference", graph, "--data", images, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["n"] == 500
    assert abs(found["top1_pct"] - 65) <= 3
    assert found["agreement_pct"] == 100


@pytest.mark.slow
def test_the_stages_of_a_whole_run(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "lenet5-digits"
    assert edgecnn("run", "lenet5-digits", "--out", folder, "--until", "validate", "--set", "train.epochs=2").code == 0
    for source in ("reference.npz", "model.safetensors"):
        result = edgecnn(
            "validate",
            folder / "cpu" / "int8.onnx",
            "--reference",
            folder / source,
            "--data",
            "digits",
            "--stages",
            "--json",
        )
        assert result.code == 0, result.err
        hops = json.loads(result.out)["stages"]
        assert [h["target"] for h in hops] == ["model.fp32.onnx", "model.int8-ort-cpu.onnx", "int8.onnx"]
        assert all(h["explained"] and h["parting"] is None for h in hops)
        assert hops[0]["changed"] == hops[2]["changed"] == 0
