"""edgecnn transfer-table, as it is typed: rows that are runs, a kill, mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.pipeline import transfer_rows
from edgecnn.results.correctness import unpack_bits
from edgecnn.statistics import drop_interval

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.probe import probe

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


def test_a_killed_table_goes_on_with_what_is_complete(
    edgecnn: Callable[..., Any], images: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.pytorch.probe.DECAYS", (0.01,))  # fits take most of the time otherwise
    out, run_recipe = tmp_path / "table", transfer_rows.run_recipe
    command = ["transfer-table", images, "--model", "lenet5", "--weights", start, *QUICK, "-o", out]

    def killed(recipe: Any, folder: Path, *given: Any, **named: Any) -> Any:
        if folder.name == "lenet5-all":
            raise KeyboardInterrupt
        return run_recipe(recipe, folder, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(transfer_rows, "run_recipe", killed)
        assert edgecnn(*command).code == 130
    assert not (out / "transfer-table.json").exists()
    done = {name: (out / f"lenet5-{name}/model.safetensors").stat().st_mtime_ns for name in RUNS[:2]}
    log = (out / ".transfer-table.jsonl").read_bytes()
    result = edgecnn(*command, "--json", "--svg", tmp_path / "table.svg")
    assert result.code == 0, result.err
    assert {name: (out / f"lenet5-{name}/model.safetensors").stat().st_mtime_ns for name in done} == done
    assert (out / ".transfer-table.jsonl").read_bytes().startswith(log)
    assert "linear classifier" not in result.err, "the probes are complete too"

    found = json.loads(result.out)
    content = json.loads((out / "transfer-table.json").read_text())
    assert content.pop("provenance")["parents"].keys() == {f"lenet5-{name}/model.safetensors" for name in RUNS}
    assert content == found
    require_rows(found, out)
    probes = [row for row in found["rows"] if row["trains"] == "probe"]
    alone = probe("lenet5", str(images), str(start))
    assert [row["stage"] for row in probes] == [one.name for one in alone] == STAGES
    assert [row["top1_pct"] for row in probes] == pytest.approx([one.top1_pct for one in alone])
    assert (tmp_path / "table.svg").read_text().startswith("<svg")
    assert "gain: over the head" in edgecnn(*command).out
    assert "weights are not replaced unasked" in edgecnn(*command, "--set", "train.epochs=2").refused()


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
