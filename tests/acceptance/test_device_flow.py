"""From a run to a device and to the verdict there: what travels, what is refused, and what is never lost.

The network reads the first channel of its input, and the recipe says BGR: pictures tell their class in blue, and any
other order of the channels, of the layout or of the images is seen in the accuracy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.acceptance.channel_pictures import Result, class_model, level

pytestmark = pytest.mark.torch

Command = Callable[..., Result]
CLASSES = 6
RECIPE = """
title = "blue"
precisions = ["fp32", "int8"]
targets = ["agx-orin", "cpu"]
[model]
onnx = "net.onnx"
[input]
size = [6, 8]
crop = "none"
channels = "bgr"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[export]
input = "uint8-nhwc"
output = "top-k"
[data]
source = "images"
calibration = "few.toml"
test = "tests.txt"
[quantize]
method = "minmax"
[bench]
duration_s = 0.1
warmup_ms = 0
[tolerances]
agreement_pct_min = 60
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an own network with all that a recipe can say of images, made for a device and for this machine."""
    from edgecnn.cli import main

    root = tmp_path_factory.mktemp("host")
    rng = np.random.default_rng(0)
    for split, each in (("train", 4), ("test", 8)):
        for k in range(CLASSES):
            folder = root / "images" / split / f"c{k}"
            folder.mkdir(parents=True)
            for n in range(each):
                pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
                pixels[..., 2] = level(k, CLASSES)
                Image.fromarray(pixels).save(folder / f"{n}.bmp")
    model = class_model(CLASSES, 0)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 6
    onnx.save(model, str(root / "net.onnx"))
    (root / "few.toml").write_text('source = "folder"\nimages = 12\n')
    (root / "blue.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["calibration-set", "images", "--test", "--images", "30", "-o", "tests.txt"]) == 0
        assert main(["run", "blue.toml", "--threads", "1", "--target", "cpu", "--out", "run"]) == 0
        assert main(["run", "blue.toml", "--threads", "1", "--until", "reference", "--out", "run"]) == 0
        for images in ("packed", "files", "none"):
            for target in ("agx-orin", "cpu"):
                pack = ["bundle", "run", "--for", target, "--images", images, "-o", f"{target}-{images}.tar"]
                assert main(pack) == 0
    return root


@pytest.fixture
def device(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has the bundles and nothing of the host."""
    for archive in host.glob("*.tar"):
        shutil.copy(archive, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def accuracy(run: Path, engine: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"{engine}.accuracy.json").read_text())
    return found


def perfect(run: Path, *engines: str) -> None:
    for engine in engines:
        found = accuracy(run, engine)
        assert (found["n"], found["top1_pct"], found["agreement_pct"]) == (30, 100, 100), engine


