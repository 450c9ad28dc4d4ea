"""The list of real classifiers, and some of the smallest through every step as benchmarks/real_graphs.py does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SMALLEST = ("timm/test_resnet/dynamo", "timm/test_efficientnet/torchscript", "onnx/shufflenet/file")
LEAST = {"torchvision": 120, "timm": 80, "onnx": 9, "keras": 15, "paddle": 15}


def test_the_list_is_long_and_names_nothing_twice(root: Path) -> None:
    lines = (root / "benchmarks" / "real_graphs.txt").read_text(encoding="utf-8").splitlines()
    words = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
    assert len(words) == len(set(words)) >= 200
    origins = Counter(origin for origin, _, _ in words)
    assert {origin for origin, least in LEAST.items() if origins[origin] < least} == set()
    for origin in ("torchvision", "timm"):
        by_exporter = [{n for o, n, e in words if (o, e) == (origin, way)} for way in ("dynamo", "torchscript")]
        assert by_exporter[0] == by_exporter[1], "each by both exporters"


def test_every_row_is_of_the_list(root: Path) -> None:
    lines = (root / "benchmarks" / "real_graphs.txt").read_text(encoding="utf-8").splitlines()
    rows = json.loads((root / "benchmarks" / "results" / "real_graphs.json").read_text(encoding="utf-8"))
    assert {" ".join((r["origin"], r["name"], r["exporter"])) for r in rows} <= set(lines)
    assert {r["outcome"] for r in rows} <= {"passed", "refused", "failed", "not exported"}
    assert [r for r in rows if r["outcome"] != "passed" and not r.get("reason")] == []


@pytest.mark.slow
@pytest.mark.torch
def test_the_smallest_go_through(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/real_graphs.py", *SMALLEST, "--results", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, env={**os.environ, "PYTHONPATH": str(root)})
    rows = json.loads((tmp_path / "real_graphs.json").read_text(encoding="utf-8"))
    assert {"/".join((r["origin"], r["name"], r["exporter"])) for r in rows} == set(SMALLEST)
    assert [r for r in rows if r["outcome"] != "passed" or r["difference"] > 1e-4 or "ort_sqnr_db" not in r] == []
