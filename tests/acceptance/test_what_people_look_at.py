"""What is shown of a run can be followed word by word: next commands, pages, rows for programs, published schemas."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from edgecnn.output import WIDTH
from tests.acceptance.channel_pictures import RED, SIDE, class_model, level

pytestmark = pytest.mark.onnx

Command = Callable[..., Any]
SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schema"
CLASSES = ("<script>", "=cmd()", 'a,b"c', "two\u2028lines", "\u202eevil")  # folders, so they are labels
RECIPE = """
precisions = ["fp32", "int8"]
targets = ["cpu"]
[model]
onnx = "net.onnx"
[input]
size = [8, 8]
resize = 8
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[data]
source = "imgs"
[quantize]
method = "minmax"
[bench]
duration_s = 0.1
[tolerances]
top1_drop_pp_max = 10
"""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe, `mine.toml`, and of its run, `runs/mine`."""
    from edgecnn.cli import main

    folder, before = tmp_path_factory.mktemp("people look"), Path.cwd()
    os.chdir(folder)
    try:
        for split, shift in (("train", -4), ("test", 4)):
            for k, name in enumerate(CLASSES):
                path = Path("imgs", split, name)
                path.mkdir(parents=True)
                for n in range(8):
                    color = (level(k, len(CLASSES)) + shift + n, 30 * n, 9 * k)
                    Image.new("RGB", (SIDE, SIDE), color).save(path / f"{n}.png")
        onnx.save(class_model(len(CLASSES), RED), "net.onnx")
        Path("mine.toml").write_text(RECIPE)
        assert main(["run", "mine.toml", "--threads", "1"]) in (0, 3)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy: some judge the run anew."""
    own = Path(shutil.copytree(judged, tmp_path / "people look"))
    monkeypatch.chdir(own)
    return own


def problems(name: str, content: Any) -> list[str]:
    """What a published schema says against a content."""
    from jsonschema import Draft202012Validator

    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return [f"{list(e.path)}: {e.message}" for e in Draft202012Validator(schema).iter_errors(content)]


@pytest.mark.usefixtures("here")
def test_the_command_that_gate_prints_shows_all_evidence_of_several_targets_too(edgecnn: Command) -> None:
    shutil.copytree("runs/mine", "runs/two", dirs_exist_ok=True)
    shutil.copytree("runs/two/cpu", "runs/two/desk", dirs_exist_ok=True)
    for words in (["runs/mine"], ["runs/two"], ["runs/mine", "--recipe", "mine.toml"]):
        said = re.findall(r"^all evidence: edgecnn (.+)$", edgecnn("gate", *words).err, re.MULTILINE)
        assert said
        for command in said:
            page = Path(shlex.split(command)[-1])
            page.unlink(missing_ok=True)
            assert edgecnn(*shlex.split(command)).code == 0, command
            assert page.is_file()
    refused = edgecnn("report", "runs/two", "-o", "x.html")
    refused.refused("judged on several targets: runs/two/cpu, runs/two/desk")


@pytest.mark.usefixtures("here")
def test_the_commands_of_page_and_card_name_recipes_that_are_found(edgecnn: Command) -> None:
    assert edgecnn("report", "runs/mine", "-o", "deep/er/report.html").code == 0
    page = unescape(re.findall(r"<code>(.+?)</code>", Path("deep/er/report.html").read_text(), re.DOTALL)[0])
    card = edgecnn("report", "runs/mine", "--format", "card").out
    again = [*re.findall(r"edgecnn run (\S+)", page), *re.findall(r"made again by \| edgecnn run (\S+)", card)]
    assert len(again) == 2
    for recipe in again:
        assert edgecnn("recipe", "check", shlex.split(recipe)[0]).code == 0, recipe


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", ["report", "explain", "compare", "gate"])
def test_a_run_that_is_mistyped_is_called_a_run(command: str, edgecnn: Command) -> None:
    more = ["-o", "x.html"] if command == "report" else []
    edgecnn(command, "runs/mime", *more).refused("no run folder 'runs/mime'", "did you mean 'runs/mine'")
    edgecnn(command, "nothing", *more).refused("no run folder 'nothing'", "edgecnn recipe list")


def test_a_folder_of_images_that_is_not_here_is_looked_for_where_the_hint_says(here: Path, edgecnn: Command) -> None:
    Path("away.toml").write_text(RECIPE.replace('"imgs"', '"imgz"'))
    edgecnn("recipe", "check", "away.toml").refused("'imgz'", f"a path counts from {here}")


@pytest.mark.usefixtures("here")
def test_tables_of_a_network_of_microseconds_and_bytes_fit(edgecnn: Command) -> None:
    for words in (("compare", "runs/mine", "runs/mine"), ("explain", "runs/mine"), ("gate", "runs/mine")):
        shown = edgecnn(*words).out
        assert shown
        assert [line for line in shown.splitlines() if len(line) > WIDTH] == []
        assert [line for line in shown.splitlines() if line.strip().startswith("%")] == []


@pytest.mark.usefixtures("here")
def test_pictures_that_cannot_be_read_have_their_row_wherever_rows_are_shown(edgecnn: Command) -> None:
    folder = Path("mixed")
    folder.mkdir()
    for k in range(len(CLASSES)):
        Image.new("RGB", (SIDE, SIDE), (level(k, len(CLASSES)), 0, 0)).save(folder / f"{k}.png")
    (folder / "empty.png").write_bytes(b"")
    engine = "runs/mine/cpu/int8.onnx"
    shown = edgecnn("predict", engine, folder)
    shown.refused("1 of 6 images", "mixed/empty.png")
    assert "mixed/empty.png\n  no result: not a readable image" in shown.out
    assert shown.out.count("%") == 5 * len(CLASSES)
    for name in ("rows.csv", "rows.jsonl"):
        edgecnn("predict", engine, folder, "-o", name).refused("1 of 6 images")
        first = Path(name).read_bytes()
        with Path("mine.toml").open():  # another file is open: no number of one is in an error
            edgecnn("predict", engine, folder, "-o", name).refused("1 of 6 images")
        assert Path(name).read_bytes() == first
    lines = Path("rows.jsonl").read_text(encoding="utf-8").splitlines()
    by_csv = list(csv.DictReader(Path("rows.csv").read_text(encoding="utf-8").splitlines()))
    assert [json.loads(line)["image"] for line in lines] == [row["image"] for row in by_csv]
    assert not set("".join(lines)) & {"\u2028", "\u202e"}
    assert {json.loads(line)["top1_label"] for line in lines} == {*CLASSES, None}


@pytest.mark.usefixtures("here")
def test_what_commands_write_fits_the_schemas_that_name_them(edgecnn: Command) -> None:
    engine = "runs/mine/cpu/int8.onnx"
    measured = ("--reference", "runs/mine/reference.npz", "--data", "imgs")
    assert edgecnn("validate", engine, *measured, "-o", "one.accuracy.json").code == 0
    assert edgecnn("bench", "--engine", engine, "--duration", "0.05", "-o", "latency.json").code == 0
    assert edgecnn("gate", "runs/mine", "--recipe", "mine.toml", "--record").code in (0, 3)
    shutil.rmtree("runs/two", ignore_errors=True)
    for words in ("init -q .", "add mine.toml baselines", "-c user.name=me -c user.email=me@x commit -qm first"):
        subprocess.run(["git", *words.split()], check=True)
    files = {"accuracy": ["one.accuracy.json"], "latency": ["latency.json"]}
    kept = sorted(Path("baselines").rglob("*.json"))
    files["accuracy-baseline"] = [str(p) for p in kept if "backend" in json.loads(p.read_text())]
    files["baseline"] = [str(p) for p in kept if "backend" not in json.loads(p.read_text())]
    for name, paths in files.items():
        assert paths, name
        for path in paths:
            assert problems(name, json.loads(Path(path).read_text())) == [], path
    end_to_end = ("bench", "--engine", engine, "--end-to-end", "--data", "imgs", "--duration", "0.05")
    for name, command in {"history": ("history", "mine.toml"), "end-to-end": end_to_end}.items():
        done = edgecnn(*command, "--json")
        assert done.code == 0, done.said
        assert problems(name, json.loads(done.out)) == []
    rows = json.loads(edgecnn("gate", "runs/mine", "--json").out)
    assert rows
    for row in rows:
        assert all(row.pop(key) is not None for key in ("recipe", "target", "device_key"))
        assert problems("verdict", row) == []
