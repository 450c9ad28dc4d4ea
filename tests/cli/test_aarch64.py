"""The core wheel under a Python of aarch64, on this machine: Debian's own, run by its QEMU user emulation.

Nothing is installed: apt fetches the packages by a configuration of its own, and they are unpacked into a folder that
is kept. Where Debian's packages do not allow it, the tests skip with the reason.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgecnn.artifact.installed import place_release, switch, write_installed
from edgecnn.bundle.manifest import BundledFile
from edgecnn.bundle.release import MANIFEST, Release, ReleasedEngine, manifest_text, release_name
from edgecnn.bundle.tar import bundled_file
from edgecnn.cli import main
from edgecnn.errors import RemoteError
from edgecnn.remote.wheels import Machine, resolve, write_own_wheel
from edgecnn.results.device import Device
from edgecnn.results.release import Installed, SelfTest

pytestmark = pytest.mark.slow

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecnn-tests" / "aarch64"
QEMU = "usr/bin/qemu-aarch64-static"
WANTED = r"(lib(?!perl)|zlib1g|python3\.)"  # of what Python depends on: no perl, no dpkg
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def apt(folder: Path, *command: str) -> str:
    """Of apt, with lists of its own for both architectures; skips with its reason."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "apt.conf").write_text(
        'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; "amd64"; };\nAPT::Sandbox::User "";\n'
        f'Dir::State "{folder}/state";\nDir::State::status "{folder}/status";\nDir::Cache "{folder}/cache";\n'
    )
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{' '.join(command[:2])}: {done.stderr.strip()[-200:]}")
    return done.stdout


def fetch(root: Path, part: Path) -> None:
    """Python of aarch64 and QEMU, unpacked below `root`."""
    apt(part, "apt-get", "-qq", "update")
    depends = apt(part, "apt-cache", "depends", "python3-minimal")
    (python,) = re.findall(r"(python3\.\d+)-minimal", depends)[:1]
    alone = [f"--no-{what}" for what in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")]
    asked = (f"{python}-minimal", f"lib{python}-stdlib", "libstdc++6")
    names = apt(part, "apt-cache", "depends", "--recurse", *alone, *asked).splitlines()
    wanted = sorted({name for name in names if re.match(WANTED, name) and ":" not in name})
    apt(part, "apt-get", "-qq", "download", "qemu-user-static:amd64", *wanted)
    root.mkdir()
    for package in sorted(part.glob("*.deb")):
        if package.name.startswith("qemu"):
            tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
            subprocess.run(["tar", "xf", "-", "-C", root.parent, f"./{QEMU}"], input=tar, check=True)
        else:
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
        package.unlink()


@pytest.fixture(scope="session")
def emulated() -> Path:
    """A folder with QEMU and, in `root`, the files of aarch64; made once per machine."""
    if platform.machine() != "x86_64" or not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))):
        pytest.skip("needs Debian's apt-get and dpkg-deb, on x86-64")
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with KEPT.with_name("aarch64.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not KEPT.is_dir():
            part = KEPT.with_name("aarch64.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            fetch(part / "root", part)
            shutil.rmtree(part / "state")
            shutil.rmtree(part / "cache")
            part.rename(KEPT)
    return KEPT


@pytest.fixture(scope="session")
def board(emulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `edgecnn` as the wheels of its core, unpacked, have it on aarch64."""
    folder = tmp_path_factory.mktemp("board")
    (interpreter,) = (emulated / "root" / "usr" / "bin").glob("python3.*")
    python = [str(emulated / QEMU), "-L", str(emulated / "root"), str(interpreter)]

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(folder / "site"), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
        command = [*python, *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    say = "import platform; print(platform.machine(), platform.libc_ver()[1], platform.python_version())"
    machine, glibc, version = run("-c", say).stdout.split()
    (folder / "wheels").mkdir()
    there = Machine(".".join(version.split(".")[:2]), machine, int(glibc.split(".")[1]))
    try:
        found = resolve(there, folder / "wheels", None)
    except RemoteError as exc:
        pytest.skip(exc.message)
    for wheel in (*found, write_own_wheel(folder)):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    assert machine == "aarch64"
    return lambda *arguments, code=0: run("-m", "edgecnn", *arguments, code=code)


def test_only_the_core_is_there(board: Run) -> None:
    facts = json.loads(board("doctor", "--json").stdout)
    assert facts["system"].endswith("aarch64")
    assert facts["packages"]["numpy"] != "-"
    for heavy in ("torch", "onnx", "onnxruntime", "tensorrt"):
        assert facts["packages"][heavy] == "-", heavy


def test_a_run_is_judged_as_it_is_here(board: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Intervals, paired tests and rules: the same digits on both architectures."""
    from tests.fakes.judged_run import make_judged_run

    run = make_judged_run(tmp_path, networks=3, images=60, classes=6)
    capfd.readouterr()
    code = main(["gate", str(run), "--json"])
    here = json.loads(capfd.readouterr().out)
    there = json.loads(board("gate", run, "--json", code=code).stdout)
    assert len(here[0]["checks"]) >= 3
    assert there == here


def install_by_hand(folder: Path, names: Sequence[str], tmp_path: Path) -> list[str]:
    """Releases of a file that is no engine, one after the other, as `install` leaves them."""
    device = Device(cpu="made up", cpu_id="1")
    installed = list[str]()
    for text in names:
        made = tmp_path / f"made-{text}"
        made.mkdir()
        files = {name: text.encode() for name in ("model.onnx", "model.onnx.json", "reference.npz", "golden.npz")}
        files["reference.npz.json"] = b"{}"
        for name, content in files.items():
            (made / name).write_bytes(content)
        row = ReleasedEngine(
            recipe="r",
            target="cpu",
            device_key=device.engine_key,
            engine="model.onnx",
            name="fp32",
            precision="fp32",
            backend="ort",
            device=device,
            golden_n=1,
        )
        bundled = (bundled_file(n, lambda path=made / n: path.open("rb")) for n in files)  # type: ignore[misc]
        own = tuple(BundledFile(f"{device.engine_key}/{f.path}", f.size, f.sha256) for f in bundled)
        manifest = manifest_text(Release(engines=(row,), files=own))
        (made / MANIFEST).write_bytes(manifest)
        record = Installed(
            release=release_name(manifest),
            previous=installed[-1] if installed else "",
            recipe="r",
            target="cpu",
            device_key=device.engine_key,
            engine="model.onnx",
            precision="fp32",
            signed_by="",
            edgecnn="0",
            created="",
            self_test=SelfTest(golden_n=1, golden_images_n=1),
        )
        (folder / "releases").mkdir(parents=True, exist_ok=True)
        write_installed(made, record)
        place_release(made, folder, record.release)
        switch(folder, record.release)
        installed.append(record.release)
    return installed


def test_a_release_is_taken_back_and_a_damaged_one_refused(board: Run, tmp_path: Path) -> None:
    first, second = install_by_hand(tmp_path / "there", ("a", "b"), tmp_path)
    assert (tmp_path / "there" / "current").readlink() == Path("releases") / second
    done = json.loads(board("rollback", "--to", tmp_path / "there", "--json").stdout)
    assert (done["release"], (tmp_path / "there" / "current").readlink()) == (first, Path("releases") / first)
    refused = board("rollback", "--to", tmp_path / "there", code=2).stderr
    assert "took over from no release" in refused
    (tmp_path / "x.tar").write_bytes(b"no tar")
    refused = board("install", tmp_path / "x.tar", "--to", tmp_path / "there", code=2).stderr
    assert "not a release: no uncompressed tar" in refused
