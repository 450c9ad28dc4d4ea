"""A bundle's archive: what was packed comes out; anything else is refused before a byte is written."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.bundle.manifest import MANIFEST, Bundle, manifest_text
from edgecnn.bundle.tar import bundled_file, extract_bundle, read_bundle, write_tar
from edgecnn.errors import ArtifactError, WriteError
from edgecnn.pipeline.device import unpack
from edgecnn.records import to_plain

LONG = f"images/test/{'n' * 60}/{'é' * 40}.png"
CONTENT = {
    "r.toml": b"[model]\n",
    "r.toml.json": b"{}",
    "model.fp32.onnx": bytes(range(256)) * 10,
    "model.fp32.onnx.json": b"",
    "baselines/r/device key.json": b"{}\n",
    LONG: b"x" * 512,
}


def opened(content: bytes) -> Callable[[], Any]:
    return lambda: io.BytesIO(content)


def manifest_of(content: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    files = tuple(bundled_file(name, opened(data)) for name, data in content.items())
    return {**to_plain(Bundle("r", "orin-nano", "none", "", "digits", files)), **changes}


def pack(path: Path, content: dict[str, bytes]) -> Bundle:
    files = tuple(bundled_file(name, opened(data)) for name, data in content.items())
    made = Bundle("r", "orin-nano", "none", "", "digits", files)
    write_tar(path, manifest_text(made), {name: (len(data), opened(data)) for name, data in content.items()})
    return made


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    pack(tmp_path / "x.tar", CONTENT)
    return tmp_path / "x.tar"


def test_what_was_packed_comes_out_and_every_tar_reads_it(archive: Path, tmp_path: Path) -> None:
    bundle = read_bundle(archive)
    assert [f.path for f in bundle.files] == list(CONTENT)
    extract_bundle(archive, bundle, tmp_path / "out")
    assert {
        str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    } == (CONTENT)
    with tarfile.open(archive, "r:") as tar:
        assert tar.getnames() == [MANIFEST, *CONTENT]
        for name, data in CONTENT.items():
            member = tar.extractfile(name)
            assert member is not None
            assert member.read() == data
    again = tmp_path / "again.tar"
    pack(again, CONTENT)
    assert again.read_bytes() == archive.read_bytes()


def refused(path: Path, folder: Path, *words: str) -> None:
    """Refused with one line, and nothing is written."""
    before = sorted(p.name for p in folder.parent.iterdir())
    with pytest.raises(ArtifactError) as error:
        unpack(path, folder, lambda line: None)
    assert "\n" not in error.value.message + error.value.hint
    for word in (path.name, *words):
        assert word in error.value.message, error.value.message
    assert not folder.exists()
    assert sorted(p.name for p in folder.parent.iterdir()) == before


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None, **more: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def raw(path: Path, *members: bytes, manifest: dict[str, Any] | None = None, end: bool = True) -> Path:
    """A tar of any members behind a manifest."""
    text = json.dumps(manifest_of(CONTENT) if manifest is None else manifest).encode()
    path.write_bytes(b"".join([member(MANIFEST, text), *members, bytes(1024 if end else 0)]))
    return path


def whole() -> list[bytes]:
    """The members of a good archive, as GNU tar would write them where the name is short."""
    return [member(name, data) for name, data in CONTENT.items() if name != LONG]


SMALL = {name: data for name, data in CONTENT.items() if name != LONG}


def test_the_archives_made_here_by_hand_are_good(tmp_path: Path) -> None:
    read_bundle(raw(tmp_path / "y.tar", *whole(), manifest=manifest_of(SMALL)))


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (member("/etc/cron.d/x", b"x"), "absolute"),
        (member("../outside", b"x"), "`..`"),
        (member("images/../../outside", b"x"), "`..`"),
        (member("C:/x.onnx", b"x"), "absolute"),
        (member("a\\..\\b", b"x"), "absolute"),
        (member("./model.fp32.onnx", b"x"), "not a plain path"),
        (member("images//x", b"x"), "not a plain path"),
        (member("a\nb.onnx", b"x"), "not a plain path"),
        (member("", b"x"), "not a plain path"),
        (member("n" * 90 + "/x", b"x"), "is not in the manifest"),
        (member("model.onnx", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link"),
        (member("model.onnx", kind=tarfile.LNKTYPE, linkname="r.toml"), "a hard link"),
        (member("model.onnx", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), "a device"),
        (member("model.onnx", kind=tarfile.BLKTYPE), "a device"),
        (member("model.onnx", kind=tarfile.FIFOTYPE), "a pipe"),
        (member("images", kind=tarfile.DIRTYPE), "a folder"),
        (member("x", b"y" * 512, kind=tarfile.GNUTYPE_LONGNAME), "of type b'L'"),
        (member("x", b"30 path=/etc/passwd\n", kind=tarfile.XHDTYPE), "of type b'x'"),
        (member("x", b"y", kind=tarfile.XGLTYPE), "of type b'g'"),
        (member("model.onnx", kind=tarfile.GNUTYPE_SPARSE), "a sparse file"),
        (member("model.onnx", b"x", size=1 << 60), "declares 1152921504606846976 bytes"),
        (member("model.onnx", b"x", size=-5), "truncated"),
        (member("stranger.onnx", b"x"), "is not in the manifest"),
        (member("r.toml", CONTENT["r.toml"]), "stands there twice"),
        (member(MANIFEST, b"{}"), "stands there twice"),
        (member("r.toml.json", b"{ }"), "twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_members(tmp_path: Path, hostile: bytes, words: str) -> None:
    """Whether they stand before or behind the good ones."""
    for k, members in enumerate(([*whole(), hostile], [hostile, *whole()])):
        path = raw(tmp_path / f"{k}.tar", *members, manifest=manifest_of(SMALL))
        expected = [words] if k == 0 or "twice" not in words else []
        tracemalloc.start()
        refused(path, tmp_path / "out", *expected)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20, "nothing is allocated for what is declared"
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "a bundle of schema 2, this is schema 1"),
        ({"edgecnn": "9.0"}, "made by edgecnn '9.0', this is edgecnn"),
        ({"schema": None}, "schema None"),
        ({"surplus": 1}, "surplus"),
        ({"recipe": "../r"}, "recipe"),
        ({"recipe": "other"}, "holds no recipe 'other'"),
        ({"images_at": "../../etc"}, "`..`"),
        ({"images_at": "/etc"}, "absolute"),
        ({"files": []}, "holds no recipe"),
        ({"files": 3}, "files"),
    ],
)
def test_another_version_and_a_damaged_manifest(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = raw(tmp_path / "x.tar", *whole(), manifest=manifest_of(SMALL) | changes)
    refused(path, tmp_path / "out", words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("agx-orin/int8.plan", "engines are built on the device"),
        ("int8.plan", "a bundle holds"),
        ("agx-orin/int8.plan.json", "a bundle holds"),
        ("agx-orin/latency.json", "a bundle holds"),
        ("sitecustomize.py", "a bundle holds"),
        (".lock.json", "a bundle holds"),
        ("bundle.json", "a bundle holds"),
        ("model.safetensors", "a bundle holds"),
        ("../x.onnx", "`..`"),
        ("images/../x", "`..`"),
        ("r.toml/x.json", "a bundle holds"),
        ("images/r/x", ""),
    ],
)
def test_a_manifest_that_names_what_no_bundle_holds(tmp_path: Path, name: str, words: str) -> None:
    """No engine, no result, no code comes with a bundle, with whatever sidecar."""
    content = {**SMALL, name: b"x"}
    path = raw(tmp_path / "x.tar", *[member(n, d) for n, d in content.items()], manifest=manifest_of(content))
    if words:
        refused(path, tmp_path / "out", "")
        with pytest.raises(ArtifactError) as error:
            read_bundle(path)
        assert words in error.value.message + error.value.hint
    else:
        read_bundle(path)


def test_names_that_exclude_each_other(tmp_path: Path) -> None:
    for content in ({**SMALL, "images/a": b"x", "images/a/b": b"y"}, {**SMALL, "images/a/b": b"y", "images/a": b"x"}):
        path = raw(tmp_path / "x.tar", *[member(n, d) for n, d in content.items()], manifest=manifest_of(content))
        refused(path, tmp_path / "out", "a file and a folder at once")
    twice = manifest_of(SMALL)
    twice["files"].append(twice["files"][0])
    refused(raw(tmp_path / "x.tar", *whole(), manifest=twice), tmp_path / "out", "twice")


def test_truncated_anywhere(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    cut = tmp_path / "cut.tar"
    for length in [*range(0, len(content) - 1024, 337), len(content) - 1024, len(content) - 1025]:
        cut.write_bytes(content[:length])
        refused(cut, tmp_path / "out")


def test_damaged_anywhere(archive: Path, tmp_path: Path) -> None:
    """A flipped bit of content, of a header or of the manifest; padding means nothing."""
    content, bad = archive.read_bytes(), tmp_path / "bad.tar"
    with tarfile.open(archive) as tar:
        spans = [(m.offset, m.offset + 100) for m in tar] + [(m.offset_data, m.offset_data + m.size) for m in tar]
    for start, stop in spans:
        for position in range(start, stop, 97):
            bad.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(ArtifactError):
                read_bundle(bad)


def test_what_is_no_bundle_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    refused(path, tmp_path / "out", "no such file")
    for content in (b"", b"PK\x03\x04" * 400, bytes(2048), bytes(100)):
        path.write_bytes(content)
        refused(path, tmp_path / "out", "not a bundle")
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    refused(path, tmp_path / "out", "no uncompressed tar")
    path.write_bytes(b"".join([*whole(), bytes(1024)]))
    refused(path, tmp_path / "out", "its first member is not bundle.json")


def test_a_name_that_no_bundle_can_hold_is_said_when_it_is_packed(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="too long for a bundle"):
        pack(tmp_path / "x.tar", {"images/" + "n" * 240 + ".png": b"x"})
    assert list(tmp_path.iterdir()) == []


def test_unpacking_again_another_and_over_something_else(archive: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    assert unpack(archive, out, said.append) == out
    (out / "cpu").mkdir()
    (out / "cpu" / "latency.json").write_text("{}")
    unpack(archive, out, said.append)
    assert "holds x.tar already" in said[-1]
    (out / "model.fp32.onnx").write_bytes(b"damaged")
    unpack(archive, out, said.append)
    assert (out / "model.fp32.onnx").read_bytes() == CONTENT["model.fp32.onnx"]
    other = {name: data for name, data in CONTENT.items() if name != LONG} | {"images/test/new.png": b"new"}
    pack(tmp_path / "other.tar", other)
    unpack(tmp_path / "other.tar", out, said.append)
    assert [p.name for p in (out / "images" / "test").iterdir()] == ["new.png"], "no folder of a class is left empty"
    assert (out / "images/test/new.png").exists()
    assert (out / "cpu" / "latency.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.tar", "out", "x.tar"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(WriteError, match="holds files that no bundle brought"):
        unpack(archive, tmp_path / "mine", said.append)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["model.safetensors"]


def test_killed_while_files_are_put_in_place(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start completes it, from whichever bundle was there before."""
    before = {**CONTENT, "images/test/old.png": b"old"}
    pack(tmp_path / "before.tar", before)
    replace, left = Path.replace, [0]

    def failing(path: Path, target: Any) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(path, target)

    for start in ("", "before.tar"):
        for steps in range(len(CONTENT) + 1):
            out = tmp_path / f"out{start}{steps}"
            if start:
                unpack(tmp_path / start, out, lambda line: None)
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", failing)
                left[0] = steps
                with pytest.raises(KeyboardInterrupt):
                    unpack(archive, out, lambda line: None)
            unpack(archive, out, lambda line: None)
            found = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
            assert found == {*CONTENT, MANIFEST}
            assert (out / LONG).read_bytes() == CONTENT[LONG]


def test_a_disk_that_is_too_small_is_said_before(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = dataclasses.make_dataclass("usage", ["free"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(100))
    with pytest.raises(WriteError, match="MB are needed"):
        unpack(archive, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()
