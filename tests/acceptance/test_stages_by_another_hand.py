"""`edgecnn validate --stages` where what lies beside an engine is missing, replaced or damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

import edgecnn as ec
from edgecnn.artifact.sidecar import Sidecar, parents_of, sha256_of
from edgecnn.artifact.write import write_artifact
from tests.acceptance.nets import Net, normalized, pictures, rounded_per_tensor, write_npz

if TYPE_CHECKING:
    from tests.acceptance.channel_pictures import Result

pytestmark = pytest.mark.onnx


def network(seed: int) -> onnx.ModelProto:
    net = Net(seed)
    return net.model(net.head(net.relu(net.conv("stem", "input", (3, 8)))))


def write(path: Path, model: onnx.ModelProto, precision: str, parents: dict[str, str] | None = None) -> Path:
    described = Sidecar(
        kind="graph",
        precision_requested=precision,
        parents=parents or {},
        fields={"quantize.around": "fp16"} if precision == "int8" else {},
    )
    write_artifact(path, lambda temporary: onnx.save(model, str(temporary)), described)
    return path


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """m.onnx, and int8.onnx that was made from it; what it predicts in ref.npz."""
    images = normalized(pictures(24, seed=2)[0])
    write_npz(tmp_path / "test.npz", images)
    graph = write(tmp_path / "m.onnx", network(2), "fp32")
    ec.reference(graph, tmp_path / "ref.npz", data=str(tmp_path / "test.npz"), threads=1)
    made = rounded_per_tensor(network(2), images)
    write(tmp_path / "int8.onnx", made, "int8", parents_of(tmp_path / "int8.onnx", graph))
    return tmp_path


def ask(edgecnn: Callable[..., Result], folder: Path) -> Result:
    saved = ("--reference", folder / "ref.npz", "--data", folder / "test.npz")
    return edgecnn("validate", folder / "int8.onnx", *saved, "--stages", "--json", "--threads", 1)


def targets(result: Result) -> list[str]:
    assert result.code == 0, result.said
    return [hop["target"] for hop in json.loads(result.out)["stages"]]


def test_a_parent_that_is_not_the_one_is_refused(edgecnn: Callable[..., Result], beside: Path) -> None:
    assert targets(ask(edgecnn, beside)) == ["m.onnx", "int8.onnx"]
    write(beside / "m.onnx", network(3), "fp32")
    ask(edgecnn, beside).refused("m.onnx", "is not the graph that int8.onnx was made from")


def test_a_graph_that_names_itself_as_its_parent_ends(edgecnn: Callable[..., Result], beside: Path) -> None:
    itself = {"sub/../int8.onnx": sha256_of(beside / "int8.onnx")}
    (beside / "sub").mkdir()
    write(beside / "int8.onnx", onnx.load(beside / "int8.onnx"), "int8", itself)
    ask(edgecnn, beside).refused("int8.onnx")


def test_stages_that_are_not_here_are_left_out(edgecnn: Callable[..., Result], beside: Path) -> None:
    digest = sha256_of(beside / "m.onnx")
    write(beside / "int8.onnx", onnx.load(beside / "int8.onnx"), "int8", {"./m.onnx": digest})
    write(beside / "a.onnx", network(2), "fp32")
    (beside / "a.onnx.json").write_text("{")  # of no stage, and damaged
    assert targets(ask(edgecnn, beside)) == ["m.onnx", "int8.onnx"]
    (beside / "m.onnx").unlink()
    assert targets(ask(edgecnn, beside)) == ["int8.onnx"]


@pytest.mark.parametrize("told", ["", "int4"])
def test_a_graph_holds_its_precision_whatever_is_told(edgecnn: Callable[..., Result], beside: Path, told: str) -> None:
    write(beside / "int8.onnx", onnx.load(beside / "int8.onnx"), told)
    result = ask(edgecnn, beside)
    assert targets(result) == ["int8.onnx"]
    (hop,) = json.loads(result.out)["stages"]
    assert 10 < hop["sqnr_db"] < 60
    assert hop["explained"]
