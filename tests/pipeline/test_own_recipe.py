"""A run folder that says itself what it is: the recipe that it carries; judged where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_json_artifact
from edgecnn.cli import main
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.pipeline.find import find_recipe_and_folder, find_run
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import Recipe, Tolerances
from edgecnn.records import to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.device import Device
from edgecnn.steps.gate import baseline_path
from edgecnn.steps.recipe_copy import carried_recipe, keep_recipe
from tests.fakes.measurements import accuracy, engine

RECIPE = """
title = "one engine"
precisions = ["int8"]
[model]
name = "lenet5"
[data]
source = "digits"
[tolerances]
top1_drop_pp_max = 5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "insects.toml").write_text(RECIPE)
    return load_recipe(str(tmp_path / "insects.toml"), ["tolerances.agreement_pct_min=90"])


def measure(folder: Path) -> None:
    made = AccuracyFile(accuracy=accuracy(name="int8"), engine=engine("int8"))
    provenance = Sidecar(kind="accuracy", recipe="insects")
    write_json_artifact(folder / "cpu" / "int8.accuracy.json", to_plain(made), provenance)


def test_a_folder_is_judged_by_what_it_carries_overrides_included(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "x"
    measure(run)
    with pytest.raises(RecipeError, match="insects"):
        find_run(str(run))
    keep_recipe(recipe, run)
    for folder in (run, run / "cpu"):
        found, _ = find_run(str(folder))
        assert found.tolerances == Tolerances(top1_drop_pp_max=5, agreement_pct_min=90)
        assert (found.name, baseline_path(found, Device(cpu="c", threads=1)).parent) == (
            "insects",
            tmp_path / "runs/x/../../baselines/insects",
        )
    assert main(["gate", str(run)]) in (0, 3)
    assert "says something else" not in capsys.readouterr().err
    (tmp_path / "insects.toml").write_text(RECIPE.replace("= 5", "= 4"))
    assert main(["gate", str(run), "--json"]) in (0, 3)
    captured = capsys.readouterr()
    assert "judged by the recipe that the run carries" in captured.err
    assert "agreement_pct_min" in captured.out
    assert main(["gate", str(run), "--json", "--recipe", str(tmp_path / "insects.toml")]) in (0, 3)
    assert "agreement_pct_min" not in capsys.readouterr().out
    (tmp_path / "insects.toml").write_text("no = toml = at all")
    assert main(["gate", str(run)]) in (0, 3)
    (tmp_path / "insects.toml").unlink()
    assert main(["gate", str(run)]) in (0, 3)
    assert find_run(str(run))[0].path == run / "insects.toml"


def test_it_is_written_when_it_changes_and_stands_for_one_recipe(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kept = keep_recipe(recipe, run)
    before = kept.stat().st_mtime_ns
    keep_recipe(recipe, run)
    carried = carried_recipe(run)
    assert carried is not None
    keep_recipe(carried, run)
    assert kept.stat().st_mtime_ns == before
    shutil.copy(recipe.path, tmp_path / "other.toml")
    keep_recipe(replace(recipe, path=tmp_path / "other.toml"), run)
    assert sorted(p.name for p in run.iterdir()) == ["other.toml", "other.toml.json"]
    (run / "notes.toml").write_text("mine = 1")
    assert carried_recipe(run, ["batch.max=9"]).batch.max == 9  # type: ignore[union-attr]
    (run / "other.toml").write_text(RECIPE)
    with pytest.raises(ArtifactError, match="sha256"):
        carried_recipe(run)


def test_run_takes_a_folder(recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(RecipeError, match="carries no recipe"):
        find_recipe_and_folder(str(run))
    keep_recipe(recipe, run)
    found, folder = find_recipe_and_folder(str(run), ["title=other"])
    assert (found.title, found.tolerances, folder) == ("other", recipe.tolerances, run)
    with pytest.raises(RecipeError, match="--out names"):
        find_recipe_and_folder(str(run), (), tmp_path / "elsewhere")


@pytest.fixture
def everybody_s() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


JUDGE = """
import os, sys
from edgecnn.cli import main
if os.geteuid() == 0:
    main(["gate", sys.argv[2]])  # imports all that it takes, from where nobody may not be able to read
    print("nobody")
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    open(os.path.join(sys.argv[1], "cpu", "x"), "w")
    raise SystemExit("the folder can be written to")
except OSError:
    pass
sys.exit(main(["gate", sys.argv[1]]))
"""


def test_a_read_only_folder_is_judged(recipe: Recipe, everybody_s: Path, root: Path) -> None:
    """By a user who may not write there; root, who may write anywhere, becomes nobody first."""
    run = everybody_s / "run"
    measure(run)
    shutil.copy(recipe.path, everybody_s)
    keep_recipe(replace(recipe, path=everybody_s / "insects.toml"), run)
    shutil.copytree(run, everybody_s / "copy")
    for path in (run / "cpu", run):
        path.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", JUDGE, str(run), str(everybody_s / "copy")],
            env={**os.environ, "PYTHONPATH": str(root)},
            cwd=everybody_s,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, 3), done.stderr
        assert "insects on cpu" in done.stdout.rpartition("nobody")[2]
        assert f"{run / 'cpu'}: cannot be written to: the verdict is not kept" in done.stderr
        assert not (run / "cpu" / "verdict.json").exists()
    finally:
        for path in (run / "cpu", run):
            path.chmod(0o755)
    assert main(["gate", str(run)]) == done.returncode
    assert (run / "cpu" / "verdict.json").exists()
