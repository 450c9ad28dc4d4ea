"""`edgecnn check`: our rules for each release, and whoever of NVIDIA's is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgecnn import backends, cli
from edgecnn.backends import Opinion
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.inspection.check import RELEASES, check_graph
from edgecnn.results.finding import Finding
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph("fp32", None), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def spoiled(path: Path, change: Any) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def test_a_clean_graph_has_nothing_against_it(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(graph)]) == 0
    said = capsys.readouterr().out
    assert "nothing against it" in said
    assert all(f"TensorRT {release}" in said for release in RELEASES)
    assert "TensorRT: building and running" in said  # who was not asked, and why


def test_what_one_release_refuses_and_another_takes(graph: Path) -> None:
    def newer(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 22

    found = check_graph(spoiled(graph, newer))
    assert found.refused
    opset = next(f for f in found.findings if "opset 22" in f.what)
    assert opset.sources == ("our rules for TensorRT 10.3",)


def test_a_finding_stands_once_with_all_who_say_it(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def uint8(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Sharpen"

    assert cli.main(["check", str(spoiled(graph, uint8)), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["refused"]
    sharpen = [f for f in found["findings"] if "Sharpen" in f["what"]]
    assert len(sharpen) == 1
    assert len(sharpen[0]["sources"]) == len(RELEASES)
    assert sharpen[0]["hint"]


def test_nvidia_s_word_stands_beside_ours(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        PROVIDER = "TensorRT-RTX"

        def check_graph(self, path: Path) -> Opinion:
            return Opinion("their parser", (Finding("error", "conv1", "no such thing", "theirs"),))

    monkeypatch.setattr("edgecnn.inspection.check.load_backends", lambda: [*backends.load_backends(), Theirs()])
    found = check_graph(graph)
    assert found.refused
    assert found.asked[-1] == "their parser"
    assert [(f.where, f.sources) for f in found.findings] == [("conv1", ("their parser",))]


def test_a_cpu_is_asked_as_a_cpu(graph: Path) -> None:
    found = check_graph(graph, "cpu")
    assert "our rules for ONNX Runtime" in found.asked
    assert not found.refused


def test_what_cannot_be_asked(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        check_graph(tmp_path / "none.onnx")
    with pytest.raises(RecipeError, match="no target"):
        check_graph(graph, "orin")
    monkeypatch.setattr("edgecnn.inspection.check.load_backends", list)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArtifactError, match="nobody here"):
        check_graph(graph)


def test_a_damaged_graph_is_a_finding_and_no_traceback(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:80])
    found = check_graph(graph)
    assert found.refused
    assert "not an ONNX graph" in found.findings[0].what
