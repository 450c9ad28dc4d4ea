"""The one place where ONNX Runtime's sessions are opened and its errors translated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session, run_session
from edgecnn.errors import ArtifactError, BackendError, GraphError, MeasurementError
from edgecnn.graph.load import load_graph, onnx_errors
from tests.fakes.graphs import build

pytestmark = pytest.mark.onnx

NET = "c = Conv(input, out=4, k=3)\nr = Relu(c)\nlogits = Conv(r, out=2, k=1)"


def test_outputs_that_are_named_take_the_place_of_the_graphs() -> None:
    model = build(NET)
    session = open_session(model, ["r", "c"], threads=1, optimization="none")
    assert [o.name for o in session.get_outputs()] == ["r", "c"]
    name = session.get_inputs()[0].name
    images = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    rectified, convolved = run_session(session, {name: images})
    assert np.array_equal(rectified, np.maximum(convolved, 0))
    assert (convolved < 0).any()
    assert [o.name for o in model.graph.output] == ["logits"], "the model is as it was"


def test_what_onnxruntime_raises_becomes_one_line(tmp_path: Path) -> None:
    broken = build(NET)
    broken.graph.node[0].op_type = "Nonsense"
    with (
        pytest.raises(GraphError, match="^the graph: ONNX Runtime refuses it: .*Nonsense") as found,
        onnxruntime_errors("the graph", hint="mend it", error=GraphError),
    ):
        open_session(broken)
    assert "\n" not in found.value.message
    assert found.value.hint == "mend it"
    session = open_session(build(NET))
    with pytest.raises(BackendError, match="failed while running it"):
        run_session(session, {session.get_inputs()[0].name: np.zeros((1, 9, 8, 8), np.float32)})


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), (b"no graph", "not a whole ONNX graph")])
def test_a_file_that_is_no_graph_is_an_artifact_at_fault(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=said), onnxruntime_errors(path):
        open_session(path)
    with pytest.raises(GraphError, match="no such file" if content is None else "not an ONNX graph"):
        load_graph(path)


def test_edgecnns_own_errors_pass_and_a_bug_stays_a_bug_of_ours() -> None:
    for translated in (onnxruntime_errors("the graph"), onnx_errors("the graph")):
        with pytest.raises(MeasurementError, match="as it was"), translated:
            raise MeasurementError("as it was", "")
    with pytest.raises(KeyError), onnx_errors("the graph"):
        raise KeyError("ours")
    invalid = onnx.ModelProto(ir_version=9)
    with pytest.raises(GraphError, match="the graph: is not valid"), onnx_errors("the graph", "is not valid"):
        onnx.checker.check_model(invalid)
