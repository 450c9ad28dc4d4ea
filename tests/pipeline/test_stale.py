"""Which tasks run and why: judged by sidecars, driven by what is asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar, parents_of, sidecar_path
from edgecnn.artifact.stale import TRAIN_IMAGES, stale_reason
from edgecnn.artifact.write import write_artifact, write_json_artifact
from edgecnn.data.calibration_set import Manifest, write_manifest
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.tasks import Task, all_tasks
from edgecnn.pipeline.workshop import Workshop
from edgecnn.recipe.schema import BatchSettings, DataSettings, ModelSettings, Recipe, TrainSettings
from edgecnn.recipe.variants import variants_of
from edgecnn.results.device import Device
from edgecnn.steps.gate import accuracy_baseline_path, baseline_path

RECIPE = Recipe(model=ModelSettings("lenet5"), path=Path("mine.toml"))


def tasks_of(folder: Path, recipe: Recipe = RECIPE) -> list[Task]:
    """A flow of four files; what each depends on is taken from the recipe, as `all_tasks` does."""
    checkpoint, graph, engine, report = (folder / n for n in ("c.st", "g.onnx", "e.onnx", "r.txt"))

    def task(step: str, output: Path, parents: tuple[Path, ...], *keys: str) -> Task:
        return Task(step, output, step, parents, recipe.values(*keys), output.touch)

    return [
        task("train", checkpoint, (), "model", "train"),
        task("export", graph, (checkpoint,), "model", "train", "batch.max"),
        task("build", engine, (graph,), "model", "train", "batch"),
        task("report", report, (engine,), "model", "train", "batch", "title"),
    ]


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    return tasks_of(tmp_path)


def made_now(task: Task) -> Sidecar:
    return dataclasses.replace(task.expected(), parents=parents_of(task.output, *task.parents))


def make(task: Task, content: str = "") -> None:
    text = content or task.step

    def write(temporary: Path) -> None:
        temporary.write_text(text)

    write_artifact(task.output, write, made_now(task))


def due(tasks: list[Task]) -> dict[str, str]:
    return {task.step: reason for task, reason in stale_tasks(tasks)}


def test_everything_runs_once_and_then_nothing(tasks: list[Task]) -> None:
    assert list(due(tasks)) == ["train", "export", "build", "report"]
    for task in tasks:
        make(task)
    assert due(tasks) == {}


def test_one_changed_field_redoes_what_reads_it_and_what_follows(tasks: list[Task], tmp_path: Path) -> None:
    for task in tasks:
        make(task)
    changed = dataclasses.replace(RECIPE, batch=BatchSettings(min=1, opt=2, max=8))
    assert due(tasks_of(tmp_path, changed)) == {
        "build": "batch.opt changed from 1 to 2",
        "report": "e.onnx is made again",
    }
    titled = dataclasses.replace(RECIPE, title="new")
    assert due(tasks_of(tmp_path, titled)) == {"report": "title changed from '' to 'new'"}


def test_a_device_without_the_checkpoint_is_complete(tasks: list[Task]) -> None:
    for task in tasks:
        make(task)
    tasks[0].output.unlink()
    assert due(tasks) == {}
    tasks[2].output.unlink()
    assert list(due(tasks)) == ["build", "report"]


def test_a_missing_checkpoint_does_not_hide_changed_training(tasks: list[Task], tmp_path: Path) -> None:
    for task in tasks:
        make(task)
    tasks[0].output.unlink()
    changed = dataclasses.replace(RECIPE, train=TrainSettings(epochs=9))
    changed_tasks = tasks_of(tmp_path, changed)
    assert list(due(changed_tasks)) == ["train", "export", "build", "report"]
    assert due(changed_tasks)["export"] == "c.st is made again"


def test_a_file_changed_behind_our_back_is_made_again(tasks: list[Task]) -> None:
    for task in tasks:
        make(task)
    tasks[1].output.write_text("edited")
    assert "sha256" in due(tasks)["export"]
    assert list(due(tasks)) == ["export", "build", "report"]


def test_a_checkpoint_trained_anew_redoes_all_that_follows(tasks: list[Task]) -> None:
    for task in tasks:
        make(task)
    make(tasks[0], content="other weights")
    assert due(tasks) == {
        "export": "c.st changed",
        "build": "g.onnx is made again",
        "report": "e.onnx is made again",
    }


def test_an_interrupted_write_is_made_again(tasks: list[Task]) -> None:
    for task in tasks:
        make(task)
    sidecar_path(tasks[2].output).unlink()
    assert "sidecar" in due(tasks)["build"]


def test_the_tasks_of_a_recipe_come_parents_first(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, targets=("cpu", "gpu"))
    made = all_tasks(Workshop(recipe, tmp_path))
    seen: set[Path] = set()
    for task in made:
        assert set(task.parents) <= seen
        seen.add(task.output)
    engines = [str(t.output.relative_to(tmp_path)) for t in made if t.step == "build"]
    assert engines == [
        "cpu/fp32.onnx",
        "cpu/fp16.onnx",
        "cpu/int8.onnx",
        "cpu/int8-tensorrt.onnx",
        "gpu/fp32.plan",
        "gpu/fp16.plan",
        "gpu/int8.plan",
    ]
    graphs = [t.output.name for t in made if t.step == "quantize"]
    assert graphs == ["model.fp16.onnx", "model.int8-ort-cpu.onnx", "model.int8-tensorrt.onnx"]


def test_a_gpu_gets_the_tensorrt_placement_under_the_plain_name() -> None:
    names = {v.name: v.graph for v in variants_of(RECIPE, on_cpu=False)}
    assert names == {"fp32": "model.fp32.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8-tensorrt.onnx"}


def test_a_baseline_that_appears_or_changes_is_judged_against(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, path=tmp_path / "recipes" / "mine.toml")

    def gate() -> Task:
        return next(t for t in all_tasks(Workshop(recipe, tmp_path / "run")) if t.step == "gate")

    first = gate()
    tasks = all_tasks(Workshop(recipe, tmp_path / "run"))
    baseline = baseline_path(recipe, next((t.device for t in tasks if t.device), Device()))
    baseline.parent.mkdir(parents=True)
    baseline.write_text("{}")
    assert gate().parents == (*first.parents, baseline)
    accuracies = accuracy_baseline_path(recipe, "ort", "int8")
    accuracies.write_text("{}")
    assert gate().parents == (*first.parents, baseline, accuracies)


def test_a_calibration_set_that_names_other_images_is_used_again(tmp_path: Path) -> None:
    manifest = tmp_path / "some.txt"
    recipe = dataclasses.replace(RECIPE, data=DataSettings("digits", str(manifest)))

    def calibrate() -> Task:
        return next(t for t in all_tasks(Workshop(recipe, tmp_path)) if t.step == "calibrate")

    write_manifest(manifest, Manifest("digits", "train", 0, ("a", "b"), ("0" * 64, "1" * 64)))
    task = calibrate()
    write_json_artifact(task.output, {}, task.expected())
    expected = dataclasses.replace(task, parents=())
    assert due([expected]) == {}
    write_manifest(manifest, Manifest("digits", "train", 0, ("a", "c"), ("0" * 64, "2" * 64)))
    assert "data_sha256 changed" in due([dataclasses.replace(calibrate(), parents=())])["calibrate"]
    manifest.unlink()
    assert due([dataclasses.replace(calibrate(), parents=())]) == {}, "it stayed behind on another machine"


def test_other_test_images_are_measured_anew(tmp_path: Path) -> None:
    image = tmp_path / "data" / "test" / "ants" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"an image")
    recipe = dataclasses.replace(RECIPE, data=DataSettings(str(tmp_path / "data")))

    def measured() -> list[Task]:
        tasks = [t for t in all_tasks(Workshop(recipe, tmp_path / "run")) if t.step in ("reference", "validate")]
        return [dataclasses.replace(t, parents=()) for t in tasks]

    for task in measured():
        if task.step == "reference":
            make(task)
        else:
            write_json_artifact(task.output, {}, task.expected())
    assert due(measured()) == {}
    image.write_bytes(b"another image")
    assert set(due(measured())) == {"reference", "validate"}
    assert "test_images_sha256 changed" in due(measured())["reference"]
    image.unlink()
    image.parent.rmdir()
    image.parent.parent.rmdir()
    image.parent.parent.parent.rmdir()
    assert due(measured()) == {}, "the images stayed behind on another machine"


def test_what_a_file_depends_on_comes_down_to_it_through_its_parents(tmp_path: Path) -> None:
    """So that a device knows of changed training whose checkpoint stayed behind."""
    found = {str(t.output.relative_to(tmp_path)): t.fields for t in all_tasks(Workshop(RECIPE, tmp_path))}
    trained, quantized = RECIPE.values("train", "model"), RECIPE.values("quantize")
    for name in ("model.safetensors", "model.fp32.onnx", "model.int8-tensorrt.onnx", "reference.npz", "cpu/int8.onnx"):
        assert trained.items() <= found[name].items(), name
    for name in ("cpu/int8.accuracy.json", "cpu/latency.json", "cpu/verdict.json", "cpu/report.json"):
        assert {**trained, **quantized, **RECIPE.values("batch")}.items() <= found[name].items(), name
    assert not quantized.keys() & found["cpu/fp16.onnx"].keys()
    judged_by = RECIPE.values("tolerances", "decision").keys()
    assert found["cpu/verdict.json"].keys() - found["cpu/latency.json"].keys() == judged_by
    assert found["cpu/report.json"].keys() - found["cpu/verdict.json"].keys() == {"title"}


def test_weights_of_another_version_of_edgecnn_are_kept(tmp_path: Path) -> None:
    """Only their settings make a checkpoint stale, or other images; what is made from it is made again."""
    for kind, reason in (("checkpoint", None), ("graph", "made by edgecnn 0.0.9, this is")):
        path = tmp_path / kind
        found = Sidecar(kind=kind, edgecnn="0.0.9", fields={"train.epochs": 3, "data.source": "a"})
        write_artifact(path, lambda temporary: temporary.write_text("x"), found)
        now = Sidecar(kind=kind, fields={"train.epochs": 3, "data.source": "a"}, facts={TRAIN_IMAGES: "1"})
        why = stale_reason(path, now, ())
        assert why == reason or (reason and str(why).startswith(reason))
    now = dataclasses.replace(now, kind="checkpoint", fields={"train.epochs": 3, "data.source": "b"})
    assert stale_reason(tmp_path / "checkpoint", now, ()) == "data.source changed from 'a' to 'b'"


def test_weights_that_know_their_images_do_not_ask_where_these_lie(tmp_path: Path) -> None:
    path = tmp_path / "w"
    found = Sidecar(kind="checkpoint", fields={"data.source": "a"}, facts={TRAIN_IMAGES: "1"})
    write_artifact(path, lambda temporary: temporary.write_text("x"), found)
    now = dataclasses.replace(found, fields={"data.source": "b"})
    assert stale_reason(path, now, ()) is None
    assert stale_reason(path, dataclasses.replace(now, facts={TRAIN_IMAGES: "2"}), ()) == (
        "train_images_sha256 changed from 1 to 2"
    )
    assert stale_reason(path, dataclasses.replace(now, facts={}), ()) == "data.source changed from 'a' to 'b'"
