"""ONNX Runtime's sessions: graphs of any inputs and outputs run by name; a classifier has one of each, in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.backends.ort.session import OrtSession
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.session import LayerTimer, Session, TensorSpec, TimedSession

pytestmark = pytest.mark.onnx


def saved(path: Path, kinds: dict[str, int], outputs: dict[str, int]) -> Path:
    """A graph whose outputs are its inputs again, in turn, [batch, 2]."""
    names = list(kinds)
    nodes = [helper.make_node("Identity", [names[k % len(names)]], [name]) for k, name in enumerate(outputs)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, ["batch", 2]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info(name, kind, ["batch", 2]) for name, kind in outputs.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path


def test_several_inputs_and_outputs_run_by_name(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "two.onnx",
        {"a": TensorProto.FLOAT, "b": TensorProto.DOUBLE},
        {"x": TensorProto.FLOAT, "y": TensorProto.DOUBLE},
    )
    a, b = np.ones((3, 2), np.float32), np.full((3, 2), 2.0)
    with OrtSession(path) as session:
        assert isinstance(session, Session)
        assert not isinstance(session, TimedSession)
        assert not isinstance(session, LayerTimer)
        assert session.info.inputs == (TensorSpec("a", (None, 2), "float32"), TensorSpec("b", (None, 2), "float64"))
        assert session.info.outputs == (TensorSpec("x", (None, 2), "float32"), TensorSpec("y", (None, 2), "float64"))
        found = session.run_all({"a": a, "b": b})
        np.testing.assert_array_equal(found["x"], a)
        np.testing.assert_array_equal(found["y"], b)
        with pytest.raises(BackendError, match="inputs named a; the model takes a, b"):
            session.run(a)
        with pytest.raises(BackendError, match="a batch of shape 3x4, the engine takes Nx2"):
            session.run_all({"a": np.ones((3, 4), np.float32), "b": b})


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ({"a": 1, "b": 1}, {"x": 1}, "2 inputs and 1 outputs; a classifier has one of each"),
        ({"a": 1}, {"x": 1, "y": 1}, "1 inputs and 2 outputs; a classifier has one of each"),
        ({"a": 11}, {"x": 11}, r"a is tensor\(double\), x is tensor\(double\); both must be tensor\(float\)"),
        ({"a": 2}, {"x": 2}, r"a is tensor\(uint8\), x is tensor\(uint8\); both must be tensor\(float\)"),
    ],
)
def test_a_classifier_has_one_float_input_and_output(
    tmp_path: Path, inputs: dict[str, int], outputs: dict[str, int], words: str
) -> None:
    path = saved(tmp_path / "g.onnx", inputs, outputs)
    with pytest.raises(ArtifactError, match=words):
        open_engine(path)
    with pytest.raises(ArtifactError, match=words):
        load_backend("ort").engine_from_onnx(path, tmp_path / "e.onnx", BuildOptions())
    assert not (tmp_path / "e.onnx").exists()
