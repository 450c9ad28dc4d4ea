"""A module exported and read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import torch
from torch import nn

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.steps.export import export_network
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
    sidecar = export_network(module, card_for(channels, size), output, Sidecar(kind="graph"), max_batch=5)
    return onnx.load(output), sidecar
