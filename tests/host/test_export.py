"""The exporter: every operator it translates, against PyTorch in ONNX Runtime; names, folding and dynamic batch."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgecnn.artifact import Sidecar, verified_sidecar
from edgecnn.errors import GraphError, ModelError
from edgecnn.pytorch.export import export_onnx
from edgecnn.zoo import ModelCard, find_model


def card_for(channels: int, size: int, classes: int = 4) -> ModelCard:
    """A card for a network of this test."""
    return dataclasses.replace(find_model("lenet5"), name="net", input_shape=(channels, size, size), classes=classes)


def exported(module: nn.Module, tmp_path: Path, channels: int = 3, size: int = 16) -> tuple[onnx.ModelProto, Sidecar]:
    """Export and read back."""
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
                layer.weight.normal_()
                layer.bias.normal_()
    output = tmp_path / "net.onnx"
    sidecar = export_onnx(module, card_for(channels, size), output, Sidecar(kind="graph"), max_batch=5)
    return onnx.load(output), sidecar


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


class Head(nn.Module):
    """`body`, then a linear head."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Block(nn.Module):
    """A residual block with in-place ReLU used twice and in-place addition, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def test_contract_names_and_folding(tmp_path: Path) -> None:
    model, sidecar = exported(Head(nn.Sequential(Block(), Block()), 3), tmp_path)
    assert model.ir_version == 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 19)]
    (given,), (made,) = model.graph.input, model.graph.output
    assert given.name == "input"
    assert made.name == "logits"
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, 16, 16]
    assert [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim] == ["batch", 4]
    names = [n.name for n in model.graph.node]
    assert names[:5] == ["body.0.conv1", "body.0.relu", "body.0.conv2", "body.0.add", "body.0.relu_1"]
    assert operators(model) == {"Conv": 4, "Relu": 4, "Add": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    initializers = [i.name for i in model.graph.initializer]
    assert initializers[:4] == [f"body.0.conv{k}.{w}" for k in (1, 2) for w in ("weight", "bias")]
    assert sidecar == verified_sidecar(tmp_path / "net.onnx")
    assert sidecar.facts["nodes"] == len(names)
    assert 0 < sidecar.facts["max_difference"] < 1e-5


def test_fold_leaves_shared_convolutions_alone(tmp_path: Path) -> None:
    """A convolution whose output has another reader, or whose weights have another user, must keep its weights."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.twice, self.bn2 = (
                nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3),
            )  # fmt: skip

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            x = self.bn(x) + x
            return self.bn2(self.twice(x)) + self.twice(x * 2)

    model, _ = exported(Head(Shared(), 3), tmp_path)
    assert operators(model)["BatchNormalization"] == 2


