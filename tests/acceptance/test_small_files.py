"""A small file does not take the machine, and what is no plain file is not waited for."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.onnx]

Cli = Callable[..., Any]

MEMORY = 3 << 30  # bytes of address space; numpy and ONNX Runtime take half of one


def limited(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """The command in a process that may take little memory, and no longer than this."""
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); "
    code += "from edgecnn import cli; sys.exit(cli.main(sys.argv[1:]))"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
    )


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A float32 graph of pictures of 8 x 8."""
    path = tmp_path / "net.onnx"
    path.write_bytes(tiny_graph("fp32").SerializeToString())
    return path


def png(width: int, height: int) -> bytes:
    """One that is all black, of any size; what lacks of a high one is never read."""
    packer, packed = zlib.compressobj(9), b""
    for _ in range(min(height, 100_000)):
        packed += packer.compress(bytes(1 + 3 * width)) if width * height < 1 << 25 else b""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", packed + packer.flush())]
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in (*chunks, (b"IEND", b"")):
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return made


def bomb(shape: str, size: int, *, name: str = "input.npy", packed: bool = True) -> bytes:
    """An .npz whose header tells `shape`, with `size` zeros behind it."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive, archive.open(name, "w") as member:
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return out.getvalue()


PREPROCESS = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two folders of good pictures."""
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (9, 9), (40 * k, 20, 90)).save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path / "data"


@pytest.fixture
def reference(edgecnn: Cli, graph: Path, pictures: Path, tmp_path: Path) -> Callable[[Path], Any]:
    """`edgecnn reference` of these pictures by the imported graph."""
    (tmp_path / "p.json").write_text(json.dumps(PREPROCESS))
    made = edgecnn("import", graph, "--preprocess", tmp_path / "p.json", "-o", tmp_path / "own.onnx")
    assert made.code == 0, made.err
    return lambda data: edgecnn("reference", tmp_path / "own.onnx", "--data", data, "-o", tmp_path / "r.npz")


@pytest.mark.parametrize("size", [(9_000_000, 1), (40_000, 40_000)])
def test_a_picture_that_would_become_huge_is_left_out_and_named(
    reference: Callable[[Path], Any], pictures: Path, size: tuple[int, int]
) -> None:
    long = pictures / "a" / "long.png"
    long.write_bytes(png(*size))
    found = reference(pictures)
    assert found.code == 0, found.err
    assert "long.png" in found.out + found.err


def test_resized_pixels_are_limited_before_they_are_there(tmp_path: Path) -> None:
    """A picture of 20 000 rows of one pixel is five million rows at 256 columns."""
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.errors import DataError

    preprocessing = preprocessing_from_json({**PREPROCESS, "resize": 256, "crop": 224})
    for made in (preprocessing.crop_image, preprocessing.resized):
        with pytest.raises(DataError, match="1 x 20000 pixels would be resized to"):
            made(Image.new("RGB", (1, 20_000)))


def test_what_is_no_picture_of_the_kinds_that_are_meant_is_not_opened(
    reference: Callable[[Path], Any], pictures: Path
) -> None:
    """An EPS would start Ghostscript."""
    Image.new("RGB", (9, 9)).save(pictures / "a" / "x.eps")
    (pictures / "a" / "x.eps").rename(pictures / "a" / "x.jpg")
    found = reference(pictures)
    assert found.code == 0
    assert "x.jpg" in found.out + found.err


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_plain_file_is_refused_at_once(
    graph: Path, pictures: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(odd))
    from edgecnn import cli

    for suffix, command in (
        (".onnx", ("inspect",)), (".onnx", ("check",)), (".plan", ("inspect",)), (".safetensors", ("inspect",)),
        (".npz", ("inspect",)), (".calib.json", ("inspect",)), (".toml", ("run",)),
        (".npz", ("calibrate", graph, "-o", tmp_path / "r.calib.json", "--data")),
        (".json", ("import", graph, "-o", tmp_path / "x.onnx", "--preprocess")),
    ):  # fmt: skip
        named = odd.with_name(f"odd{suffix}")
        named.unlink(missing_ok=True)
        named.symlink_to(odd)
        assert cli.main([*map(str, command), str(named)]) == 2, (suffix, command)
        said = capfd.readouterr().err
        assert "no such file" not in said, "it is there"
        assert "Errno" not in said


