"""Weights in a file beside the graph are part of it: brought along, hashed, and missed where they are others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgecnn as ec
from tests.acceptance.channel_pictures import (
    PREPROCESSING,
    RED,
    SIDE,
    Result,
    class_model,
    level,
    save_color,
    write_json,
)

pytestmark = pytest.mark.torch

Command = Callable[..., Result]


def put(path: Path, location: str = "weights.bin", gain: float = 40.0) -> Path:
    """The graph of four classes with its weights in a file of its folder."""
    path.parent.joinpath(location).parent.mkdir(parents=True, exist_ok=True)
    model = class_model(4, RED, gain=gain)
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=0)
    return path


def look(edgecnn: Command, command: str, path: Path, *more: object) -> Result:
    """Inspect, build or bench a graph."""
    bench = ("--engine", path, "--threads", "1", "--duration", "0.1")
    return edgecnn(command, *(bench if command == "bench" else (path, *more)))


def turn_a_bit(path: Path) -> None:
    """Other content of the same size and times."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("location", ["weights.bin", "data/w"])
def test_an_engine_brings_its_weights_along_and_is_refused_with_others(
    edgecnn: Command, tmp_path: Path, location: str
) -> None:
    graph = put(tmp_path / "theirs" / "red.onnx", location)
    engine = tmp_path / "other" / "e.onnx"
    result = edgecnn("build", graph, "-o", engine, "--threads", "1")
    assert result.code == 0, result.said
    shutil.rmtree(graph.parent)
    assert edgecnn("inspect", engine).code == 0
    assert look(edgecnn, "bench", engine).code == 0
    turn_a_bit(engine.parent / location)
    for command in ("inspect", "bench"):
        look(edgecnn, command, engine).refused("e.onnx", "sha256")
    (engine.parent / location).unlink()
    for command in ("inspect", "bench"):
        look(edgecnn, command, engine).refused("e.onnx", location)


def test_weights_beside_an_engine_built_in_place_cannot_be_replaced(edgecnn: Command, tmp_path: Path) -> None:
    graph = put(tmp_path / "red.onnx")
    assert edgecnn("build", graph, "--threads", "1").code == 0
    turn_a_bit(tmp_path / "weights.bin")
    look(edgecnn, "bench", tmp_path / "red.engine.onnx").refused("red.engine.onnx", "sha256")


def test_weights_of_another_engine_are_not_overwritten(edgecnn: Command, tmp_path: Path) -> None:
    one, two = put(tmp_path / "one" / "red.onnx"), put(tmp_path / "two" / "red.onnx", gain=41.0)
    out = tmp_path / "out"
    assert edgecnn("build", one, "-o", out / "a.onnx", "--threads", "1").code == 0
    before = (out / "weights.bin").read_bytes()
    edgecnn("build", two, "-o", out / "b.onnx", "--threads", "1").refused("weights.bin", "another folder")
    assert (out / "weights.bin").read_bytes() == before
    assert sorted(p.name for p in out.iterdir()) == ["a.onnx", "a.onnx.json", "weights.bin"]
    assert edgecnn("build", two, "-o", out / "a.onnx", "--threads", "1").code == 0, "its own weights are replaced"
    assert look(edgecnn, "bench", out / "a.onnx").code == 0


def test_what_an_import_was_made_of_counts_its_weights(edgecnn: Command, tmp_path: Path) -> None:
    source, made = put(tmp_path / "red.onnx"), tmp_path / "x.onnx"
    preprocess = write_json(tmp_path / "pre.json", PREPROCESSING)
    parents = []
    for _ in range(2):
        assert edgecnn("import", source, "--preprocess", preprocess, "-o", made).code == 0
        parents.append(json.loads(made.with_name("x.onnx.json").read_text())["parents"])
        turn_a_bit(tmp_path / "weights.bin")
    assert parents[0] != parents[1]


@pytest.mark.parametrize("command", ["inspect", "build", "bench"])
@pytest.mark.parametrize("location", ["../weights.bin", "gone.bin", "pipe"])
def test_weights_that_are_not_a_file_of_the_folder_are_refused_everywhere(
    edgecnn: Command, tmp_path: Path, command: str, location: str
) -> None:
    graph = put(tmp_path / "inner" / "red.onnx")
    shutil.copy(graph.with_name("weights.bin"), tmp_path)
    os.mkfifo(tmp_path / "inner" / "pipe")
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    graph.write_bytes(model.SerializeToString())
    look(edgecnn, command, graph).refused("red.onnx", location)