@pytest.mark.parametrize(
    ("cells", "used"),
    [((8, 4), {"AveragePool": 1}), ((6, 7), {"MatMul": 1, "Reshape": 2}), ((20, 5), {"MatMul": 1, "Reshape": 2})],
)
def test_adaptive_pooling_with_windows_of_unequal_size_too(
    tmp_path: Path, cells: tuple[int, int], used: dict[str, int]
) -> None:
    """Into fewer cells, and into more than there are pixels; the export itself compares with PyTorch."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Flatten(), nn.Linear(3 * cells[0] * cells[1], 4))
    model, sidecar = exported(pool, tmp_path)
    assert operators(model) == {**used, "Flatten": 1, "Gemm": 1}
    assert sidecar.facts["max_difference"] < 1e-5


class Everything(nn.Module):
    """Each operator that a network of the zoo may use and that the blocks above do not."""

    def __init__(self) -> None:
        super().__init__()
        self.lrn, self.prelu = nn.LocalResponseNorm(5, alpha=0.1, k=2.0), nn.LeakyReLU(0.1)
        self.hs, self.hsig, self.silu, self.six = nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(inplace=True), nn.ReLU6()
        self.asym = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.same = nn.Conv2d(8, 8, (3, 5), padding="same", dilation=2)
        self.drop, self.fc1, self.fc2 = nn.Dropout(0.5), nn.Linear(8, 2), nn.Linear(2, 8)
        self.pool = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x[:, :, ::1, ::1], (0, 0, 0, 0, 2, 3))  # [N, 8, 32, 32]
        x = self.lrn(x + 0.3)
        x = self.hs(x) + self.hsig(x) - self.six(x) * self.prelu(x)
        x = self.silu(x) / 2
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        a, b = x.chunk(2, 1)
        c1, c2 = b.split([1, 3], dim=1)
        x = torch.cat([torch.cat([a], 1), torch.tanh(c1), torch.sigmoid(c2)], 1)
        x = self.asym(F.pad(x, (0, 1, 0, 1)))  # TensorFlow's "same" at stride 2
        x = self.same(x)
        scale = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1).flatten(1)))).sigmoid()
        x = x * scale.unsqueeze(-1).unsqueeze(-1)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True) + self.pool(x)[:, :, :8, -8:]
        x = F.avg_pool2d(x[:, :, ::2, 1::2], 3, stride=1, padding=1)
        x = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2).clamp(-1, 2)
        return self.drop(F.adaptive_avg_pool2d(x, 2)).reshape(n, -1)[:, :4]


def test_every_operator(tmp_path: Path) -> None:
    model, _ = exported(Everything(), tmp_path, size=32)
    found = operators(model)
    assert found["LRN"] == 1
    assert found["Pad"] == 1  # of the channels; the spatial one is part of the convolution
    assert found["HardSwish"] == 1
    assert {"Shape", "Gather", "Identity", "Constant", "Unsqueeze", "Squeeze"}.isdisjoint(found)
    assert next(n.name for n in model.graph.node if n.op_type == "LRN") == "lrn"


def test_in_place_operators_rebind_every_name_of_a_tensor(tmp_path: Path) -> None:
    """`y = x; x.relu_()` changes y as well."""

    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = nn.Conv2d(3, 3, 1), nn.Dropout()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            y = x
            F.relu_(self.drop(x))
            return y - x * 2

    model, _ = exported(Head(Aliased(), 3), tmp_path)
    assert operators(model)["Relu"] == 1


def test_a_frozen_batch_is_refused(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4] + float(x.shape[0])

    with pytest.raises((ModelError, GraphError), match=r"batch|net"):
        exported(Frozen(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_operator_is_named_and_the_old_graph_stays(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x / 2).flatten(1)[:, :4]

    (tmp_path / "net.onnx").write_bytes(b"previous")
    with pytest.raises(ModelError, match="erfinv"):
        exported(nn.Sequential(nn.Tanh(), Odd()), tmp_path)
    assert (tmp_path / "net.onnx").read_bytes() == b"previous"


def test_a_wrong_translation_is_caught_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecnn.pytorch import operators as table

    monkeypatch.setitem(table.OPERATORS, "aten.relu", table._unary("Sigmoid"))
    with pytest.raises(GraphError, match=r"differs from PyTorch by .* of max"):
        exported(Head(Block(), 3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_beyond_the_memory_is_named(tmp_path: Path) -> None:
    class Greedy(nn.Module):
        """Asks for more than any machine has, as a large batch does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_empty(1 << 46) + x.sum()

    with pytest.raises(ModelError, match="not enough memory for the 5 images") as raised:
        exported(Greedy(), tmp_path)
    assert "lower batch.max" in raised.value.hint


def test_weights_above_two_gigabytes_are_refused(tmp_path: Path) -> None:
    from edgecnn.pytorch.onnx_file import write_onnx

    huge = np.broadcast_to(np.float32(0), (3, 2**28))  # 3 GB that take no memory
    with pytest.raises(ModelError, match=r"3\.22 GB of weights"):
        write_onnx(tmp_path / "x.onnx", onnx.ModelProto(), {"w": huge})
    assert not (tmp_path / "x.onnx").exists()


def test_the_streamed_file_is_what_protobuf_would_write(tmp_path: Path) -> None:
    """All of it: names, types, values of every size, and where they stand."""
    from edgecnn.pytorch.onnx_file import write_onnx

    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="x", ir_version=9)
    arrays = {
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(6, np.float32),
        "long": np.arange(300, dtype=np.int64),
        "strided": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        "large": np.random.default_rng(0).standard_normal((70, 1000), np.float32),
    }
    positions = write_onnx(tmp_path / "x.onnx", model, arrays)
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    expected.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(a, order="C"), n) for n, a in arrays.items()
    )
    assert onnx.load(tmp_path / "x.onnx") == expected
    content = (tmp_path / "x.onnx").read_bytes()
    assert all(content[p : p + arrays[n].nbytes] == arrays[n].tobytes() for n, p in positions.items())


def test_training_mode_survives_an_export(tmp_path: Path) -> None:
    module = Head(Block(), 3).train()
    exported(module, tmp_path)
    assert module.training
    assert module.body.bn1.training
