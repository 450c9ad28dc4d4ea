"""Features graphs, as a user makes them and as every other command refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported before the first test of this file
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
]


@pytest.mark.parametrize("line", REFUSED)
def test_everything_else_refuses_it_by_name(edgecnn: Callable[..., Any], pool: Path, tmp_path: Path, line: str) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"")
    said = edgecnn(*line.format(pool, pool, image=image).split()).refused()
    assert "pool.onnx: a features graph: it gives pool, and no classes" in said


def test_summary_lists_them(edgecnn: Callable[..., Any]) -> None:
    found = json.loads(edgecnn("summary", "lenet5", "--json").out)
    assert {f["name"]: f["shape"] for f in found["features"]}["pool"] == [84]
    assert found["layers"][3]["receptive_field"] == [14, 14]
    assert "features (export --features)" in edgecnn("summary", "lenet5").out
