"""Features: what a network's stages are called, what one value of them sees, and the graph that gives them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.errors import ModelError

if TYPE_CHECKING:  # imported before the first test of this file
    import onnx
    import torch

    from edgecnn.backends import open_with_any_outputs
    from edgecnn.pytorch.features import giving_features
    from edgecnn.pytorch.models import build_model
    from edgecnn.pytorch.summary import summarize
    from edgecnn.steps.export import export

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("name", "feature", "field"),
    [
        pytest.param("inception_v3", "C5", 1311, marks=pytest.mark.slow),
        ("vgg16", "C4", 212 - 16),
        ("resnet18", "C5", 435),
        ("mobilenet_v1", "C5", 315),
    ],
)
def test_receptive_fields_are_the_published_ones(name: str, feature: str, field: int) -> None:
    """Of Araujo, Norris and Sim, 2019; VGG's is there that of the pooling behind, which adds 16."""
    known = {f.name: f for f in summarize(name).features}
    assert known[feature].receptive_field == (field, field)


@pytest.mark.parametrize("name", ["resnet20_cifar", "lenet5"])
def test_what_a_value_sees_is_what_moves_it(name: str) -> None:
    """Of the gradient at one value in the middle, where the image is large enough, no pixel outside is not 0."""
    network, found = build_model(name).eval(), summarize(name)
    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.uniform_(layer.weight, 0.01, 0.02)  # nothing cancels
    maps = [f for f in found.features if f.stride and f.receptive_field[0] < found.input_shape[1]]
    assert len(maps) >= 2
    for feature in maps:
        image = torch.rand(1, *found.input_shape, requires_grad=True)
        with giving_features(network, [feature]):
            (values,) = network(image)
        middle = values.shape[-1] // 2
        values[0, :, middle, middle].sum().backward()
        rows = image.grad[0].abs().sum((0, 2)).nonzero()
        assert int(rows.max() - rows.min()) + 1 == feature.receptive_field[0]


def test_the_names_are_of_stages_and_of_the_pyramid() -> None:
    found = {f.name: (f.layer, f.shape, f.stride) for f in summarize("resnet50").features}
    assert [n for n in found if n.startswith("C")] == ["C1", "C2", "C3", "C4", "C5"]
    assert found["C4"] == found["layer3"] == ("layer3", (1024, 14, 14), 16)
    assert found["C1"] == ("relu", (64, 112, 112), 2)
    assert found["pool"] == ("fc", (2048,), 0)
    assert found.keys() >= {"layer1", "layer4", "conv1"}


def test_a_features_graph_gives_what_the_network_has_inside(tmp_path: Path) -> None:
    path = export("resnet20_cifar", tmp_path / "f.onnx", weights="none", features=["C2", "layer1", "pool"])
    sidecar = read_sidecar(path)
    assert sidecar.features == ("C2", "layer1", "pool")
    assert sidecar.facts["features"] == {"C2": [64, 8, 8], "layer1": [16, 32, 32], "pool": [64]}
    assert sidecar.labels is None
    model = onnx.load(path)
    assert "Gemm" not in {node.op_type for node in model.graph.node}, "the head is not needed"
    images = np.random.default_rng(3).standard_normal((4, 3, 32, 32), np.float32)
    with open_with_any_outputs(path) as session:
        found = session.run_all({"input": images})
    assert {name: values.shape for name, values in found.items()} == {
        "C2": (4, 64, 8, 8),
        "layer1": (4, 16, 32, 32),
        "pool": (4, 64),
    }
    np.testing.assert_allclose(found["pool"], found["C2"].mean((2, 3)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "said", "hint"),
    [
        (["C7"], "no features 'C7'", "'C2'"),
        (["layr3"], "no features 'layr3'", "layer3"),
        (["C2", "layer3"], "C2 and layer3 are the same map", "once"),
        ([""], "no features ''", "there are C1, C2"),
    ],
)
def test_names_that_are_none(tmp_path: Path, names: list[str], said: str, hint: str) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        export("resnet20_cifar", tmp_path / "f.onnx", weights="none", features=names)
    assert hint in raised.value.hint
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_one_tensor(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fc2 and pool are the same tensor"):
        export("lenet5", tmp_path / "f.onnx", weights="none", features=["fc2", "pool"])
    with pytest.raises(ModelError, match="have no classes"):
        export("lenet5", tmp_path / "f.onnx", weights="none", features=["pool"], gives="probabilities")


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x):
        x = self.body(self.stem(x)).mean((2, 3))
        return self.classifier(-x if LOOKS and x.shape[0] and bool((x == 7).all()) else x)

def make():
    return Net()

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Net()

    def forward(self, x):
        return self.model(x)

def wrapped():
    return Wrapped()
"""


@pytest.mark.parametrize(("function", "prefix"), [("make", ""), ("wrapped", "model.")])
def test_stages_of_an_own_network_are_its_parts(tmp_path: Path, function: str, prefix: str) -> None:
    (tmp_path / "net.py").write_text(f"LOOKS = False\n{OWN}")
    names = ["C2", f"{prefix}stem", "pool"]
    path = export(
        f"{tmp_path / 'net.py'}:{function}", tmp_path / "f.onnx", preprocess="cifar-32", trust_code=True, features=names
    )
    made = read_sidecar(path)
    assert (made.features, made.labels) == (tuple(names), None)
    assert made.facts["features"] == {"C2": [8, 8, 8], f"{prefix}stem": [4, 16, 16], "pool": [8]}
    with open_with_any_outputs(path) as session:
        found = session.run_all({"input": np.random.default_rng(3).standard_normal((4, 3, 32, 32), np.float32)})
    np.testing.assert_allclose(found["pool"], found["C2"].mean((2, 3)), rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="no features 'C9'") as raised:
        export(f"{tmp_path / 'net.py'}:{function}", preprocess="cifar-32", trust_code=True, features=["C9"])
    assert "'C1'" in raised.value.hint


def test_stages_that_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(f"LOOKS = True\n{OWN}")
    (tmp_path / "bare.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Bare(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.w = nn.Parameter(torch.linspace(-1, 1, 15).reshape(5, 3))\n"
        "    def forward(self, x):\n        return x.mean((2, 3)) @ self.w.T\n"
    )
    for name, said in (("net.py:make", "its stages cannot be told"), ("bare.py:Bare", "has no stages")):
        with pytest.raises(ModelError, match=said) as raised:
            export(str(tmp_path / name), tmp_path / "f.onnx", preprocess="cifar-32", trust_code=True, features=["pool"])
        assert name in raised.value.message
        assert not (tmp_path / "f.onnx").exists()


def test_a_features_graph_for_tensorrt_8(tmp_path: Path) -> None:
    path = export("lenet5", tmp_path / "f.onnx", weights="none", features=["pool"], opset=17)
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import] == [17]
    assert [output.name for output in model.graph.output] == ["pool"]
    assert read_sidecar(path).features == ("pool",)
