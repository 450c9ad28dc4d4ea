"""From a judged run to a board that it serves on, and back: what is refused, tested there, and never lost."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import onnx
import pytest
from PIL import Image

from edgecnn.artifact.installed import read_installed
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.artifact.write import write_bytes
from edgecnn.bundle.release import RELEASE, damaged_file, files_of
from edgecnn.bundle.tar import read_archive, write_tar
from edgecnn.errors import CrashError
from edgecnn.pipeline import install as own_install
from tests.acceptance.channel_pictures import class_model, level
from tests.fakes.faulty_disk import every_fault

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx

ROOT = Path(__file__).resolve().parents[2]
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
    for name in ("installed", "release"):
        schema = json.loads((ROOT / "docs" / "schema" / f"{name}.schema.json").read_text())
        jsonschema.validate(json.loads((board / "there" / "current" / f"{name}.json").read_text()), schema)
    done = edgecnn("inspect", "there/current/model.onnx", "--json")
    assert done.code == 0, done.said
    back = edgecnn("rollback", "--to", "there", "--json")
    assert back.code == 0, back.said
    assert (json.loads(back.out)["release"], serving(board / "there")) == (a, a)
    edgecnn("rollback", "--to", "there").refused("took over from no release")
    assert serving(board / "there") == a


def test_golden_images_are_no_sample_to_see_a_drift_from(board: Path, edgecnn: Command) -> None:
    """They are the clearest of each class: beside them the test images themselves would have moved."""
    (board / "log.jsonl").write_text("")
    assert edgecnn("install", board / "a.tar", "--to", board / "there").code == 0
    current = board / "there" / "current"
    for reference in (current, current / "reference.npz"):
        words = ("golden images of a release", "no sample", "reference.npz of the run")
        edgecnn("drift", reference, board / "log.jsonl").refused(*words)


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
    install(edgecnn, "other.tar").refused("other.tar", key, "another-cpu-1-2-3", "of a run on a device like this one")
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


@pytest.mark.parametrize(
    ("changed", "row", "top", "words"),
    [
        ({"../x": lambda text: b""}, {}, {}, "`..`"),
        ({"a//b": lambda text: b""}, {}, {}, "not a plain path"),
        ({"installed.json": lambda text: b"{}"}, {}, {}, "belongs to no engine"),
        ({"release.json": lambda text: b"{}"}, {}, {}, "belongs to no engine"),
        ({"model.onnx/x": lambda text: b""}, {}, {}, "a file and a folder at once"),
        ({}, {"engine": "../model.onnx"}, {}, "cannot be an engine"),
        ({}, {"engine": "installed.json"}, {}, "cannot be an engine"),
        ({}, {"engine": "other.onnx"}, {}, "lacks"),
        ({}, {"golden_n": 0}, {}, "cannot be an engine"),
        ({}, {"golden_n": "20"}, {}, "golden_n"),
        ({}, {"device_key": "../up"}, {}, "is not the key of its device"),
        ({}, {"device_key": "elsewhere"}, {}, "is not the key of its device"),
        ({}, {}, {"schema": 2}, "a release of schema 2, this edgecnn reads 1"),
        ({}, {}, {"more": 1}, "more is not known"),
    ],
)
def test_hostile_releases(
    board: Path, edgecnn: Command, changed: Any, row: dict[str, Any], top: dict[str, Any], words: str
) -> None:
    """Every hash in them is right. One error, and nothing is written."""
    rewrite(board / "a.tar", board / "x.tar", changed, row, **top)
    before = content(board)
    install(edgecnn, "x.tar").refused("x.tar", words)
    assert content(board) == before


def member(name: str, kind: bytes, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (member("x/y", tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link"),
        (member("x/y", tarfile.LNKTYPE, "release.json"), "a hard link"),
        (member("/x", tarfile.REGTYPE), "an absolute path"),
        (member("x", tarfile.REGTYPE), "not in the manifest"),
        (member("release.json.sig", tarfile.REGTYPE) + member("release.json", tarfile.REGTYPE), "stands there twice"),
    ],
)
def test_hostile_members(board: Path, edgecnn: Command, more: bytes, words: str) -> None:
    data = (board / "a.tar").read_bytes()
    (board / "x.tar").write_bytes(data[:-1024] + more + bytes(1024))
    install(edgecnn, "x.tar").refused("x.tar", words)
    assert not (board / "there").exists()


def test_what_did_not_pass_its_gate_is_not_released(host: Path, board: Path, edgecnn: Command) -> None:
    def judged(**settings: str) -> None:
        recipe = board / "run" / "red.toml"
        shutil.rmtree(board / "run", ignore_errors=True)
        shutil.copytree(host / "run", board / "run")
        assert recipe.exists()
        changed = [part for key, value in settings.items() for part in ("--set", f"tolerances.{key}={value}")]
        os.chdir(host)
        try:
            edgecnn("run", board / "run", "--threads", "1", *changed)
        finally:
            os.chdir(board)

    pack = ("release", "run", "-o", "x.tar", "--unsigned", "--threads", "1")
    judged(size_mb_max="0.000001")
    edgecnn(*pack).refused("run/cpu", "its verdict is FAIL", "size_mb_max", "edgecnn gate")
    judged(top1_drop_pp_max="0.1")
    edgecnn(*pack).refused("run/cpu", "its verdict is INCONCLUSIVE", "top1_drop_pp_max")
    shutil.rmtree(board / "run")
    shutil.copytree(host / "run", board / "run")
    (board / "run" / "cpu" / "verdict.json").unlink()
    edgecnn(*pack).refused("nothing was judged there", "edgecnn gate")
    shutil.copy(host / "run" / "cpu" / "verdict.json", board / "run" / "cpu")
    with (board / "run" / "cpu" / "fp32.onnx").open("ab") as file:
        file.write(b"\0")
    edgecnn(*pack).refused("measured with another fp32.onnx")
    edgecnn("release", "nowhere", "-o", "x.tar", "--unsigned").refused("nowhere")
    assert not (board / "x.tar").exists()


def test_what_else_cannot_be_released(host: Path, board: Path, edgecnn: Command, monkeypatch: Any) -> None:
    monkeypatch.chdir(host)
    out = board / "x.tar"
    pack = ("release", "run", "-o", out, "--unsigned", "--threads", "1")
    edgecnn(*pack, "--engine", "int8").refused("--engine int8: no such engine", "fp32")
    edgecnn("release", "run", "run", *pack[2:]).refused("is for the same device as")
    edgecnn(*pack, "--key", "k").refused("--unsigned with --key k")
    edgecnn("release", "run", "-o", out, "--key", "gone").refused("gone: no such key")
    edgecnn("release", "run", "-o", board / "x.zip", "--unsigned").refused("x.zip", ".tar")
    (host / "images").rename(host / "away")
    try:
        edgecnn(*pack).refused("images")
    finally:
        (host / "away").rename(host / "images")
    picture = host / "images" / "test" / "c0" / "0.png"
    kept = picture.read_bytes()
    monkeypatch.setattr("edgecnn.pipeline.release.golden_positions", lambda reference, changed: [0, 8, 16])
    picture.write_bytes(kept[:-20] + b"x" * 20)
    try:
        edgecnn(*pack).refused("0.png")
    finally:
        picture.write_bytes(kept)
    assert sorted(path.name for path in board.iterdir()) == ["a.tar", "b.tar"]


def test_an_engine_that_is_not_what_was_validated_is_not_released(
    host: Path, board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tested where it is packed, if that is its device; elsewhere that is said."""
    monkeypatch.chdir(host)
    pack = ("release", "run", "-o", board / "x.tar", "--unsigned", "--threads", "1")
    with monkeypatch.context() as patch:
        passes = own_install.self_test_of

        def broken(accuracy: Any, limits: Any) -> Any:
            import dataclasses

            return dataclasses.replace(passes(accuracy, limits), nan_count=2)

        patch.setattr("edgecnn.pipeline.install.self_test_of", broken)
        edgecnn(*pack).refused("fp32.onnx: fails its self-test on 20 golden images", "2 images have logits that are")
    monkeypatch.setattr("edgecnn.pipeline.release.load_backend", lambda name: pytest.fail("not here"))
    from edgecnn.errors import BackendError

    def absent(name: str) -> None:
        raise BackendError(name, "not here")

    monkeypatch.setattr("edgecnn.pipeline.release.load_backend", absent)
    done = edgecnn(*pack, "--json")
    assert (done.code, json.loads(done.out)["engines"][0]["tested_here"]) == (0, False)
    assert "not tested here, it is for" in done.err
    assert (board / "x.tar").read_bytes() == (board / "a.tar").read_bytes(), "the same run, the same release"


