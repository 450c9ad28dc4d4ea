"""Who made a run is proven by a signature, wherever the files lie: on another board, in a container, under another
name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgecnn.artifact import signature
from edgecnn.artifact.sidecar import Sidecar, read_json
from edgecnn.artifact.write import write_json_artifact

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = [
    pytest.mark.torch,
    pytest.mark.sshd,  # EDGECNN_REQUIRE_SSHD=1 insists on OpenSSH
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH's ssh-keygen is not installed"),
]

Command = Callable[..., "Result"]


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def allow(path: Path, **keys: Path) -> Path:
    """A file of allowed signers: who, and by which key."""
    lines = [f"{who}@factory {key.with_suffix('.pub').read_text().strip()}\n" for who, key in keys.items()]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "eve"):
        make_key(folder / name)
    allow(folder / "allowed", ada=folder / "ada")
    return folder


@pytest.fixture
def board(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run: graph, reference, engine in a target's folder, its accuracy; nobody has allowed signers at home."""
    from tests.acceptance.channel_pictures import RED, call, class_model, import_model, level, save_color

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("EDGECNN_ALLOWED_SIGNERS", "EDGECNN_REQUIRE_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    for k in range(4):
        save_color(tmp_path / "images" / "test" / f"c{k}" / "0.png", (level(k, 4), 0, 0))
    graph = import_model(capfd, class_model(4, RED), tmp_path / "red.onnx", [f"c{k}" for k in range(4)])
    run = tmp_path / "run"
    (run / "cpu").mkdir(parents=True)
    for name in ("red.onnx", "red.onnx.json"):
        shutil.copy(graph.with_name(name), run / name)
    data = ("--data", tmp_path / "images", "--threads", "1")
    for command in (
        ("reference", run / "red.onnx", "-o", run / "reference.npz", *data),
        ("build", run / "red.onnx", "-o", run / "cpu" / "e.onnx", "--threads", "1"),
        (
            "validate",
            run / "cpu" / "e.onnx",
            "--reference",
            run / "reference.npz",
            "-o",
            run / "cpu" / "a.accuracy.json",
        )
        + data,
    ):
        result = call(capfd, *command)
        assert result.code == 0, result.said
    return run


def validate(edgecnn: Command, run: Path, *more: object) -> Result:
    engine, data = run / "cpu" / "e.onnx", run.parent / "images"
    return edgecnn("validate", engine, "--reference", run / "reference.npz", "--data", data, "--threads", "1", *more)


def test_a_signed_run_is_verified_on_the_second_board(
    edgecnn: Command, board: Path, keys: Path, tmp_path: Path
) -> None:
    """Other place, other owner's folder, other moment, nothing writable: the signature is the proof."""
    signed = edgecnn("sign", board, "--key", keys / "ada", "--json")
    assert signed.code == 0, signed.said
    assert len(json.loads(signed.out)["signed"]) == 4
    second = tmp_path / "second" / "somewhere else"
    shutil.copytree(board, second / "run", copy_function=shutil.copyfile)
    shutil.copytree(tmp_path / "images", second / "images")
    shutil.rmtree(board)
    for path in [second / "run", *(second / "run").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        allowed = ("--allowed-signers", keys / "allowed")
        found = edgecnn("verify", second / "run", *allowed, "--json")
        assert found.code == 0, found.said
        rows = json.loads(found.out)["artifacts"]
        assert [row["signed_by"] for row in rows] == ["ada@factory"] * 4
        done = validate(edgecnn, second / "run", "--require-signature", *allowed)
        assert done.code == 0, done.said
    finally:
        for path in [second / "run", *(second / "run").rglob("*")]:
            path.chmod(0o755)


def test_it_can_be_checked_without_edgecnn(edgecnn: Command, board: Path, keys: Path) -> None:
    assert edgecnn("sign", board / "cpu" / "e.onnx", "--key", keys / "ada").code == 0
    line = f"ssh-keygen -Y verify -f {keys}/allowed -I ada@factory -n edgecnn -s e.onnx.json.sig < e.onnx.json"
    subprocess.run(line, shell=True, cwd=board / "cpu", check=True, capture_output=True)


@pytest.mark.parametrize("changed", ["red.onnx", "cpu/e.onnx.json", "cpu/a.accuracy.json", "reference.npz"])
def test_whatever_is_changed_is_named(edgecnn: Command, board: Path, keys: Path, changed: str) -> None:
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    path = board / changed
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b'"created": "2', b'"created": "3') if changed.endswith("json") else content + b"\0"
    )
    assert path.read_bytes() != content
    edgecnn("verify", board, "--allowed-signers", keys / "allowed").refused(Path(changed).name)


