"""`sensitivity` from files to a file: what it writes, goes on from, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecnn.artifact.run_folder import find_sensitivity
from edgecnn.artifact.sidecar import sha256_of
from edgecnn.diagnose import node_sensitivity
from edgecnn.errors import ArtifactError, DataError, EdgecnnError, RecipeError
from edgecnn.steps.calibrate import calibrate
from edgecnn.steps.sensitivity import sensitivity
from tests.fakes.graphs import build
from tests.fakes.noise import NET

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph, images and ranges."""
    folder = tmp_path_factory.mktemp("made")
    onnx.save(build(NET), folder / "m.fp32.onnx")
    images = np.random.default_rng(0).normal(0, 1, (20, 4, 8, 8)).astype(np.float32)
    np.savez(folder / "i.npz", input=images)
    np.savez(folder / "twice.npz", input=np.concatenate([images, images[3:4]]))
    calibrate(folder / "m.fp32.onnx", data=folder / "i.npz")
    return folder


def test_the_file_and_going_on_after_a_kill(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, ranges, data = made / "m.fp32.onnx", made / "m.calib.json", made / "i.npz"
    log, file = made / ".m.sensitivity.json.jsonl", made / "m.sensitivity.json"
    compared = 0
    original = node_sensitivity.compare_logits

    def compare(expected: np.ndarray, found: np.ndarray) -> node_sensitivity.Difference:
        nonlocal compared
        compared += 1
        if compared == 9:
            raise KeyboardInterrupt
        return original(expected, found)

    monkeypatch.setattr(node_sensitivity, "compare_logits", compare)
    with pytest.raises(KeyboardInterrupt):
        sensitivity(graph, ranges=ranges, data=data, threads=1)
    assert not file.exists()
    kept = len(log.read_text().splitlines()) - 1
    assert 0 < kept < 9
    log.write_text(log.read_text() + '{"first": 0, "no')
    one = sensitivity(graph, ranges=ranges, data=data, nodes=["logits/Gemm"])
    assert {(row.node, row.part) for row in one.rows} == {("logits/Gemm", "weights"), ("logits/Gemm", "activation")}
    assert one.predicted_sqnr_db is None
    assert not file.exists()
    compared = 9
    found = sensitivity(graph, ranges=ranges, data=data)
    assert compared - 9 == 1 + 2 * len(found.rows) - kept - 4  # the whole graph; what was not measured before
    assert [row.cost_rank for row in found.rows] == list(range(1, len(found.rows) + 1))
    assert (found.n, found.method, found.graph_sha256) == (20, "mse", sha256_of(graph))
    assert not log.exists()
    content = json.loads(file.read_text())
    assert content["provenance"]["kind"] == "sensitivity"
    assert content["provenance"]["parents"].keys() == {"m.fp32.onnx", "m.calib.json"}
    read = find_sensitivity(made, sha256_of(graph))
    assert read is not None
    assert read.content == found
    assert find_sensitivity(made, "other") is None


def refused(folder: Path, **more: object) -> EdgecnnError:
    arguments = {"ranges": folder / "m.calib.json", "data": folder / "i.npz", **more}
    with pytest.raises(EdgecnnError) as told:
        sensitivity(folder / "m.fp32.onnx", folder / "x.json", **arguments)  # type: ignore[arg-type]
    assert not list(folder.glob("*x.json*"))
    return told.value


def test_what_is_refused(made: Path, tmp_path: Path) -> None:
    wrong = refused(made, nodes=["c1/Con"])
    assert isinstance(wrong, RecipeError)
    assert "no node 'c1/Con' becomes INT8" in wrong.message
    assert "'c1/Conv'" in wrong.hint
    assert isinstance(few := refused(made, images=15), DataError)
    assert "15 images, at least 16" in few.message
    assert isinstance(twice := refused(made, data=made / "twice.npz"), DataError)
    assert "is the same image as" in twice.message
    assert "made up for" not in refused(made, method="auto").message
    assert "each layer for those before it" in refused(made, method="auto").message
    other = tmp_path / "other.fp32.onnx"
    onnx.save(build(NET.replace("out=6", "out=8")), other)
    calibrate(other, tmp_path / "o.calib.json", data=made / "i.npz")
    foreign = refused(made, ranges=tmp_path / "o.calib.json")
    assert isinstance(foreign, ArtifactError)
    assert "not of this one" in foreign.message
