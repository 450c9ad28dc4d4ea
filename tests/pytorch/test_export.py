"""The exporter: every operator it translates, against PyTorch in ONNX Runtime; names, folding and dynamic batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from edgecnn.artifact.sidecar import verified_sidecar
from edgecnn.errors import GraphError, ModelError

if TYPE_CHECKING:  # imported before the first test of this file
    import torch
    import torch.nn.functional as F
    from torch import nn

    from tests.fakes.exported import exported
    from tests.fakes.modules import Block, Everything, Head

pytestmark = pytest.mark.torch


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in model.graph.node)


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


def test_an_argument_of_another_kind_is_named(tmp_path: Path) -> None:
    class Bounded(nn.Module):
        low: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("low", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.clamp(x, min=self.low).flatten(1)[:, :4]

    with pytest.raises(ModelError, match=r"clamp: aten\.clamp\.Tensor: min = .* is not a number"):
        exported(Bounded(), tmp_path)
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
    from edgecnn.pytorch.export import operators as table

    monkeypatch.setitem(table.OPERATORS, "aten.relu", table._unary("Sigmoid"))
    with pytest.raises(GraphError, match=r"differs from PyTorch by .* of max"):
        exported(Head(Block(), 3), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_images_beyond_the_memory_are_named(tmp_path: Path) -> None:
    class Greedy(nn.Module):
        """Asks for more than any machine has, as a large batch does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_empty(1 << 46) + x.sum()

    with pytest.raises(ModelError, match="not enough memory for the 3 images") as raised:
        exported(Greedy(), tmp_path)
    assert "lower the resolution" in raised.value.hint


def test_weights_above_two_gigabytes_are_refused(tmp_path: Path) -> None:
    from edgecnn.pytorch.export.onnx_writer import write_onnx

    huge = np.broadcast_to(np.float32(0), (3, 2**28))  # 3 GB that take no memory
    with pytest.raises(ModelError, match=r"3\.22 GB of weights"):
        write_onnx(tmp_path / "x.onnx", onnx.ModelProto(), {"w": huge})
    assert not (tmp_path / "x.onnx").exists()


def test_the_streamed_file_is_what_protobuf_would_write(tmp_path: Path) -> None:
    """All of it: names, types, values of every size, and where they stand."""
    from edgecnn.pytorch.export.onnx_writer import write_onnx

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


def test_opset_17_is_the_same_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For TensorRT 8: proven equal to the graph at 19; it has the float graph alone."""
    from edgecnn.cli import main

    ask = ["export", "lenet5", "--weights", "none", "--opset"]
    assert main([*ask, "17", "-o", str(tmp_path / "old.onnx")]) == 0
    model = onnx.load(tmp_path / "old.onnx")
    assert ([(o.domain, o.version) for o in model.opset_import], model.ir_version) == ([("", 17)], 8)
    assert verified_sidecar(tmp_path / "old.onnx").facts["opset"] == 17
    capfd.readouterr()
    assert main([*ask, "18", "-o", str(tmp_path / "new.onnx")]) == 2
    assert "--opset 18" in capfd.readouterr().err
    assert not (tmp_path / "new.onnx").exists()
    for precision in ("int8", "fp16"):
        np.savez(tmp_path / "images.npz", input=np.zeros((4, 1, 32, 32), np.float32))
        given = ["--precision", precision, "--data", str(tmp_path / "images.npz"), "-o", str(tmp_path / "q.onnx")]
        assert main(["quantize", str(tmp_path / "old.onnx"), *given]) == 2, precision
        assert "opset 17" in capfd.readouterr().err
