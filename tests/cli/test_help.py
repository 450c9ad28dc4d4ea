"""Help is cheap and complete; mistakes on the command line are two lines."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgecnn.cli.app import ORDER, EachOnce, application

pytestmark = pytest.mark.torch

HEAVY = ("numpy", "PIL", "torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "sklearn", "tensorrt")


def walk(command: Any, path: list[str]) -> Iterator[tuple[list[str], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*path, name])


def commands() -> list[tuple[list[str], Any]]:
    """The words of each command, and the command."""
    return [*walk(typer.main.get_command(application()), [])]


@pytest.mark.parametrize("name", ["calibrate", "recipe"])
def test_one_command_alone_says_what_it_says_among_the_others(name: str) -> None:
    alone, among = (typer.main.get_command(application(first)) for first in (name, ""))
    assert list(alone.commands) == [name]  # type: ignore[attr-defined]
    texts = []
    for command in (alone, among):
        context = command.make_context("edgecnn", [name], resilient_parsing=True)
        inner = command.commands[name]  # type: ignore[attr-defined]
        texts.append(inner.get_help(inner.make_context(name, [], parent=context, resilient_parsing=True)))
    assert texts[0] == texts[1]
    assert "Usage: edgecnn" in texts[0]
    assert len(typer.main.get_command(application("no-such-command")).commands) == len(ORDER)  # type: ignore[attr-defined]


def test_help_imports_nothing_heavy_and_covers_every_command() -> None:
    script = (
        "import sys, json, io, contextlib\n"
        "from edgecnn.cli import main\n"
        "paths = json.loads(sys.argv[1])\n"
        "texts = []\n"
        "for path in paths:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        assert main([*path, '--help']) == 0\n"
        "    texts.append(out.getvalue())\n"
        f"print(json.dumps([[m for m in {HEAVY!r} if m in sys.modules], texts]))\n"
    )
    paths = [path for path, _ in commands()]
    assert len(paths) > 4
    done = subprocess.run([sys.executable, "-c", script, json.dumps(paths)], capture_output=True, text=True, check=True)
    heavy, texts = json.loads(done.stdout)
    assert heavy == []
    for path, text in zip(paths, texts, strict=True):
        assert "Usage: edgecnn" in text, path
        assert len(text.splitlines()) > 4, path


def test_what_checks_files_is_imported_when_one_is_read() -> None:
    """Help and the defaults of the settings do without pydantic; a recipe does not."""
    script = (
        "import sys\n"
        "from edgecnn.cli import main\n"
        "import edgecnn.recipe.schema, edgecnn.recipe.load, edgecnn.zoo, edgecnn.targets\n"
        "assert main(['--help']) == 0\n"
        "before = 'pydantic' in sys.modules\n"
        "edgecnn.zoo.cards()\n"
        "print(before, 'pydantic' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["False", "True"]


def test_a_process_that_ends_looks_for_no_garbage() -> None:
    script = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(len(gc.get_objects()), gc.get_freeze_count()))  # the last to be called\n"
        "from edgecnn.cli import main\n"
        "arguments = sys.argv[2:] if sys.argv[1] == 'another' else None\n"
        "sys.argv[1:] = sys.argv[2:]\n"
        "main(arguments)\n"
    )
    for process in ("own", "another"):
        command = [sys.executable, "-c", script, process, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        looked_at, left_out = map(int, done.stdout.split()[-2:])
        if process == "own":
            assert looked_at < 100 < 10_000 < left_out
        else:
            assert left_out == 0 < looked_at, "a program that calls it keeps its own collector"


def test_calibrate_loads_no_recipe_and_looks_for_no_garbage_among_what_it_loads(tmp_path: Path) -> None:
    script = (
        "import functools, gc, sys\n"
        "import edgecnn.cli.calibrate as module\n"
        "command, runs, thresholds = module.calibrate, [], gc.get_threshold()\n"
        "@functools.wraps(command)\n"
        "def and_load(**given):\n"
        "    try:\n"
        "        return command(**given)\n"
        "    finally:\n"
        "        import edgecnn.graph.calibration.collect\n"
        "        runs.append(len(runs) - before)\n"
        "module.calibrate = and_load\n"
        "gc.callbacks.append(lambda phase, info: runs.append(phase))\n"
        "from edgecnn.cli import main\n"
        "before = len(runs)\n"
        "code = main(['calibrate', 'none.onnx', '--data', 'none', '-o', 'x.calib.json'])\n"
        "loaded = {'edgecnn.recipe.schema', 'edgecnn.results.accuracy', 'typer', 'onnx'}\n"
        "loaded |= {'edgecnn.session', 'edgecnn.zoo', 'edgecnn.quantization', 'edgecnn.data.leakage'}\n"
        "loaded &= set(sys.modules)\n"
        "counted = [run for run in runs if isinstance(run, int)]\n"
        "print(code, *counted, gc.isenabled(), gc.get_threshold() == thresholds, *sorted(loaded))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["2", "0", "True", "True", "onnx", "typer"]


def test_help_costs_little(root: Path, tmp_path: Path) -> None:
    """At most three times the processor time of importing Typer and what it draws with, each at its best of five: 0.3 s
    where that takes 0.1. With bytecode, which what is installed has."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}

    def cost(*words: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=True, cwd=root, env=env)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(cost("-m", "edgecnn", "--help"), cost("-c", "import typer, rich.table, rich.panel")) for _ in range(6)]
    assert min(ours for ours, _ in rounds[1:]) <= 3 * min(libraries for _, libraries in rounds[1:]), rounds


