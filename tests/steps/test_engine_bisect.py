"""The first wrong layer of ONNX Runtime's engines, whose inner tensors are further outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.backends import BuildOptions, load_backend
from edgecnn.errors import ArtifactError
from edgecnn.results.divergence import EngineDivergence
from edgecnn.steps.engine_bisect import bisect_engine
from tests.fakes.resnet50 import resnet50
from tests.fakes.tiny import tiny_graph

if TYPE_CHECKING:
    import onnx

    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.results.engine import Scheme
    from tests.fakes.noise import images

pytestmark = pytest.mark.onnx


def noise(folder: Path, *shape: int) -> str:
    np.savez(folder / "images.npz", input=np.random.default_rng(0).normal(size=shape).astype(np.float32))
    return str(folder / "images.npz")


def compute_wrongly(monkeypatch: pytest.MonkeyPatch, node: str) -> None:
    """Let ONNX Runtime give 0.6 of what this node should."""

    def faulty(path: Path) -> bytes:
        model = onnx.load(path)
        wrong = next(n for n in model.graph.node if n.name == node)
        name, wrong.output[0] = wrong.output[0], f"{wrong.output[0]}/right"
        model.graph.initializer.append(onnx.helper.make_tensor("factor", 1, [], [0.6]))
        index = list(model.graph.node).index(wrong) + 1
        model.graph.node.insert(index, onnx.helper.make_node("Mul", [f"{name}/right", "factor"], [name], "wrong"))
        return bytes(model.SerializeToString())

    monkeypatch.setattr("edgecnn.backends.ort.session._rounding_fp16", faulty)


def engine(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "model.onnx")
    load_backend("ort").engine_from_onnx(folder / "model.onnx", folder / "engine.onnx", BuildOptions())
    return folder / "engine.onnx"


def test_a_wrong_layer_of_a_resnet50(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, data = engine(tmp_path, resnet50()), noise(tmp_path, 2, 3, 32, 32)
    compute_wrongly(monkeypatch, "layer2.0.downsample/Conv")
    found = bisect_engine(made, data=data, threads=1)
    assert (found.backend, found.cause, found.method) == ("ort", "layer", "extra-outputs")
    assert found.nodes == ("layer2.0.downsample/Conv",)
    assert found.operator == "Conv"
    assert 0 < found.builds <= 8


@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
def test_integer_kernels_differ_within_their_noise(tmp_path: Path, scheme: Scheme) -> None:
    """Codes that fall to the other side of a step, layer after layer, are no fault."""
    model, data = resnet50(), noise(tmp_path, 2, 3, 32, 32)
    ranges = collect_from_model(model, "", images(4, (3, 32, 32)), batch=4, threads=1)
    made = engine(tmp_path, quantize_int8(model, ranges, scheme, method="minmax", around="fp32").model)
    found = bisect_engine(made, data=data, threads=1)
    assert (found.cause, found.builds, found.n) == ("none", 0, 2)


def test_a_graph_is_compared_with_itself_as_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(tiny_graph("fp32"), tmp_path / "tiny.onnx")
    data = noise(tmp_path, 3, 3, 8, 8)
    found: EngineDivergence = bisect_engine(tmp_path / "tiny.onnx", data=data, threads=1)
    assert (found.engine, found.graph, found.cause) == ("tiny.onnx", "tiny.onnx", "none")
    compute_wrongly(monkeypatch, "/conv/Conv")
    assert bisect_engine(tmp_path / "tiny.onnx", data=data, threads=1).nodes == ("/conv/Conv",)


def test_what_is_no_engine(tmp_path: Path) -> None:
    data = noise(tmp_path, 1, 3, 8, 8)
    with pytest.raises(ArtifactError, match="no such file"):
        bisect_engine(tmp_path / "none.plan", data=data)
    with pytest.raises(ArtifactError, match="not an engine that a graph is known of"):
        bisect_engine(data, data=data)
    made = engine(tmp_path, tiny_graph("fp32"))
    (tmp_path / "model.onnx").write_bytes(tiny_graph("int8").SerializeToString())
    with pytest.raises(ArtifactError, match=r"is not the graph that engine\.onnx was built from"):
        bisect_engine(made, data=data)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"is not here: model\.onnx"):
        bisect_engine(made, data=data)
