"""What people look at fits 80 columns; verdicts alone have a color, and only on a terminal that wants it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecnn import output
from edgecnn.output import WIDTH, fact_lines, print_verdicts, say, table_lines, wrap

pytestmark = pytest.mark.torch

COMMANDS = {
    "run": "run lenet5-digits --out {run}",
    "dry run": "run lenet5-digits --out {run} --dry-run --set tolerances.top1_drop_pp_max=1",
    "gate": "gate {run}",
    "validate": "validate {run}/cpu/int8.onnx --reference {run}/reference.npz --data digits --stages",
    "bench": "bench --engine {run}/cpu/int8.onnx --vs {run}/cpu/fp32.onnx --duration 0.01",
    "inspect graph": "inspect {run}/cpu/int8.onnx",
    "inspect accuracy": "inspect {run}/cpu/int8.accuracy.json",
    "quantize": "quantize {run}/model.fp32.onnx --precision int8 --method mse --explain "
    "--ranges {run}/model.calib.json -o {here}/q.onnx",
    "calibrate": "calibrate {run}/model.fp32.onnx --data digits --images 16 -o {here}/x.calib.json",
    "doctor": "doctor",
    "models": "models",
    "targets": "targets",
    "jetpack": "targets --jetpack",
    "recipes": "recipe list",
    "recipe": "recipe show lenet5-digits",
    "check": "check {run}/cpu/int8.onnx",
}


def too_wide(text: str) -> Iterator[str]:
    """Lines over 80 columns that could be broken: a single word, and one after its name, cannot."""
    for line in text.splitlines():
        if len(line) > WIDTH and max(map(len, line.split())) + 4 < WIDTH - 2:
            yield line


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_table_fits(name: str, digits: Path, tmp_path: Path, edgecnn: Callable[..., Any]) -> None:
    link = tmp_path / "run"
    link.symlink_to(digits)
    done = edgecnn(*COMMANDS[name].format(run=link, here=tmp_path).split())
    assert done.out
    assert list(too_wide(done.out)) == []


def test_a_check_that_did_not_pass_has_its_evidence_and_the_others_a_count(
    digits: Path, tmp_path: Path, edgecnn: Callable[..., Any]
) -> None:
    recipe = tmp_path / "strict.toml"
    assert edgecnn("recipe", "copy", "lenet5-digits", recipe, "--set", "tolerances.size_mb_max=0.1").code == 0
    done = edgecnn("gate", digits, "--recipe", recipe)
    lines = done.out.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("FAIL  "))
    assert re.fullmatch(r"FAIL  fp\d\d size_mb_max, limit 0.1", lines[at])
    assert re.fullmatch(r"  size 0.\d+ MB", lines[at + 1])
    assert not any(line.startswith("PASS") for line in lines)
    assert re.search(r"^\d+ checks passed$", done.out, re.MULTILINE)
    assert " x pytorch [95 %]" in done.out
    assert "ratio" not in done.out
    assert "-o report.html" in done.err


def test_a_table_is_broken_at_words_and_underscores_then_split_then_stacked() -> None:
    assert table_lines(["a", "b"], [["1", "22"], ["2", "-"]]) == ["a   b", "1  22", "2   -"]
    text = " ".join(["word"] * 30)
    broken = table_lines(["name", "latency_ms", "why"], [["x", "1", text], ["y", "2", "short"]])
    assert max(map(len, broken)) <= WIDTH
    assert sum(line.count("word") for line in broken) == 30
    header = [f"column_{k}" for k in range(30)]
    split = table_lines(header, [["r1"] + ["123456"] * 29, ["r2"] + ["123456"] * 29])
    assert max(map(len, split)) <= WIDTH
    assert "\n".join(split).count("123456") == 58
    assert sum(line.startswith("r1") for line in split) == split.count("") + 1
    path = "/" + "p" * 100
    assert table_lines(["step", "output"], [["gate", path]]) == ["step    gate", "output", f"  {path}"]
    assert fact_lines({"sha256": "f" * 64}, " " * 12)[1].strip() == "f" * 64
    assert wrap(f"{text} {path}")[-1].strip() == path


@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_verdicts_alone_are_colored_on_a_terminal_alone(
    terminal: bool,
    environment: dict[str, str],
    colored: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    print_verdicts(["  FAIL size", "r on cpu: PASS", "12 checks PASS in words", "INCONCLUSIVE  x", "FAIL words"])
    shown = capsys.readouterr().out
    colors = {"FAIL": 31, "PASS": 32, "INCONCLUSIVE": 33}
    assert re.findall(r"\x1b\[(\d+)m(\w+)\x1b\[0m", shown) == [(str(c), v) for v, c in colors.items() if colored]
    assert ("\x1b" in shown) == colored


def test_a_sentence_beside_the_result_is_broken_on_a_terminal_and_whole_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "word " * 30
    say(text)
    assert capsys.readouterr().err == f"{text}\n"
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    say(f"     {text}")
    drawn = capsys.readouterr().err
    assert drawn.startswith("\r\033[K     word"), "in place of a count that was drawn"
    assert max(map(len, drawn.removeprefix("\r\033[K").splitlines())) <= WIDTH


def test_missing_weights_are_said_before_torch_is_imported(tmp_path: Path, root: Path) -> None:
    code = (
        "import sys, urllib.error, edgecnn.pytorch.download as d\n"
        "def refuse(*a): raise urllib.error.URLError('offline')\n"
        "d._opened = refuse\n"
        "from edgecnn.recipe.load import load_recipe\n"
        "from edgecnn.steps.train import take_weights\n"
        "from edgecnn.errors import ModelError\n"
        "from pathlib import Path\n"
        "try: take_weights(load_recipe('mobilenet_v2-orin'), Path('m.safetensors'))\n"
        "except ModelError as exc: print(exc.hint, 'torch' in sys.modules)\n"
    )
    environment = {**os.environ, "EDGECNN_CACHE": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "model.weights = PATH" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