def test_the_list_of_commands_is_that_of_the_flow_in_whole_phrases(edgecnn: Callable[..., Any]) -> None:
    lines = edgecnn("--help").out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == list(ORDER)
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_every_option_says_what_it_does() -> None:
    """More than one word, and a sentence of its own."""
    found = {
        (" ".join(path), parameter.name): parameter.help
        for path, command in commands()
        for parameter in command.params
        if parameter.name not in ("help", "install_completion", "show_completion")
    }
    assert len(found) > 80
    assert {key: text for key, text in found.items() if not text or len(text.split()) < 2 or text[0].islower()} == {}


def test_the_steps_that_a_run_may_stop_after_are_all() -> None:
    from typing import get_args

    from edgecnn.steps import STEPS, StepName

    assert get_args(StepName) == STEPS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("edgecnn run lenet5-", {"lenet5-digits", "lenet5-mnist"}),
        ("edgecnn train lenet5-d", {"lenet5-digits"}),
        ("edgecnn gate lenet5-d", {"lenet5-digits"}),
        ("edgecnn recipe show lenet5-d", {"lenet5-digits"}),
        ("edgecnn export mobilenet_v2", {"mobilenet_v2"}),
        ("edgecnn summary lene", {"lenet5"}),
        ("edgecnn build m.onnx --target agx-", {"agx-orin"}),
        ("edgecnn models --family lene", {"lenet"}),
        ("edgecnn run lenet5-digits --until qu", {"quantize"}),
        ("edgecnn validate m.onnx --tta t", {"ten-crop"}),
        ("edgecnn qua", {"quantize"}),
    ],
)
def test_a_shell_completes_names(line: str, expected: set[str], root: Path) -> None:
    words = line.split(" ")
    environment = {
        **os.environ,
        "_EDGECNN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr))\n"
        "from edgecnn.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=root)
    assert done.stderr == "[]\n", "nothing heavy is imported, nothing is said"
    found = set(done.stdout.split())
    assert expected <= found
    assert all(name.startswith(words[-1]) for name in found)


def test_completion_is_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "edgecnn", "--install-completion", "bash"],
        env={**environment, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "_EDGECNN_COMPLETE" in (tmp_path / ".bash_completions" / "edgecnn.sh").read_text()


@pytest.mark.parametrize("arguments", [["modells"], ["models", "--famly", "x"], ["inspect"]])
def test_mistakes_are_two_lines(edgecnn: Callable[..., Any], arguments: list[str]) -> None:
    edgecnn(*arguments).refused()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bench", "--engine", "a.onnx", "--engine", "b.onnx"], "--engine"),
        (["bench", "--engine", "a.onnx", "--transfers", "--no-transfers"], "--transfers/--no-transfers"),
        (["quantize", "g.onnx", "--precision", "int8", "-o", "a.onnx", "--output=b.onnx"], "--output/-o"),
        (["remote", "setup", "host", "--python", "a", "--python", "b"], "--python"),
    ],
)
def test_a_second_value_is_refused_where_one_is_taken(
    edgecnn: Callable[..., Any], arguments: list[str], named: str
) -> None:
    assert f"error: {named}: given more than once\n" in edgecnn(*arguments).refused()
    assert edgecnn(*arguments, "--help").code == 0


@pytest.mark.parametrize("words", ["bench --engine", "recipe copy --set", "validate --no-such-option 3"])
def test_a_wrong_option_leads_to_the_help_of_its_command(words: str, edgecnn: Callable[..., Any]) -> None:
    command = words.partition(" --")[0]
    assert f"hint: `edgecnn {command} --help` shows what is allowed\n" in edgecnn(*words.split()).refused()


def test_what_is_repeatable_and_a_flag_may_be_given_again(edgecnn: Callable[..., Any], tmp_path: Path) -> None:
    settings = ["--set", "train.epochs=3", "--set", "train.seed=7"]
    found = edgecnn("run", "lenet5-digits", *settings, "--out", tmp_path / "run", "--dry-run", "--dry-run", "--json")
    assert found.code == 0, found.err
    for path, command in commands():
        assert hasattr(command, "commands") or isinstance(command, EachOnce), path


def test_a_choice_that_is_none_is_told_with_the_choices(edgecnn: Callable[..., Any]) -> None:
    said = edgecnn("quantize", "m.onnx", "-o", "q.onnx", "--precision", "int9").refused()
    assert said.startswith("error: Invalid value for '--precision': 'int9' is not one of 'fp16', 'int8'.")


def test_version(edgecnn: Callable[..., Any]) -> None:
    import edgecnn as package

    result = edgecnn("--version")
    assert (result.code, result.out) == (0, f"edgecnn {package.__version__}\n")


def test_a_bug_is_exit_code_101_with_its_traceback(
    edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecnn.zoo.cards", lambda: 1 / 0)
    result = edgecnn("models")
    assert result.code == 101
    assert "ZeroDivisionError" in result.err


def test_an_interrupt_is_exit_code_130(edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgecnn.zoo.cards", interrupted)
    assert edgecnn("models").code == 130
