"""Documents run: every `sh` and `python` block of the README and of docs/, but those marked `<!-- not run: why -->`,
and every example in a command's help, but those marked `# needs what`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from edgecnn.cli.app import application

if TYPE_CHECKING:  # imported before the first test of this file
    import torch  # noqa: F401 - which most commands load

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```{language}\n(?P<body>.*?)^```$"


def blocks(path: Path, language: str = "sh") -> list[str]:
    found = re.finditer(BLOCK.format(language=language), path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [m["body"] for m in found if not m["mark"]]


def untold_blocks(text: str) -> list[str]:
    """Blocks of commands that neither run nor say why not: in another language than `sh`, or indented."""
    fenced = re.findall(r"^```(?:bash|shell|console|zsh)\n.*$", text, re.MULTILINE)
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return fenced + re.findall(
        r"^ {4}(?:\$ |[A-Z_]+=|(?:edgecnn|python3?|pip|make|git|torchrun|sudo) ).*$", outside, re.MULTILINE
    )


def test_every_block_of_commands_runs_or_says_why_not() -> None:
    assert [line for path in DOCUMENTS for line in untold_blocks(path.read_text(encoding="utf-8"))] == []
    text = (
        "```console\nedgecnn a\n```\n\n    edgecnn b\n    A=1 python c\n\n```sh\nedgecnn d\n    git e\n```\n    no: f\n"
    )
    assert untold_blocks(text) == ["```console\nedgecnn a", "    edgecnn b", "    A=1 python c"]


@pytest.fixture
def scratch(digits: Path, tmp_path: Path) -> Path:
    """A folder to run examples in: that of a checkout where `lenet5-digits` was run."""
    shutil.copytree(digits, tmp_path / "runs" / "lenet5-digits")
    for name in ("calibration", "recipes", "benchmarks", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_readme_has_blocks_that_run() -> None:
    assert len(blocks(ROOT / "README.md")) >= 2


def allowed_codes(body: str) -> set[int]:
    """0, and what a comment in the block names as `exit code N`."""
    return {0, *(int(code) for code in re.findall(r"#.*\bexit code (\d+)\b", body))}


SHELL = r"[|&;<>$`*?(){}~\\]"
HEREDOC = r"^(?:cat > [\w.-]+|python -) <<'(?P<end>\w+)'\n(?:.*\n)*?(?P=end)\n"
FILES = rf"{HEREDOC}|^(?:python|cp|mkdir)(?: [\w./-]+)+\n|^echo '[^']*' > [\w.-]+\n"  # they leave but files behind


def parts(body: str) -> list[str | list[str]]:
    """A block as calls of `edgecnn`, each the list of its arguments, and between them text for a shell; all of it for a
    shell where its lines may hang together otherwise than by files."""
    found: list[str | list[str]] = []
    joined = body.replace("\\\n", " ") if "<<" not in body else body
    while joined:
        if alone := re.match(FILES, joined):
            found.append(alone[0])
            joined = joined[alone.end() :]
            continue
        line, _, joined = joined.partition("\n")
        call = shlex.split(line, comments=True)
        if call and (call[0] != "edgecnn" or re.search(SHELL, "".join(call))):
            return [body]
        found += [call[1:]] if call else []
    return found


def test_what_needs_no_shell() -> None:
    body = "edgecnn a --set 'b=[\"c\"]'  # a; comment\n\nedgecnn d \\\n  -o e\n"
    assert parts(body) == [["a", "--set", 'b=["c"]'], ["d", "-o", "e"]]
    for shell in ("edgecnn a | head", "edgecnn a > b", "edgecnn $A", "cd a\nedgecnn b", "A=1 edgecnn b", "edgecnn a*"):
        assert parts(shell) == [shell]
    text = "cat > a.py <<'END'\nedgecnn = 'b'\n\nEND\n"
    assert parts(f"{text}python a.py\nedgecnn c\n") == [text, "python a.py\n", ["c"]]
    assert parts("echo '{}' > a.json\nedgecnn b a.json\n") == ["echo '{}' > a.json\n", ["b", "a.json"]]
    assert parts(f"{text}edgecnn c | head\n") == [f"{text}edgecnn c | head\n"]


@pytest.mark.cpu_s(45)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [p for p in DOCUMENTS if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks(path: Path, scratch: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shell; what needs none, in this process, which has the imports behind it."""
    (scratch / "bin").mkdir()
    for name, arguments in (("python", ""), ("edgecnn", "-m edgecnn ")):
        command = scratch / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    monkeypatch.chdir(scratch)
    before = set(scratch.iterdir())
    for body in blocks(path):
        for part in parts(body):
            if isinstance(part, list):
                found = edgecnn(*part)
                assert found.code in allowed_codes(body), f"{part}\n{found.out}\n{found.err}"
                continue
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", part], cwd=scratch, env=environment, capture_output=True, text=True
            )
            assert done.returncode in allowed_codes(body), f"{part}\n{done.stdout}\n{done.stderr}"
    if path.name == "README.md":
        left = {f"{made.name}/" for made in set(scratch.iterdir()) - before}
        assert left <= set((ROOT / ".gitignore").read_text().split()), "a checkout stays clean"


def test_python_blocks(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document's are one program."""
    documents = [p for p in DOCUMENTS if blocks(p, "python")]
    assert ROOT / "docs" / "python-api.md" in documents
    monkeypatch.chdir(scratch)
    for path in documents:
        program = "\n".join(blocks(path, "python"))
        exec(compile(program, str(path), "exec"), {"__name__": "__main__"})  # noqa: S102 - our own


def examples() -> dict[str, list[str]]:
    """Every command's examples, by its name."""

    def walk(command: Any, path: str) -> Iterator[tuple[str, list[str]]]:
        inner = getattr(command, "commands", {})
        for name, one in inner.items():
            yield from walk(one, f"{path} {name}".strip())
        if path:
            yield path, [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]

    return dict(walk(typer.main.get_command(application()), ""))


def test_every_command_has_an_example_of_itself() -> None:
    for name, lines in examples().items():
        assert lines, name
        for line in lines:
            assert line.startswith(f"edgecnn {name} ") or line == f"edgecnn {name}", line
            assert len(line) < 120, line


def runnable(lines: list[str]) -> list[str]:
    return [line for line in lines if "  # needs " not in line]


@pytest.mark.cpu_s(20)
@pytest.mark.parametrize("name", [name for name, lines in examples().items() if runnable(lines)])
def test_examples(name: str, scratch: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    for line in runnable(examples()[name]):
        done = edgecnn(*shlex.split(line)[1:])
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"


def test_an_example_that_is_marked_cannot_run_here(
    scratch: Path, edgecnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that no checkout has, or a GPU: the mark hides no example that could be run. Those of the network are left
    alone."""
    monkeypatch.chdir(scratch)
    marked = [line for lines in examples().values() for line in lines if "  # needs " in line]
    offline = [line for line in marked if "network" not in line]
    assert len(offline) > 4
    for line in offline:
        edgecnn(*shlex.split(line, comments=True)[1:]).refused()
