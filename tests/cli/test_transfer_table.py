"""edgecnn transfer-table, as it is typed: rows that are runs, a kill, mistakes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.trial_log import TrialLog
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import EdgecnnError, GraphError, RecipeError, WriteError
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.pipeline import transfer_rows
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.correctness import unpack_bits
from edgecnn.results.engine import EngineInfo
from edgecnn.statistics import drop_interval
from edgecnn.steps.train import take_weights
from edgecnn.zoo import find_model

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    import torch._dynamo  # which the first optimizer loads

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.probe import probe
    from edgecnn.pytorch.threads import torch_threads

pytestmark = pytest.mark.torch

QUICK = ["--set", "train.epochs=1", "--set", "train.batch=8", "--set", "quantize.method=minmax", "--threads", "1"]
RUNS = ["head", "last-2", "all", "scratch"]
STAGES = ["conv1", "conv2", "fc1", "fc2", "all together"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of noise, coarse and fine."""
    random = np.random.default_rng(1)
    for split in ("train", "val"):
        for size, name in ((4, "coarse"), (32, "fine")):
            (tmp_path / "imgs" / split / name).mkdir(parents=True)
            for k in range(10):
                image = Image.fromarray(random.integers(0, 256, (size, size), dtype=np.uint8))
                image.resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / "imgs" / split / name / f"{k}.png")
    return tmp_path / "imgs"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """LeNet-5 of ten classes."""
    torch.manual_seed(0)
    torch.save(build_model("lenet5").state_dict(), tmp_path / "start.pth")
    return tmp_path / "start.pth"


@dataclass
class FakeRuns:
    """In place of runs: weights that say which run they are of, and engines whose logits are random; `wrong` says how
    many images each gets wrong. `calls` are those that found something to do."""

    test: Dataset
    wrong: dict[str, int]
    killed_in: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    fails: dict[tuple[str, ...], EdgecnnError] = field(default_factory=dict)
    weights: str = ""

    def __call__(self, recipe: Recipe, folder: Path, say: object, *, until: str, **named: object) -> None:
        assert named["threads"] == 1
        made = folder / ("model.safetensors" if until == "train" else "cpu/fp32.accuracy.json")
        if until == "validate" and (error := self.fails.get((folder.name, *recipe.precisions))):
            raise error
        if made.exists():
            return
        if (folder.name, until) == (self.killed_in, "train"):
            raise KeyboardInterrupt
        self.calls.append((folder.name, until))
        self.recipes[folder.name] = recipe
        made.parent.mkdir(parents=True, exist_ok=True)
        if until == "train":
            time.sleep(0.01)
            if self.weights:
                given = replace(recipe.model, weights=self.weights, classes=2)
                plain = replace(recipe, model=given, transfer=replace(recipe.transfer, train=""))
                take_weights(replace(plain, train=replace(recipe.train, epochs=0)), made)
            else:
                made.write_bytes(folder.name.encode())
            return
        wrong = self.wrong[recipe.transfer.train or "scratch"]
        reference = self.predictions(wrong)
        for name, scheme, more in (("fp32", "", 0), ("int8", "ort-cpu", 1), ("int8-tensorrt", "tensorrt", 3)):
            accuracy = measure_accuracy(name, self.predictions(wrong + more), reference)
            engine = EngineInfo(
                backend="ort",
                provider="CPUExecutionProvider",
                precision_requested=name[:4],
                scheme=scheme,  # type: ignore[arg-type]
                target="cpu",
            )
            content = to_plain(AccuracyFile(accuracy=accuracy, engine=engine))
            (made.parent / f"{name}.accuracy.json").write_text(json.dumps(content))

    def predictions(self, wrong: int) -> Predictions:
        """With the first so many images wrong."""
        labels, n = self.test.labels, len(self.test)
        assert labels is not None
        said = np.where(np.arange(n) < wrong, 1 - labels, labels)
        hashes = tuple(self.test.sha256(k) for k in range(n))
        names = self.test.label_names or ()
        return Predictions(self.test.ids, labels, np.eye(2, dtype=np.float32)[said], label_names=names, sha256s=hashes)