def test_weights_beside_a_graph_go_with_it(host: Path, board: Path, edgecnn: Command, monkeypatch: Any) -> None:
    shutil.copytree(host / "run", board / "run")
    engine = board / "run" / "cpu" / "fp32.onnx"
    before = sha256_of(engine)
    (engine.parent / "data").mkdir()
    onnx.save(onnx.load(engine), str(engine), save_as_external_data=True, location="data/weights.bin", size_threshold=0)
    for path in engine.parent.glob("*.json"):
        path.write_text(path.read_text().replace(before, sha256_of(engine)))
    monkeypatch.chdir(host)
    assert edgecnn("gate", board / "run").code == 0
    done = edgecnn("release", board / "run", "-o", board / "x.tar", "--unsigned", "--threads", "1")
    assert done.code == 0, done.said
    monkeypatch.chdir(board)
    done = install(edgecnn, "x.tar")
    assert done.code == 0, done.said
    assert (board / "there" / "current" / "data" / "weights.bin").is_file()
    rewrite(board / "x.tar", board / "y.tar", {"data/weights.bin": lambda data: data[:-1] + b"\0"})
    install(edgecnn, "y.tar").refused("model.onnx: its sha256")


def test_golden_images_are_spread_and_clear(board: Path) -> None:
    release = read_archive(board / "a.tar", RELEASE).manifest
    (row,) = release.engines
    own = files_of(release, row.device_key)
    assert {"model.onnx", "model.onnx.json", "golden.npz", "reference.npz", "reference.npz.json", "verdict.json"} == {
        *own
    }
    with tarfile.open(board / "a.tar") as tar:
        found = np.load(io.BytesIO(tar.extractfile(f"{row.device_key}/golden.npz").read()))  # type: ignore[union-attr]
        expected = np.load(
            io.BytesIO(tar.extractfile(f"{row.device_key}/reference.npz").read())  # type: ignore[union-attr]
        )
    assert found["pixels"].shape == (20, 8, 8, 3)
    assert found["ids"].tolist() == expected["ids"].tolist()
    counts = np.bincount(expected["logits"].argmax(axis=1), minlength=CLASSES)
    assert sorted(counts) == [3, 3, 3, 3, 4, 4]
    best = np.sort(expected["logits"], axis=1)
    assert (best[:, -1] - best[:, -2]).min() > 0


