"""What a backend offers, and that nothing else in the package knows one by its name."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn import backends
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import Backend, backend_names, load_backend, recognizing_backend
from edgecnn.errors import ArtifactError
from edgecnn.inspection.artifact import describe
from edgecnn.inspection.machine import machine
from edgecnn.steps.build import build
from edgecnn.targets import targets
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx

MEMBERS = [*Backend.__annotations__, *(n for n, m in vars(Backend).items() if n[0] != "_" and inspect.isfunction(m))]


@pytest.mark.parametrize("name", backend_names())
def test_a_backend_offers_all_that_the_protocol_asks(name: str) -> None:
    assert len(MEMBERS) >= 11
    module = load_backend(name)
    for member in MEMBERS:
        offered, asked = getattr(module, member), vars(Backend).get(member)
        if asked is not None:
            mine = list(inspect.signature(offered).parameters)
            assert mine == list(inspect.signature(asked).parameters)[1:], member
    assert name == module.NAME


def test_every_target_names_a_backend_that_is_there() -> None:
    assert {target.backend for target in targets().values()} == set(backend_names())
    for name in backend_names():
        assert targets()[load_backend(name).DEFAULT_TARGET].backend == name


def test_nothing_outside_knows_a_backend_by_name_or_suffix() -> None:
    """A graph's own suffix is no backend's alone; the command line speaks of both to its user."""
    package = Path(backends.__file__).parents[1]
    telling = {*backend_names(), *(s for n in backend_names() for s in load_backend(n).SUFFIXES)} - {".onnx"}
    ours = {"ort", "ort-cuda", "ort-tensorrt", "ort-rtx", "trt", "trt-rtx"}
    assert telling == ours | {".plan", ".rtx.plan", ".engine"}
    files = [p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in ("backends", "cli")]
    assert len(files) > 100
    found = []
    for path in files:
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}  # text for readers
        named = [n for n in nodes if isinstance(n, ast.Constant) and n not in parts and n.value in telling]
        found += [f"{path.relative_to(package)}:{node.lineno} {node.value!r}" for node in named]
    assert found == []


def test_inspect_asks_the_backend_that_recognizes_the_file(tmp_path: Path) -> None:
    graph, named = tmp_path / "g.onnx", tmp_path / "renamed.bin"
    graph.write_bytes(tiny_graph("fp32").SerializeToString())
    facts = describe(graph)
    assert (facts["opset"], facts["outputs"]) == (19, ["logits float32 [batch, 5]"])
    named.write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]))
    found = recognizing_backend(named)
    assert found is not None
    assert (found.NAME, describe(named)["built_by_tensorrt"]) == ("trt", "10.3.0.30")
    (tmp_path / "x.txt").write_text("x")
    assert recognizing_backend(tmp_path / "x.txt") is None


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x09\x12\xff"])
def test_a_damaged_graph_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    graph = tmp_path / "g.onnx"
    graph.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a whole ONNX graph|an ONNX graph without nodes"):
        describe(graph)


def test_the_doctor_says_what_the_backends_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"gpu", "tensorrt"} <= machine({}).keys()
    monkeypatch.setattr(load_backend("ort"), "machine_facts", lambda: {"sundial": "noon"})
    assert machine({})["sundial"] == "noon"


def test_what_is_said_of_an_engine_with_its_device_is_json(graph: Callable[..., Path], tmp_path: Path) -> None:
    engine = build(graph("fp32"), tmp_path / "e.onnx")
    device = read_sidecar(engine).device
    said = json.loads(json.dumps(describe(engine)))
    assert device is not None
    assert said["sidecar"]["device"]["threads"] == device.threads


def test_a_build_that_names_no_backend_takes_the_target_s(one_trt: Any, graph: Callable[..., Path]) -> None:
    engine = build(graph("fp32"), target="gpu")
    sidecar = read_sidecar(engine)
    assert (engine.suffix, sidecar.backend, sidecar.target) == (".plan", "trt", "gpu")
