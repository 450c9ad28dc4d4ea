"""Weights that an ONNX graph keeps in files beside it: they are part of it, and found without the package onnx.

A graph is a protobuf message (developers.google.com/protocol-buffers/docs/encoding); read are those of its fields (by
their numbers in onnx.proto) that lead to a tensor, and of a tensor where its values lie.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.pair import settle
from edgecnn.errors import ArtifactError
from edgecnn.limits import GRAPH_BYTES, require_regular

_EXTERNAL = 1
_VARINT, _FIXED64, _BYTES, _GROUP, _END, _FIXED32 = range(6)
_DEEPEST = 100  # messages within each other, as protobuf has it
_TENSOR = "tensor"
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}


@dataclass(frozen=True)
class ExternalTensor:
    """Where a tensor's values lie: in the file `location`, as the graph names it, up to the byte `end` (0 where the
    graph does not say how long they are)."""

    name: str
    location: str
    end: int


def external_files(path: Path) -> dict[str, Path]:
    """The files of a graph's weights, by the locations that the graph names; empty where they are inside.

    Raises `ArtifactError` for weights that are not whole in a plain file below the graph's folder (onnx follows no
    links, which the caches of model hubs are made of), and for more than `GRAPH_BYTES` of graph and weights.
    """
    with contextlib.suppress(OSError):  # of a graph that was being replaced, some files may be the new one's
        settle(path)
    tensors = external_tensors(path)
    files = {t.location: _file_of(path, t) for t in sorted(tensors, key=lambda t: t.location)}
    sizes = {location: file.stat().st_size for location, file in files.items()}
    require_size(path, sum(sizes.values()))
    for tensor in tensors:
        if sizes[tensor.location] < tensor.end:
            raise ArtifactError(
                f"{path}: {tensor.location!r} is truncated: {sizes[tensor.location]} bytes, and {tensor.name!r} ends "
                f"at {tensor.end}",
                "copy or download that file again",
            )
    return files


def require_size(path: Path, beside: int = 0) -> None:
    """Raise `ArtifactError` for a graph that with so many bytes `beside` it is larger than `GRAPH_BYTES`."""
    total = (path.stat().st_size if path.is_file() else 0) + beside
    if total > GRAPH_BYTES:
        raise ArtifactError(
            f"{path}: {total / 1e9:.1f} GB with its weights, more than the {GRAPH_BYTES / 1e9:.0f} GB that one ONNX "
            "file can hold",
            "use a smaller variant of the network",
        )


def external_tensors(path: Path) -> list[ExternalTensor]:
    """The tensors of a graph whose values lie in other files; none where the file is no protobuf message: whoever
    loads it says what is wrong."""
    try:
        if not require_regular(path):
            return []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return list(_tensors(content, "model", 0, len(content), 0))
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read: {exc.strerror}", "check the path and its permissions") from exc
    except ValueError:
        return []


def _file_of(path: Path, tensor: ExternalTensor) -> Path:
    location, name = tensor.location, tensor.name
    data = path.parent / location
    if Path(location).is_absolute() or ".." in Path(location).parts or "\0" in location:
        raise ArtifactError(
            f"{path}: the weights of {name!r} are in {location!r}, outside of the graph's folder",
            "export it with the weights inside, or in a file beside it",
        )
    if not data.is_file():
        raise ArtifactError(
            f"{path}: the weights of {name!r} are in {location!r}, which is not beside it",
            "copy that file along with the graph, or export with the weights inside",
        )
    if data.is_symlink():
        raise ArtifactError(
            f"{path}: the weights of {name!r} are in {location!r}, which is a symbolic link: onnx follows none",
            f"copy what the links point to, mkdir FOLDER && cp -L {path} {data} FOLDER, and give FOLDER/{path.name}",
        )
    return data


def _tensors(content: mmap.mmap, kind: str, start: int, end: int, depth: int) -> Iterator[ExternalTensor]:
    """The external tensors of the message of a kind that lies from `start` to `end`; raises `ValueError`."""
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if kind == _TENSOR:
        yield from _tensor(content, start, end)
        return
    for number, value in _fields(content, start, end):
        if isinstance(value, slice) and (inner := _FIELDS[kind].get(number)):
            yield from _tensors(content, inner, value.start, value.stop, depth + 1)


def _tensor(content: mmap.mmap, start: int, end: int) -> Iterator[ExternalTensor]:
    name, place, entries = "", 0, dict[str, str]()
    for number, value in _fields(content, start, end):
        if number == 14 and isinstance(value, int):
            place = value
        elif number == 8 and isinstance(value, slice):
            name = content[value].decode(errors="replace")
        elif number == 13 and isinstance(value, slice):
            entry = {n: content[v] for n, v in _fields(content, value.start, value.stop) if isinstance(v, slice)}
            entries[os.fsdecode(entry.get(1, b""))] = os.fsdecode(entry.get(2, b""))
    if place == _EXTERNAL:
        offset, length = (_count(entries.get(key, "")) for key in ("offset", "length"))
        yield ExternalTensor(name, entries.get("location", ""), offset + length if length else 0)


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | slice]]:
    """(number, value) of each field of a message: a whole number, or where the bytes lie. Raises `ValueError`."""
    at, groups = start, 0
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        value: int | slice = 0
        if wire == _VARINT:
            value, at = _varint(content, at, end)
        elif wire == _BYTES:
            length, at = _varint(content, at, end)
            value, at = slice(at, at + length), at + length
        elif wire in (_GROUP, _END):  # no field of ONNX is one; what is in it is unknown to every reader
            groups += 1 if wire == _GROUP else -1
            continue
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at > end or groups < 0:
            raise ValueError("a field ends behind its message")
        if not groups:
            yield number, value


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, and where it ends."""
    value = 0
    for position in range(at, min(at + 10, end)):
        byte = content[position]
        value |= (byte & 127) << 7 * (position - at)
        if byte < 128:
            return value, position + 1
    raise ValueError("a number without an end")