needs_openssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH's ssh-keygen is not installed")


@pytest.mark.sshd
@needs_openssh
def test_who_made_a_release(
    host: Path, board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """Signed by somebody who is allowed, it is installed where that is demanded; what is installed carries signatures
    that other commands demand. Anything else is refused, and nothing changes."""
    keys = tmp_path_factory.mktemp("keys")
    for who in ("ada", "eve"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(keys / who)], check=True)
    (keys / "allowed").write_text(f"ada@factory {(keys / 'ada.pub').read_text()}")
    monkeypatch.chdir(host)
    for who in ("ada", "eve"):
        done = edgecnn("release", "run", "-o", board / f"{who}.tar", "--key", keys / who, "--threads", "1", "--json")
        assert (done.code, json.loads(done.out)["signed"]) == (0, True), done.said
    monkeypatch.chdir(board)
    ask = ("--require-signature", "--allowed-signers", keys / "allowed")
    done = install(edgecnn, "ada.tar", *ask, "--json")
    assert (done.code, json.loads(done.out)["signed_by"]) == (0, "ada@factory"), done.said
    before = content(board / "there")
    opened = edgecnn("predict", "there/current/model.onnx", host / "images" / "test" / "c0" / "0.png", *ask)
    assert opened.code == 0, opened.said
    again = install(edgecnn, "ada.tar", *ask)
    assert again.code == 0, again.said
    install(edgecnn, "a.tar", *ask).refused("a.tar: is not signed", "--key")
    install(edgecnn, "eve.tar", *ask).refused("eve.tar: release.json: signed by the key", "does not list as allowed")
    install(edgecnn, "eve.tar", "--allowed-signers", keys / "allowed").refused("signed by the key")
    install(edgecnn, "ada.tar", "--require-signature", "--allowed-signers", "gone").refused("gone")
    rewrite(board / "ada.tar", board / "edited.tar", {"verdict.json": lambda text: text + b"\n"})
    install(edgecnn, "edited.tar", *ask).refused("edited.tar", "its signature", "is not one of its content")
    install(edgecnn, "edited.tar").refused("edited.tar", "is not one of its content")
    assert content(board / "there") == before
    line = "ssh-keygen -Y verify -f {} -I ada@factory -n edgecnn -s release.json.sig < release.json"
    told = subprocess.run(
        line.format(keys / "allowed"), shell=True, cwd=board / "there" / "current", check=True, capture_output=True
    )
    assert b"Good" in told.stdout


