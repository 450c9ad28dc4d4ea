"""Every name that the backend takes from TensorRT, against names-only snapshots of the real bindings.

Variables that hold TensorRT's objects bear the same name throughout the folder, so that a scan of the source can tell
their class; what it cannot tell is a failure, not a pass. A name that only some versions have must be asked for with
`getattr(..., None)` or `hasattr`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgecnn.backends.trt
from edgecnn.backends.trt.flavor import FLAVORS, TENSORRT
from tests.fakes import fake_tensorrt

pytestmark = pytest.mark.onnx

FOLDER = Path(edgecnn.backends.trt.__file__).parent
SOURCES = sorted(FOLDER.glob("*.py"))
SNAPSHOTS = sorted((Path(__file__).parent / "api").glob("*.json"))
RTX_SNAPSHOTS = sorted((Path(__file__).parent / "api" / "rtx").glob("*.json"))
MODULES = {flavor.module for flavor in FLAVORS}
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "largest": "IExecutionContext",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
    "other": "ITimingCache",
    "tensor": "ITensor",
    "layer": "ILayer",
    "convolution": "IConvolutionLayer",
    "error": "ParserError",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
NEUTRAL = {"plan.py", "inspector.py", "lock.py", "__init__.py"}  # read files and JSON: their `layer` is not TensorRT's
RTX_ONLY = {"rtx.py"}
IMPLICIT = FOLDER / "implicit.py"  # of 10.x alone


def attributes(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, class or "trt", name) of every attribute of the module or of one of its objects."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        holder = node.value
        mine = isinstance(holder, ast.Attribute) and isinstance(holder.value, ast.Name) and holder.value.id == "self"
        if isinstance(holder, ast.Attribute) and (mine or holder.attr in HOLDS):  # shape.context.execute_async_v3
            name = holder.attr
        elif isinstance(holder, ast.Name):
            name = holder.id
        else:
            continue
        if name in ("trt", "_trt"):
            yield node.lineno, "trt", node.attr
        elif name in HOLDS:
            yield node.lineno, HOLDS[name], node.attr


def chains(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, class, member) of `trt.Class.member`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            inner = node.value
            root = inner.value
            names = (
                root.id if isinstance(root, ast.Name) else "",
                root.attr if isinstance(root, ast.Attribute) else "",
            )
            if "trt" in names or "_trt" in names:
                yield node.lineno, inner.attr, node.attr


def members(api: dict[str, Any], name: str) -> set[str]:
    """Everything that an object of a class, or the class, answers to in a version."""
    content = api["classes"][name]
    own = set(content.get("enum", ())) | set(content.get("methods", ())) | set(content.get("properties", ()))
    own |= set(content.get("nested", ())) | set(content.get("static", ()))
    for base in content.get("bases", []):
        own |= members(api, base) if base in api["classes"] else set()
    return own


def problems(api: dict[str, Any], sources: list[Path] = SOURCES) -> list[str]:
    found = []
    for path in sources:
        if path.name in NEUTRAL or (path.name in RTX_ONLY and "IRuntimeCache" not in api["classes"]):
            continue
        for line, holder, name in attributes(path):
            if name == "__class__":
                continue
            if holder == "trt":
                known = name in api["classes"] or name in api["functions"] or name == "__version__"
            else:
                known = name in members(api, holder)
            if not known:
                found.append(f"{path.name}:{line}: {holder}.{name}")
        for line, holder, name in chains(path):
            content = api["classes"].get(holder, {})
            nested = [n.get("enum", {}) for n in content.get("nested", {}).values()]
            offered = {*members(api, holder), "__members__"} if holder in api["classes"] else {name}
            if name not in offered and not any(name in n for n in nested):
                found.append(f"{path.name}:{line}: trt.{holder}.{name}")
    return found


@pytest.mark.parametrize("snapshot", [*SNAPSHOTS, *RTX_SNAPSHOTS], ids=lambda p: p.stem)
def test_no_name_is_missing_in_a_declared_version(snapshot: Path) -> None:
    api = json.loads(snapshot.read_text())
    assert problems(api, [path for path in SOURCES if path != IMPLICIT]) == []
    gone = {problem.rpartition(": ")[2] for problem in problems(api, [IMPLICIT])}
    of_11 = {"trt.IInt8EntropyCalibrator2", "trt.BuilderFlag.INT8", "trt.BuilderFlag.FP16"}
    of_11 |= {"IBuilderConfig.int8_calibrator", "IBuilderConfig.set_calibration_profile"}
    assert gone == (set() if api["version"].startswith("10.") else of_11)


def test_the_scan_sees_what_the_backend_uses() -> None:
    seen = {(h, n) for p in SOURCES if p.name not in NEUTRAL for _, h, n in attributes(p)}
    for expected in (
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_name"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_tensor_address"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ITimingCache", "combine"),
        ("EngineInspector", "get_engine_information"),
        ("trt", "NetworkDefinitionCreationFlag"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
        ("IRuntimeCache", "deserialize"),
    ):
        assert expected in seen
    assert len(seen) > 60


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ("def f(trt, config):\n    config.set_flag(trt.BuilderFlag.FP16)\n", "trt.BuilderFlag.FP16"),
        ("def f(config, c):\n    config.int8_calibrator = c\n", "IBuilderConfig.int8_calibrator"),
        ("def f(builder):\n    return builder.platform_has_fast_fp16\n", "Builder.platform_has_fast_fp16"),
        ("def f(engine):\n    return engine.device_memory_size\n", "ICudaEngine.device_memory_size"),
    ],
)
def test_the_scan_would_catch_what_11_took_away(source: str, bad: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.py"
    path.write_text(source)
    newest = json.loads(SNAPSHOTS[-1].read_text())
    oldest = json.loads(SNAPSHOTS[2].read_text())
    assert (newest["version"], oldest["version"]) == ("11.4.0.106", "10.3.0")
    assert any(bad in p for p in problems(newest, [path]))
    assert problems(oldest, [path]) == []


def test_precision_is_asked_for_in_no_other_way() -> None:
    """No builder flag and no calibrator: the graph has the precision, but for weakly typed builds, which are asked for.
    And flags are bits, never enums."""
    text = "".join(p.read_text(encoding="utf-8") for p in SOURCES if p != IMPLICIT)
    for word in ("BuilderFlag.FP16", "BuilderFlag.INT8", "BuilderFlag.BF16", "IInt8"):
        assert word not in text
    assert "create_network(0 if flag is None else 1 << int(flag))" in text
    assert "engine_host_code_allowed = True" in text  # once, behind --trust
    assert text.count("engine_host_code_allowed") == 2


def test_only_this_folder_imports_tensorrt() -> None:
    package = FOLDER.parents[1]
    importing = {
        str(p.relative_to(package))
        for p in package.rglob("*.py")
        if any(word in (text := p.read_text(encoding="utf-8")) for word in (*MODULES, "import_module"))
        for node in ast.walk(ast.parse(text))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] in MODULES for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES)
        or (isinstance(node, ast.Call) and ast.unparse(node) == "importlib.import_module(flavor.module)")
    }
    assert importing == {"backends/trt/library.py"}


@pytest.mark.parametrize("snapshot", [*SNAPSHOTS, *RTX_SNAPSHOTS], ids=lambda p: p.stem)
def test_the_fake_offers_nothing_that_the_version_lacks(snapshot: Path) -> None:
    """Every public method of the fake stands in the snapshot with these parameter names."""
    api, checked = json.loads(snapshot.read_text()), 0
    offered = fake_tensorrt.RTX_CLASSES if snapshot in RTX_SNAPSHOTS else fake_tensorrt.CLASSES
    for name, kind in offered.items():
        known = members(api, name)
        for member, value in vars(kind).items():
            if member.startswith("_"):
                continue
            if member == "set_calibration_profile" and not api["version"].startswith("10."):
                continue  # the version's own members are all that an object of the fake has
            if "build_route" in member and api["version"].startswith(("10.", "11.0.")):
                continue
            if "unfused_tensors" in member and api["version"].startswith("10.3."):
                continue
            assert member in known, f"{name}.{member}"
            if inspect.isfunction(value):
                parameters = list(inspect.signature(value).parameters)
                overloads = [[p.rstrip("=") for p in o] for o in api["classes"][name]["methods"][member]]
                assert any(parameters == o[: len(parameters)] for o in overloads), f"{name}.{member}{parameters}"
                checked += 1
    assert checked > 35


def test_the_fake_is_strict() -> None:
    module = fake_tensorrt.fake_tensorrt("11.4.0.106", fake_tensorrt.FakeDevice())

    class Quiet(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            pass

    class Uninitialised(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            pass

    logger = Quiet()
    builder = module.Builder(logger)
    with pytest.raises(AttributeError, match="platform_has_fast_fp16"):
        _ = builder.platform_has_fast_fp16
    with pytest.raises(AttributeError):
        _ = module.BuilderFlag.FP16
    with pytest.raises(TypeError, match="incompatible function arguments"):
        builder.create_network(flag=1)
    with pytest.raises(AttributeError, match="int8_calibrator"):
        builder.create_builder_config().int8_calibrator = None
    with pytest.raises(TypeError, match="must be called when overriding"):
        module.Builder(Uninitialised())
    old = fake_tensorrt.fake_tensorrt("10.3.0", fake_tensorrt.FakeDevice())
    flag = old.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = old.Builder(type("L", (old.ILogger,), {})()).create_network(flag)  # accepted, and means another bit
    assert not network.get_flag(flag)


def test_the_package_asks_for_the_versions_that_are_supported(root: Path) -> None:
    """A pip that brings a TensorRT which is then refused would break every new installation."""
    oldest = ".".join(map(str, TENSORRT.oldest))
    asked = re.findall(r'"tensorrt>=([\d.]+),<(\d+)"', (root / "pyproject.toml").read_text())
    assert asked
    assert all(least == oldest and int(above) <= TENSORRT.newest_major + 1 for least, above in asked)
