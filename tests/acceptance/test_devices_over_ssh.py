"""Devices over ssh that are odd, full, broken or hostile: what a user is told, and what is never written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgecnn.cli import main
from tests.fakes.fake_ssh import ssh_here
from tests.fakes.sshd import empty_wheels

NEEDED = ["numpy==9", "pillow==99", "pydantic==9", "typer==9", "rich==99", "tomli==9"]
OURS = ".edgecnn-remote"
Said = tuple[int, str, str]


@dataclass(frozen=True)
class Board:
    """A machine `a`, which is this one: its home, and what its shell does before each command."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def ours(self) -> Path:
        return self.home / OURS

    def login(self, script: str) -> None:
        """Shell that runs before each command."""
        (self.folder / "before").write_text(script)

    def runs(self, program: str) -> None:
        """Let `python -m edgecnn` there be this program."""
        [package] = (self.ours / "site").glob("edgecnn-*/edgecnn")
        (package / "__main__.py").write_text(program)


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a machine that was set up, to be copied."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(ssh_here(folder)), prepend=":")
        shutil.rmtree(folder / "home" / OURS)
        wheels = empty_wheels(folder / "wheels", NEEDED)
        assert main(["remote", "setup", "a", "--python", sys.executable, "--wheels", str(wheels)]) == 0
    return folder / "home"


