"""The way out for a network with an operator that our own translation lacks: PyTorch's exporter, `torch.onnx`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from pathlib import Path

import torch
from torch import nn

from edgecnn.contract import BATCH, INPUT, OPSET, OUTPUT
from edgecnn.errors import MissingPackageError, ModelError
from edgecnn.zoo import ModelCard


def export_by_torch(network: nn.Module, card: ModelCard, path: Path, reason: str) -> None:
    """Write `network` as torch.onnx translates it, with a dynamic batch; nothing is proven yet.

    `reason` is why our translation could not, for the messages. Raises `ModelError` where torch.onnx cannot either,
    `MissingPackageError` without onnxscript, which it needs.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingPackageError("onnxscript", f"exporting {card.name} by torch.onnx ({reason})", "own")
    images = torch.zeros(2, *card.input_shape)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # of its own deprecated calls
            program = torch.onnx.export(
                network,
                (images,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
    except Exception as exc:  # of torch.export, of its decompositions, of onnxscript, of protobuf beyond 2 GiB
        said = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)[:200]
        raise ModelError(
            f"{card.name}: {reason}; torch.onnx cannot export it either: {said}",
            "write that part of the network with other operators, or give a graph: model.onnx",
        ) from exc
