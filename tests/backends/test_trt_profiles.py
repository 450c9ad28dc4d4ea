"""Several optimization profiles in one plan: the session takes the one whose range holds the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn import cli
from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import BuildOptions, load_backend, open_engine
from edgecnn.backends.trt.profiles import profile_for, records_of_profile
from edgecnn.errors import BackendError, GraphError, RecipeError
from edgecnn.measure.latency import measure_latency
from edgecnn.measure.predict import predict
from edgecnn.recipe.load import load_recipe
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.layers import layers_from_json
from edgecnn.session import SessionInfo
from edgecnn.steps.bench import bench
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.noise import images

pytestmark = pytest.mark.onnx

Graph = Callable[..., Path]
TWO = BatchSettings(1, 1, 8, ((1, 1, 2), (4, 6, 8)))


def built(graph: Path, batch: BatchSettings = TWO) -> Path:
    plan = graph.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph, plan, BuildOptions("gpu", batch))
    return plan


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32)


def test_the_profile_that_holds_the_batch_serves_it(trt: Any, device: FakeDevice, graph: Graph) -> None:
    import onnxruntime

    source = graph("fp32")
    run = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    plan, before = built(source), device.live()
    with open_engine(plan) as session:
        assert session.info.batches == ((1, 2), (4, 8))
        for n, serving in ((1, "1 of 2, batch 1..1..2"), (5, "2 of 2, batch 4..6..8"), (2, "1 of 2"), (8, "2 of 2")):
            for _ in range(3):  # enqueued, recorded, replayed
                np.testing.assert_allclose(session.run(noise(n)), run.run(None, {"input": noise(n)})[0], atol=1e-5)
            assert session.info.profile.startswith(serving)
        for n in (3, 9):
            with pytest.raises(BackendError, match=r"takes \(1\.\.2\)x3x8x8 or \(4\.\.8\)x3x8x8"):
                session.run(noise(n))
    assert device.live() == before


def test_the_sidecar_has_them_all_and_the_layers_of_one(trt: Any, graph: Graph) -> None:
    facts = read_sidecar(built(graph("int8"))).facts
    assert [p["max"][0] for p in facts["profiles"]] == [2, 8]
    names = [layer.name for layer in layers_from_json(facts["layers"])]
    assert len(names) == len({name.partition(" [profile")[0] for name in names})
    with open_engine(built(graph("int8"))) as session:
        assert hasattr(session, "layers")
        assert not any("[profile" in layer.name for layer in session.layers(1))
        assert all("[profile 1]" in layer.name for layer in session.layers(6))


def test_bench_says_which_served(one_trt: Any, graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    plan = built(graph("fp32"))
    found = bench(plan, batches=(1, 6), duration_s=0.02, warmup_ms=0)
    assert [row.latency.profile for row in found.measurements] == ["1 of 2, batch 1..1..2", "2 of 2, batch 4..6..8"]
    assert cli.main(["bench", "--engine", str(plan), "--batch", "6", "--duration", "0.1", "--warmup", "0"]) == 0
    assert "optimization profile 2 of 2, batch 4..6..8" in capsys.readouterr().err
    with open_engine(built(graph("fp16"), BatchSettings(1, 1, 8))) as session:
        assert measure_latency("one", session, noise(4), warmup_ms=0, duration_s=0.01).profile == ""


def test_a_batch_between_two_profiles_is_filled_up(one_trt: Any, graph: Graph) -> None:
    """The rest of a data set, and a batch that lies in a gap."""
    with open_engine(built(graph("fp32"))) as session:
        whole = predict(session, images(11, (3, 8, 8)), batch=8).logits
        np.testing.assert_array_equal(predict(session, images(11, (3, 8, 8)), batch=3).logits, whole)
        assert len(whole) == 11
    info = SessionInfo((), (), batches=((1, 2), (4, 8)))
    assert [info.fitting_batch(n) for n in (1, 2, 3, 4, 8, 9)] == [1, 2, 4, 4, 8, 9]
    assert SessionInfo((), ()).fitting_batch(7) == 7


def test_a_frozen_graph_has_one(one_trt: Any, graph: Graph) -> None:
    with pytest.raises(GraphError, match="frozen at 2, asked for are 4 to 8"):
        built(graph("fp32", batch=2), BatchSettings(2, 2, 8, ((2, 2, 2), (4, 6, 8))))


def test_a_refused_profile_says_so(one_trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = built(graph("fp32"))
    monkeypatch.setattr(one_trt.IExecutionContext, "set_optimization_profile_async", lambda self, k, s: False)
    with pytest.raises(BackendError, match="refuses profile 2"), open_engine(plan) as session:
        session.run(noise(6))


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        ([], "profiles"),
        ([[1, 2]], "batch.profiles[0] = [1, 2]: [min, opt, max] with"),
        ([[0, 1, 2]], "profiles"),
        ([[1, 4, 2]], "batch.profiles[0] = [1, 4, 2]: [min, opt, max] with min <= opt"),
        ([[1, 1, 4], [4, 4, 8]], "batch.profiles[1] = [4, 4, 8] overlaps [1, 1, 4]"),
        ([[1, 1, 8], [2, 2, 4]], "overlaps"),
        ([[4, 4, 8], [1, 1, 2]], "batch.profiles[1] = [1, 1, 2] comes after [4, 4, 8]: sort them"),
        ([[1, 1, 1], [2, 2, 4]], "set batch.min = 1 and batch.max = 4"),
        ([[2, 2, 2], [4, 4, 8]], "set batch.min = 2 and batch.max = 8"),
    ],
)
def test_profiles_that_make_no_sense_are_refused(profiles: list[list[int]], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("lenet5-digits", [f"batch.profiles={profiles}"])
    assert says in str(refused.value)


def test_the_batch_that_is_timed_must_be_served() -> None:
    profiles = "batch={min=1, opt=1, max=8, profiles=[[1, 1, 2], [4, 8, 8]]}"
    assert load_recipe("lenet5-digits", [profiles]).batch.profiles == ((1, 1, 2), (4, 8, 8))
    with pytest.raises(RecipeError, match=r"bench.batch = 3 is within none of batch.profiles"):
        load_recipe("lenet5-digits", [profiles, "bench.batch=3"])
    recipe = load_recipe("lenet5-digits", [profiles])
    assert recipe.values("batch")["batch.profiles"] == [[1, 1, 2], [4, 8, 8]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--profile", "1:1"], "not MIN:OPT:MAX"),
        (["--profile", "0:1:2"], "not MIN:OPT:MAX"),
        (["--profile", "1:x:2"], "not MIN:OPT:MAX"),
        (["--profile", "1:1:1", "--max-batch", "4"], "--max-batch and --profile"),
        (["--profile", "1:1:4", "--profile", "2:2:8"], "overlaps"),
        (["--profile", "4:4:8", "--profile", "1:1:1"], "[1, 1, 1] comes after [4, 4, 8]"),
    ],
)
def test_the_command_refuses(
    one_trt: Any, graph: Graph, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["build", str(graph("fp32")), "--target", "gpu", *options]) == 2
    assert says in capsys.readouterr().err
    assert one_trt._builds == []


def test_the_command_builds_them(one_trt: Any, graph: Graph) -> None:
    source = graph("fp32")
    assert cli.main(["build", str(source), "--target", "gpu", "--profile", "1:1:1", "--profile", "8:16:32"]) == 0
    made = read_sidecar(source.with_suffix(".plan"))
    assert [[p[k][0] for k in ("min", "opt", "max")] for p in made.facts["profiles"]] == [[1, 1, 1], [8, 16, 32]]
    assert made.fields["batch.profiles"] == [[1, 1, 1], [8, 16, 32]]


def test_which_layers_belong_to_a_profile() -> None:
    records = [{"Name": "a"}, {"Name": "a [profile 1]"}, "b", "b [profile 1]", {"Name": "c [profile 10]"}]
    assert records_of_profile(records, 0) == [{"Name": "a"}, "b"]
    assert records_of_profile(records, 1) == [{"Name": "a [profile 1]"}, "b [profile 1]"]
    assert records_of_profile([{"Name": "a"}], 1) == [{"Name": "a"}], "a version that tells one profile alone"
    shapes = [((1, 3), (1, 3), (2, 3)), ((1, 3), (4, 3), (8, 3))]
    assert profile_for(shapes, (2, 3)) == 0, "of two that hold it, the first"
    assert profile_for(shapes, (9, 3)) is None
    assert dataclasses.replace(TWO, profiles=None).all_profiles == ((1, 1, 8),)