def test_a_killed_table_goes_on_with_what_is_complete(
    edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs apart, which tests of their own hold to this."""
    test = open_dataset(str(images), preprocessing_from_json(find_model("lenet5").preprocessing), "test")
    runs = FakeRuns(test, {"head": 12, "last-2": 1, "all": 0, "scratch": 11}, "lenet5-all")
    monkeypatch.setattr(transfer_rows, "run_recipe", runs)
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (0.01,))
    monkeypatch.setattr("edgecnn.pytorch.probe.FOLDS", 2)
    out = tmp_path / "table"
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", out]
    assert edgecnn(*command).code == 130
    assert not (out / "transfer-table.json").exists()
    assert runs.calls == [(f"lenet5-{name}", until) for name in RUNS[:2] for until in ("train", "validate")]
    log = (out / ".transfer-table.jsonl").read_bytes()

    runs.killed_in, runs.calls = "", []
    result = edgecnn(*command, "--json", "--svg", tmp_path / "table.svg")
    assert result.code == 0, result.err
    assert runs.calls == [(f"lenet5-{name}", until) for name in RUNS[2:] for until in ("train", "validate")]
    assert (out / ".transfer-table.jsonl").read_bytes().startswith(log)
    assert "linear classifier" not in result.err, "the probes are complete too"
    found = json.loads(result.out)
    content = json.loads((out / "transfer-table.json").read_text())
    assert content.pop("provenance")["parents"].keys() == {f"lenet5-{name}/model.safetensors" for name in RUNS}
    assert content == found
    require_rows(found, out)
    tensorrt = [one["top1_drop_pp"] for row in found["rows"] for one in row["int8"] if one["scheme"] == "tensorrt"]
    assert tensorrt == pytest.approx([15.0] * 4)
    [answer] = found["answers"]
    assert (answer["name"], answer["better_than"]) == ("lenet5 last-2", ["lenet5 head"])
    asked = {
        name: (runs.recipes[f"lenet5-{name}"].model.weights, runs.recipes[f"lenet5-{name}"].transfer.train)
        for name in RUNS
    }
    assert asked == {name: (str(start), name) for name in RUNS[:3]} | {"scratch": ("none", "")}

    runs.calls = []
    assert "gain: over the head" in edgecnn(*command).out
    assert runs.calls == []
    probes = [row for row in found["rows"] if row["trains"] == "probe"]
    with torch_threads(1):
        alone = probe("lenet5", str(images), str(start))
    assert [row["stage"] for row in probes] == [one.name for one in alone] == STAGES
    assert [row["top1_pct"] for row in probes] == pytest.approx([one.top1_pct for one in alone])
    assert (tmp_path / "table.svg").read_text().startswith("<svg")


def test_images_that_change_meanwhile_are_no_comparison(
    edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = preprocessing_from_json(find_model("lenet5").preprocessing)
    test = open_dataset(str(images), preprocessing, "test").subset(range(19))
    monkeypatch.setattr(transfer_rows, "run_recipe", FakeRuns(test, dict.fromkeys(RUNS, 0)))
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (0.01,))
    monkeypatch.setattr("edgecnn.pytorch.probe.FOLDS", 2)
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", tmp_path / "table"]
    assert "was measured on other test images" in edgecnn(*command).refused()


DEAD = GraphError("the layers before 'logits' are dead", "calibrate with other images")


def test_a_network_that_died_is_a_row_and_no_answer(
    edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`head` cannot be quantized, `scratch` not even exported."""
    torch.save(build_model("lenet5", 2).state_dict(), tmp_path / "two.pth")
    test = open_dataset(str(images), preprocessing_from_json(find_model("lenet5").preprocessing), "test")
    runs = FakeRuns(test, {"head": 0, "last-2": 2, "all": 1, "scratch": 0}, weights=str(tmp_path / "two.pth"))
    runs.fails = {("lenet5-head", "fp32", "int8"): DEAD}
    runs.fails |= {("lenet5-scratch", "fp32", *more): DEAD for more in ((), ("int8",))}
    monkeypatch.setattr(transfer_rows, "run_recipe", runs)
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (0.01,))
    monkeypatch.setattr("edgecnn.pytorch.probe.FOLDS", 2)
    out = tmp_path / "table"
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", out]
    result = edgecnn(*command, "--json")
    assert result.code == 0, result.err
    assert result.err.count(f"failed: {DEAD.message}") == 3
    found = json.loads(result.out)
    rows = {row["trains"]: row for row in found["rows"]}
    assert {name: row["failed"] for name, row in rows.items() if row["failed"]} == dict.fromkeys(
        ("head", "scratch"), DEAD.message
    )
    assert [len(rows[name]["int8"]) for name in RUNS] == [0, 2, 2, 0]
    assert rows["head"]["top1_pct"] == 100
    assert json.loads((out / "transfer-table.json").read_text())["rows"] == found["rows"]
    with np.load(out / "lenet5-scratch" / "reference.npz") as made:
        right = made["logits"].argmax(axis=1) == made["labels"]
        order = np.argsort(made["ids"])
    bits = unpack_bits(rows["scratch"]["top1_bits"], 20, rows["scratch"]["top1_n"], "", "")
    np.testing.assert_array_equal(bits, right[order])
    [answer] = found["answers"]
    assert (answer["name"], answer["better_than"]) == ("lenet5 last-2", [])
    assert f"head failed: {DEAD.message}" in edgecnn(*command).out

    runs.fails = {(f"lenet5-{name}", "fp32", "int8"): DEAD for name in RUNS}
    for file in out.glob("*/cpu/*.json"):
        file.unlink()
    assert "lenet5: no answer: every run failed" in edgecnn(*command, "--svg", tmp_path / "t.svg").out


