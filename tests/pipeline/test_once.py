"""What is read once: result files when they are judged, folders of images when a recipe runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecnn import records
from edgecnn.artifact import run_folder, sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.cli import main
from edgecnn.data.open import listing_each_folder_once, open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.records import to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.device import Device
from edgecnn.results.engine import EngineFacts
from edgecnn.results.latency import LatencyFile, LatencyRow
from edgecnn.zoo import find_model
from tests.fakes.file_looks import counted_looks
from tests.fakes.measurements import accuracy, engine, latency, ratio

pytestmark = pytest.mark.torch

RECIPE = """
title = "four engines"
precisions = ["fp32", "fp16", "int8"]
[model]
name = "lenet5"
[data]
source = "digits"
[tolerances]
top1_drop_pp_max = 5
latency_ratio_max = 1
"""


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """A recipe beside a run that measured its four engines."""
    (tmp_path / "four.toml").write_text(RECIPE)
    folder = tmp_path / "run" / "cpu"
    folder.mkdir(parents=True)
    rows = []
    for variant in variants_of(load_recipe(str(tmp_path / "four.toml")), on_cpu=True):
        info = engine(variant.precision, scheme=variant.scheme)
        made = AccuracyFile(accuracy=accuracy(name=variant.name), engine=info)
        written = sidecar.Sidecar(kind="accuracy", recipe="four")
        write_json_artifact(folder / f"{variant.name}.accuracy.json", to_plain(made), written)
        rows.append(LatencyRow(latency=latency(variant.name), engine=info, facts=EngineFacts(size_mb=0.1)))
    rows[1:] = [replace(row, ratio=ratio()) for row in rows[1:]]
    timed = LatencyFile(device=Device(cpu="c", threads=2), reference="fp32", measurements=tuple(rows))
    write_json_artifact(folder / "latency.json", to_plain(timed), sidecar.Sidecar(kind="latency", recipe="four"))
    return folder


@contextmanager
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each JSON file is parsed, by its name."""
    found: Counter[str] = Counter()
    known: dict[bytes, str] = {}
    read_bytes, parse = sidecar.read_file, records.parse_json

    def reading(path: Path) -> bytes:
        content = read_bytes(path)
        known[content] = path.name
        return content

    def parsing(text: Any) -> Any:
        if isinstance(text, bytes):
            found[known.get(text, "?")] += 1
        return parse(text)

    with monkeypatch.context() as patch:
        patch.setattr(sidecar, "read_file", reading)
        patch.setattr(records, "parse_json", parsing)
        yield found


def test_judging_parses_each_result_once(four: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [p.name for p in sorted(four.glob("*.json"))]
    assert len(results) == 5
    ask = [str(four.parent), "--recipe", str(four.parent.parent / "four.toml")]
    with parsed(monkeypatch) as found:
        assert main(["gate", *ask]) == 0
    assert {name: found[name] for name in results} == dict.fromkeys(results, 1)
    assert "?" not in found
    with parsed(monkeypatch) as found:
        assert main(["report", *ask, "-o", str(four / "r.md")]) == 0
    assert {name: found[name] for name in [*results, "verdict.json"]} == dict.fromkeys([*results, "verdict.json"], 1)
    with parsed(monkeypatch) as found:
        run_folder.read_target_run(four)
        run_folder.read_target_run(four)
    assert set(found.values()) == {2}, "the count counts"


def put_images(root: Path, each: int = 12) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for digit in range(10):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for k in range(each):
                Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(folder / f"{k}.png")


@pytest.mark.usefixtures("short_blocks")
def test_a_run_lists_each_folder_of_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "images", tmp_path / "run"
    put_images(root)
    settings = [f"data.source={root}", "data.calibration=", "train.epochs=1", "train.batch=16"]
    settings += ["bench.duration_s=0.1", "bench.warmup_ms=0", "quantize.method=minmax"]
    ask = ["run", "lenet5-digits", "--out", str(out), "--threads", "1"]
    ask += [word for setting in settings for word in ("--set", setting)]
    folders = {".", "train", "test", *(f"{split}/{digit}" for split in ("train", "test") for digit in range(10))}
    # PyTorch's latency would be measured in a process of its own, whose looks nobody counts
    monkeypatch.setattr("edgecnn.steps.bench.torch_is_passive", lambda: False)
    images = {f"{folder}/{k}.png" for folder in folders if "/" in folder for k in range(12)}
    with counted_looks(root, monkeypatch) as found:
        assert main(ask) in (0, 1, 3)
    assert (out / "cpu" / "report.json").exists()
    assert found.listed == dict.fromkeys(folders, 1)
    assert {name: n for name, n in found.stats.items() if name.endswith(".png")} == dict.fromkeys(images, 1)
    with counted_looks(root, monkeypatch) as found:
        assert main(ask) in (0, 1, 3)
    assert max(found.listed.values()) == 1, "a second run looks again, once"
    assert "test/3" in found.listed
    assert found.stats["test/3/4.png"] == 1


def test_a_folder_is_listed_anew_by_whoever_asks_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_images(tmp_path, 1)
    preprocessing = preprocessing_from_json(find_model("lenet5").preprocessing)

    def images() -> int:
        return len(open_dataset(str(tmp_path), preprocessing, "test"))

    with counted_looks(tmp_path, monkeypatch) as found:
        assert images() == images() == 10
    assert found.listed["test/3"] == 2, "the count counts"
    with listing_each_folder_once():
        assert images() == 10
        (tmp_path / "test" / "3" / "0.png").rename(tmp_path / "test" / "3" / "1.png")
        (tmp_path / "test" / "3" / "2.png").write_bytes((tmp_path / "test" / "3" / "1.png").read_bytes())
        assert images() == 10
    assert images() == 11