@pytest.mark.cpu_s(20)  # a process of its own, which builds two engines three times
def test_every_way_of_sending_the_images_measures_the_same(host: Path, device: Path, root: Path) -> None:
    """A test set, BGR, rectangles and pixels as bytes: packed, as files, and as the device has them."""
    shutil.copytree(host / "images" / "test", device / "there" / "test")
    shutil.copy(device / "there" / "test" / "c0" / "0.bmp", device / "there" / "test" / "c0" / "surplus.bmp")
    until = ["--until", "validate"]
    commands = [
        ["run", "agx-orin-packed.tar", "--out", "packed", *until],
        ["run", "agx-orin-files.tar", "--out", "files", *until],
        ["run", "agx-orin-none.tar", "--out", "none", "--data", "there", *until],
        ["run", "packed", "--data", "there", "--dry-run", *until],
        ["run", "files", "--dry-run", *until],
        ["run", "none", "--dry-run", *until],
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.orin", json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(device / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("codes [0, 0, 0, 0, 0, 0]\n"), done.stderr
    assert done.stderr.count("everything is up to date") == 3, done.stderr
    for name in ("packed", "files", "none"):
        perfect(device / name / "agx-orin", "fp32", "int8")


@pytest.mark.cpu_s(20)  # two processes of their own, of which one builds two engines and times them
def test_a_release_of_what_a_device_has_built(device: Path, root: Path) -> None:
    """Judged, packed, installed and taken back where no package of the host is; refused by a TensorRT that differs in
    its last number alone, by the plan's own header."""

    def become(tensorrt: str, *commands: list[str]) -> tuple[list[int], str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fakes.orin", json.dumps(commands), tensorrt],
            env={**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(device / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[-1].startswith("codes "), done.stderr
        return json.loads(done.stdout.splitlines()[-1].removeprefix("codes ")), done.stdout + done.stderr

    install = ["install", "r.tar", "--to", "there"]
    codes, said = become(
        "10.3.0",
        ["run", "agx-orin-packed.tar", "--out", "run"],
        ["release", "run", "-o", "r.tar", "--unsigned"],
        install,
        ["release", "run", "--engine", "fp32", "-o", "s.tar", "--unsigned"],
        ["install", "s.tar", "--to", "there"],
        ["rollback", "--to", "there"],
        [*install, "--json"],
    )
    assert codes == [0] * 7, said
    assert "orin-sm8.7-trt10.3 " in said
    assert "20 of 20 golden images" in said
    told = json.loads(said[said.index("{") : said.index("\n}") + 2])
    assert (told["path"], told["precision"], told["changed"]) == ("there/current/model.plan", "int8", False)
    codes, said = become("10.3.1", install)
    assert codes == [2], said
    assert "error: r.tar: orin-sm8.7-trt10.3/model.plan: built by TensorRT 10.3.0" in said
    assert "hint: a release is for the runtime that it was made with: make one of a run on a device like this" in said
    assert (device / "there" / "current" / "installed.json").read_text().count(told["release"]) == 1


def test_a_bundle_for_a_machine_like_this_one(device: Path, edgecnn: Command) -> None:
    """Its run folder carries the recipe, can be packed again, and the images that came are those that are judged by."""
    first = edgecnn("run", "cpu-packed.tar", "--threads", "1", "--until", "validate", "--out", "a")
    assert first.code == 0, first.said
    perfect(device / "a" / "cpu", "fp32", "int8")
    assert edgecnn("bundle", "a", "--for", "cpu", "-o", "again.tar").code == 0
    second = edgecnn("run", "again.tar", "--threads", "1", "--until", "build", "--out", "b")
    assert second.code == 0, second.said
    assert (device / "a" / "images.npz").read_bytes() == (device / "b" / "images.npz").read_bytes()
    edgecnn("bundle", "again.tar", "--for", "cpu", "-o", "third.tar").refused("again.tar", "bundle already")
    assert not (device / "runs").exists()


def test_other_pixels_under_the_same_names(host: Path, device: Path, edgecnn: Command) -> None:
    shutil.copytree(host / "images" / "test", device / "there" / "test")
    listed = (host / "tests.txt").read_text().splitlines()[-1].rpartition(" ")[0]
    victim = device / "there" / "test" / listed
    content = bytearray(victim.read_bytes())
    content[-2] ^= 255
    victim.write_bytes(content)
    ask = ("run", "cpu-none.tar", "--threads", "1", "--until", "validate")
    edgecnn(*ask, "--data", "there").refused(listed)
    assert not list((device / "runs").rglob("*.accuracy.json"))


def test_images_that_are_not_there_are_no_images(device: Path, edgecnn: Command) -> None:
    """A run that is up to date does not look at them, and must not believe in them."""
    edgecnn("run", "cpu-none.tar", "--threads", "1", "--out", "none").refused("no test images", "--data DIR")
    assert not (device / "none" / "cpu").exists()
    assert edgecnn("run", "cpu-packed.tar", "--threads", "1", "--until", "validate").code == 0
    before = (device / "runs" / "blue" / "blue.toml").read_bytes()
    for option in ("--data", "--calibration-data"):
        edgecnn("run", "runs/blue", "--threads", "1", option, "nowhere").refused(f"{option} nowhere")
    edgecnn("run", "runs/blue", "--threads", "1", "--set", "data.test=nowhere.txt").refused("nowhere.txt")
    assert (device / "runs" / "blue" / "blue.toml").read_bytes() == before


def test_a_baseline_that_was_recorded_on_the_device_stays(host: Path, device: Path, edgecnn: Command) -> None:
    """Under the same bundle, and under another one that brings a baseline for the same engines."""
    for name in ("blue.toml", "net.onnx", "few.toml", "tests.txt"):
        shutil.copy(host / name, device / name)
    for name in ("images", "run"):
        shutil.copytree(host / name, device / name)
    (device / "baselines" / "blue").mkdir(parents=True)
    brought = [device / "baselines" / "blue" / f"{name}.json" for name in ("cpu-fp32", "ort-fp32")]
    archives = []
    for text in ("{}", "[]"):
        for path in brought:
            path.write_text(text)
        archives.append(f"{len(archives)}.tar")
        assert edgecnn("bundle", "run", "--for", "cpu", "-o", archives[-1]).code == 0
    build = ("--threads", "1", "--until", "build", "--out", "there")
    assert edgecnn("run", archives[0], *build).code == 0
    own, other = (device / "there" / "baselines" / "blue" / path.name for path in brought)
    own.write_text('{"recorded": "here"}')
    again = edgecnn("run", archives[0], *build)
    assert "holds 0.tar already" in again.err
    changed = edgecnn("run", archives[1], *build)
    assert "keeps baselines/blue/cpu-fp32.json" in changed.err
    assert (own.read_text(), other.read_text()) == ('{"recorded": "here"}', "[]")


def test_a_dry_run_says_what_a_run_would_refuse(host: Path, device: Path, edgecnn: Command) -> None:
    assert edgecnn("run", "cpu-packed.tar", "--threads", "1", "--until", "build").code == 0
    before = sorted(p for p in device.rglob("*") if p.is_file())
    other = ("run", "runs/blue", "--threads", "1", "--set", "quantize.around=fp32")
    planned = edgecnn(*other, "--dry-run")
    assert "a run would refuse this: runs/blue/model.int8-ort-cpu.onnx: quantize.around changed" in planned.err
    edgecnn(*other).refused("model.int8-ort-cpu.onnx", "quantize.around")
    assert sorted(p for p in device.rglob("*") if p.is_file()) == before


def test_a_run_folder_that_was_moved_is_what_it_was(host: Path, device: Path, edgecnn: Command) -> None:
    """Its network lies somewhere else, as seen from it; here and on a device that has the file as well."""
    shutil.copytree(host, device / "host")
    os.chdir(device / "host")
    (device / "host" / "deep").mkdir()
    Path("run").rename("deep/run")
    moved = edgecnn("run", "deep/run", "--threads", "1", "--target", "cpu")
    assert "deep/run: everything is up to date" in moved.err
    there = edgecnn("run", "cpu-none.tar", "--threads", "1", "--until", "build", "--out", "deep/there")
    assert there.code == 0, there.said
    with Path("net.onnx").open("ab") as file:
        file.write(b"\0")
    assert "model.fp32.onnx" in edgecnn("run", "deep/run", "--threads", "1", "--target", "cpu", "--dry-run").out


KILLED = """
import os, sys
from pathlib import Path
from edgecnn.cli import main
real, moved = Path.replace, []
def replace(self, target):
    if not self.name.startswith("."):
        moved.append(self)
    if len(moved) == 4:
        os.kill(os.getpid(), 9)
    return real(self, target)
Path.replace = replace
main(["run", sys.argv[1], "--until", "build"])
"""


def test_a_device_whose_power_failed_while_it_unpacked(device: Path, edgecnn: Command, root: Path) -> None:
    """Graphs of one bundle and the reference of another are never taken for a run."""
    ask = ("--threads", "1", "--until", "build")
    assert edgecnn("run", "cpu-none.tar", *ask).code == 0
    killed = [sys.executable, "-c", KILLED, "cpu-packed.tar"]
    done = subprocess.run(killed, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == -9
    edgecnn("run", "runs/blue", *ask).refused("runs/blue", "not unpacked whole", "FILE.tar")
    assert edgecnn("run", "cpu-packed.tar", *ask).code == 0
    assert edgecnn("run", "runs/blue", *ask).code == 0
    assert [p.name for p in (device / "runs").iterdir()] == ["blue"]


def block(name: bytes, content: bytes) -> bytes:
    """A member of a tar, byte by byte (POSIX.1-1988, ustar)."""
    header = bytearray(512)
    header[:100] = name.ljust(100, b"\0")
    header[100:136] = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % len(content)
    header[136:156] = b"%011o\0" % 0 + b" " * 8
    header[156:265] = b"0" + bytes(100) + b"ustar\00000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + bytes(-len(content) % 512)


def hostile(bundle: Path, output: Path, more: dict[str, bytes], less: str = "", **changes: Any) -> None:
    """The `bundle` with other files and another manifest, whose hashes are right."""
    with tarfile.open(bundle) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    manifest = {**json.loads(files.pop("bundle.json")), **changes}
    files.pop(less, None)
    files |= more
    manifest["files"] = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    members = [block(n.encode("utf-8", "surrogateescape"), data) for n, data in files.items()]
    output.write_bytes(block(b"bundle.json", json.dumps(manifest).encode()) + b"".join(members) + bytes(1024))


@pytest.mark.parametrize(
    ("more", "less", "changes"),
    [
        ({"images/\udcff.png": b"x"}, "", {}),
        ({}, "", {"source": "\ud800"}),
        ({}, "", {"target": "cpu\nerror: owned"}),
        ({}, "", {"target": "toaster"}),
        ({"latency.json": b"{}"}, "", {}),
        ({"latency.json.sig": b""}, "", {}),
        ({"model.fp32.onnx.json.sig.sig": b""}, "", {}),
        ({"fp32.accuracy.json": b"{}"}, "", {}),
        ({"other.toml": b"", "other.toml.json": b"{}"}, "", {}),
        ({"other.npz": b""}, "", {}),
        ({"blue.toml.json.json": b"{}"}, "", {}),
        ({}, "blue.toml.json", {}),
        ({}, "", {"images_at": "nowhere.npz"}),
        ({"images/x.toml": b"", "images/x.toml.json": b""}, "", {"recipe": "images/x"}),
    ],
    ids=lambda value: " ".join(map(ascii, value)) if isinstance(value, dict) else value,
)
def test_hostile_bundles(
    device: Path, edgecnn: Command, more: dict[str, bytes], less: str, changes: dict[str, Any]
) -> None:
    """Every hash in them is right. One error, and nothing is written."""
    hostile(device / "cpu-none.tar", device / "good.tar", {})
    hostile(device / "cpu-none.tar", device / "x.tar", more, less, **changes)
    before = sorted(device.rglob("*"))
    edgecnn("run", "x.tar", "--until", "build").refused("x.tar")
    assert sorted(device.rglob("*")) == before


def test_the_hostile_bundles_are_good_but_for_one_thing(device: Path, edgecnn: Command) -> None:
    hostile(device / "cpu-none.tar", device / "x.tar", {"images/c0/é.png": b"x"})
    assert edgecnn("run", "x.tar", "--threads", "1", "--until", "build").code == 0


def test_what_is_no_tar_and_what_no_tar_can_hold(host: Path, device: Path, edgecnn: Command) -> None:
    shutil.copytree(host, device / "host")
    os.chdir(device / "host")
    edgecnn("run", "x.tar.gz").refused("x.tar.gz", "uncompressed")
    name = device / "host" / "images" / "test" / "c0" / "0\n.bmp"
    shutil.copy(name.with_name("0.bmp"), name)
    ask = ("run", "run", "--threads", "1", "--until", "reference", "--set", "data.test=")
    assert edgecnn(*ask).code == 0
    edgecnn("bundle", "run", "--for", "cpu", "--images", "files", "-o", "y.tar").refused("rename it", "--images packed")
    assert not (device / "host" / "y.tar").exists()
    assert edgecnn("bundle", "run", "--for", "cpu", "-o", "y.tar").code == 0


def test_a_killed_validation_is_not_taken_up_on_other_images(
    host: Path, device: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal holds what was predicted on the pictures of before; the new reference knows the new ones."""
    from edgecnn.measure.logits import Logits

    shutil.copytree(host, device / "host")
    monkeypatch.chdir(device / "host")
    validate = [
        "validate",
        "run/model.fp32.onnx",
        "--reference",
        "run/reference.npz",
        "--data",
        "images",
        "-o",
        "a.json",
    ]
    validate += ["--batch", "4", "--threads", "1"]
    reference = ["reference", "run/model.fp32.onnx", "--data", "images", "-o", "run/reference.npz", "--threads", "1"]
    assert edgecnn(*reference).code == 0

    class Killed(BaseException):
        pass

    def killed(self: Any, positions: list[int], *rest: Any, add: Any = Logits.add) -> None:
        if positions[0] >= 12:
            raise Killed
        add(self, positions, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Logits, "add", killed)
        with pytest.raises(Killed):
            edgecnn(*validate)
    assert list(Path().glob(".a.json*.partial"))
    picture = Path("images/test/c0/0.bmp")
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    assert edgecnn(*reference).code == 0
    result = edgecnn(*validate)
    assert result.code == 0, result.said


@pytest.mark.sshd
@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH's ssh-keygen is not installed")
def test_signatures_travel_with_what_they_sign(host: Path, device: Path, edgecnn: Command) -> None:
    shutil.copytree(host, device / "host")
    os.chdir(device / "host")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "key"], check=True)
    Path("signers").write_text(f"host {Path('key.pub').read_text()}")
    assert edgecnn("sign", "run", "--key", "key").code == 0
    assert edgecnn("bundle", "run", "--for", "cpu", "--images", "none", "-o", "signed.tar").code == 0
    assert edgecnn("run", "signed.tar", "--out", "there", "--threads", "1", "--until", "build").code == 0
    for name in ("model.fp32.onnx", "reference.npz"):
        assert edgecnn("verify", f"there/{name}", "--allowed-signers", "signers").code == 0
    edgecnn("verify", "there", "--allowed-signers", "signers").refused("blue.toml", "not signed")