@pytest.mark.parametrize("error", [RecipeError("no such node", "name another"), WriteError("disk full", "make room")])
def test_what_no_network_is_to_blame_for_ends_the_table(
    error: EdgecnnError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object, until: str, **named: object) -> None:
        if until == "validate":
            raise error
        (tmp_path / "model.safetensors").write_bytes(b"")

    monkeypatch.setattr(transfer_rows, "run_recipe", refuse)
    run = transfer_rows.TransferRun("m head", "m", "head", load_recipe("lenet5-digits"), tmp_path, 1, 1)
    with TrialLog(tmp_path / "log", "") as log, pytest.raises(type(error)):
        transfer_rows.train_row(run, [], 1, False, transfer_rows.Kept(log), print, lambda step: None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_row_is_a_run(edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "table"
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", out, "--json"]
    made = edgecnn(*command)
    assert made.code == 0, made.err
    found = json.loads(made.out)
    require_rows(found, out)
    assert json.loads(edgecnn(*command).out) == found
    assert "weights are not replaced unasked" in edgecnn(*command, "--set", "train.epochs=2").refused()
    assert edgecnn("run", out / "lenet5-head", "--set", "bench.duration_s=0.2").code in (0, 3)


def require_rows(found: dict[str, Any], out: Path) -> None:
    """Each run's figures are those of its files, and pairs are what its bits say."""
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["trains"] for row in found["rows"]] == RUNS + ["probe"] * 5
    assert len({row["images_sha256"] for row in rows.values()}) == 1
    params = {row["trains"]: row["params_trained"] for row in found["rows"][:4]}
    network = build_model("lenet5", 2)
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_children()}
    assert params == {
        "head": parts["fc3"],
        "last-2": parts["fc1"] + parts["fc2"] + parts["fc3"],
        "all": sum(parts.values()),
        "scratch": sum(parts.values()),
    }
    for name in RUNS:
        row = rows[f"lenet5 {name}"]
        floats, tensorrt = (
            json.loads((out / row["folder"] / "cpu" / f"{engine}.accuracy.json").read_text())
            for engine in ("fp32", "int8-tensorrt")
        )
        assert row["top1_pct"] == floats["top1_pct"]
        [int8] = [one for one in row["int8"] if one["scheme"] == "tensorrt"]
        assert (int8["top1_drop_pp"], int8["top1_drop_ci_pp"]) == (
            tensorrt["top1_drop_pp"],
            tensorrt["top1_drop_ci_pp"],
        )
        assert row["minutes"] > 0
    for pair in found["pairs"]:
        first, second = (
            unpack_bits(r["top1_bits"], r["n"], r["top1_n"], "", "")
            for r in (rows[pair["first"]], rows[pair["second"]])
        )
        lost, gained = int((first & ~second).sum()), int((second & ~first).sum())
        low, high = drop_interval(lost, gained, len(first))
        assert pair["gain_ci_pp"] == pytest.approx([-100 * high, -100 * low])


