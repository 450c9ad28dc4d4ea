"""ONNX Runtime's providers and TensorRT's options: what is asked for is done, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest

from edgecnn.backends import BuildOptions, ImplicitInt8, load_backend
from edgecnn.errors import EdgecnnError
from edgecnn.recipe.schema import BatchSettings
from tests.acceptance.channel_pictures import Result, class_model

pytestmark = pytest.mark.onnx

Cli = Callable[..., Result]

OF_PLANS: list[tuple[str, ...]] = [
    ("--locked",),
    ("--workspace-mb", "100"),
    ("--optimization-level", "3"),
    ("--hardware-compatibility", "ampere_plus"),
    ("--version-compatible",),
    ("--timing-cache", "x.cache"),
    ("--sm", "86"),
]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(class_model(4, 0), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("options", OF_PLANS, ids=[options[0] for options in OF_PLANS])
def test_options_of_plans_are_not_ignored_by_onnx_runtime(
    options: Sequence[str], edgecnn: Cli, graph: Path, tmp_path: Path
) -> None:
    output = tmp_path / "engine.onnx"
    edgecnn("build", graph, "--target", "cpu", "-o", output, *options).refused()
    assert not output.exists()
    edgecnn("build", graph, "--provider", "cpu", "-o", output, *options).refused()
    assert edgecnn("build", graph, "--target", "cpu", "-o", output).code == 0


@pytest.mark.parametrize("backend", ["ort-cuda", "ort-tensorrt", "ort-rtx"])
@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--locked", {"locked": True}),
        ("--profile", {"batch": BatchSettings(1, 1, 8, ((1, 1, 1), (4, 4, 8)))}),
        ("--workspace-mb", {"workspace_mb": 100.0}),
        ("--weakly-typed", {"implicit": ImplicitInt8({"input": 1.0}, Path("x.cache"))}),
    ],
)
def test_nor_by_its_providers_for_gpus(
    backend: str, option: str, given: dict[str, object], graph: Path, tmp_path: Path
) -> None:
    """Before a GPU is looked for: the machine has no say in it."""
    options = BuildOptions(target=backend, **given)  # type: ignore[arg-type]
    with pytest.raises(EdgecnnError) as refused:
        load_backend(backend).engine_from_onnx(graph, tmp_path / "engine.onnx", options)
    assert option in refused.value.message + refused.value.hint
    assert not (tmp_path / "engine.onnx").exists()


@pytest.mark.parametrize("target", ["ort-cuda", "ort-tensorrt", "ort-rtx", "rtx"])
def test_a_weakly_typed_recipe_is_of_tensorrt_alone(target: str, edgecnn: Cli) -> None:
    changes = ("--set", f'targets=["{target}"]', "--set", "build.weakly_typed=true")
    edgecnn("run", "lenet5-digits", "--dry-run", *changes).refused("build.weakly_typed", target)


@pytest.mark.parametrize("target", ["ort-cuda", "ort-tensorrt", "ort-rtx"])
def test_profiles_of_a_recipe_are_of_plans_alone(target: str, edgecnn: Cli) -> None:
    changes = ("--set", f'targets=["cpu", "{target}"]', "--set", "batch.profiles=[[1, 1, 1], [8, 16, 64]]")
    edgecnn("run", "lenet5-digits", "--dry-run", *changes).refused("batch.profiles", target)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "rtx"])
def test_a_provider_that_is_not_here_never_becomes_the_cpu(
    provider: str, edgecnn: Cli, graph: Path, tmp_path: Path
) -> None:
    ways = {way["way"]: way for way in json.loads(edgecnn("doctor", "--json").out)["ways"]}
    way = ways[f"ort-{provider}"]
    if way["works"] == "yes":
        pytest.skip(f"provider {provider} works here")
    assert way["why"]
    edgecnn("build", graph, "--provider", provider, "-o", tmp_path / "engine.onnx").refused()
    assert not (tmp_path / "engine.onnx").exists()
    edgecnn("bench", "--engine", graph, "--provider", provider).refused()
    edgecnn("build", graph, "--provider", provider, "--backend", "trt").refused("--provider")
    edgecnn("build", graph, "--provider", provider, "--target", "agx-orin").refused("agx-orin")
