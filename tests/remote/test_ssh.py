"""What is said where ssh fails, and what the agent keeps whole: by an `ssh` that is a script."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecnn.cli import main
from edgecnn.errors import EdgecnnError, RefusedError, RemoteError
from edgecnn.remote import job as jobs
from edgecnn.remote.host import folder_name, require_host, require_hosts
from edgecnn.remote.job import Finished, Job, Made, Piece, fetch, run_job, whole_file
from edgecnn.remote.lanes import in_lanes
from edgecnn.remote.setup import require_set_up, send
from edgecnn.remote.ssh import OPTIONS, Connection
from edgecnn.remote.ssh_errors import SET_UP
from tests.fakes.fake_ssh import fake_ssh, ssh_here

HOSTILE = (
    "-oProxyCommand=touch owned", "-oProxyCommand", "--", "-", "me@-oProxyCommand=x", "a b", "a;touch owned", "a`id`",
    "$(touch owned)", "a\nb", "a\x1b[2J", "a'b", 'a"b', "a|b", "../a", "ssh://-oProxyCommand=x", "ssh://a/b", "",
    "a" * 300,     "a\\b", "a&b", "@a", "ssh://me@a:port",
)  # fmt: skip
GOOD = (
    "jetson", "me@jetson", "10.0.0.7", "fe80::1%eth0", "me@board.example.org", "ssh://me@board:2222",
    "ssh://[fe80::1%eth0]:22", "lab_board-2", "büro",
)  # fmt: skip
# Each as OpenSSH 9.2 says it, names changed.
CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
The fingerprint for the ED25519 key sent by the remote host is
SHA256:0123456789abcdef.
Please contact your system administrator.
Add correct host key in /u/.ssh/known_hosts to get rid of this message.
Offending ED25519 key in /u/.ssh/known_hosts:3
  remove with:
Host key for a has changed and you have requested strict checking.
Host key verification failed.
"""
RECORDED = (
    (CHANGED, 255, "its host key is not the one of before (/u/.ssh/known_hosts:3)", "ssh-keygen -R a"),
    ("Host key verification failed.\n", 255, "its host key is not known here", "`ssh a`"),
    ("me@a: Permission denied (publickey,password).\n", 255, "asks for a password", "ssh-copy-id a"),
    ("me@a: Permission denied (publickey,keyboard-interactive).\n", 255, "asks for a password", "ssh-copy-id a"),
    ("me@a: Permission denied (publickey).\n", 255, "takes none of your keys (publickey)", "ssh-add"),
    ("Received disconnect from ::1 port 22:2: Too many authentication failures\n", 255, "too many keys", "Identi"),
    ("ssh: Could not resolve hostname a: Name or service not known\n", 255, "no such host: Name or service", "`ssh a`"),
    ("ssh: connect to host a port 22: Connection refused\n", 255, "cannot be reached: a port 22: Connection ref", "on"),
    ("ssh: connect to host a port 22: No route to host\n", 255, "a port 22: No route to host", "`ssh a`"),
    ("ssh: connect to host a port 22: Connection timed out\n", 255, "a port 22: Connection timed out", "`ssh a`"),
    ("Connection timed out during banner exchange\n", 255, "does not answer", "run the same command again"),
    ("Unable to negotiate with 1.2.3.4 port 22: no matching host key type found. Their offer: ssh-rsa\n", 255,
     "no matching host key type", "`ssh a`"),
    ("/u/.ssh/config: line 2: Bad configuration option: hots\n", 255, "refuses its own configuration", "~/.ssh/config"),
    ("kex_exchange_identification: read: Connection reset by peer\n", 255, "Connection reset by peer", "again"),
    ("", 255, "the connection was lost", "run the same command again"),
    ("sh: 1: /opt/py: not found\n", 127, "/opt/py: sh: 1: /opt/py: not found", "--python"),
    ("bash: /opt/py: Permission denied\n", 126, "/opt/py: bash: /opt/py: Permission denied", "--python"),
    ("AttributeError: 'file' object has no attribute 'buffer'\n", 1, "/opt/py: AttributeError", "--python"),
)  # fmt: skip