def remove(path: Path, keep: int) -> None:
    for file in sorted(path.iterdir())[keep:]:
        file.unlink()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "one class": (lambda imgs: shutil.rmtree(imgs / "train" / "fine"), "one class"),
    "one image": (lambda imgs: remove(imgs / "train" / "fine", 1), "1 training image of the class 'fine'"),
    "no test": (lambda imgs: shutil.rmtree(imgs / "val"), "holds train, but no folder test"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_images_that_cannot_be_compared_on(
    name: str, edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path
) -> None:
    spoil, said = BROKEN[name]
    spoil(images)
    if name == "one class":
        shutil.rmtree(images / "val" / "fine")
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", tmp_path / "table"]
    assert said in edgecnn(*command).refused()
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "resnet81"], "did you mean 'resnet18'"),
        (["--model", "lenet5", "--weights", "none"], "no weights to train a head on"),
        (["--model", "lenet5"], "nobody publishes weights"),
        (["--model", "lenet5", "--weights", "absent.pth"], "no such file"),
        (["--model", "lenet5", "--weights", "START", "--last-stages", "5"], "the network has 4 stages"),
        (["--model", "lenet5", "--weights", "START", "--model", "lenet5", "--weights", "START"], "more than once"),
        (["--model", "lenet5", "--model", "resnet18", "--weights", "START"], "1 weights for 2 networks"),
        (["--model", "lenet5", "--weights", "START", "--set", "transfer.train=all"], "the rows of the table set"),
        (["--model", "lenet5", "--weights", "START", "--set", "train.epochs=0"], "nothing would be trained"),
        (["--model", "resnet20_cifar", "--weights", "START"], "start.pth"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    given: list[str], said: str, edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path
) -> None:
    words = [str(start) if word == "START" else word for word in given]
    assert said in edgecnn("transfer-table", images, *words, "-o", tmp_path / "table").refused()
    assert not (tmp_path / "table").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ants_and_bees_say_that_pretrained_features_pay(
    edgecnn: Callable[..., Any], shared: Path, tmp_path: Path
) -> None:
    weights = shared / "weights/squeezenet1_1_imagenet.safetensors"
    options = ["--set", "train.epochs=4", "--set", "quantize.method=mse", "-o", tmp_path / "table", "--json"]
    result = edgecnn(
        "transfer-table", shared / "data/hymenoptera", "--model", "squeezenet1_1", "--weights", weights, *options
    )
    found = json.loads(result.out)
    rows = {row["trains"]: row for row in found["rows"] if row["trains"] != "probe"}
    assert min(rows[name]["top1_pct"] for name in ("head", "all")) > 85
    scratch = {pair["first"]: pair for pair in found["pairs"] if pair["second"] == "squeezenet1_1 scratch"}
    assert scratch["squeezenet1_1 head"]["differs"]
    assert scratch["squeezenet1_1 head"]["gain_pp"] < -15
    assert "scratch" not in found["answers"][0]["name"]
