"""Engines that can be built again: what a build locks, and what a locked build refuses."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.backends import BuildOptions, ImplicitInt8, load_backend
from edgecnn.backends.trt.lock import lock_path, locked_cache_path, read_lock
from edgecnn.cli import main
from edgecnn.errors import ArtifactError, BackendError, DeviceError, EdgecnnError, RecipeError, WriteError
from edgecnn.recipe.schema import BatchSettings
from edgecnn.steps.build import build as steps_build
from tests.fakes.fake_cuda import FakeDevice

pytestmark = pytest.mark.onnx

OPTIONS = BuildOptions(target="gpu", batch=BatchSettings(min=1, opt=2, max=4))
Graph = Callable[..., Path]


def build(graph: Path, **changes: Any) -> Path:
    plan = graph.with_suffix(".plan")
    load_backend("trt").engine_from_onnx(graph, plan, dataclasses.replace(OPTIONS, **changes))
    return plan


def tactics(plan: Path) -> list[str]:
    return [layer["tactic"] for layer in read_sidecar(plan).facts["layers"]]


def test_a_build_says_what_made_it(trt: Any, graph: Graph) -> None:
    source = graph("int8")
    plan = build(source)
    lock = read_lock(plan)
    assert lock.graph_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert lock.tensorrt == ".".join(str(b) for b in plan.read_bytes()[24:28])
    assert len(lock.tensorrt.split(".")) == 4
    assert (lock.gpu_name, lock.compute_capability) == ("NVIDIA L4", "8.9")
    assert lock.workspace_bytes == read_sidecar(plan).facts["workspace_bytes"]
    assert lock.profiles == ((1, 2, 4),)
    assert lock.timing_cache_sha256 == hashlib.sha256(locked_cache_path(plan).read_bytes()).hexdigest()
    assert ("EDITABLE_TIMING_CACHE" in trt._builds[-1]["flags"]) == (trt.__version__ != "10.3.0")
    assert "ERROR_ON_TIMING_CACHE_MISS" not in trt._builds[-1]["flags"]


def test_two_builds_differ_and_locked_ones_do_not(
    trt: Any, graph: Graph, device: FakeDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    source = graph("int8")
    plan = build(source, fresh_timings=True)
    kept, before = (
        (plan.read_bytes(), lock_path(plan).read_bytes(), locked_cache_path(plan).read_bytes()),
        tactics(plan),
    )
    trt._fastest = 1
    device.total //= 2  # the default workspace would be another one
    build(source, locked=True)
    assert (plan.read_bytes(), lock_path(plan).read_bytes(), locked_cache_path(plan).read_bytes()) == kept
    assert "ERROR_ON_TIMING_CACHE_MISS" in trt._builds[-1]["flags"]
    assert ("EDITABLE_TIMING_CACHE" in trt._builds[-1]["flags"]) == (trt.__version__ != "10.3.0")
    assert "as locked" in capsys.readouterr().err
    build(source, fresh_timings=True)
    assert tactics(plan) != before


def test_a_cache_that_lacks_tactics_is_refused(trt: Any, graph: Graph) -> None:
    source = graph("int8")
    plan = build(source, fresh_timings=True)
    before = plan.read_bytes()
    cache = json.loads(locked_cache_path(plan).read_bytes())
    cache["entries"] = [e for e in cache["entries"] if "/conv/Conv" not in e]
    locked_cache_path(plan).write_bytes(json.dumps(cache).encode())
    lock = json.loads(lock_path(plan).read_bytes())
    lock["timing_cache_sha256"] = hashlib.sha256(locked_cache_path(plan).read_bytes()).hexdigest()
    lock_path(plan).write_text(json.dumps(lock))
    with pytest.raises(BackendError, match="timing cache miss: NVIDIA L4:/conv/Conv") as caught:
        build(source, locked=True)
    assert "lack tactics" in caught.value.hint
    assert plan.read_bytes() == before


def test_other_kernels_from_the_same_cache_are_refused(one_trt: Any, graph: Graph) -> None:
    """Which the cache does not rule out."""
    source = graph("int8")
    plan = build(source)
    before = plan.read_bytes()
    one_trt._inject.add("mixed")
    with pytest.raises(BackendError, match="chose other kernels than the locked ones"):
        build(source, locked=True)
    assert plan.read_bytes() == before


def change_lock(plan: Path, **changes: Any) -> None:
    lock = json.loads(lock_path(plan).read_bytes())
    lock_path(plan).write_text(json.dumps({**lock, **changes}))


def other_gpu(plan: Path) -> None:
    change_lock(plan, gpu_name="NVIDIA L40S")


def other_driver(plan: Path) -> None:
    change_lock(plan, driver="1.2")


def other_tensorrt(plan: Path) -> None:
    change_lock(plan, tensorrt="10.16.1.10")


def other_ranges(plan: Path) -> None:
    change_lock(plan, ranges_sha256="0" * 64)


def other_graph(plan: Path) -> None:
    change_lock(plan, graph_sha256="0" * 64)


def no_lock(plan: Path) -> None:
    lock_path(plan).unlink()


def no_cache(plan: Path) -> None:
    locked_cache_path(plan).unlink()


def other_cache(plan: Path) -> None:
    locked_cache_path(plan).write_bytes(b"{}")


def damaged(plan: Path) -> None:
    lock_path(plan).write_text("{")


def foreign(plan: Path) -> None:
    lock_path(plan).write_text('{"a": 1}')


def no_workspace(plan: Path) -> None:
    change_lock(plan, workspace_bytes=-5)


def endless_workspace(plan: Path) -> None:
    change_lock(plan, workspace_bytes=10**400)


def of_another_tensorrt(plan: Path) -> None:
    locked_cache_path(plan).write_text('{"trt": "9.9.9", "entries": []}')
    change_lock(plan, timing_cache_sha256=hashlib.sha256(locked_cache_path(plan).read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (other_gpu, DeviceError, "a lock of another device: gpu_name NVIDIA L40S, here NVIDIA L4"),
        (other_driver, DeviceError, r"a lock of another device: driver 1\.2, here"),
        (other_tensorrt, DeviceError, r"locked with TensorRT 10\.16\.1\.10, here is 10\.16\.1\.11"),
        (other_ranges, ArtifactError, r"its ranges 0{12} is not that of .*model.int8.onnx: \(none\)"),
        (other_graph, ArtifactError, "its graph 0{12} is not that of"),
        (no_lock, ArtifactError, "no lock to build by"),
        (no_cache, ArtifactError, "the timing cache of .* is not there"),
        (other_cache, ArtifactError, "is not the timing cache of"),
        (damaged, ArtifactError, "engine.lock"),
        (foreign, ArtifactError, "not a lock of an engine"),
        (no_workspace, ArtifactError, "workspace_bytes is no size"),
        (endless_workspace, ArtifactError, "workspace_bytes is no size"),
        (of_another_tensorrt, BackendError, "does not take the locked timing cache"),
    ],
)
def test_what_is_not_as_it_was_locked_is_refused_before_anything_is_built(
    one_trt: Any, graph: Graph, spoil: Callable[[Path], None], kind: type[EdgecnnError], words: str
) -> None:
    source = graph("int8")
    plan = build(source)
    built = len(one_trt._builds)
    spoil(plan)
    with pytest.raises(kind, match=words) as caught:
        build(source, locked=True)
    assert "without --locked" in caught.value.hint
    assert len(one_trt._builds) == built


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimization_level": 5}, "locked with optimization_level = 3, asked for is 5"),
        ({"batch": BatchSettings(1, 2, 8)}, r"locked with profiles = \(\(1, 2, 4\),\), asked for is \(\(1, 2, 8\),\)"),
        ({"batch": BatchSettings(1, 1, 4, ((1, 1, 1), (2, 2, 4)))}, r"asked for is \(\(1, 1, 1\), \(2, 2, 4\)\)"),
        ({"hardware_compatibility": "ampere_plus"}, "locked with hardware_compatibility = none"),
        ({"workspace_mb": 100}, "locked with a workspace of .* MB, asked for is 100"),
        ({"implicit": ImplicitInt8({"input": 0.1}, Path("x.cache"))}, "locked is a strongly typed build"),
    ],
)
def test_other_settings_than_the_locked_ones_are_refused(one_trt: Any, graph: Graph, changes: dict, words: str) -> None:
    source = graph("int8")
    build(source)
    with pytest.raises(BackendError, match=words):
        build(source, locked=True, **changes)


def test_each_of_several_profiles_is_locked(one_trt: Any, graph: Graph) -> None:
    source, profiles = graph("int8"), ((1, 1, 1), (2, 2, 4))
    plan = build(source, batch=BatchSettings(1, 1, 4, profiles))
    assert read_lock(plan).profiles == profiles
    build(source, batch=BatchSettings(1, 1, 4, profiles), locked=True)
    for other in (((1, 1, 1), (2, 3, 4)), ((1, 1, 1), (2, 2, 4), (5, 5, 8))):
        with pytest.raises(BackendError, match="locked with profiles") as caught:
            build(source, batch=BatchSettings(1, 1, other[-1][2], other), locked=True)
        assert "--profile 1:1:1 --profile 2:2:4" in caught.value.hint


def test_the_scales_of_a_weakly_typed_build_are_locked(one_trt: Any, graph: Graph, tmp_path: Path) -> None:
    source = graph("fp32")
    for name, scale in (("a.cache", "3c010204"), ("b.cache", "3c010205")):
        lines = [f"{tensor}: {scale}" for tensor in ("input", "conv", "relu", "pool", "flat", "logits")]
        (tmp_path / name).write_text("\n".join(["TRT-8602-EntropyCalibration2", *lines, ""]))
    command = ["build", str(source), "--target", "gpu", "-o", str(tmp_path / "x.plan")]
    weak = [*command, "--weakly-typed", "--ranges"]
    assert main([*weak, str(tmp_path / "a.cache")]) == 0
    assert main([*weak, str(tmp_path / "a.cache"), "--locked"]) == 0
    with pytest.raises(ArtifactError, match="its ranges [0-9a-f]{12} is not that of"):
        steps_build(
            source, tmp_path / "x.plan", target="gpu", weakly_typed=True, ranges=tmp_path / "b.cache", locked=True
        )
    with pytest.raises(BackendError, match="locked is a weakly typed build, and this is none"):
        steps_build(source, tmp_path / "x.plan", target="gpu", locked=True)


def test_a_locked_build_times_nothing(graph: Graph) -> None:
    with pytest.raises(RecipeError, match="locked with fresh_timings"):
        steps_build(graph("int8"), target="gpu", locked=True, fresh_timings=True)


def test_on_the_command_line(one_trt: Any, graph: Graph, capsys: pytest.CaptureFixture[str]) -> None:
    source = graph("int8")
    plan = source.with_suffix(".plan")
    command = ["build", str(source), "--target", "gpu", "-o", str(plan)]
    assert main([*command, "--locked"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == said.count("hint: ") == 1
    assert main(command) == 0
    assert main([*command, "--locked"]) == 0
    assert main(["build", str(source), "--target", "cpu", "--locked"]) == 2
    assert "nothing to lock" in capsys.readouterr().err
    assert main([*command, "--locked", "--rebuilds", "2"]) == 2
    assert "--rebuilds" in capsys.readouterr().err


def test_several_builds_lie_beside_the_first_each_with_its_lock(
    one_trt: Any, graph: Graph, capsys: pytest.CaptureFixture[str]
) -> None:
    source = graph("int8")
    plan = source.with_suffix(".plan")
    one_trt._on_step = lambda step: setattr(one_trt, "_fastest", len(one_trt._builds) + 1)
    assert main(["build", str(source), "--target", "gpu", "-o", str(plan), "--rebuilds", "3", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["engines"]
    assert made == [
        str(plan),
        str(plan.with_name("model.int8.build2.plan")),
        str(plan.with_name("model.int8.build3.plan")),
    ]
    locks = [read_lock(Path(path)).kernels_sha256 for path in made]
    assert len(set(locks)) == 3, "each is timed anew"
    assert main(["build", str(source), "--target", "gpu", "--rebuilds", "0"]) == 2


def test_a_plan_that_cannot_be_replaced_keeps_its_lock(trt: Any, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    source = graph("int8")
    plan = build(source)
    files = (plan, lock_path(plan), locked_cache_path(plan))
    before = [file.read_bytes() for file in files]

    def fails(*unused: object, **more: object) -> None:
        assert [file.read_bytes() for file in files] == before
        raise OSError(errno.EIO, "no")

    for operation in ("replace_pair", "sha256_of"):
        with monkeypatch.context() as patch, pytest.raises(WriteError):
            patch.setattr(f"edgecnn.artifact.write.{operation}", fails)
            build(source, optimization_level=1)
        assert [file.read_bytes() for file in files] == before
    build(source, optimization_level=1)
    assert read_lock(plan).optimization_level == 1
    assert not list(plan.parent.glob(".*edgecnn-*"))