def test_one_more_and_one_from_elsewhere_are_named(edgecnn: Command, board: Path, keys: Path) -> None:
    """An artifact that nobody signed; and a signed one in the place of another, which the next was not made from."""
    verify = ("verify", board, "--allowed-signers", keys / "allowed")
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    for name in ("red.onnx", "red.onnx.json"):
        shutil.copy(board / name, board / name.replace("red", "more"))
    edgecnn(*verify).refused("more.onnx", "not signed")
    for name in ("more.onnx", "more.onnx.json"):
        (board / name).unlink()
    assert edgecnn(*verify).code == 0
    other = board.parent / "other" / "reference.npz"
    shutil.copytree(board.parent / "images" / "test" / "c0", board.parent / "few" / "test" / "c0")
    assert edgecnn("reference", board / "red.onnx", "-o", other, "--data", board.parent / "few").code == 0
    assert edgecnn("sign", other, "--key", keys / "ada").code == 0
    shutil.copytree(other.parent, board, dirs_exist_ok=True)
    edgecnn(*verify).refused("a.accuracy.json", "made from", "reference.npz")


@pytest.mark.parametrize("command", ["validate", "bench", "inspect", "predict", "build"])
def test_a_signature_that_is_there_is_checked_at_load(
    edgecnn: Command, board: Path, keys: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody who is not allowed, or of another content: refused unasked."""
    assert edgecnn("sign", board, "--key", keys / "eve").code == 0
    engine = board / ("red.onnx" if command == "build" else "cpu/e.onnx")
    picture = board.parent / "images" / "test" / "c0" / "0.png"
    ask: dict[str, tuple[object, ...]] = {
        "validate": ("--reference", board / "reference.npz", "--data", board.parent / "images", "--threads", "1"),
        "predict": (picture,),
        "build": ("-o", board / "x.onnx"),
    }
    line = (
        ("bench", "--engine", engine, "--threads", "1", "--duration", "0.1")
        if command == "bench"
        else (command, engine, *ask.get(command, ()))
    )
    monkeypatch.setenv("EDGECNN_ALLOWED_SIGNERS", str(keys / "allowed"))
    edgecnn(*line).refused(engine.name, "signed by", "allowed")
    allow(keys / "both", ada=keys / "ada", eve=keys / "eve")
    monkeypatch.setenv("EDGECNN_ALLOWED_SIGNERS", str(keys / "both"))
    result = edgecnn(*line)
    assert result.code == 0, result.said
    path = engine.with_name(f"{engine.name}.json")
    path.write_bytes(path.read_bytes().replace(b'"created": "2', b'"created": "3'))
    edgecnn(*line).refused(engine.name, "signature")
    monkeypatch.delenv("EDGECNN_ALLOWED_SIGNERS")
    edgecnn(*line).refused(engine.name, "signature")


def test_a_signature_is_demanded_of_everything_that_is_loaded(edgecnn: Command, board: Path, keys: Path) -> None:
    ask = ("--require-signature", "--allowed-signers", keys / "allowed")
    validate(edgecnn, board, *ask).refused("e.onnx", "not signed", "edgecnn sign")
    assert validate(edgecnn, board).code == 0, "not demanded"
    assert edgecnn("sign", board / "cpu", "--key", keys / "ada").code == 0
    validate(edgecnn, board, *ask).refused("reference.npz", "not signed")
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    assert validate(edgecnn, board, *ask).code == 0
    assert "EDGECNN_REQUIRE_SIGNATURE" not in os.environ, "the demand ends with its command"
    validate(edgecnn, board, "--require-signature").refused("allowed")
    for name in ("e.onnx.json", "e.onnx.json.sig"):
        (board / "cpu" / name).unlink()
    validate(edgecnn, board, *ask).refused("e.onnx", "not signed")


def test_without_allowed_signers_it_is_said_that_nobody_is_known(
    edgecnn: Command, board: Path, keys: Path, tmp_path: Path
) -> None:
    """Who signs his own run goes on working with it; his own list at home is found."""
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    signature._say.cache_clear()
    result = edgecnn("inspect", board / "red.onnx")
    assert result.code == 0
    assert "who signed it is not known" in result.err
    edgecnn("verify", board).refused("allowed")
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    shutil.copy(keys / "allowed", tmp_path / "home" / ".ssh" / "allowed_signers")
    signature._say.cache_clear()
    assert edgecnn("verify", board).code == 0
    assert "not known" not in edgecnn("inspect", board / "red.onnx").err


def test_what_is_made_again_is_not_signed_any_more(edgecnn: Command, board: Path, keys: Path) -> None:
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    made = board / "cpu" / "e.onnx.json.sig"
    assert made.exists()
    assert edgecnn("build", board / "red.onnx", "-o", board / "cpu" / "e.onnx", "--threads", "1").code == 0
    assert not made.exists()
    assert edgecnn("inspect", board / "cpu" / "e.onnx").code == 0


def test_what_is_not_what_it_says_is_not_signed(edgecnn: Command, board: Path, keys: Path) -> None:
    (board / "cpu" / "e.onnx").write_bytes((board / "red.onnx").read_bytes() + b"\0")
    edgecnn("sign", board, "--key", keys / "ada").refused("e.onnx", "sha256")
    assert not list(board.rglob("*.sig"))


@pytest.mark.parametrize(
    ("more", "named"),
    [(("--key", "gone"), "gone"), ((), "id_ed25519"), (("--key", "images/test/c0/0.png"), "0.png")],
)
def test_a_key_that_is_none(
    edgecnn: Command, board: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(board.parent)
    edgecnn("sign", board, *more).refused(named)
    edgecnn("sign", board.parent / "images").refused("images", "no artifact")


def test_without_openssh_it_is_said(
    edgecnn: Command, board: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    allowed = ("--allowed-signers", keys / "allowed")
    for line in (("sign", board, "--key", keys / "ada"), ("verify", board, *allowed)):
        edgecnn(*line).refused("ssh-keygen", "openssh-client")
    validate(edgecnn, board, "--require-signature", *allowed).refused("ssh-keygen", "openssh-client")
    signature._say.cache_clear()
    result = validate(edgecnn, board)
    assert result.code == 0
    assert "not checked" in result.err


def test_a_signed_file_that_cannot_be_replaced_stays_signed(
    edgecnn: Command, board: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever operation fails, JSON and signature are as before, or the new JSON is there; the next one is whole."""
    from tests.fakes.faulty_disk import every_fault

    accuracy = board / "cpu" / "a.accuracy.json"
    assert edgecnn("sign", board, "--key", keys / "ada").code == 0
    monkeypatch.setenv("EDGECNN_ALLOWED_SIGNERS", str(keys / "allowed"))
    kept = board.with_name("kept")
    shutil.copytree(board, kept)

    def prepare() -> None:
        shutil.rmtree(board)
        shutil.copytree(kept, board)

    def action() -> None:
        write_json_artifact(accuracy, {"a": 1}, Sidecar(kind="accuracy"))

    before, signed = accuracy.read_bytes(), signature.signature_path(accuracy)
    count = 0
    for disk, _ in every_fault(board, prepare, action):
        count += 1
        assert read_json(accuracy), disk.seen
        assert (accuracy.read_bytes() == before) == signed.exists(), disk.seen[disk.at]
        action()
        assert (read_json(accuracy)["a"], signed.exists()) == (1, False)
        assert not list(board.rglob(".*edgecnn-*")), disk.seen
    assert count > 10
