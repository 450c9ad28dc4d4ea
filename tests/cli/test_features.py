"""Features graphs, as a user makes them and as every other command refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:  # imported before the first test of this file
    from edgecnn.backends import open_with_any_outputs
    from edgecnn.steps.export import export

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("lenet5", tmp_path_factory.mktemp("pool") / "pool.onnx", weights="none", features=["pool"])


REFUSED = [
    "predict {} {image}",
    "bench --engine {}",
    "reference {} --data digits",
    "import {} -o other.onnx",
    "layers {}",
    "sensitivity {} --ranges {} --data digits",
    "search {} --data digits --max-drop 1",
    "calibrate {} --data digits --check",
    "monitor rows.jsonl --engine {} -o log.jsonl",
    "repro {}",
    "import-ranges {} --graph {}",
    "run {}",
    "gate {}",
    "explain {}",
    "report {} -o other.md",
    "bundle {} --for cpu -o other.tar",
    "bundle {} --for triton -o other",
    "release {} --unsigned -o other.tar",
    "push {} owner/name",
]


@pytest.mark.parametrize("line", REFUSED)
def test_everything_else_refuses_it_by_name(edgecnn: Callable[..., Any], pool: Path, tmp_path: Path, line: str) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    said = edgecnn(*line.format(pool, pool, image=image).split()).refused()
    assert "pool.onnx: a features graph: it gives pool, and no classes" in said


@pytest.mark.parametrize(
    "line", ["build {}", "bench --engine {}", "validate {} --reference {} --data digits"], ids=lambda line: line[:8]
)
def test_it_goes_to_no_other_machine(edgecnn: Callable[..., Any], pool: Path, line: str) -> None:
    said = edgecnn(*line.format(pool, pool).split(), "--on", "jetson").refused()
    assert "pool.onnx with --on: a features graph: it gives pool, and no classes" in said


def test_summary_lists_them(edgecnn: Callable[..., Any]) -> None:
    found = json.loads(edgecnn("summary", "lenet5", "--json").out)
    assert {f["name"]: f["shape"] for f in found["features"]}["pool"] == [84]
    assert found["layers"][3]["receptive_field"] == [14, 14]
    assert "features (export --features)" in edgecnn("summary", "lenet5").out


def pictures(folder: Path, per_class: int = 10) -> Path:
    """Noise of two kinds, for training and for tests."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, size in (("coarse", 4), ("fine", 16)):
            (folder / split / name).mkdir(parents=True)
            for k in range(per_class):
                noise = Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8))
                noise.resize((32, 32), Image.Resampling.BICUBIC).save(folder / split / name / f"{k}.png")
    return folder


