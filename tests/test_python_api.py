"""The steps as a notebook calls them: the whole flow of a network of the zoo, names, mistakes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import edgecnn as ec

if TYPE_CHECKING:
    import torch

    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.weights import randomize

pytestmark = pytest.mark.torch


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of two ImageNet classes, in which ShuffleNetV2's published weights are random ones."""
    network = build_model("shufflenet_v2_x0_5", 1000)
    randomize(network, (3, 224, 224), 0)
    torch.save(network.state_dict(), tmp_path / "published.pth")
    for module in ("download", "weights"):
        monkeypatch.setattr(f"edgecnn.pytorch.{module}.fetch", lambda url, sha256="": tmp_path / "published.pth")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for wnid in ("n01440764", "n01443537"):
            folder = tmp_path / "imgs" / split / wnid
            folder.mkdir(parents=True)
            for k in range(2):
                Image.fromarray(rng.integers(0, 255, (256, 256, 3), np.uint8)).save(folder / f"{split}{k}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_flow_of_a_published_network(published: Path) -> None:
    fp32 = ec.export("shufflenet_v2_x0_5", "m.fp32.onnx")
    ranges = ec.calibrate(fp32, data="imgs/train", images=512)
    int8 = ec.quantize(fp32, "m.int8.onnx", precision="int8", scheme="tensorrt", ranges=ranges)
    ref = ec.reference("shufflenet_v2_x0_5", data="imgs/val")
    engine = ec.build(int8, target="cpu")
    acc = ec.validate(engine, ref, data="imgs/val")
    lat = ec.bench(engine, duration_s=0.1)
    assert [fp32, ranges, int8.path, ref, engine] == [
        Path(name)
        for name in (
            "m.fp32.onnx",
            "m.calib.json",
            "m.int8.onnx",
            "shufflenet_v2_x0_5.reference.npz",
            "m.int8.engine.onnx",
        )
    ]
    assert (acc.n, acc.n_labelled) == (4, 4)
    assert acc.top1.drop_pp == acc.top1_drop_pp
    assert acc.top1.drop_ci_pp is not None
    assert lat.p50 == lat.measurements[0].latency.latency_ms_p50
    assert [len(repr(x).splitlines()) for x in (int8, acc, lat)] == [1, 1, 1]
    assert ec.reference("shufflenet_v2_x0_5", data=published / "imgs" / "val") == ref, "the checkpoint is used again"
    (published / "shufflenet_v2_x0_5.safetensors.json").unlink()
    with pytest.raises(ec.WriteError, match="would be overwritten"):
        ec.reference("shufflenet_v2_x0_5", data="imgs/val")


def test_names_are_not_shadowed_by_modules() -> None:
    """In a process where every module that could is an attribute: `edgecnn.report`, `edgecnn.gate` are packages."""
    script = """
import importlib, inspect, pkgutil, edgecnn
for module in pkgutil.iter_modules(edgecnn.__path__, "edgecnn."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in edgecnn.__all__:
    found = getattr(edgecnn, name)
    assert not inspect.ismodule(found), name
    assert found.__name__ == name, name
print(len(edgecnn.__all__))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


CALLS: dict[str, Callable[[], Any]] = {
    "run": lambda: ec.run("lenet6-digits"),
    "run, a step": lambda: ec.run("lenet5-digits", until="trian"),  # type: ignore[arg-type]
    "run, threads": lambda: ec.run("lenet5-digits", threads=0),
    "train": lambda: ec.train("nowhere.toml"),
    "train, threads": lambda: ec.train("lenet5-digits", threads=0),
    "train_quantized": lambda: ec.train_quantized("lenet5-digits"),
    "export": lambda: ec.export("lenet6"),
    "export, classes": lambda: ec.export("lenet5", classes=-1),
    "export_ensemble": lambda: ec.export_ensemble(["absent.onnx", "other.onnx"], "ens.onnx"),
    "export_ensemble, one": lambda: ec.export_ensemble("absent.onnx", "ens.onnx"),
    "import_onnx": lambda: ec.import_onnx("absent.onnx"),
    "calibrate": lambda: ec.calibrate("absent.onnx", data="digits"),
    "calibrate, images": lambda: ec.calibrate("absent.onnx", data="digits", images=-5),
    "calibrate, a text": lambda: ec.calibrate("absent.onnx", data="digits", images="many"),  # type: ignore[arg-type]
    "import_ranges": lambda: ec.import_ranges("absent.cache", "absent.onnx"),
    "sensitivity": lambda: ec.sensitivity("absent.onnx", ranges="absent.calib.json", data="d"),
    "search": lambda: ec.search("absent.onnx", max_drop_pp=0.5, data="d"),
    "search, drop": lambda: ec.search("absent.onnx", max_drop_pp=-1, data="d"),
    "search, objective": lambda: ec.search("a.onnx", max_drop_pp=1, data="d", objective="size"),  # type: ignore[arg-type]
    "quantize": lambda: ec.quantize("absent.onnx", precision="fp16"),
    "quantize, precision": lambda: ec.quantize("absent.onnx", precision="int7"),  # type: ignore[arg-type]
    "quantize, scheme": lambda: ec.quantize("a.onnx", precision="int8", scheme="tenssort"),  # type: ignore[arg-type]
    "quantize, method": lambda: ec.quantize("a.onnx", precision="int8", method="max"),  # type: ignore[arg-type]
    "reference": lambda: ec.reference("absent.onnx", data="digits"),
    "reference, a network": lambda: ec.reference("mobilenet_v9", data="digits"),
    "build": lambda: ec.build("absent.onnx"),
    "build, target": lambda: ec.build("absent.onnx", target="agx-onin"),
    "build, backend": lambda: ec.build("absent.onnx", backend="tpu"),
    "build, level": lambda: ec.build("absent.onnx", hardware_compatibility="ampere"),  # type: ignore[arg-type]
    "validate": lambda: ec.validate("absent.onnx", "r.npz", data="digits"),
    "validate, batch": lambda: ec.validate("absent.onnx", "r.npz", data="digits", batch=0),
    "bench": lambda: ec.bench("absent.onnx"),
    "bench, mode": lambda: ec.bench("absent.onnx", mode="speed"),  # type: ignore[arg-type]
    "bench, duration": lambda: ec.bench("absent.onnx", duration_s=-1),
    "bench, batches": lambda: ec.bench("absent.onnx", batches=(1, 0)),
    "judge": lambda: ec.judge("nowhere"),
    "drift": lambda: ec.drift("absent.jsonl", "absent.jsonl"),
    "monitor_line": lambda: ec.monitor_line([]),
    "features": lambda: ec.features("absent.onnx", "F.npz", data="digits"),
    "features, batch": lambda: ec.features("absent.onnx", "F.npz", data="digits", batch=0),
    "same": lambda: ec.same("absent.onnx", "a.jpg", "b.jpg"),
    "validate_verification": lambda: ec.validate_verification("absent.onnx", "r.npz", data="digits"),
    "validate_verification, batch": lambda: ec.validate_verification("absent.onnx", "r.npz", data="digits", batch=0),
    "neighbours": lambda: ec.neighbours("absent.npz", "cat/1.jpg"),
    "transfer_table": lambda: ec.transfer_table("digits", models=["resnet81"]),
    "transfer_table, stages": lambda: ec.transfer_table("digits", models=["resnet18"], last_stages=[0]),
    "load_recipe": lambda: ec.load_recipe("lenet5-digits", ["train.epoch=1"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_mistakes_raise_the_tree_and_leave_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ec.EdgecnnError) as caught:
        CALLS[name]()
    assert len(caught.value.hint) > 5
    assert list(tmp_path.iterdir()) == []


def test_every_function_has_a_mistake_to_make() -> None:
    functions = {name for name in ec.__all__ if inspect.isfunction(getattr(ec, name))}
    assert {name.split(",")[0] for name in CALLS} == functions - {"write_report"}  # it needs a report: see below


def test_a_package_that_is_absent_is_an_error_of_the_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n in ("torch", "onnx") else find(n, *a))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"x")
    for call in (
        lambda: ec.train("lenet5-digits"),
        lambda: ec.export("lenet5", weights="none"),
        lambda: ec.import_onnx("m.onnx"),
        lambda: ec.calibrate("m.onnx", data="digits"),
        lambda: ec.quantize("m.onnx", precision="fp16"),
    ):
        with pytest.raises(ec.MissingPackageError, match="needs the package"):
            call()
