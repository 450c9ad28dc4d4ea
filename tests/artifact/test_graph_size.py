"""Graphs whose messages would take the machine are refused before protobuf reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgecnn.artifact import graph_size
from edgecnn.artifact.graph_size import MESSAGES, require_few_entries
from edgecnn.backends._graph_facts import describe_graph
from edgecnn.backends._graph_file import read_structure
from edgecnn.errors import ArtifactError, GraphError
from edgecnn.graph.load import load_graph
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx


def field(number: int, content: bytes) -> bytes:
    """A field of bytes of a protobuf message."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_every_message_of_onnx_is_looked_into() -> None:
    def name(kind: Any) -> str:
        found = kind.full_name.removeprefix("onnx.").replace("Proto", "")
        known = {"TypeMap": "Type.Map", "Type.SparseTensor": "Type.Tensor", "Type.Optional": "Type.Sequence"}
        return str(known.get(found, found))

    left, seen = [onnx.ModelProto.DESCRIPTOR], set[str]()
    while left:
        kind = left.pop()
        if name(kind) in seen:
            continue
        seen.add(name(kind))
        inner = {f.number: f.message_type for f in kind.fields if f.message_type is not None}
        left += inner.values()
        if name(kind) not in MESSAGES:
            assert not inner, name(kind)
            continue
        found = {k: name(m) for k, m in inner.items()}
        assert {k: m if m in MESSAGES else "plain" for k, m in found.items()} == MESSAGES[name(kind)], name(kind)
    assert MESSAGES.keys() - {"plain"} <= seen


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_size, "GRAPH_NODES", 100)
    monkeypatch.setattr(graph_size, "GRAPH_ENTRIES", 1000)
    monkeypatch.setattr(onnx, "load", lambda *a, **k: pytest.fail("it was read"))


EMPTY = b"\x0a\x00"  # a field 1 of no bytes: of a graph, a node
MANY = {
    "nodes": (field(7, EMPTY * 101), "its nodes are more than 100"),
    "nodes of an inner graph": (field(7, field(1, field(5, field(6, EMPTY * 100)))), "its nodes are more than 100"),
    "initializers": (field(7, b"\x2a\x00" * 1001), "have more than 1000 entries"),
    "attributes": (field(7, field(1, b"\x2a\x00" * 1001)), "have more than 1000 entries"),
    "inputs": (field(7, field(1, EMPTY * 1001)), "have more than 1000 entries"),
    "dimensions": (field(7, field(5, b"\x08\x01" * 1001)), "have more than 1000 entries"),
    "of a file that is cut off": (field(7, field(1, b"\x2a\x00" * 1001)) + b"\x3a\xff", "have more than 1000 entries"),
    "of a graph that is cut off": (field(7, field(1, b"\x2a\x00" * 2000))[:-10], "have more than 1000 entries"),
    "in a group": (b"\x0b" + field(7, EMPTY * 101) + b"\x0c", "its nodes are more than 100"),
}


@pytest.mark.parametrize("kind", MANY)
def test_too_many_are_refused_before_they_are_read(kind: str, tmp_path: Path, small_limits: None) -> None:
    content, words = MANY[kind]
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=words):
        load_graph(path)
    for reader in (describe_graph, read_structure):
        with pytest.raises(ArtifactError, match=words):
            reader(path)


def test_as_many_as_may_be_are_counted_right(tmp_path: Path, small_limits: None) -> None:
    for content in (field(7, EMPTY * 100), field(7, b"\x2a\x00" * 999), b"", b"\xff" * 50, b"\x3a\x80", b"no graph"):
        (tmp_path / "x.onnx").write_bytes(content)
        require_few_entries(tmp_path / "x.onnx")


def test_a_whole_graph_is_read(tmp_path: Path) -> None:
    onnx.save(tiny_graph("int8"), tmp_path / "x.onnx")
    assert load_graph(tmp_path / "x.onnx") == tiny_graph("int8")


def test_a_graph_becomes_a_message_in_one_place(root: Path) -> None:
    """But for what ONNX Runtime and onnxslim have written a moment ago."""
    own = {"graph/simplify.py", "graph/qdq/verify.py", "backends/_graph_file.py"}
    sources = {
        str(p.relative_to(root / "edgecnn")): p.read_text(encoding="utf-8") for p in (root / "edgecnn").rglob("*.py")
    }
    parsing = {name for name, text in sources.items() if "onnx.load(" in text or "ParseFromString" in text}
    assert parsing == own