@pytest.mark.sshd
@needs_openssh
def test_where_signatures_are_demanded(
    host: Path, board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    """Also where a release is made and taken back; a signature that comes later is kept."""
    keys = tmp_path_factory.mktemp("keys")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(keys / "k")], check=True)
    (keys / "allowed").write_text(f"ada@factory {(keys / 'k.pub').read_text()}")
    shutil.copytree(host / "run", board / "run")
    assert install(edgecnn, "a.tar").code == 0
    assert edgecnn("sign", "run", "--key", keys / "k").code == 0
    monkeypatch.setenv("EDGECNN_ALLOWED_SIGNERS", str(keys / "allowed"))
    monkeypatch.setenv("EDGECNN_REQUIRE_SIGNATURE", "1")
    monkeypatch.chdir(host)
    pack = ("release", board / "run", "-o", board / "signed.tar", "--threads", "1")
    edgecnn(*pack, "--unsigned").refused("EDGECNN_REQUIRE_SIGNATURE", "leave --unsigned out")
    done = edgecnn(*pack, "--key", keys / "k", "--json")
    assert (done.code, json.loads(done.out or "{}").get("signed")) == (0, True), done.said
    monkeypatch.chdir(board)
    name = name_of(board / "signed.tar")
    monkeypatch.delenv("EDGECNN_REQUIRE_SIGNATURE")
    with tarfile.open(board / "signed.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    manifest, _ = files.pop("release.json"), files.pop("release.json.sig")
    opened = {path: (len(data), lambda data=data: io.BytesIO(data)) for path, data in files.items()}
    write_tar(board / "stripped.tar", manifest, opened, "release.json")  # type: ignore[arg-type]
    assert install(edgecnn, "stripped.tar").code == 0
    assert serving(board / "there") == name
    monkeypatch.setenv("EDGECNN_REQUIRE_SIGNATURE", "1")
    done = install(edgecnn, "signed.tar")
    assert done.code == 0, done.said
    now = read_installed(board / "there", serving(board / "there"))
    assert (now.release[:16], now.signed_by, now.previous) == (name, "ada@factory", name_of(board / "a.tar"))
    assert (board / "there" / "current" / "release.json.sig").is_file()
    edgecnn("rollback", "--to", "there").refused(name_of(board / "a.tar"), "is not signed")
    assert read_installed(board / "there", serving(board / "there")) == now
    monkeypatch.delenv("EDGECNN_REQUIRE_SIGNATURE")
    assert edgecnn("rollback", "--to", "there").code == 0
    assert serving(board / "there") == name_of(board / "a.tar")


def test_errors_name_the_archive(board: Path, edgecnn: Command) -> None:
    """Not the folder that it was unpacked into, which is gone."""
    for name in ("golden.npz", "reference.npz", "reference.npz.json", "model.onnx.json"):
        rewrite(board / "a.tar", board / "x.tar", {name: lambda text: b"PK"})
        done = install(edgecnn, "x.tar")
        done.refused(f"error: x.tar: {name_of_device(board)}/{name}: ")
        assert ".tmp" not in done.err
    rewrite(board / "a.tar", board / "x.tar", row={"golden_n": 21})
    done = install(edgecnn, "x.tar")
    assert (done.code, "nothing is installed" in done.err, "serves on" in done.err) == (1, True, False), done.said


def name_of_device(board: Path) -> str:
    return read_archive(board / "a.tar", RELEASE).manifest.engines[0].device_key


def test_something_whole_is_there_at_every_moment(board: Path, edgecnn: Command) -> None:
    """What opens the engine by the link, or in the folder it led to, finds it while others take its place."""
    assert install(edgecnn).code == 0
    ended, reads, lost = threading.Event(), list[bytes](), list[str]()

    def serve() -> None:
        while not ended.wait(0.0005):
            try:
                folder = (board / "there" / "current").resolve(strict=True)
                reads.append((board / "there" / "current" / "model.onnx").read_bytes())
                assert (
                    sha256_of(folder / "model.onnx") == json.loads((folder / "model.onnx.json").read_text())["sha256"]
                )
            except (OSError, AssertionError) as exc:
                lost.append(repr(exc))

    server = threading.Thread(target=serve)
    server.start()
    try:
        for archive in ("b.tar", "", "b.tar", ""):
            done = install(edgecnn, archive) if archive else edgecnn("rollback", "--to", "there")
            assert done.code == 0, done.said
    finally:
        ended.set()
        server.join()
    assert (lost, len(set(reads))) == ([], 1)
    assert len(reads) > 4


def test_odd_names(host: Path, board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash, spaces and a line's end are parts of names, and what is told to be typed can be typed."""
    monkeypatch.chdir(host)
    for name, typed in {"-r s.tar": "'./-r s.tar'", "it's.tar": "'it'\"'\"'s.tar'"}.items():
        done = edgecnn("release", "run", "-o", f"./{name}", "--unsigned", "--threads", "1")
        (host / name).rename(board / name)
        assert (done.code, f"`edgecnn install {typed}`" in done.err) == (0, True), done.said
    monkeypatch.chdir(board)
    done = edgecnn("install", "--threads", "1", "--to", "a b\nc", "--", "-r s.tar")
    assert done.code == 0, done.said
    assert serving(board / "a b\nc") == name_of(board / "a.tar")


def test_a_user_without_a_home(edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    edgecnn("rollback").refused("has no home", "--to")


def test_another_classifier_in_the_folder_is_told(board: Path, edgecnn: Command) -> None:
    assert install(edgecnn).code == 0
    rewrite(board / "a.tar", board / "x.tar", row={"recipe": "cars"})
    done = install(edgecnn, "x.tar")
    assert (done.code, "there: red serves there, this is cars" in done.err) == (0, True), done.said
    assert "serves there" not in install(edgecnn, "x.tar").err


def test_where_nothing_can_be_installed(board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error each, before anything is unpacked; what was there is there."""
    (board / "full").mkdir()
    (board / "full" / "photo.png").write_bytes(b"")
    (board / "file").write_bytes(b"")
    (board / "folder" / "current").mkdir(parents=True)
    (board / "away").mkdir()
    (board / "away" / "current").symlink_to("/etc")
    before = content(board)
    for to, words in {
        "full": "holds 'photo.png', which no release brought",
        "file": "is not a folder",
        "file/below": "is not a folder",
        "folder": "is no link to a release",
        "away": "leads to '/etc', which is no release in",
    }.items():
        install(edgecnn, to=to).refused(to, words, "--to")
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **more: access(path, mode) and not (mode & os.W_OK and "board" in str(path))
    )
    (board / "board").mkdir()
    install(edgecnn, to="board").refused("board", "is not writable", "--to")
    edgecnn("rollback", "--to", "away").refused("/etc")
    (board / "board").rmdir()
    assert content(board) == before


def test_a_file_system_without_links(board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*unused: object, **named: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuses)
    install(edgecnn).refused("there: its file system has no symbolic links (Operation not permitted)", "--to")
    assert not (board / "there" / "current").exists()
    assert not list((board / "there").rglob("*.onnx"))


def test_a_full_disk(board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told with what is needed and free, before and while it is unpacked; the one before serves on."""
    assert install(edgecnn).code == 0
    before = content(board / "there")
    with monkeypatch.context() as patch:
        patch.setattr("edgecnn.artifact.temporary.free_bytes", lambda path: 1000)
        install(edgecnn, "b.tar").refused("No space left on device", "kB needed, 1.0 kB free", "--to")
    assert content(board / "there") == before
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))
    try:
        install(edgecnn, "b.tar").refused("File too large", "--to")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert content(board / "there") == before


def test_two_at_once(board: Path, edgecnn: Command) -> None:
    """The second is told who is at work, and changes nothing."""
    assert install(edgecnn).code == 0
    before = content(board / "there")
    holder = (
        "import sys, pathlib\nfrom edgecnn.artifact.hold import held\n"
        "with held(pathlib.Path('there')):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for command in (("install", "b.tar", "--threads", "1"), ("rollback",)):
            edgecnn(*command, "--to", "there").refused("another run is at work in it", str(other.pid), "--to")
        other.communicate()
    assert content(board / "there") == before


def test_the_folder_is_that_of_the_users_data(board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert edgecnn("install", "a.tar", "--threads", "1").code == 0
    assert serving(board / "home" / ".local" / "share" / "edgecnn" / "installed") == name_of(board / "a.tar")
    monkeypatch.setenv("XDG_DATA_HOME", str(board / "data"))
    edgecnn("rollback").refused("data/edgecnn/installed: no release is installed")
    assert edgecnn("install", "a.tar", "--threads", "1").code == 0
    assert serving(board / "data" / "edgecnn" / "installed") == name_of(board / "a.tar")


def test_what_was_damaged_on_the_board(board: Path, edgecnn: Command) -> None:
    """It is installed beside itself and replaced by one rename; a rollback to one that is damaged is refused."""
    a, b = name_of(board / "a.tar"), name_of(board / "b.tar")
    for archive in ("a.tar", "b.tar"):
        assert install(edgecnn, archive).code == 0
    with (board / "there" / "releases" / b / "model.onnx").open("ab") as file:
        file.write(b"\0")
    again = install(edgecnn, "b.tar", "--json")
    assert (again.code, json.loads(again.out)["changed"]) == (0, True)
    assert serving(board / "there") == f"{b}-2"
    assert {path.name for path in (board / "there" / "releases").iterdir()} == {a, f"{b}-2"}
    (board / "there" / "releases" / a / "golden.npz").unlink()
    edgecnn("rollback", "--to", "there").refused("golden.npz", "is not as it was released", f"{b}-2 serves on")
    (board / "there" / "current" / "installed.json").write_text("{}")
    edgecnn("rollback", "--to", "there").refused("installed.json", "edgecnn install FILE.tar")
    assert install(edgecnn, "b.tar").code == 0
    edgecnn("rollback", "--to", "there").refused("took over from no release")


def check_faults(
    board: Path,
    edgecnn: Command,
    monkeypatch: pytest.MonkeyPatch,
    first: tuple[str, ...],
    command: tuple[str, ...],
    chosen: Callable[[int], bool],
) -> int:
    """After each fault the release of before or the new one serves, whole, with what a rollback needs; the command,
    given again, is done, and nothing is left over. Returns how many faults there were."""
    measured = own_install.validate
    kept: list[Any] = []

    def once(*arguments: Any, **named: Any) -> Any:
        kept[:] = kept or [measured(*arguments, **named)]
        return kept[0]

    monkeypatch.setattr(own_install, "validate", once)
    there, start = board / "faulty" / "there", board / "start"
    for archive in first:
        assert install(edgecnn, archive, to=str(start)).code == 0
    before = serving(start)
    done = [] if command[0] == "rollback" else [name_of(board / command[1])]
    after = done[0] if done else read_installed(start, before).previous
    line = (*command, "--to", str(there), *(("--threads", "1") if done else ()))
    result: list[Any] = []

    def prepare() -> None:
        shutil.rmtree(board / "faulty", ignore_errors=True)
        (board / "faulty").mkdir()
        if start.exists():
            shutil.copytree(start, there, symlinks=True)
        result.clear()

    def action() -> None:
        result.append(edgecnn(*line))

    count = 0
    for disk, raised in every_fault(board / "faulty", prepare, action, chosen):
        count += 1
        at = (disk.fault, disk.seen[disk.at])
        assert raised is None, at
        if disk.fault == "fails":
            assert result[0].code in (0, 2), (at, result[0].said)
            assert "Traceback" not in result[0].err
            assert result[0].code == 0 or "error: " in result[0].err
        now = serving(there)
        assert now in (before, after), at
        if now == after and before and done:
            previous = read_installed(there, now).previous
            assert previous == before, at
            assert damaged_file(there / "releases" / before, read_installed(there, before).device_key) == "", at
        if done or now == before:
            again = edgecnn(*line)
            assert again.code == 0, (at, again.said)
        write_bytes(there / "x", b"")  # what is left goes at the next write beside it
        for name in ("x", ".lock"):  # a lock that stays holds nothing
            (there / name).unlink(missing_ok=True)
        assert serving(there) == after, at
        assert {path.name for path in there.iterdir()} == {"current", "releases"}, at
        expected = {before, after} - {""}
        assert {path.name for path in (there / "releases").iterdir()} == expected, at
        assert not list(there.rglob(".*")), at
    return count


FAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "first": ((), ("install", "a.tar")),
    "over": (("a.tar",), ("install", "b.tar")),
    "back": (("a.tar", "b.tar"), ("rollback",)),
    "again": (("b.tar", "a.tar"), ("install", "b.tar")),
}


@pytest.mark.parametrize("name", ["over", "back"])
def test_a_few_faults(name: str, board: Path, edgecnn: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last operations are those around the rename that lets another release serve."""
    assert check_faults(board, edgecnn, monkeypatch, *FAULTS[name], lambda number: number % 7 == 0) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault(
    name: str,
    board: Path,
    edgecnn: Command,
    monkeypatch: pytest.MonkeyPatch,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """Killed or refused at any file operation: the old release or the new one serves."""
    count = check_faults(board, edgecnn, monkeypatch, *FAULTS[name], bool)
    record_testsuite_property(f"faults of {' '.join(FAULTS[name][1][:1])}, {name}", count)
    assert count >= 10