@pytest.mark.parametrize("command", ["inspect", "build", "import", "bench"])
def test_more_than_2_gb_is_refused_before_anything_is_read(edgecnn: Command, tmp_path: Path, command: str) -> None:
    """The file is sparse: reading it would take seconds, and memory that the machine may not have."""
    graph = put(tmp_path / "red.onnx")
    model = onnx.load(graph, load_external_data=False)
    weight = next(i for i in model.graph.initializer if i.name == "w")
    weight.dims[0] = 510_000_000 // weight.dims[1] + 1
    entries = {e.key: e for e in weight.external_data}
    entries["offset"].value, entries["length"].value = "0", str(4 * weight.dims[0] * weight.dims[1])
    graph.write_bytes(model.SerializeToString())
    os.truncate(tmp_path / "weights.bin", 2_040_000_100)
    preprocess = write_json(tmp_path / "pre.json", PREPROCESSING)
    more = ("--preprocess", preprocess, "-o", tmp_path / "x.onnx") if command == "import" else ()
    look(edgecnn, command, graph, *more).refused("red.onnx", "2.0 GB", "smaller")


def test_a_validation_is_not_taken_up_with_other_weights(tmp_path: Path) -> None:
    """A journal is of the engine's weights too."""
    graph, reference = put(tmp_path / "red.onnx"), tmp_path / "r.npz"
    images = np.zeros((4, 3, SIDE, SIDE), np.float32)
    images[:, RED] = np.array([level(k, 4) for k in range(4)]).reshape(4, 1, 1) / 255
    np.savez(tmp_path / "d.npz", input=images, label=np.arange(4))
    ec.reference(graph, reference, data=tmp_path / "d.npz")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    data = tmp_path / "d.npz"
    with pytest.raises(KeyboardInterrupt):
        ec.validate(graph, reference, tmp_path / "a.json", data=data, batch=1, progress=stop)
    assert list(tmp_path.glob(".a.json*"))
    put(tmp_path / "red.onnx", gain=-40.0)
    assert ec.validate(graph, reference, tmp_path / "a.json", data=data, batch=1).agreement_pct < 50


@pytest.mark.parametrize("command", ["calibrate", "quantize"])
def test_a_graph_that_is_not_the_one_of_its_sidecar_is_made_into_nothing(
    edgecnn: Command, tmp_path: Path, command: str
) -> None:
    preprocess = write_json(tmp_path / "pre.json", PREPROCESSING)
    graph = ec.import_onnx(put(tmp_path / "red.onnx"), tmp_path / "ours.onnx", preprocess=preprocess)
    onnx.save(class_model(4, RED, gain=41.0), graph)
    save_color(tmp_path / "images" / "train" / "a" / "0.png", (1, 2, 3))
    more = ("--precision", "fp16") if command == "quantize" else ("--data", tmp_path / "images")
    output = tmp_path / ("x.onnx" if command == "quantize" else "x.calib.json")
    edgecnn(command, graph, *more, "-o", output).refused("ours.onnx", "sha256")


def test_an_engine_whose_replacement_died_halfway_is_the_new_one(edgecnn: Command, tmp_path: Path) -> None:
    """The shorter weights of the new one lie there already, its graph not yet."""
    new, old = tmp_path / "new" / "e.onnx", tmp_path / "old" / "e.onnx"
    for engine, gain, more in ((new, 40.0, b""), (old, 3.0, b"\0" * 4096)):
        graph = put(engine.parent / "in" / "red.onnx", gain=gain)
        if more:
            model = onnx.load(str(graph))
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "a_spare"))
            onnx.save(model, str(graph), save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert edgecnn("build", graph, "-o", engine, "--threads", "1").code == 0
    assert (new.parent / "weights.bin").stat().st_size < (old.parent / "weights.bin").stat().st_size
    half = old.parent / ".e.onnx.edgecnn-next"
    half.mkdir()
    shutil.copyfile(new, half / "e.onnx")
    shutil.copyfile(new.with_name("e.onnx.json"), half / "e.onnx.json")
    shutil.copyfile(new.parent / "weights.bin", old.parent / "weights.bin")
    assert (result := look(edgecnn, "bench", old)).code == 0, result.said
    assert old.read_bytes() == new.read_bytes()
    assert not half.exists()


def test_weights_of_another_engine_are_not_replaced(edgecnn: Command, tmp_path: Path) -> None:
    """Two engines share one file of weights: neither is built anew over the other's."""
    graph = put(tmp_path / "theirs" / "red.onnx")
    for name in ("a.onnx", "b.onnx"):
        assert edgecnn("build", graph, "-o", tmp_path / "cpu" / name, "--threads", "1").code == 0
    put(graph, gain=3.0)
    look(edgecnn, "build", graph, "-o", tmp_path / "cpu" / "a.onnx").refused("cpu/weights.bin", "would be overwritten")
    for name in ("a.onnx", "b.onnx"):
        assert edgecnn("inspect", tmp_path / "cpu" / name).code == 0


def test_weights_that_are_private_stay_so(edgecnn: Command, tmp_path: Path) -> None:
    graph = put(tmp_path / "red.onnx")
    (tmp_path / "weights.bin").chmod(0o600)
    assert edgecnn("build", graph, "--threads", "1").code == 0
    assert (tmp_path / "weights.bin").stat().st_mode & 0o777 == 0o600