def test_each_output_keeps_its_values_in_fp16_and_int8(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    data, graph = pictures(tmp_path / "data"), tmp_path / "f.fp32.onnx"
    export("resnet20_cifar", graph, weights="none", features=["C2", "layer1", "pool"])
    ranges = tmp_path / "f.calib.json"
    assert edgecnn("calibrate", graph, "--data", data, "-o", ranges).code == 0
    known = json.loads(ranges.read_text())["tensors"]
    assert {t["name"] for t in known} >= {"C2", "layer1", "pool"}
    for precision, least, most in (("fp16", 50, 80), ("int8", 25, 50)):
        made, result = tmp_path / f"f.{precision}.onnx", tmp_path / f"{precision}.json"
        given = () if precision == "fp16" else ("--data", data)
        assert edgecnn("quantize", graph, "--precision", precision, "--ranges", ranges, *given, "-o", made).code == 0
        said = edgecnn("validate", made, "--reference", graph, "--data", data, "-o", result, "--json")
        rows = {row["name"]: row for row in json.loads(said.out)["outputs"]}
        assert rows.keys() == {"C2", "layer1", "pool"}
        assert json.loads(result.read_text())["outputs"] == json.loads(said.out)["outputs"]
        assert all(
            least < row["sqnr_db"] < most and row["cosine_min"] > 0.999 and row["n"] == 20 for row in rows.values()
        )
        assert json.loads(said.out)["unreadable"] == []
    refused = edgecnn(
        "quantize", graph, "--precision", "int8", "--ranges", ranges, "--data", data, "--explain", "-o", made
    ).refused()
    assert "a features graph" in refused
    assert (
        "which decides nothing: --stages"
        in edgecnn("validate", made, "--reference", graph, "--data", data, "--stages").refused()
    )


def test_other_features_are_no_reference(edgecnn: Callable[..., Any], pool: Path, tmp_path: Path) -> None:
    other = export("lenet5", tmp_path / "other.onnx", weights="none", features=["fc1"])
    plain = export("lenet5", tmp_path / "plain.onnx", weights="none")
    said = edgecnn("validate", pool, "--reference", other, "--data", "digits").refused()
    assert "gives pool, and" in said
    assert "gives no features" in edgecnn("validate", pool, "--reference", plain, "--data", "digits").refused()
    assert "a features graph" in edgecnn("validate", plain, "--reference", pool, "--data", "digits").refused()


def test_an_engine_is_built_of_it(edgecnn: Callable[..., Any], pool: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine.onnx"
    assert edgecnn("build", pool, "-o", engine).code == 0
    with open_with_any_outputs(engine) as session:
        assert session.run(np.zeros((2, 1, 32, 32), np.float32)).shape == (2, 84)
    assert "engine.onnx: a features graph" in edgecnn("bench", "--engine", engine).refused()


def test_vectors_and_neighbours(edgecnn: Callable[..., Any], pool: Path, tmp_path: Path) -> None:
    data, index = pictures(tmp_path / "data"), tmp_path / "F.npz"
    (data / "val" / "fine" / "0.png").write_bytes((data / "train" / "fine" / "3.png").read_bytes())
    (data / "val" / "fine" / "1.png").write_bytes(b"no picture")
    made = json.loads(edgecnn("features", pool, data, "-o", index, "--json").out)
    assert (made["n_train"], made["n_test"], made["dimensions"]) == (20, 19, 84)
    assert made["unreadable"] == ["fine/1.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["F.npz", "F.npz.json", "data"]
    found = json.loads(edgecnn("neighbours", index, "test:fine/0.png", "-k", 3, "--json").out)
    assert found["nearest"][0] == {
        "image": "fine/3.png", "split": "train", "label_name": "fine", "cosine": pytest.approx(1, abs=1e-4)
    }  # fmt: skip
    assert found["near_duplicates"][0]["same_file"] is True
    assert "nearest to fine/2.png" in edgecnn("neighbours", index, "test:fine/2.png").out
    assert "no image 'cat'" in edgecnn("neighbours", index, "cat").refused()
    page = tmp_path / "near.html"
    assert edgecnn("neighbours", index, "test:fine/0.png", "-k", 3, "-o", page).code == 0
    text = page.read_text(encoding="utf-8")
    shown = json.loads(edgecnn("neighbours", index, "test:fine/0.png", "-k", 3, "--json").out)
    assert text.count('src="data:image/png;base64,') == 1 + 3 + 2 * len(shown["near_duplicates"]) + len(
        shown["disagreements"]
    )
    assert "are not shown" not in text
    (data / "train" / "fine" / "3.png").write_bytes((data / "train" / "fine" / "2.png").read_bytes())
    assert edgecnn("neighbours", index, "test:fine/0.png", "-k", 3, "-o", page).code == 0
    assert "1 images are not here, or are others by now" in page.read_text(encoding="utf-8")
    data.rename(tmp_path / "elsewhere")
    assert edgecnn("neighbours", index, "test:fine/0.png", "-k", 3, "-o", page).code == 0
    assert "The images are not shown" in page.read_text(encoding="utf-8")
    assert ".html" in edgecnn("neighbours", index, "test:fine/0.png", "-o", tmp_path / "near.txt").refused()
