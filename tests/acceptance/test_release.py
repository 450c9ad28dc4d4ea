"""From a judged run to a board that it serves on, and back: what is refused, what is tested there, what is never lost."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.artifact.hold import held
from edgecnn.artifact.installed import read_installed
from edgecnn.bundle.release import RELEASE, damaged_file, files_of, release_from_json
from edgecnn.bundle.tar import read_archive, write_tar
from edgecnn.errors import CrashError
from tests.acceptance.channel_pictures import class_model, level
from tests.fakes.faulty_disk import every_fault

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx

Command = Callable[..., "Result"]
CLASSES = 6
RECIPE = """
title = "red"
precisions = ["fp32"]
targets = ["cpu"]
[model]
onnx = "net.onnx"
[input]
size = [8, 8]
crop = "none"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[data]
source = "images"
[bench]
duration_s = 0.1
warmup_ms = 0
[tolerances]
agreement_pct_min = 60
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judged run of a network that reads the red channel; `a.tar` and `b.tar` are releases of it, which differ."""
    from edgecnn.cli import main

    root = tmp_path_factory.mktemp("host")
    rng = np.random.default_rng(0)
    for k in range(CLASSES):
        folder = root / "images" / "test" / f"c{k}"
        folder.mkdir(parents=True)
        for n in range(8):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            pixels[..., 0] = level(k, CLASSES)
            Image.fromarray(pixels).save(folder / f"{n}.png")
    onnx.save(class_model(CLASSES, 0), str(root / "net.onnx"))
    (root / "red.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["run", "red.toml", "--threads", "1", "--out", "run"]) == 0
        assert main(["release", "run", "-o", "a.tar", "--unsigned", "--threads", "1"]) == 0
    rewrite(root / "a.tar", root / "b.tar", {"verdict.json": lambda text: text + b"\n"})
    return root


@pytest.fixture
def board(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has the releases and nothing else; nobody has allowed signers at home."""
    for name in ("a.tar", "b.tar"):
        shutil.copy(host / name, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_DATA_HOME", "EDGECNN_ALLOWED_SIGNERS", "EDGECNN_REQUIRE_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rewrite(
    archive: Path,
    output: Path,
    changed: Mapping[str, Callable[[bytes], bytes]] | None = None,
    row: Mapping[str, Any] | None = None,
    **top: Any,
) -> None:
    """The release with other files (by their name below the device's folder) and another manifest, whose hashes are
    right."""
    with tarfile.open(archive) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    manifest = {**json.loads(files.pop("release.json")), **top}
    signature = files.pop("release.json.sig", b"")
    (engine,) = manifest["engines"]
    folder = engine["device_key"]
    for name, change in (changed or {}).items():
        files[f"{folder}/{name}"] = change(files.get(f"{folder}/{name}", b""))
    engine |= row or {}
    manifest["files"] = [
        {"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    ]
    opened = {name: (len(data), lambda data=data: io.BytesIO(data)) for name, data in files.items()}
    write_tar(output, json.dumps(manifest).encode(), opened, "release.json", signature)  # type: ignore[arg-type]


def name_of(archive: Path) -> str:
    """What a release is called where it is installed."""
    return hashlib.sha256(read_archive(archive, RELEASE).text).hexdigest()[:16]


def serving(folder: Path) -> str:
    """The release that serves, which must be whole; "" for none."""
    if not (folder / "current").is_symlink():
        return ""
    name = (folder / "current").readlink().name
    assert damaged_file(folder / "current", read_installed(folder, name).device_key) == ""
    return name


def content(folder: Path) -> dict[str, bytes | str]:
    found = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*"))}
    return {n: str(p.readlink()) if p.is_symlink() else p.read_bytes() for n, p in found.items() if not p.is_dir()}


def install(edgecnn: Command, archive: str = "a.tar", *more: object, to: str = "there") -> Result:
    return edgecnn("install", archive, "--to", to, "--threads", "1", *more)


def test_a_release_serves_and_the_one_before_serves_again(board: Path, edgecnn: Command) -> None:
    """On the very engine: the link leads to a folder whose engine any command opens."""
    a, b = name_of(board / "a.tar"), name_of(board / "b.tar")
    first = install(edgecnn, "a.tar", "--json")
    assert first.code == 0, first.said
    told = json.loads(first.out)
    assert (told["release"], told["previous"], told["changed"], told["verdict"]) == (a, "", True, "PASS")
    assert (told["golden_images_n"], told["golden_n"], told["top1_changed_n"], told["nan_count"]) == (20, 20, 0, 0)
    assert told["path"] == "there/current/model.onnx"
    second = install(edgecnn, "b.tar")
    assert second.code == 0, second.said
    assert second.out.startswith("PASS there/current/model.onnx: 20 of 20 golden images")
    assert (serving(board / "there"), read_installed(board / "there", b).previous) == (b, a)
    done = edgecnn("inspect", "there/current/model.onnx", "--json")
    assert done.code == 0, done.said
    back = edgecnn("rollback", "--to", "there", "--json")
    assert back.code == 0, back.said
    assert (json.loads(back.out)["release"], serving(board / "there")) == (a, a)
    edgecnn("rollback", "--to", "there").refused("took over from no release")
    assert serving(board / "there") == a


def test_installed_twice_is_installed_once(board: Path, edgecnn: Command) -> None:
    assert install(edgecnn).code == 0
    before = content(board / "there")
    again = install(edgecnn, "a.tar", "--json")
    assert (again.code, json.loads(again.out)["changed"]) == (0, False)
    assert content(board / "there") == before


def test_two_are_kept_and_the_older_ones_go(board: Path, edgecnn: Command) -> None:
    rewrite(board / "a.tar", board / "c.tar", {"verdict.json": lambda text: text + b" \n"})
    for archive in ("a.tar", "b.tar", "c.tar"):
        assert install(edgecnn, archive).code == 0
    kept = {path.name for path in (board / "there" / "releases").iterdir()}
    assert kept == {name_of(board / "b.tar"), name_of(board / "c.tar")}
    assert edgecnn("rollback", "--to", "there").code == 0
    edgecnn("rollback", "--to", "there").refused("kept no longer", "install it again")
    assert serving(board / "there") == name_of(board / "b.tar")
    assert install(edgecnn, "c.tar").code == 0, "the one that was taken back is there still"
    assert edgecnn("rollback", "--to", "there").code == 0


def logits_of_others(text: bytes) -> bytes:
    """The reference's predictions with the logits turned round: another network's."""
    with np.load(io.BytesIO(text)) as arrays:
        found = dict(arrays)
    found["logits"] = found["logits"][:, ::-1].copy()
    into = io.BytesIO()
    np.savez(into, **found)
    return into.getvalue()


def described(content: bytes) -> Callable[[bytes], bytes]:
    """A sidecar that vouches for other content."""
    return lambda text: json.dumps({**json.loads(text), "sha256": hashlib.sha256(content).hexdigest()}).encode()


def other_logits(board: Path, output: str) -> None:
    with tarfile.open(board / "a.tar") as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("reference.npz")]
        turned = logits_of_others(tar.extractfile(name).read())  # type: ignore[union-attr]
    changed = {"reference.npz": lambda text: turned, "reference.npz.json": described(turned)}
    rewrite(board / "a.tar", board / output, changed)


@pytest.mark.parametrize("before", ["a.tar", ""])
def test_an_engine_that_fails_its_test_does_not_serve(board: Path, edgecnn: Command, before: str) -> None:
    """Every hash of it is right."""
    other_logits(board, "wrong.tar")
    if before:
        assert install(edgecnn, before).code == 0
    there = content(board / "there")
    done = install(edgecnn, "wrong.tar")
    assert done.code == 1, done.said
    assert done.out.startswith("FAIL wrong.tar: ")
    assert "of 20 images have another top-1 than the reference, at most 0 may; SQNR" in " ".join(done.out.split())
    assert (serving(board / "there"), content(board / "there")) == (name_of(board / "a.tar") if before else "", there)
    told = json.loads(install(edgecnn, "wrong.tar", "--json").out)
    assert (told["verdict"], told["changed"], told["top1_changed_n"]) == ("FAIL", False, 20)


def test_the_limit_of_the_difference_is_kept_to(board: Path, edgecnn: Command) -> None:
    """The right top-1 everywhere is not enough: half the logits are another engine's."""

    def scaled(text: bytes) -> bytes:
        with np.load(io.BytesIO(text)) as arrays:
            found = dict(arrays)
        found["logits"] = found["logits"] * np.float32(0.5)
        into = io.BytesIO()
        np.savez(into, **found)
        return into.getvalue()

    with tarfile.open(board / "a.tar") as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("reference.npz")]
        half = scaled(tar.extractfile(name).read())  # type: ignore[union-attr]
    changed = {"reference.npz": lambda text: half, "reference.npz.json": described(half)}
    rewrite(board / "a.tar", board / "half.tar", changed)
    done = install(edgecnn, "half.tar")
    assert done.code == 1, done.said
    assert "another top-1" not in done.out
    assert "SQNR 0.0 dB, at least" in " ".join(done.out.split())
    rewrite(board / "half.tar", board / "lax.tar", row={"sqnr_db_min": None})
    assert install(edgecnn, "lax.tar").code == 0


def test_an_engine_that_takes_its_process_down_does_not_serve(
    board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(engine: Path, *more: object, **named: object) -> None:
        raise CrashError(str(engine), "SIGSEGV (segmentation fault)")

    assert install(edgecnn).code == 0
    monkeypatch.setattr("edgecnn.pipeline.install.validate", dies)
    done = install(edgecnn, "b.tar")
    assert (done.code, done.out) == (1, "FAIL b.tar: the engine took its process down: SIGSEGV (segmentation fault)\n")
    assert serving(board / "there") == name_of(board / "a.tar")


def test_the_engine_of_another_device(board: Path, edgecnn: Command) -> None:
    """Nothing is unpacked; what is here and what it is for is said. Power mode and threads do not matter."""
    with tarfile.open(board / "a.tar") as tar:
        device = json.load(tar.extractfile("release.json"))["engines"][0]["device"]  # type: ignore[arg-type]
    archive = board / "other.tar"
    other = {**device, "cpu": "Another CPU", "cpu_id": "1-2-3"}
    with tarfile.open(board / "a.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    manifest = json.loads(files.pop("release.json"))
    (row,) = manifest["engines"]
    key, row["device"], row["device_key"] = row["device_key"], other, "another-cpu-1-2-3"
    files = {name.replace(key, "another-cpu-1-2-3"): data for name, data in files.items()}
    for file in manifest["files"]:
        file["path"] = file["path"].replace(key, "another-cpu-1-2-3")
    opened = {name: (len(data), lambda data=data: io.BytesIO(data)) for name, data in files.items()}
    write_tar(archive, json.dumps(manifest).encode(), opened, "release.json")  # type: ignore[arg-type]
    install(edgecnn, "other.tar").refused("other.tar", key, "another-cpu-1-2-3", "on a device like this one")
    assert not (board / "there").exists()
    rewrite(board / "a.tar", board / "mode.tar", row={"device": {**device, "threads": 7, "power_mode": "MAXN"}})
    done = install(edgecnn, "mode.tar")
    assert done.code == 0, done.said
    assert "its latency was judged with threads 7, here it is 1" in done.err


def flipped(data: bytes, near: bytes) -> bytes:
    """With one bit changed in the content that follows a name."""
    at = data.index(near, data.index(b"ustar", 600)) + 600
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1600], "truncated"),
        (lambda data: data[:700], "truncated"),
        (lambda data: flipped(data, b"golden.npz"), "golden.npz: its sha256"),
        (lambda data: flipped(data, b"model.onnx.json"), "model.onnx.json: its sha256"),
        (lambda data: data.replace(b"release.json", b"release.jsox", 1), "(bad checksum)"),
        (lambda data: b"\x1f\x8b" + data, "not a release"),
        (lambda data: b"", "not a release"),
    ],
    ids=["end", "manifest", "images", "sidecar", "name", "gzip", "empty"],
)
def test_a_damaged_archive_changes_nothing(
    board: Path, edgecnn: Command, change: Callable[[bytes], bytes], words: str
) -> None:
    assert install(edgecnn).code == 0
    before = content(board / "there")
    (board / "b.tar").write_bytes(change((board / "b.tar").read_bytes()))
    install(edgecnn, "b.tar").refused("b.tar", words)
    assert content(board / "there") == before


def test_a_bundle_is_no_release_and_nothing_is_none(board: Path, edgecnn: Command) -> None:
    write_tar(board / "bundle.tar", b"{}", {})
    install(edgecnn, "bundle.tar").refused("bundle.tar", "not a release")
    install(edgecnn, "gone.tar").refused("gone.tar", "no such file", "edgecnn release")
    edgecnn("rollback", "--to", "there").refused("there", "no release is installed")
    assert not (board / "there").exists()
