"""Steps on a network that is not of the zoo: export, parity, torch.onnx where we have no translation, reference."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from edgecnn.artifact.sidecar import read_sidecar, sha256_of
from edgecnn.errors import ArtifactError, GraphError, MissingPackageError, ModelError
from edgecnn.measure.predict import read_predictions
from edgecnn.steps.export import export
from edgecnn.steps.reference import reference
from edgecnn.steps.validate import validate

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    from torch import nn

    from edgecnn.pytorch.export import torch_onnx

pytestmark = pytest.mark.torch

NET = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.GELU("tanh"), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with net.py and a preprocessing."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    content = {"resize": 8, "crop": [8, 12], "squash": True, "mean": [0.5], "std": [0.5], "channels": 1}
    Path("pre.json").write_text(json.dumps(content))
    return tmp_path


def test_export_and_reference_of_a_file(folder: Path) -> None:
    path = export("net.py:make", trust_code=True, preprocess="pre.json", labels=[str(d) for d in range(10)])
    made = read_sidecar(path)
    assert (path, made.made_by) == (Path("net.fp32.onnx"), "edgecnn export net.py:make")
    assert made.parents == {"net.py": sha256_of(Path("net.py"))}
    assert made.facts["max_difference"] <= 1e-5
    assert "changes" not in made.facts  # our own translation, GELU and SiLU included
    assert [d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim][1:] == [1, 8, 12]
    saved = reference("net.py:make", data="digits", preprocess="pre.json", trust_code=True)
    assert saved == Path("net.reference.npz")
    found = validate(path, saved, data="digits")
    assert (found.n, found.agreement_pct) == (540, 100.0)


def test_export_and_reference_of_a_module(folder: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(96, 10))
    path = export(module, "m.fp32.onnx", preprocess="pre.json")
    saved = reference(module, "m.npz", data="digits", preprocess="pre.json")
    assert read_predictions(saved).logits.shape == (540, 10)
    assert validate(path, saved, data="digits").agreement_pct == 100.0
    with pytest.raises(ModelError, match="brings its weights"):
        export(module, preprocess="pre.json", checkpoint="w.pth")


def test_what_an_own_network_needs(folder: Path) -> None:
    with pytest.raises(ModelError, match="how its images are preprocessed is not known"):
        export("net.py:make", trust_code=True)
    with pytest.raises(ArtifactError, match="not run unasked"):
        export("net.py:make", preprocess="pre.json")
    with pytest.raises(ArtifactError, match="not run unasked"):
        reference("net.py:make", data="digits", preprocess="pre.json")
    with pytest.raises(ModelError, match="--size and --weights are of networks of the zoo"):
        export("net.py:make", trust_code=True, preprocess="pre.json", size=32)
    with pytest.raises(ModelError, match="'net.py' names no function"):
        export("net.py", trust_code=True, preprocess="pre.json")
    with pytest.raises(ModelError, match="9 labels for 10 classes"):
        export("net.py:make", trust_code=True, preprocess="pre.json", labels=list("123456789"))
    with pytest.raises(ModelError, match="are of an own network"):
        reference("resnet18", data="digits", preprocess="pre.json")
    assert not list(folder.glob("*.onnx"))


def odd_module() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 10), nn.Softplus())


def test_an_operator_without_translation_goes_by_torch_onnx_held_to_the_same_parity(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(odd_module(), "odd.fp32.onnx", preprocess="pre.json")
    facts = read_sidecar(path).facts
    assert facts["changes"][0].startswith("exported by torch.onnx: 1: the operator aten.group_norm")
    assert facts["max_difference"] <= 1e-4
    graph = onnx.load(path).graph
    assert ([graph.input[0].name, graph.output[0].name], facts["classes"]) == (["input", "logits"], 10)
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    before = path.read_bytes()

    def another(network: nn.Module, card: object, file: Path, reason: str) -> None:
        model = onnx.load(path)
        bias = next(i for i in model.graph.initializer if list(i.dims) == [10])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        onnx.save(model, file)

    monkeypatch.setattr(torch_onnx, "export_by_torch", another)
    with pytest.raises(GraphError, match="differs from PyTorch by"):
        export(odd_module(), "odd.fp32.onnx", preprocess="pre.json")
    assert path.read_bytes() == before


def test_without_onnxscript_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    with pytest.raises(MissingPackageError, match="'onnxscript'") as caught:
        export(odd_module(), preprocess="pre.json")
    assert "edgecnn[own]" in caught.value.hint
    assert "aten.group_norm" in caught.value.message


def test_what_torch_onnx_cannot_export_either_says_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no decomposition\nmore")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ModelError, match=r"aten.group_norm.*; torch.onnx cannot export it either: no decomposition$"):
        export(odd_module(), preprocess="pre.json")


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str, folder: Path) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(96, 10), nn.GELU(approximate))
    path = export(module, "g.fp32.onnx", preprocess="pre.json")
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert ("Erf" in kinds, "Tanh" in kinds) == (approximate == "none", approximate == "tanh")
    assert read_sidecar(path).facts["max_difference"] <= 1e-6