@pytest.fixture
def path_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    return lambda folder: monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def here(tmp_path: Path, path_with: Callable[[Path], None]) -> Path:
    """The private folder of a machine that is this one."""
    path_with(ssh_here(tmp_path / "device"))
    return tmp_path / "device" / "home" / ".edgecnn-remote"


def refusal(connection: Connection, name: str, **request: object) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        connection.call(name, request)
    return caught.value


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_hosts_name_is_no_option_and_no_command(
    name: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoteError, match="option|not the name of a host"):
        require_host(name)
    assert main(["remote", "doctor", "--", name]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "device" / "argv").exists(), "ssh was not started"


def test_hosts_are_named_as_for_ssh_and_once() -> None:
    require_hosts(GOOD)
    assert len({folder_name(name) for name in GOOD}) == len(GOOD)
    assert not any("/" in folder_name(name) or folder_name(name) in (".", "..") for name in (*GOOD, ".", ".."))
    with pytest.raises(RemoteError, match="named twice"):
        require_hosts(["a", "b", "a"])


@pytest.mark.parametrize(("said", "code", "message", "hint"), RECORDED, ids=[row[2] for row in RECORDED])
def test_what_ssh_says_becomes_one_error(
    said: str, code: int, message: str, hint: str, tmp_path: Path, path_with: Callable[[Path], None]
) -> None:
    path_with(fake_ssh(tmp_path / "fake", says=said, code=code))
    with Connection("a", "/opt/py") as connection, pytest.raises(RemoteError) as caught:
        connection.hello()
    assert caught.value.message.startswith("a: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "{" not in caught.value.message + caught.value.hint


def test_no_ssh_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RemoteError, match="ssh: cannot be started"), Connection("a") as connection:
        connection.hello()


def test_an_old_python_is_named(tmp_path: Path, path_with: Callable[[Path], None]) -> None:
    path_with(ssh_here(tmp_path / "device"))
    old = tmp_path / "old python"
    old.write_text("#!/bin/sh\necho edgecnn-python 3.8\nexit 86\n")
    old.chmod(0o755)
    with (
        Connection("a", str(old)) as connection,
        pytest.raises(RemoteError, match=r"is Python 3\.8, and 3\.10 or later"),
    ):
        connection.hello()


def test_ssh_is_told_never_to_ask_and_to_use_one_connection(here: Path) -> None:
    with Connection("a", SET_UP) as connection:
        connection.hello()
    told = (here.parents[1] / "argv").read_text().splitlines()
    assert {f"{key}={value}" for key, value in OPTIONS.items()} <= set(told)
    assert told.index("--") > told.index("BatchMode=yes")
    assert told[told.index("--") + 1] == "a"
    [socket] = {Path(word.partition("=")[2]) for word in told if word.startswith("ControlPath=")}
    assert not socket.parent.exists(), "the private folder of the socket is gone"
    assert "exit" in told


@pytest.mark.parametrize("python", ["x; touch owned", "$(touch owned)", "a'; touch owned; '", "~/`touch owned`", "a b"])
def test_an_interpreters_name_is_no_command(
    python: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Connection("a", python) as connection, pytest.raises(RemoteError, match="not found"):
        connection.hello()
    assert not list(tmp_path.rglob("owned"))
    for refused in ("-c", "", "a\nb"):
        with pytest.raises(RemoteError, match="not the path of an interpreter"):
            Connection("a", refused)


def test_files_are_sent_by_their_content_and_once(here: Path, tmp_path: Path) -> None:
    (tmp_path / "$(touch owned)\n;x").write_bytes(b"0123456789")
    [piece] = whole_file(tmp_path / "$(touch owned)\n;x")
    assert piece.path is not None
    files, said = (
        [(piece.sha256, (piece.path, 2, 3)), (hashlib.sha256(b"234").hexdigest(), (piece.path, 2, 3))],
        list[str](),
    )
    with Connection("a", SET_UP) as connection:
        with pytest.raises(RemoteError, match="arrived damaged"):
            send(connection, files[:1], said.append)
        send(connection, files[1:], said.append)
        send(connection, files[1:], said.append)
    assert [path.read_bytes() for path in (here / "store").iterdir()] == [b"234"]
    assert said == ["a: sending 1 of 1 files, 0.0 MB"] * 2
    assert here.stat().st_mode & 0o777 == 0o700


def test_what_did_not_come_whole_is_nothing_and_what_was_left_goes(here: Path) -> None:
    sha256 = hashlib.sha256(b"x" * 100).hexdigest()
    with Connection("a", SET_UP) as connection:
        connection.call("missing", {"files": []})
        (here / "store" / ".part-dead").write_bytes(b"x" * 50)
        assert "in the middle of a file" in cut_off(connection, sha256).message
    assert list((here / "store").iterdir()) == []


def cut_off(connection: Connection, sha256: str) -> RemoteError:
    """The error of a file that was announced with 100 bytes, and of which none came: standard input is closed."""
    with pytest.raises(RemoteError) as caught, connection._started("put", {"files": [(sha256, 100)]}, ()) as answers:
        assert connection._process is not None
        assert connection._process.stdin is not None
        connection._process.stdin.close()
        list(answers)
    return caught.value


def test_a_full_disk_is_told_with_its_figures(tmp_path: Path, path_with: Callable[[Path], None]) -> None:
    path_with(ssh_here(tmp_path / "device", before="ulimit -f 2"))
    (tmp_path / "file").write_bytes(bytes(5000))
    [piece] = whole_file(tmp_path / "file")
    with Connection("a", SET_UP) as connection:
        with pytest.raises(RemoteError, match=r"the disk is full: [\d.]+ MB free") as caught:
            send(connection, [(piece.sha256, (tmp_path / "file", 0, 5000))], print)
        assert "`edgecnn remote clean a`" in caught.value.hint
        error = refusal(connection, "put", files=[("0" * 64, 10**15)])
        assert "the disk is full: 1000000000.0 MB needed" in error.message
    assert list((tmp_path / "device" / "home" / ".edgecnn-remote" / "store").iterdir()) == []


@pytest.fixture
def device(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let `python -m edgecnn` there be this program."""
    package = here / "site" / "fake" / "edgecnn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(jobs, "require_set_up", lambda connection, say: {"setup": {"site": {"fake": []}}})

    def be(program: str) -> None:
        (package / "__main__.py").write_text(program)

    return be


def work(
    connection: Connection, said: list[str], *arguments: str, files: dict[str, list[Piece]] | None = None
) -> Finished:
    connection.hello()
    return run_job(connection, Job("j", arguments, files or {}), said.append)


def test_a_command_has_its_arguments_and_its_words_come_at_once(
    here: Path, device: Callable[[str], None], tmp_path: Path
) -> None:
    device(
        "import sys; print(sys.argv[1:], open('0/a b').read()); sys.stderr.write('x\\n'); open('0/made','w').write('m')"
    )
    hostile, said = ["--x=$(touch owned)", "-oProxyCommand=x", "a'b\n\"", "`touch owned`"], list[str]()
    with Connection("a", SET_UP) as connection:
        done = work(connection, said, *hostile, files={"0/a b": [Piece(content=b"con"), Piece(content=b"tent")]})
        assert (done.code, said) == (0, ["x"])
        assert done.out == f"{hostile!r} content\n"
        [made] = done.files
        fetch(connection, Job("j", (), {}), {made: tmp_path / "back"})
        assert (tmp_path / "back").read_text() == "m"
        (here / "jobs" / "j" / "0" / "made").write_text("n")
        with pytest.raises(RemoteError, match="0/made: arrived damaged, or was changed meanwhile"):
            fetch(connection, Job("j", (), {}), {made: tmp_path / "again"})
    assert not list(tmp_path.rglob("owned"))


def test_a_killed_command_is_told_with_the_memory(device: Callable[[str], None]) -> None:
    device("import os, signal; x = bytearray(40_000_000); os.kill(os.getpid(), signal.SIGKILL)")
    with Connection("a", SET_UP) as connection, pytest.raises(RefusedError) as caught:  # it was the command's fault
        work(connection, [])
    assert "a: 'Killed' (exit code 137; its kernel counts " in caught.value.message
    assert "the process had 0.0" in caught.value.message
    assert "GB were free before it began, swap " in caught.value.message
    assert "--workspace-mb" in caught.value.hint


def test_a_commands_own_error_is_passed_on(device: Callable[[str], None]) -> None:
    said = list[str]()
    device("import sys; sys.stderr.write('one\\nerror: no graph\\nhint: export it\\n'); sys.exit(2)")
    with Connection("a", SET_UP) as connection, pytest.raises(RemoteError) as caught:
        work(connection, said)
    assert (caught.value.message, caught.value.hint, said) == ("a: no graph", "on a: export it", ["one"])
    device("import sys; sys.stderr.write('Traceback\\n'); sys.exit(101)")
    with Connection("a", SET_UP) as connection, pytest.raises(RemoteError, match="a bug of edgecnn's"):
        work(connection, said)


def test_two_at_once(here: Path, device: Callable[[str], None]) -> None:
    device("")
    with (here / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("ann on desk, since noon, process 7")
        lock.flush()
        with (
            Connection("a", SET_UP) as connection,
            pytest.raises(RemoteError, match="a: in use: ann on desk, since noon"),
        ):
            work(connection, [])
        with Connection("a", SET_UP) as connection:
            assert "in use" in refusal(connection, "clean", who="me").message
    with Connection("a", SET_UP) as connection:
        assert work(connection, []).code == 0


def test_a_command_ends_with_its_connection_and_lets_go(here: Path, device: Callable[[str], None]) -> None:
    device("import os, time; print(os.getpid(), file=open('0.pid', 'w', 1)); time.sleep(60)")
    pid, connection = here / "jobs" / "j" / "0.pid", Connection("a", SET_UP)
    errors = list[RemoteError]()

    def drive() -> None:
        with connection:
            try:
                work(connection, [])
            except RemoteError as exc:
                errors.append(exc)

    thread = threading.Thread(target=drive)
    thread.start()
    wait_until(lambda: pid.is_file() and bool(pid.read_text()))
    assert connection._process is not None
    connection._process.kill()
    thread.join()
    assert "the connection was lost while a command ran there; the machine itself answers" in errors[0].message
    assert "goes on with what is missing" in errors[0].hint
    wait_until(lambda: not Path(f"/proc/{int(pid.read_text())}").exists())
    device("")
    with Connection("a", SET_UP) as again:
        assert work(again, []).code == 0


def test_ctrl_c_ends_every_lane_and_clears_away(
    here: Path, device: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device("import os, time; print(os.getpid(), file=open('0.pid', 'w', 1)); time.sleep(60)")
    monkeypatch.setattr("edgecnn.remote.ssh.LONGEST_SOCKET", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pid = here / "jobs" / "j" / "0.pid"

    def interrupt() -> None:
        wait_until(lambda: pid.is_file() and bool(pid.read_text()))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        in_lanes(["a"], lambda connection, say: work(connection, []))
    thread.join()
    assert list(tmp_path.glob(".ssh*")) == []
    wait_until(lambda: not Path(f"/proc/{int(pid.read_text())}").exists())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["started anew", "gone"])
def test_a_machine_that_was_lost(kind: str, here: Path, device: Callable[[str], None]) -> None:
    """Another boot id, or no answer any more."""
    before = here.parents[1] / "before"
    with Connection("a", SET_UP) as connection:
        connection.hello()
        lost = f"echo 'edgecnn-python 3.11'; echo '{'' if kind == 'gone' else '. /dev/null'}' > {before}; exit 255"
        if kind == "gone":
            lost = (
                'echo edgecnn-python 3.11; echo "echo ssh: connect to host a port 22: No route to host >&2; exit 255" '
                f"> {before}; exit 255"
            )
        before.write_text(lost)
        if kind == "started anew":
            connection._boot = "another"
        error = refusal(connection, "run")
    assert (f"was {kind} while a command ran there" if kind != "gone" else "No route to host") in error.message
    assert "goes on with what is missing" in error.hint


def test_a_device_cannot_write_outside_the_folder_of_its_answer(here: Path, device: Callable[[str], None]) -> None:
    for name in ("../x", "/x", "0//x", "0/./x", ""):
        with pytest.raises(RemoteError, match="was to come back"):
            jobs.map_made((name, "0" * 64, 1))
    assert Made(*jobs.map_made(("0/x", "0" * 64, 1))).name == "0/x"


def test_a_folder_of_another_is_left_alone(here: Path, tmp_path: Path) -> None:
    with Connection("a", SET_UP) as connection:
        (here / "README").write_text("mine")
        assert "was not made by edgecnn" in refusal(connection, "clean", who="me").message
    shutil.move(here, tmp_path / "elsewhere")
    here.symlink_to(tmp_path / "elsewhere")
    with Connection("a", SET_UP) as connection:
        assert "is a link, or another user's" in refusal(connection, "missing", files=[]).message


def test_a_machine_that_was_not_set_up_or_is_another_now(
    here: Path, tmp_path: Path, path_with: Callable[[Path], None]
) -> None:
    with Connection("a", SET_UP) as connection:
        with pytest.raises(RemoteError, match="was not set up there") as caught:
            require_set_up(connection, print)
        assert caught.value.hint == "`edgecnn remote setup a`"
        (here / "setup.json").write_text('{"machine": "Python 3.8 on x", "site": {}}')
        with pytest.raises(RemoteError, match=r"was set up for Python 3\.8 on x, and is Python 3\.\d+ on "):
            require_set_up(connection, print)
    (here / "python").unlink()
    with Connection("a", SET_UP) as connection, pytest.raises(RemoteError, match="was not set up there"):
        require_set_up(connection, print)
    (here / "python").write_text("#!/bin/sh\necho /opt/py is gone >&2\nexit 85\n")
    (here / "python").chmod(0o755)
    with Connection("a", SET_UP) as connection, pytest.raises(RemoteError, match="/opt/py is gone"):
        require_set_up(connection, print)


def test_one_lane_stops_no_other(here: Path) -> None:
    def drive(connection: Connection, say: Callable[[str], None]) -> str:
        say("at work")
        if connection.host == "b":
            raise RemoteError("b: lost", "again")
        return connection.host

    said = list[str]()
    lanes = in_lanes(["a", "b", "c"], drive, said.append)
    assert [(lane.host, lane.found) for lane in lanes] == [("a", "a"), ("b", None), ("c", "c")]
    assert isinstance(lanes[1].error, EdgecnnError)
    assert sorted(said) == ["a: at work", "b: at work", "c: at work"]
    with pytest.raises(ZeroDivisionError):
        in_lanes(["a"], lambda connection, say: 1 // 0)


def test_the_agent_imports_nothing_but_the_standard_library(root: Path) -> None:
    """As a device runs it: without this package, and without any other."""
    script = "import sys; b = sys.stdin.buffer.read(); sys.path[:] = [p for p in sys.path if 'packages' not in p]; " + (
        "exec(compile(b, 'a', 'exec'), {'__name__': 'x'}); print([m for m in sys.modules if m[:7] == 'edgecnn'])"
    )
    text = b"\n".join((root / "edgecnn" / "remote" / name).read_bytes() for name in ("agent_folder.py", "agent.py"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], input=text, capture_output=True, check=True, cwd="/"
    )
    assert done.stdout == b"[]\n"
