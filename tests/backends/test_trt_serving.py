"""A plan of another serving contract: uint8 pixels in, classes out, on the strict fake of TensorRT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path
from edgecnn.artifact.write import write_artifact, write_bytes
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.contract import TOP_CLASSES, TOP_PROBABILITIES, ServingContract
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import ArtifactError, BackendError
from edgecnn.graph.serving import fold_contract
from edgecnn.measure.served import scores_of
from edgecnn.recipe.schema import BatchSettings
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx

CONTRACT = ServingContract("uint8-nhwc", "top-k", 5)
EIGHT = Preprocessing(resize=8, crop=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


@pytest.fixture
def plan(one_trt: Any, tmp_path: Path) -> Path:
    """Built by the fake from the tiny network, with its sidecar."""
    graph, made = tmp_path / "m.onnx", tmp_path / "m.plan"
    model = tiny_graph("fp32")
    fold_contract(model, CONTRACT, EIGHT)
    sidecar = Sidecar(kind="graph", precision_requested="fp32", facts={"classes": 5, **CONTRACT.facts})
    write_artifact(graph, lambda temporary: onnx.save(model, str(temporary)), sidecar)
    options = BuildOptions(target="l4", batch=BatchSettings(min=1, opt=2, max=4))
    load_backend("trt").engine_from_onnx(graph, made, options)
    return made


def test_bytes_go_in_and_two_outputs_come_back(plan: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    with open_engine(plan) as engine, open_engine(plan.with_suffix(".onnx")) as graph:
        assert engine.input.dtype == "uint8"
        assert [(o.name, o.dtype) for o in engine.info.outputs] == [
            (TOP_PROBABILITIES, "float32"),
            (TOP_CLASSES, "int32"),
        ]
        for _ in range(3):  # enqueued twice, then replayed
            found = engine.run_all({"input": pixels})
        expected = graph.run_all({"input": pixels})
        assert found[TOP_CLASSES].dtype == np.int32
        assert np.array_equal(found[TOP_CLASSES], expected[TOP_CLASSES])
        assert np.array_equal(found[TOP_PROBABILITIES], expected[TOP_PROBABILITIES])
        scores = scores_of(found, engine, CONTRACT)
        assert scores.sum(axis=1) == pytest.approx(1)
        with pytest.raises(BackendError, match="float32; the engine takes .*uint8"):
            engine.run_all({"input": pixels.astype(np.float32)})


def test_a_sidecar_that_says_something_else_is_refused(plan: Path) -> None:
    import json

    from edgecnn.records import to_plain

    known = read_sidecar(plan)
    for facts, said in (
        ({"serving_output": "probabilities"}, "the serving contract of its sidecar has .*probabilities float32"),
        ({"serving_input": "normalised", "serving_output": "logits"}, "names no other serving contract"),
        ({"serving_input": "bgr"}, "serving contract 'bgr'; known are"),
    ):
        other = dataclasses.replace(known, facts={**known.facts, **facts})
        write_bytes(sidecar_path(plan), json.dumps(to_plain(other)).encode())
        with pytest.raises(ArtifactError, match=said):
            open_engine(plan)
