"""`edgecnn repro` on a fake TensorRT, which its child process imports as it would the real one."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn import cli
from edgecnn.diagnose import repro
from edgecnn.diagnose.repro import reduce_failure
from edgecnn.diagnose.trials import Trials
from edgecnn.errors import BackendError, GraphError, WriteError
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx

MODULE = """
import os, pathlib, sys
sys.path.append({root!r})
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_tensorrt import fake_tensorrt
made = fake_tensorrt("10.16.1.11", FakeDevice())

class Crashing(made.OnnxParser):
    def parse_from_file(self, model):
        if b"Erf" in pathlib.Path(model).read_bytes():
            os.kill(os.getpid(), 11)
        return super().parse_from_file(model)

made.OnnxParser = Crashing
sys.modules[__name__] = made
"""


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """`import tensorrt` gives the fake of 10.16, here and in child processes; it crashes over an Erf."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "tensorrt.py").write_text(MODULE.format(root=str(root)))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setitem(sys.modules, "tensorrt", sys)  # so that what is imported in its place goes afterwards
    monkeypatch.delitem(sys.modules, "tensorrt")


def saved(path: Path, operator: str = "", precision: str = "fp32", **values: np.ndarray) -> Path:
    """The small graph, with another operator in place of its Relu, and other initializers."""
    model = tiny_graph(precision)
    model.producer_name, model.doc_string = "acme", "acme's"
    for node in model.graph.node:
        node.name = f"acme{node.name}"
        if operator and node.op_type == "Relu":
            node.op_type = operator
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.usefixtures("tensorrt")
def test_a_refused_graph_becomes_a_folder_for_a_bug_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "net.onnx", "Sharpen")
    assert cli.main(["repro", str(path), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["nodes"], found["nodes_before"], found["operators"]) == (1, 5, ["Sharpen"])
    assert found["failure"].startswith("parser, INVALID_NODE, Sharpen")
    assert (found["by"], found["values_kept"], found["names_kept"]) == ("TensorRT 10.16.1.11", [], False)
    assert "still fails with 1 nodes" in said.err
    folder = tmp_path / "net.repro"
    assert sorted(p.name for p in folder.iterdir()) == ["REPORT.md", "graph.onnx", "reproduce.py"]
    for file in folder.iterdir():
        assert b"acme" not in file.read_bytes(), file.name
    report = (folder / "REPORT.md").read_text()
    for asked in ("TensorRT 10.16.1.11", "No importer registered", "Driver: ", "Python: ", "Operating system: "):
        assert asked in report
    assert "does not load it" in report  # ONNX Runtime knows no Sharpen either
    program = ast.parse((folder / "reproduce.py").read_text())
    imported = {alias.name for node in ast.walk(program) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"pathlib", "sys", "tensorrt"}


@pytest.mark.usefixtures("tensorrt")
def test_the_builder_s_failure_is_reduced_with_the_value_that_it_needs(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.onnx", precision="int8", **{"flat.zero": np.int8(7)})
    found = reduce_failure(path)
    assert found.failure.startswith("builder, Error Code 4")
    assert set(found.operators) <= {"QuantizeLinear", "DequantizeLinear"}
    assert found.nodes == 1
    assert len(found.values_kept) == 1
    held = {
        tuple(t.dims): numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.repro/graph.onnx").graph.initializer
    }
    assert 7 in [int(values) for values in held.values() if values.dtype == np.int8]


@pytest.mark.usefixtures("tensorrt")
def test_a_crash_is_a_failure_like_any_other(tmp_path: Path) -> None:
    found = reduce_failure(saved(tmp_path / "net.onnx", "Erf"), tmp_path / "out")
    assert found.failure == "crash, SIGSEGV"
    assert found.operators == ("Erf",)
    assert "SIGSEGV" in found.said
    assert found.onnxruntime == "loads it"
    assert (tmp_path / "out" / "graph.onnx").exists()


@pytest.mark.usefixtures("tensorrt")
def test_what_is_not_reduced_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "net.onnx")
    assert cli.main(["repro", str(path)]) == 2
    said = capsys.readouterr().err
    assert "TensorRT 10.16.1.11's parser and builder have nothing against it" in said
    assert "hint: " in said
    assert cli.main(["repro", str(tmp_path / "none.onnx")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "net.repro").mkdir()
    assert cli.main(["repro", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["repro", str(path), "-o", str(tmp_path / "x"), "--backend", "rtx"]) == 2
    assert "or 'trt-rtx'" in capsys.readouterr().err
    assert cli.main(["repro", str(path), "-o", str(tmp_path / "x"), "--backend", "ort"]) == 2
    assert "ort has no say" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:50])
    assert cli.main(["repro", str(path), "-o", str(tmp_path / "x")]) == 2
    assert "not an ONNX graph" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["repro", str(path), "-o", str(tmp_path / "x")]) == 2
    assert "needs the package 'onnx'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_where_no_tensorrt_is_the_way_to_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["repro", str(saved(tmp_path / "net.onnx", "Sharpen"))]) == 2
    said = capsys.readouterr().err
    assert "not installed here" in said
    assert "pip install 'edgecnn[rtx]'" in said
    assert not (tmp_path / "net.repro").exists()


@pytest.mark.usefixtures("tensorrt")
def test_the_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "net.onnx", "Sharpen")
    before = sorted(tmp_path.iterdir())

    def full(*arguments: Any) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(repro, "_report", full)
    with pytest.raises(WriteError, match="No space left"):
        reduce_failure(path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("tensorrt")
def test_where_the_time_runs_out_the_weights_are_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repro, "TIME_LIMIT_S", -1.0)
    found = reduce_failure(saved(tmp_path / "net.onnx", "Sharpen"))
    assert not found.minimal
    assert found.nodes == 5
    assert not found.names_kept
    assert found.values_kept == ()


@pytest.mark.usefixtures("tensorrt")
def test_a_builder_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecnn.diagnose.trials.PATIENCE_S", 0)
    with Trials() as trials, pytest.raises(BackendError, match="no answer"):
        trials.ask("trt", saved(tmp_path / "net.onnx"), build=True)


@pytest.mark.usefixtures("tensorrt")
def test_a_graph_that_fails_now_and_then_is_not_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter(range(100))
    monkeypatch.setattr(repro._Search, "fails", lambda self, model: next(asked) == 0)
    with pytest.raises((BackendError, GraphError), match="now and then"):
        reduce_failure(saved(tmp_path / "net.onnx", "Sharpen"))
