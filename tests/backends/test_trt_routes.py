"""Build routes: what TensorRT 11.1 and later is told beside its settings, and where there is no such thing."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import BuildOptions, backend_names, load_backend
from edgecnn.backends.trt.lock import read_lock
from edgecnn.cli import main
from edgecnn.errors import BackendError
from edgecnn.inspection.artifact import describe
from edgecnn.recipe.schema import BatchSettings
from edgecnn.results.build_routes import Knob
from tests.backends.conftest import TENSORRT_RTX, install
from tests.fakes.fake_cuda import FakeDevice
from tests.fakes.fake_tensorrt import injected

pytestmark = pytest.mark.onnx

ROUTE = "-conv_lowering=off -cask_fusion:num_tactics=20"
OPTIONS = BuildOptions(target="gpu", batch=BatchSettings(min=1, opt=2, max=4))
Graph = Callable[..., Path]


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: FakeDevice) -> Any:
    """The fake tensorrt 11.4."""
    return install(monkeypatch, tmp_path, "11.4.0.106", device)


def build(graph: Path, **changes: Any) -> Path:
    plan = graph.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph, plan, dataclasses.replace(OPTIONS, **changes))
    return plan


def test_a_build_takes_a_route_and_says_which(newest: Any, graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    source = graph("int8")
    named = ["build", str(source), "--backend", "trt", "--max-batch", "4", f"--build-route=  {ROUTE} "]
    assert main(named) == 0
    assert f"build route {ROUTE}" in capsys.readouterr().err
    assert newest._builds[-1]["route"] == ROUTE
    plan = source.with_suffix(".plan")
    sidecar = read_sidecar(plan)
    assert (sidecar.facts["build_route"], sidecar.fields["build.route"]) == (ROUTE, ROUTE)
    assert read_lock(plan).build_route == ROUTE
    shown = describe(plan)
    assert shown["build_route"] == ROUTE
    again = shlex.split(str(shown["rebuild"]))
    assert f"--build-route={ROUTE}" in again
    assert main(again[1:]) == 0
    assert newest._builds[-1]["route"] == ROUTE
    assert main(["build", str(source), "--backend", "trt"]) == 0
    plain = read_sidecar(plan)
    assert newest._builds[-1]["route"] == ""
    assert "build_route" not in plain.facts
    assert "build.route" not in plain.fields


def test_a_route_has_timings_of_its_own(newest: Any, graph: Graph) -> None:
    """With those of a build without it, every kernel would be the one that is known already."""
    newest._by_route["-conv_lowering=off"] = 3
    source = graph("int8")
    plain = read_sidecar(build(source)).facts
    routed = read_sidecar(build(source, build_route=ROUTE)).facts
    tactics = [{layer["tactic"] for layer in facts["layers"] if layer["tactic"]} for facts in (plain, routed)]
    assert {tactic for tactic in tactics[1] if tactic.endswith("_fake3")}
    assert not {tactic for tactic in tactics[0] if tactic.endswith("3")}
    assert plain["timing_cache"]["file"] != routed["timing_cache"]["file"]
    assert read_sidecar(build(source)).facts["layers"] == plain["layers"]


def test_a_locked_build_holds_to_its_route(newest: Any, graph: Graph) -> None:
    source = graph("int8")
    build(source, build_route=ROUTE)
    build(source, build_route=ROUTE, locked=True)
    with pytest.raises(BackendError, match="locked with build_route = -conv_lowering=off .*, asked for is -kgen"):
        build(source, build_route="-kgen:tiling=2", locked=True)


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ("-conv_lowering", "'-conv_lowering' is not -knob=value"),
        ("-conv_lowering=", "is not -knob=value"),
        ("-conv_lowerin=off", "no knob -conv_lowerin"),
        ("-conv_lowering=maybe", "-conv_lowering=maybe: no value of that knob"),
        ("-conv_lowering=off -conv_lowering=on", "more than once"),
        ("-cask_fusion:num_tactics=5|10", "no value of that knob"),
        ("-cask_fusion:num_tactics=[5|10]", "no value of that knob"),
        ("-peep:max=...", "no value of that knob"),
        ("-cask_fusion:num_tactics=\x1b[2J", "is not -knob=value"),
        ("-cask_fusion:num_tactics=5\x00", "is not -knob=value"),
        ("-cask_fusion:num_tactics=\u200b5", "is not -knob=value"),
    ],
)
def test_what_no_route_is_made_of_is_refused_before_the_build(
    newest: Any, graph: Graph, route: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(graph()), "--backend", "trt", f"--build-route={route}"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert ("did you mean '-conv_lowering'" in err) == ("lowerin=" in route)
    assert newest._builds == []


def test_a_route_that_tensorrt_drops_is_no_build_by_it(newest: Any, graph: Graph) -> None:
    with injected(newest, "route dropped"), pytest.raises(BackendError, match="does not take -conv_lowering=off"):
        build(graph(), build_route=ROUTE)
    assert newest._builds == []


def refuse(route: str) -> str:
    raise RuntimeError(f"no such route: {route}")


@pytest.mark.parametrize("answer", [refuse, lambda route: None, lambda route: route.replace(" ", ",")])
def test_what_tensorrt_makes_of_a_route_is_looked_at(
    newest: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str]
) -> None:
    told: list[str] = []
    read_back = property(lambda settings: answer(told[-1]), lambda settings, route: told.append(route))
    monkeypatch.setattr(newest.IBuilderConfig, "build_route", read_back)
    with pytest.raises(BackendError, match="does not take"):
        build(graph(), build_route=ROUTE)
    assert newest._builds == []


def test_a_route_may_be_read_back_in_another_order(newest: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    read_back = property(
        lambda settings: "\t".join(reversed(settings._route.split())),
        lambda settings, route: settings.__dict__.update(_route=route),
    )
    monkeypatch.setattr(newest.IBuilderConfig, "build_route", read_back)
    build(graph(), build_route=ROUTE)
    assert [built["route"] for built in newest._builds] == [ROUTE]


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.0.0.114", f"rtx/{TENSORRT_RTX}"])
def test_a_tensorrt_without_routes_refuses_one(
    version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Graph, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = install(monkeypatch, tmp_path, version, FakeDevice())
    backend = "trt-rtx" if version.startswith("rtx") else "trt"
    assert load_backend(backend).build_knobs() == ()
    assert main(["build", str(graph()), "--backend", backend, f"--build-route={ROUTE}"]) == 2
    assert "no build routes" in capsys.readouterr().err
    assert fake._builds == []


def test_onnx_runtime_refuses_one(graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(graph()), f"--build-route={ROUTE}"]) == 2
    assert "--build-route: only builders of plans have that choice" in capsys.readouterr().err
    assert all(load_backend(name).build_knobs() == () for name in backend_names() if name.startswith("ort"))


def test_the_knobs_are_read(newest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_backend("trt").build_knobs() == (
        Knob("-conv_lowering", ("on", "off"), "on"),
        Knob("-kgen:tiling", ("0", "1", "2"), "1"),
        Knob("-cask_fusion:num_tactics", (), "10"),
        Knob("-peep:max", (), "1"),
    )
    damaged: list[object] = [
        "[1]",
        '{"tuner_options": [{"option": "-x"}]}',
        "not JSON",
        "null",
        "[" * 9999,
        None,
        5,
        {},
    ]
    damaged += [f'{{"tuner_options": {options}}}' for options in ("null", "{}", "[null]")]
    whole = {"option": "-x", "allowed_values": "[1|2]", "default_value": "1"}
    damaged += [json.dumps({"tuner_options": [{**whole, key: other}]}) for key in whole for other in (1, None, ["1"])]
    for text in damaged:
        monkeypatch.setattr(newest.IBuilderConfig, "all_build_routes", text)
        with pytest.raises(BackendError, match="not what was expected"):
            load_backend("trt").build_knobs()