@pytest.fixture
def board(set_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A machine of this test's own, set up, and the current folder with a graph, an engine and a bystander."""
    folder = tmp_path / "board"
    monkeypatch.setenv("PATH", str(ssh_here(folder)), prepend=":")
    shutil.rmtree(folder / "home")
    shutil.copytree(set_up, folder / "home", symlinks=True)
    here = tmp_path / "here"
    (here / "conf").mkdir(parents=True)
    for name in ("g.onnx", "conftest.py", "conf/x"):
        (here / name).write_text("mine")
    monkeypatch.chdir(here)
    return Board(folder)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err, err
        return code, out, err

    return run


BUILD = ("build", "g.onnx", "--target", "cpu", "-o", "e.onnx", "--on", "a")


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name", ["conftest.py", "g.onnx", ".bashrc", "conf/x", "conf/y", ".git/hooks/pre-commit", "other.onnx"]
)
def test_a_device_can_write_nothing_but_what_the_command_names(name: str, board: Board, call: Any) -> None:
    """Whatever the agent there may be: what it sends under the name of another file is refused."""
    answer = {**GOOD, "files": [[f"0/{name}", hashlib.sha256(b"x").hexdigest(), 1]]}
    before = contents(Path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecnn.remote.ssh.AGENT", (lying(board, answer),))
        code, _, err = call(*BUILD)
    assert code == 2
    assert "error: a: " in err
    assert name in err
    assert contents(Path()) == before


def lying(board: Board, answer: Any) -> Path:
    """An agent that answers "run" with this."""
    from edgecnn.remote.ssh import AGENT

    text = "\n".join(path.read_text() for path in AGENT)
    own = board.folder / "agent.py"
    lie = f"""
def run(request):
    return {answer!r}


def get(request):
    answer(stream=True)
    sys.stdout.buffer.write(b"x" * len(request["files"]))


if __name__ =="""
    own.write_text(text.replace("\nif __name__ ==", lie))
    return own


GOOD: dict[str, Any] = {
    "code": 0, "out": "{}", "memory_before": {}, "memory": {}, "peak_bytes": 1, "files": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [[], 5, {}, {**GOOD, "code": "x"}, {**GOOD, "files": [["0/e.onnx"]]}, {**GOOD, "files": [["0/e.onnx", "0", "x"]]},
     {**GOOD, "files": [["0/e.onnx", "0" * 64, -1]]}, {**GOOD, "files": 3},
     {**GOOD, "files": [["0/e." + "x" * 300, "0" * 64, 1]]}],
)  # fmt: skip
def test_an_answer_that_is_none_is_an_error_of_that_host(answer: Any, board: Board, call: Any) -> None:
    before = contents(Path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecnn.remote.ssh.AGENT", (lying(board, answer),))
        code, out, err = call(*BUILD, "--json")
    assert (code, out) == (2, "")
    assert "error: a: " in err
    assert "hint: " in err
    assert contents(Path()) == before


def test_shells_that_say_something_or_are_others(board: Board, call: Any) -> None:
    """Words without an end of line, and the C shell's exit code for a command that is not there."""
    board.runs("open('0/e.onnx', 'w').write('e'); print('{}')")
    board.login("printf 'Welcome to L4T'; echo 'disk 90 % full' >&2")
    assert call(*BUILD)[0] == 0
    assert Path("e.onnx").read_text() == "e"
    board.login("echo '~/.edgecnn-remote/python: Command not found.' >&2; exit 1")
    code, _, err = call(*BUILD)
    assert code == 2
    assert "error: a: edgecnn was not set up there\nhint: `edgecnn remote setup a`\n" in err


def test_a_setup_that_is_broken_there_is_told_and_can_be_cleaned(board: Board, call: Any) -> None:
    for text in ("[]", "{", '{"site": {}}', '{"machine": 3, "site": []}', ""):
        (board.ours / "setup.json").write_text(text)
        code, _, err = call(*BUILD)
        assert code == 2, text
        assert "error: a: edgecnn was not set up there\nhint: `edgecnn remote setup a`\n" in err, (text, err)
        assert call("remote", "doctor", "a", "--json")[0] == 0
    (board.ours / "python").write_text("#!/bin/sh\necho /opt/py is gone >&2\nexit 85\n")
    assert call("remote", "clean", "a")[0] == 0
    assert not board.ours.exists()


def test_packages_that_another_has_replaced_meanwhile_are_no_verdict(board: Board, call: Any) -> None:
    """`python -m edgecnn` without edgecnn ends with 1, as a gate that failed does."""
    from edgecnn.remote import setup

    def replaced(connection: Any, say: Any, original: Any = setup.require_set_up) -> Any:
        facts = original(connection, say)
        shutil.rmtree(board.ours / "site")
        return facts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecnn.remote.job.require_set_up", replaced)
        code, _, err = call(*BUILD)
    assert code == 2
    assert "error: a: " in err
    assert "run the same command again" in err


def test_a_folder_that_was_begun_or_is_anothers(board: Board, call: Any) -> None:
    shutil.rmtree(board.ours)
    board.ours.mkdir()
    (board.ours / "mine").write_text("stays")
    arguments = ("remote", "setup", "a", "--python", sys.executable, "--wheels", board.folder / "wheels")
    empty_wheels(board.folder / "wheels", NEEDED)
    code, _, err = call(*arguments)
    assert (code, "was not made by edgecnn" in err) == (2, True), err
    assert [p.name for p in board.ours.iterdir()] == ["mine"]
    (board.ours / "mine").unlink()  # as where the first setup was cut off before it said what the folder is
    assert call(*arguments)[0] == 0
    assert call("remote", "clean", "a")[0] == 0
    assert not board.ours.exists()


def test_a_clean_that_was_cut_off_can_be_done_again(board: Board, call: Any) -> None:
    left = board.ours / "store" / "left"
    left.mkdir()
    (left / "x").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        text = '\nimport shutil as s\ndef cut(path, *a, **k):\n    raise OSError(5, "Input/output error", str(path))\n'
        agent = board.folder / "cut.py"
        agent.write_text(lying(board, {}).read_text().replace("\nif __name__", text + "s.rmtree = cut\n\nif __name__"))
        patch.setattr("edgecnn.remote.ssh.AGENT", (agent,))
        assert call("remote", "clean", "a")[0] == 2
    assert (board.ours / "README").is_file()
    assert call("remote", "clean", "a")[0] == 0
    assert not board.ours.exists()


def test_homes_that_are_links_full_or_read_only(board: Board, call: Any, tmp_path: Path) -> None:
    board.runs("open('0/e.onnx', 'w').write('e'); print('{}')")
    board.home.rename(tmp_path / "disk")
    board.home.symlink_to(tmp_path / "disk")
    assert call(*BUILD)[0] == 0
    Path("g.onnx").write_bytes(os.urandom(200_000))
    board.login("ulimit -f 100")  # a file of more than 51 200 bytes is refused
    code, _, err = call(*BUILD)
    assert (code, "the disk is full" in err) == (2, True), err
    assert not list(board.home.rglob(".part-*"))
    board.login("")
    board.runs("open('0/e.onnx', 'w').write('f'); print('{}')")
    assert call(*BUILD)[0] == 0
    assert Path("e.onnx").read_text() == "f"


def test_an_account_without_a_name(board: Board, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as `--user 1234`: nobody is called so, here or there."""
    import getpass

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    board.runs("open('0/e.onnx', 'w').write('e'); print('{}')")
    monkeypatch.setattr(getpass, "getuser", nobody)
    code, _, err = call(*BUILD)
    assert code == 0, err


def test_what_broke_there_is_not_told_as_a_lost_connection(board: Board, call: Any) -> None:
    """The agent's own failure, a package of its Python's say."""
    agent = board.folder / "broken.py"
    text = lying(board, GOOD).read_text()
    agent.write_text(
        text.replace("\nif __name__ ==", "\ndef run(request):\n    raise KeyError('x')\n\n\nif __name__ ==")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecnn.remote.ssh.AGENT", (agent,))
        code, _, err = call(*BUILD)
    assert code == 2
    assert "connection was lost" not in err
    assert "KeyError" in err


def test_a_process_that_is_killed_leaves_nothing_and_the_next_one_ends_it(
    board: Board, call: Any, tmp_path: Path
) -> None:
    """kill -9 here: what ran there ends, and the same command again is done."""
    board.runs("import os, time; print(os.getpid(), file=open('0/.pid', 'w', 1)); time.sleep(60)")
    own = tmp_path / "tmp"
    own.mkdir()
    environment = {**os.environ, "TMPDIR": str(own), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-m", "edgecnn", *BUILD], env=environment)
    pid = until(lambda: next(iter(p.read_text() for p in board.ours.rglob(".pid") if p.read_text()), ""))
    process.kill()
    process.wait()
    until(lambda: not Path(f"/proc/{int(pid)}").exists())
    until(lambda: subprocess.run(["flock", "-n", board.ours / "lock", "true"], check=False).returncode == 0)
    assert sorted(contents(Path())) == ["conf/x", "conftest.py", "g.onnx"]
    board.runs("open('0/e.onnx', 'w').write('e'); print('{}')")
    code, _, err = call(*BUILD)
    assert code == 0, err
    assert not list(Path().glob(".*"))


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_json_of_several_hosts_when_all_fail(board: Board, call: Any) -> None:
    board.runs(
        "import sys, time; time.sleep(0.1); sys.stderr.write('error: no graph\\nhint: export it\\n'); sys.exit(2)"
    )
    code, out, err = call(*BUILD, "--on", "b", "--json")
    assert code == 2
    found = json.loads(out)
    assert [row["host"] for row in found] == ["a", "b"]
    assert all(row["exit_code"] == 2 and row["error"] and row["hint"] for row in found)
    assert err.count("error: ") == 2


@pytest.mark.parametrize(
    "host", ["me@-oX=y", "ssh://", "a b", "a\nb", "a\x00b", "x" * 400, "-oProxyCommand=touch owned", "a%h"]
)
def test_hosts_that_are_none(host: str, board: Board, call: Any) -> None:
    for command in (BUILD[:-1], ("remote", "setup"), ("remote", "doctor"), ("remote", "clean")):
        code, _, err = call(*command, "--", host) if command[0] == "remote" else call(*command[:-1], f"--on={host}")
        assert code == 2, command
        assert "is ssh" not in err
        assert "hint: name it as for ssh" in err, err
    assert not Path("owned").exists()
    assert not (board.folder / "argv").exists()
