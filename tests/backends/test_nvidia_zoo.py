"""The whole zoo through NVIDIA's real parser and builder, as benchmarks/zoo_tensorrt.py does it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgecnn.zoo import cards

pytestmark = [pytest.mark.torch, pytest.mark.nvidia]


@pytest.fixture
def benchmark(root: Path, tensorrt_rtx: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(tensorrt_rtx)]))
    spec = importlib.util.spec_from_file_location("zoo_tensorrt", root / "benchmarks" / "zoo_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.cpu_s(30)
def test_a_network_becomes_a_row_and_is_not_built_again(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = benchmark.build_zoo(["lenet5"], 1, tmp_path / "rows.jsonl")
    assert [row["name"] for row in rows] == ["lenet5"]
    assert benchmark.taken(rows[0])
    monkeypatch.setattr(benchmark, "build_alone", lambda name: {"name": name, "failed": "again"})
    assert benchmark.build_zoo(["lenet5"], 1, tmp_path / "rows.jsonl") == rows
    failed = benchmark.build_zoo(["alexnet"], 1, tmp_path / "rows.jsonl")
    assert not benchmark.taken(failed[0])
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1, "what failed is tried again"
    refused = {key: value for key, value in rows[0].items() if key != "fp16_mb"} | {"fp16_refused": "no | such"}
    assert not benchmark.taken(refused)
    table = benchmark.table([*rows, *failed, refused])
    assert "1 of 3 networks" in table
    missing = table.partition("Not built in this run: ")[2].partition(".\n")[0]
    assert set(missing.replace("`", "").split(", ")) == set(cards()) - {"lenet5", "alexnet"}
    assert "| `alexnet` |  | again |" in table
    assert "no / such" in table
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.MARKS[0]}\nold\n{benchmark.MARKS[1]}\nafter\n")
    benchmark.put_table(table, page)
    assert page.read_text() == f"before\n{benchmark.MARKS[0]}\n{table}{benchmark.MARKS[1]}\nafter\n"


def test_a_process_that_dies_is_a_row_of_its_own(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no network" in benchmark.build_alone("no_such_net")["failed"]
    monkeypatch.setattr(benchmark, "TIMEOUT_S", 0.01)
    assert "no end within" in benchmark.build_alone("lenet5")["failed"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_whole_zoo(root: Path, benchmark: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "zoo_tensorrt.py"), "--jobs", "2"]
    subprocess.run([*command, "--rows", str(tmp_path / "rows.jsonl")], cwd=root, check=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == sorted(cards())
    assert [row for row in rows if not benchmark.taken(row)] == []
    for row in rows:
        assert row["fp16_mb"] < row["fp32_mb"], row["name"]