@pytest.mark.parametrize(
    ("shape", "size", "packed"),
    [
        ("(1099511627776, 3, 8, 8)", 1 << 20, True),
        ("(700, 3, 200, 200)", 1 << 28, True),
        ("(9, 3, 8, 8)", 1 << 20, False),
    ],
)
def test_an_npz_that_tells_more_than_it_holds_or_unpacks_without_end(
    edgecnn: Cli, graph: Path, tmp_path: Path, shape: str, size: int, packed: bool
) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(bomb(shape, size, packed=packed))
    edgecnn("calibrate", graph, "--data", path, "-o", tmp_path / "r.calib.json").refused("d.npz")


def test_idx_headers_and_their_gzip(edgecnn: Cli, graph: Path, tmp_path: Path) -> None:
    for name, shape in (("huge", (1 << 31, 28, 28)), ("wrong", (3, 28, 28))):
        folder = tmp_path / name
        folder.mkdir()
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in shape)
        for stem in ("train", "t10k"):
            with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
                file.write(head + bytes(1000))
            with gzip.open(folder / f"{stem}-labels-idx1-ubyte.gz", "wb") as file:
                file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes(3))
        found = edgecnn("calibrate", graph, "--data", f"mnist:{folder}", "-o", tmp_path / "r.calib.json")
        assert found.code == 2
        assert "Traceback" not in found.err


def test_texts_that_are_nested_too_deep(edgecnn: Cli, graph: Path, tmp_path: Path) -> None:
    for depth in (200, 100_000):
        (tmp_path / "p.json").write_text("[" * depth + "]" * depth)
        (tmp_path / "r.toml").write_text(f"a = {'[' * depth}{']' * depth}\n")
        edgecnn("import", graph, "--preprocess", tmp_path / "p.json", "-o", tmp_path / "x.onnx").refused(
            "nested too deep"
        )
        edgecnn("run", tmp_path / "r.toml").refused("nested too deep")


def test_a_graph_of_very_many_nodes(edgecnn: Cli, tmp_path: Path) -> None:
    import onnx

    model = tiny_graph("fp32")
    for k in range(100_001):
        model.graph.node.append(onnx.NodeProto(op_type="Relu", input=["input"], output=[f"x{k}"]))
    (tmp_path / "many.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "p.json").write_text(json.dumps(PREPROCESS))
    asked = ("import", tmp_path / "many.onnx", "--preprocess", tmp_path / "p.json", "-o", tmp_path / "x.onnx")
    edgecnn(*asked).refused("its nodes are more than 100000")


def test_a_safetensors_header_that_says_no_tensors(edgecnn: Cli, tmp_path: Path) -> None:
    for header in (
        b'{"a": 3}',
        b'{"a": {"data_offsets": []}}',
        b'{"a": {"data_offsets": [0, 4], "shape": "x", "dtype": 3}}',
        b"[]",
    ):
        path = tmp_path / "w.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        edgecnn("inspect", path).refused("not a safetensors file")


def test_predictions_that_tell_more_than_they_hold(edgecnn: Cli, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(bomb("(1099511627776, 10)", 1 << 20, name="logits.npy"))
    found = edgecnn("inspect", path)
    assert found.code in (0, 2)
    assert "Traceback" not in found.err


def test_a_machine_without_memory_is_not_taken_for_a_damaged_picture(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecnn.data.sources import folder

    def nothing_left(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(folder, "_eight_bit", nothing_left)
    with pytest.raises(MemoryError):
        folder.decode(pictures / "a" / "0.png")


@pytest.mark.slow
def test_within_three_gigabytes(graph: Path, pictures: Path, tmp_path: Path) -> None:
    """The same in a process that has no more."""
    (tmp_path / "p.json").write_text(json.dumps({**PREPROCESS, "resize": 256, "crop": 8}))
    assert limited("import", graph, "--preprocess", tmp_path / "p.json", "-o", tmp_path / "own.onnx").returncode == 0
    (pictures / "a" / "long.png").write_bytes(png(1, 60_000))
    Image.open(pictures / "a" / "long.png").load()  # nothing is wrong with it but its shape
    found = limited("reference", tmp_path / "own.onnx", "--data", pictures, "-o", tmp_path / "r.npz")
    assert found.returncode == 0, found.stderr
    assert "the first is a/long.png" in found.stderr
    assert np.load(tmp_path / "r.npz")["ids"].size == 6
