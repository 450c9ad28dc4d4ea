"""Bisecting a graph's tensors: which is wrong, in how many builds, whatever the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.diagnose.engine_bisect import (
    Blamed,
    Looked,
    Suspect,
    blame_by_debug_tensors,
    blame_by_outputs,
)
from edgecnn.results.divergence import TensorDifference
from tests.fakes.resnet50 import resnet50

if TYPE_CHECKING:
    import onnx

    from edgecnn.diagnose.graph_tensors import GraphTensors
    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.fp16 import to_fp16
    from edgecnn.graph.ptq.quantize import quantize_int8
    from tests.fakes.noise import images

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def suspects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suspect, ...]:
    path = tmp_path_factory.mktemp("resnet") / "resnet50.onnx"
    onnx.save(resnet50(), path)
    return GraphTensors(path).suspects


def difference(build: int, tensor: str, differs: bool) -> TensorDifference:
    return TensorDifference(build=build, tensor=tensor, sqnr_db=1.0, explained_db=50.0, differs=differs)


def looking(suspects: tuple[Suspect, ...], wrong: str, seen: list[str]) -> Callable[[str], Looked]:
    """A look at builds of an engine with one wrong layer; counts them."""
    after = {s.tensor: wrong in s.ancestors for s in suspects}

    def look(probe: str) -> Looked:
        seen.append(probe)
        return {name: difference(len(seen), name, after[name]) for name in (probe, "logits")}

    return look


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_layer_of_a_resnet50_is_found_within_8_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("edgecnn.diagnose.engine_bisect.say", lambda line: None)
    model = resnet50()
    if precision == "fp16":
        model = to_fp16(model, None)[0]
    if precision == "int8":
        ranges = collect_from_model(model, "", images(2, (3, 32, 32)), batch=2, threads=1)
        model = quantize_int8(model, ranges, "tensorrt", method="minmax", around="fp16").model
    onnx.save(model, tmp_path / "resnet50.onnx")
    suspects = GraphTensors(tmp_path / "resnet50.onnx").suspects
    assert len(suspects) >= 122
    builds = []
    for suspect in suspects:
        seen: list[str] = []
        found = blame_by_outputs(suspects, "logits", looking(suspects, suspect.tensor, seen))
        assert suspect.tensor in found.left
        assert len(found.left) == 1 or not suspect.can_be_output or suspect.operator == "DequantizeLinear"
        builds.append(len(seen))
    assert max(builds) <= 8


def test_tensors_at_seams_are_looked_at_first(suspects: tuple[Suspect, ...]) -> None:
    """What a fused layer gives, before what is within it."""
    seams = {s.tensor for s in suspects if s.at_a_seam}
    assert {"relu1", "pool1", "layer1.0.relu3"} <= seams
    assert seams.isdisjoint({"conv1", "layer1.0.add", "layer1.0.conv1"})
    seen: list[str] = []
    blame_by_outputs(suspects, "logits", looking(suspects, "layer3.2.conv2", seen))
    assert seams.issuperset(seen[:4])
    assert "layer3.2.conv2" in seen


def test_a_build_that_agrees_ends_the_search(suspects: tuple[Suspect, ...]) -> None:
    found = blame_by_outputs(suspects, "logits", lambda t: {n: difference(1, n, False) for n in (t, "logits")})
    assert found.cured
    assert found.tensor


def test_debug_tensors_name_the_first_and_what_was_not_told(suspects: tuple[Suspect, ...]) -> None:
    after = {s.tensor: "layer2.1.conv2" in s.ancestors for s in suspects}
    told = {s.tensor: difference(1, s.tensor, after[s.tensor]) for s in suspects if s.at_a_seam}
    found = blame_by_debug_tensors(suspects, "logits", told)
    assert found == Blamed("layer2.1.relu2", ("layer2.1.conv2", "layer2.1.relu2"))
    nothing = {"logits": difference(1, "logits", True)}
    assert blame_by_debug_tensors(suspects, "logits", nothing) is None
    agrees = {**told, "logits": difference(1, "logits", False)}
    assert blame_by_debug_tensors(suspects, "logits", agrees) == Blamed("", (), cured=True)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_noise_is_the_graphs_own(tmp_path: Path, half: bool) -> None:
    """It grows with the depth, holds what rounding elsewhere does, and not what a wrong layer does."""
    path, model = tmp_path / "m.onnx", resnet50()
    onnx.save(to_fp16(model, None)[0] if half else model, path)
    tensors, batch = GraphTensors(path), np.random.default_rng(1).normal(size=(2, 3, 32, 32)).astype(np.float32)
    tensors.measure([batch])
    values = tensors.values(tensors.names, batch)
    rng = np.random.default_rng(2)

    def seen(name: str, noise: float) -> TensorDifference:
        ours = values[name].astype(np.float32)
        return tensors.difference(1, name, [(ours * (1 + noise * rng.normal(size=ours.shape)), ours)])

    for name in ("relu1", "layer2.0.relu3", "layer4.2.relu3"):
        name = name if name in values else next(n for n in tensors.names if n.startswith(name))
        assert not seen(name, 1e-4).differs
        assert seen(name, 0.3).differs
        assert not seen(name, 0.0).differs
    first, last = seen("relu1", 0.0).explained_db, seen("layer4.2.relu3", 0.0).explained_db
    assert first > last if half else first >= last
    assert (50 < first < 60) if half else (first > 65)
    broken = values["relu1"].astype(np.float32).copy()
    broken.flat[0] = np.nan
    told = tensors.difference(1, "relu1", [(broken, values["relu1"])])
    assert told.differs
    assert told.sqnr_db is None
