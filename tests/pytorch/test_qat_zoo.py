"""Networks of the zoo as INT8 graphs that learn: of the families between them every operator is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from edgecnn.backends._half import rounded_to_fp16
from edgecnn.graph.calibration.collect import collect_from_model
from edgecnn.graph.load import load_graph
from edgecnn.graph.ptq.candidates import compute_logits
from edgecnn.graph.ptq.quantize import quantize_int8
from edgecnn.graph.simplify import simplify_graph
from edgecnn.steps.export import export
from edgecnn.zoo import find_model
from tests.fakes.noise import dataset_of

if TYPE_CHECKING:  # imported before the first test of this file
    import torch

    from edgecnn.pytorch.qat.network import QuantizedNetwork

pytestmark = [pytest.mark.torch, pytest.mark.onnx, pytest.mark.slow]

NAMES = (
    "densenet_bc100_12_cifar", "efficientnet_b0", "googlenet", "inception_v3", "mobilenet_v3_small", "preresnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "zfnet",
)  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["tensorrt", "ort-cpu"])
@pytest.mark.parametrize("name", NAMES)
def test_the_network_computes_what_the_graph_does(
    name: str, scheme: Literal["tensorrt", "ort-cpu"], tmp_path: Path
) -> None:
    """The float graph within 1e-4 of the largest logit; the INT8 graph but for values at a boundary."""
    model = simplify_graph(load_graph(export(name, tmp_path / "net.onnx", weights="none")))
    shape = find_model(name).input_shape
    data = dataset_of(np.random.default_rng(0).normal(0, 1, (4, *shape)).astype(np.float32))
    images = torch.from_numpy(np.stack([data.tensor(k) for k in range(len(data))]))
    with torch.no_grad():
        found, exact = QuantizedNetwork(model)(images).numpy(), compute_logits(model, data)
    assert np.abs(found - exact).max() <= 1e-4 * np.abs(exact).max()

    int8 = quantize_int8(model, collect_from_model(model, "", data), scheme, method="mse").model
    network = QuantizedNetwork(int8)
    with torch.no_grad():
        found, exact = network(images).numpy(), compute_logits(rounded_to_fp16(int8), data)
    assert np.square(found - exact).sum() <= 1e-4 * np.square(exact).sum(), "SQNR 40 dB"
    assert network.written_to(int8).SerializeToString() == int8.SerializeToString()
