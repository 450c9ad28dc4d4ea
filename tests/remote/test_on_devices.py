"""Two devices behind real OpenSSH servers: from `remote setup` to a verdict, with connections that break."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.cli import main
from edgecnn.results.device import Device as Facts
from tests.fakes.sshd import Device, empty_wheels, ssh_with, why_no_sshd

pytestmark = [pytest.mark.sshd, pytest.mark.torch, pytest.mark.timeout(300)]

NEEDED = ["numpy==9", "pillow==99", "pydantic==9", "typer==9", "rich==99", "tomli==9"]
QUICK = ("--set", "bench.duration_s=0.1", "--set", "bench.warmup_ms=1", "--set", 'precisions=["fp32", "fp16"]')
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    """Machines `a` and `b`, set up for this interpreter; their wheels bring no modules, and it has them."""
    if why := why_no_sshd():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("devices")
    a, b = Device("a", folder), Device("b", folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(ssh_with([a, b], folder)), prepend=":")
            wheels = empty_wheels(folder / "wheels", NEEDED)
            assert main(["remote", "setup", "a", "--python", sys.executable, "--wheels", str(wheels)]) == 0
            shutil.copytree(a.home, b.home, dirs_exist_ok=True)
            yield a, b
    finally:
        a.stop()
        b.stop()


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Said:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


def leftovers(*folders: Path) -> list[Path]:
    """What nobody should find: files that were begun."""
    names = (".part-*", ".*.tmp", ".*edgecnn-next", ".*.previous")
    return [path for folder in folders for name in names for path in folder.rglob(name)]


def whole_pairs(folder: Path) -> set[str]:
    """The artifacts that fit their sidecars."""
    return {p.name for p in folder.rglob("*") if sidecar_path(p).exists() and verified_sidecar(p).sha256}


@pytest.mark.cpu_s(40)
def test_a_recipe_on_two_devices_of_which_one_is_lost_twice(
    devices: tuple[Device, Device], digits: Path, tmp_path: Path, call: Said
) -> None:
    a, b = devices
    run = tmp_path / "run"
    shutil.copytree(digits, run)
    command = ("run", run, *QUICK, "--on", "a", "--on", "b")

    b.cut_after(sent=30_000)
    code, out, err = call(*command)
    assert (code, b.was_cut) == (3, True), err
    assert "error: b: the connection was lost while files were sent; the machine itself answers" in err
    assert "\nnot judged: b: the connection was lost" in out
    assert "cpu/report.json: done" in err
    assert not (run / "on" / "b").exists()
    assert leftovers(run, b.home) == []

    b.cut_after(said="cpu/fp16.onnx: not made yet")
    code, out, err = call(*command, "--json")
    assert (code, b.was_cut) == (3, True), err
    found = json.loads(out)
    assert [bool(host["reports"]) for host in found["hosts"]] == [True, False]
    assert "while a command ran there" in found["hosts"][1]["not_judged"]
    assert {best["host"] for best in found["best"]} == {"a"}
    assert "a: sending" not in err
    assert "a: run: everything is up to date" in err

    code, out, err = call(*command)
    assert code == 0, err
    assert "b: build      cpu/fp16.onnx: not made yet" in err
    assert "cpu/fp32.onnx: not made yet" not in err, "what was whole there is not made again"
    assert "sending" not in err
    assert [line.split()[0] for line in out.split("\n\n")[0].splitlines()[1:]] == ["a"] * 2 + ["b"] * 2
    assert "best by" in out
    assert "not judged" not in out
    for name in ("a", "b"):
        assert whole_pairs(run / "on" / name) >= {"fp32.onnx", "fp16.onnx", "lenet5-digits.toml"}
        assert call("gate", run / "on" / name)[0] == 0
    assert leftovers(run, a.home, b.home) == []


@pytest.mark.cpu_s(20)
def test_one_step_on_a_device(devices: tuple[Device, Device], digits: Path, tmp_path: Path, call: Said) -> None:
    """With names that a shell would take for commands; whole or not at all; one handshake for each command."""
    a, _ = devices
    here = tmp_path / "$(touch owned) ; 'q\" &"
    here.mkdir()
    graph = here / "-oProxyCommand=touch owned.onnx"
    for source, target in ((digits / "model.fp16.onnx", graph), (digits / "reference.npz", here / "r.npz")):
        shutil.copy(source, target)
        shutil.copy(sidecar_path(source), sidecar_path(target))
    engine = here / "`touch owned` e.onnx"

    a.cut_after(said='"stream": true')
    code, _, err = call("build", graph, "--target", "cpu", "-o", engine, "--on", "a")
    assert (code, a.was_cut) == (2, True)
    assert "error: a: the connection was lost while results came back" in err
    assert sorted(p.name for p in here.iterdir() if "e.onnx" in p.name) == []
    assert leftovers(here) == []

    before = (a.folder / "log").read_text().count("Accepted publickey")
    code, out, err = call("build", graph, "--target", "cpu", "-o", engine, "--on", "a", "--json")
    assert code == 0, err
    assert "sending" not in err
    [found] = json.loads(out)
    assert found["files"] == [str(engine), str(sidecar_path(engine))]
    assert found["result"]["engine"] == str(engine)
    assert verified_sidecar(engine).target == "cpu"
    assert (a.folder / "log").read_text().count("Accepted publickey") == before + 1

    accuracy = here / "x.accuracy.json"
    code, out, err = call(
        "validate", engine, "--reference", here / "r.npz", "--data", "digits", "-o", accuracy, "--on", "a"
    )
    assert code == 0, err
    assert "agreement_pct" in out
    assert json.loads(accuracy.read_text())["n"] == 540
    assert not [*tmp_path.rglob("owned"), *a.home.rglob("owned")]


@pytest.mark.cpu_s(20)
def test_two_devices_each_have_a_folder_and_one_that_fails_stops_no_other(
    devices: tuple[Device, Device], digits: Path, tmp_path: Path, call: Said
) -> None:
    _, b = devices
    for path in (digits / "cpu" / "fp32.onnx", sidecar_path(digits / "cpu" / "fp32.onnx")):
        shutil.copy(path, tmp_path)
    engine, output = tmp_path / "fp32.onnx", tmp_path / "latency.json"
    b.stop()
    try:
        code, out, err = call("bench", "--engine", engine, "--duration", "0.02", "-o", output, "--on", "a", "--on", "b")
    finally:
        b.start()
    assert code == 3
    assert f"error: b: cannot be reached: 127.0.0.1 port {b.port}: Connection refused" in err
    assert out.startswith("a:\nname ")
    content = json.loads((tmp_path / "a" / "latency.json").read_text())
    assert Facts(**content["device"]).cpu
    assert not (tmp_path / "b").exists()
    assert not output.exists()
    code, _, err = call("layers", engine, "--on", "a")
    assert code == 2
    assert err.count("error: a: ") == 1, err
    for refused in (["--export", tmp_path / "x", "--end-to-end", "--data", "digits"], ["--trust-code"]):
        assert "with --on" in call("bench", "--engine", engine, *refused, "--on", "a")[2]


def test_what_a_server_refuses(devices: tuple[Device, Device], call: Said) -> None:
    """A password where no key is taken, another host key, an interpreter that is none."""
    _, b = devices
    keys = (b.folder / "authorized").read_text()
    (b.folder / "authorized").write_text("")
    code, _, err = call("remote", "doctor", "b")
    assert code == 2
    assert "error: b: asks for a password" in err
    (b.folder / "authorized").write_text(keys)
    code, _, err = call("remote", "setup", "b", "--python", "/no/such; touch owned")
    assert code == 2
    assert "error: b: /no/such; touch owned: " in err
    b.change_host_key()
    code, _, err = call("run", "lenet5-digits", "--until", "reference", "--on", "b")
    assert "--on with --until reference" in err
    code, _, err = call("remote", "doctor", "b")
    assert code == 2
    assert "error: b: its host key is not the one of before" in err
    (b.folder / "known").unlink()


def test_doctor_and_clean(devices: tuple[Device, Device], call: Said) -> None:
    _, b = devices
    code, out, _ = call("remote", "doctor", "b", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["set_up_for"].startswith(f"Python {sys.version_info[0]}.{sys.version_info[1]} on ")
    assert found["memory_gb"] > 0
    (b.home / "mine").write_text("stays")
    assert "removed" in call("remote", "clean", "b")[2]
    assert not (b.home / ".edgecnn-remote").exists()
    assert (b.home / "mine").exists()
    assert "nothing of ours" in call("remote", "clean", "b")[2]
    code, _, err = call("layers", Path(__file__), "--on", "b")
    assert code == 2
    assert "error: b: edgecnn was not set up there" in err
    assert json.loads(call("remote", "doctor", "b", "--json")[1])["set_up_for"] == "nothing"
