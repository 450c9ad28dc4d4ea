"""The documents' tables are what the results of the benchmarks say, and every result says where it comes from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

PROVENANCE = {
    "command", "commit", "date", "machine", "cores", "tools", "load_1_min", "others_busy_cores", "neighbors",
}  # fmt: skip


@pytest.fixture
def tables(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return import_module("tables")


@pytest.fixture
def recorder(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return import_module("_result").Recorder


def rows_of(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else []


def test_the_documents_hold_what_the_results_say(tables: Any) -> None:
    marks = [m["name"] for path in tables.documents() for m in tables.MARK.finditer(path.read_text(encoding="utf-8"))]
    assert sorted(set(marks)) == sorted(tables.TABLES), "each table stands in a document"
    for path in tables.documents():
        text = path.read_text(encoding="utf-8")
        assert text.count("<!-- table:") == text.count("<!-- /table -->")
        assert tables.with_tables(text) == text, f"{path.name}: python benchmarks/tables.py"


def test_another_result_makes_another_document(tables: Any, root: Path, tmp_path: Path) -> None:
    rows = rows_of(root / "benchmarks" / "results" / "validate_speed.json")
    assert rows
    rows[0]["cpu_ratio"] += 0.5
    (tmp_path / "validate_speed.json").write_text(json.dumps(rows))
    text = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    shown = next(m["body"] for m in tables.MARK.finditer(text) if m["name"] == "validate-speed")
    assert tables.markdown(tables.TABLES["validate-speed"], tmp_path) != shown
    assert f"| {rows[0]['cpu_ratio']:.2f} |" in tables.markdown(tables.TABLES["validate-speed"], tmp_path)


def test_every_row_says_where_it_comes_from(tables: Any, root: Path) -> None:
    files = [root / "benchmarks" / "results" / f"{table.benchmark}.json" for table in tables.TABLES.values()]
    rows = [row for path in files if path.exists() for row in rows_of(path)]
    assert len(rows) >= 3
    for row in rows:
        assert row["made"].keys() >= PROVENANCE, row
        assert re.fullmatch(r"[0-9a-f]{40}", row["made"]["commit"]), "measured on a commit, not beside changes"


def test_a_row_measured_again_replaces_the_one_of_its_key(
    recorder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recorder("speed", "python speed.py", results=tmp_path)
    for name, images, ratio in (("a", 8, 1.5), ("b", 8, 2.5), ("a", 8, 0.5), ("a", 9, 3.5)):
        made.add({"network": name, "images": images}, {"cpu_ratio": ratio})
    made.add({"network": "a", "images": 9}, {"left_out": "not installed"})
    assert len(capsys.readouterr().out.splitlines()) == 5
    rows = rows_of(tmp_path / "speed.json")
    assert [(r["network"], r["images"], r["cpu_ratio"]) for r in rows] == [("b", 8, 2.5), ("a", 8, 0.5), ("a", 9, 3.5)]
    assert all(row["made"].keys() >= PROVENANCE for row in rows)


def test_what_auto_cost_found_without_a_base_leaves_what_it_found_beside_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    auto_cost = import_module("auto_cost")
    monkeypatch.setattr(auto_cost, "Recorder", partial(auto_cost.Recorder, results=tmp_path))
    monkeypatch.setattr(auto_cost, "commit_of", str)
    for base, found in ((Path("/a"), 1), (None, 2), (Path("/b"), 3), (Path("/a"), 4), (None, 5)):
        monkeypatch.setattr(auto_cost, "_measure", lambda *_, found=found: {"found": found})
        auto_cost._file("net", Namespace(base=base, images=8, rounds=1, busy=False), root)
    rows = rows_of(tmp_path / "auto_cost.json")
    assert [(row["base_commit"], row["found"]) for row in rows] == [("/b", 3), ("/a", 4), (None, 5)]


def test_peers_that_are_not_installed_are_left_out_and_named(tables: Any, tmp_path: Path) -> None:
    made = {"command": "c", "commit": 40 * "0", "machine": {"cpu": "x"}, "cores": 2, "others_busy_cores": 0.0}
    key = {"network": "net", "images": 8, "busy": False, "made": made}
    rows = [
        {**key, "tool": "calibrate", "cpu_ratio": 1.9, "peak_mb": 300},
        {**key, "tool": "ort-Entropy", "failed": "out of memory"},
        {**key, "tool": "nncf", "left_out": "not installed"},
    ]
    (tmp_path / "quantize_cost.json").write_text(json.dumps(rows))
    said = tables.markdown(tables.TABLES["quantize-cost"], tmp_path)
    assert "Not installed there: nncf." in said
    assert said.splitlines()[-1] == "| `net` | 8 | none | 1.9 / 300 | - | - | fails | - | - | - | - |"


def test_other_quantizers_are_compared_at_an_equal_share_of_int8(root: Path) -> None:
    rows = rows_of(root / "benchmarks" / "results" / "int8_vs_peers.json")
    measured = [row for row in rows if not row.keys() & {"failed", "illegal"}]
    assert {row["tool"] for row in measured} >= {"ort-MinMax", "modelopt-max", "nncf"}
    for row in measured:
        for ours in row["edgecnn"].values():
            assert [ours[k] for k in ("int8_share_pct", "float_nodes", "n")] == [
                row[k] for k in ("int8_share_pct", "float_nodes", "n")
            ]


def test_the_benchmarks_that_are_run_are_there_and_described(root: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, "benchmarks/bench.py", "--list", "--busy", *words],
            cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for words in ((), ("--short",))
    ]  # fmt: skip
    names = [list(dict.fromkeys(line.split()[1] for line in lines)) for lines in said]
    assert names[0] == names[1]
    assert len(names[0]) >= 5
    described = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for name in names[0]:
        assert (root / name).is_file()
        assert f"`{Path(name).stem}`" in described


@pytest.mark.slow
def test_the_short_benchmarks_run_to_their_end(root: Path, shared: Path, tmp_path: Path) -> None:
    """In a clone of what is committed, for they write their rows beside themselves."""
    subprocess.run(["git", "clone", "-q", root, tmp_path / "clone"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "clone"), "EDGECNN_SHARED": str(shared)}
    run = partial(subprocess.run, cwd=tmp_path / "clone", env=environment, capture_output=True, text=True)
    command = [sys.executable, "benchmarks/bench.py", "--short"]
    done = run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
    names = re.findall(r"benchmarks/(\w+)\.py", run([*command, "--list"]).stdout)
    assert len(names) >= 5
    for name in names:
        rows = rows_of(tmp_path / "clone" / "benchmarks" / "results" / f"{name}.json")
        assert commit in [row["made"]["commit"] for row in rows], f"{name} filed nothing"
