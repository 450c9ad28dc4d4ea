"""What a graph keeps in other files is found as onnx finds it, in whatever part of the graph, and in any bytes."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgecnn.artifact.external import external_files, external_tensors
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.errors import ArtifactError

pytestmark = pytest.mark.onnx


def graph_in_pieces(path: Path) -> Path:
    """A graph with an external tensor in each place that ONNX has for one; each in a file of its own."""
    import onnx
    from onnx import TensorProto, helper

    def away(name: str, length: int | None = 4) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        entries = {"location": f"{name}.bin", "offset": "4", **({} if length is None else {"length": str(length)})}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        path.with_name(f"{name}.bin").write_bytes(b"\0" * 8)
        return tensor

    def constant(name: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=away(name))

    inner = helper.make_graph([constant("inner")], "inner", [], [], [away("held")])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
    several = helper.make_node("Custom", [], ["z"], tensors=[away("t0"), away("t1")], graphs=[inner])
    inside = TensorProto(name="inside", data_type=TensorProto.FLOAT, dims=[1], raw_data=b"\0" * 4)
    inside.external_data.add(key="location", value="not-read.bin")
    sparse = onnx.SparseTensorProto(values=away("sparse"), indices=away("where"), dims=[4])
    graph = helper.make_graph([branch, several], "g", [], [], [away("weights", None), inside])
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    model.functions.append(helper.make_function("d", "F", [], ["f"], [constant("function")], []))
    path.write_bytes(model.SerializeToString())
    return path


def test_every_place_of_a_tensor_is_looked_at(tmp_path: Path) -> None:
    found = {t.name: t for t in external_tensors(graph_in_pieces(tmp_path / "g.onnx"))}
    names = {"inner", "held", "t0", "t1", "sparse", "where", "weights", "function"}
    assert {t.location for t in found.values()} == {f"{name}.bin" for name in names}
    assert {name: t.end for name, t in found.items()} == {name: 0 if name == "weights" else 8 for name in names}
    assert sorted(external_files(tmp_path / "g.onnx")) == sorted(f"{name}.bin" for name in names)


def test_the_hash_is_the_one_that_sha256sum_gives(tmp_path: Path) -> None:
    graph = graph_in_pieces(tmp_path / "g.onnx")
    line = "LC_ALL=C; sha256sum - *.bin < g.onnx | sha256sum"
    said = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == sha256_of(graph)
    (tmp_path / "inside.onnx").write_bytes(b"\x08\x09")
    assert sha256_of(tmp_path / "inside.onnx") == hashlib.sha256(b"\x08\x09").hexdigest()


@pytest.mark.parametrize("name", ["inner", "held", "t1", "sparse", "where", "weights", "function"])
def test_no_byte_of_them_can_change(tmp_path: Path, name: str) -> None:
    graph = graph_in_pieces(tmp_path / "g.onnx")
    before = sha256_of(graph)
    (tmp_path / f"{name}.bin").write_bytes(b"\0" * 7 + b"\1")
    assert sha256_of(graph) != before


def test_bytes_move_from_graph_to_weights_in_no_hash(tmp_path: Path) -> None:
    """Graph and weights are told apart: the same bytes, cut elsewhere, are others."""
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    path = tmp_path / "g.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString())
    more = b"\x72\x02ab"  # a field that a graph's reader skips, or four bytes of weights
    (tmp_path / "w.bin").write_bytes(more)
    one = sha256_of(path)
    path.write_bytes(path.read_bytes() + more)
    (tmp_path / "w.bin").write_bytes(b"")
    assert sha256_of(path) != one


def test_any_bytes_have_a_hash_or_an_error_of_ours(tmp_path: Path) -> None:
    graph = graph_in_pieces(tmp_path / "g.onnx")
    content, rng = graph.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(1500):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        graph.write_bytes(changed[: rng.randint(0, len(changed))] if rng.random() < 0.2 else changed)
        try:
            assert len(sha256_of(graph)) == 64
        except ArtifactError:
            refused += 1
    assert 20 < refused < 1500


def test_a_name_that_is_no_text_is_followed_all_the_same(tmp_path: Path) -> None:
    graph = graph_in_pieces(tmp_path / "g.onnx")
    graph.write_bytes(graph.read_bytes().replace(b"weights.bin", b"weight\xff.bin"))
    with pytest.raises(ArtifactError, match="not beside it"):
        sha256_of(graph)
    (tmp_path / os.fsdecode(b"weight\xff.bin")).write_bytes(np.zeros(2, np.float32).tobytes())
    assert len(sha256_of(graph)) == 64
