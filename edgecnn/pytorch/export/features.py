"""From a PyTorch network to an ONNX graph that gives features in place of logits, proven equal as it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from edgecnn.backends._onnxruntime import onnxruntime_errors
from edgecnn.contract import EMBEDDING, INPUT, MAX_DIFFERENCE, OPSET
from edgecnn.errors import GraphError, ModelError
from edgecnn.pytorch.export.exporter import (
    PROBES,
    REPORT,
    compute_logits,
    load_written,
    make_probe_images,
    translate_network,
)
from edgecnn.pytorch.export.onnx_writer import write_onnx
from edgecnn.pytorch.features import choose_features, giving_features
from edgecnn.pytorch.summary import features_of
from edgecnn.results.export import ExportFacts
from edgecnn.session import Array
from edgecnn.zoo import ModelCard


@dataclass(frozen=True)
class FeaturesGraph:
    """A network as a graph without its initializers, these beside it, and what it is proven on: `images`
    [PROBES, C, H, W] and the network's features [PROBES, ...] for them, by name."""

    card: ModelCard
    model: onnx.ModelProto
    initializers: dict[str, npt.NDArray[Any]]
    images: Array
    features: dict[str, Array]
    max_batch: int

    def write(self, path: Path) -> ExportFacts:
        """Write the graph to `path` and compare each output in ONNX Runtime with the network's, at batch 1 and
        `max_batch` (at least 2); raises `GraphError` when one differs."""
        positions = write_onnx(path, self.model, self.initializers)
        session = load_written(path, self.model, self.initializers, positions)
        floats = [a for a in self.initializers.values() if a.dtype == np.float32]
        return ExportFacts(
            model=self.card.name,
            input_shape=self.card.input_shape,
            classes=0,
            params=sum(a.size for a in floats),
            nodes=len(self.model.graph.node),
            opset=OPSET,
            max_difference=_compare(session, self.images, self.features, self.max_batch),
            features={name: values.shape[1:] for name, values in self.features.items()},
        )


def export_features(network: nn.Module, card: ModelCard, names: Sequence[str], *, max_batch: int) -> FeaturesGraph:
    """`network`, in eval mode, as a graph whose outputs are the features of these `names`.

    Raises `ModelError` for a name that the network does not have, and as `export_network` does.
    """
    was_training = network.training
    network.eval()
    chosen = choose_features(features_of(network, card), names)
    try:
        images = make_probe_images(card.input_shape, PROBES)
        compute_logits(network, card, images)
        with giving_features(network, chosen):
            with torch.no_grad():
                tensors = network(torch.from_numpy(images))
            features = {f.name: t.numpy() for f, t in zip(chosen, tensors, strict=True)}
            for feature in chosen:
                if features[feature.name].shape[1:] != feature.shape:
                    raise ModelError(f"{card.name}: features {feature.name} are not of {feature.layer}", REPORT)
            translation, model = translate_network(network, card, {n: a.shape[1:] for n, a in features.items()})
    finally:
        network.train(was_training)
    arrays = {name: t.detach().cpu().numpy() for name, t in translation.initializers.items()}
    return FeaturesGraph(card, model, arrays, images, features, max_batch)


def export_embedding(network: nn.Module, card: ModelCard, *, max_batch: int) -> FeaturesGraph:
    """An embedding `network` as a graph whose output is called so. Raises as `export_network` does."""
    was_training = network.training
    network.eval()
    try:
        images = make_probe_images(card.input_shape, PROBES)
        rows = compute_logits(network, card, images)
        translation, model = translate_network(network, card, {EMBEDDING: rows.shape[1:]})
    finally:
        network.train(was_training)
    arrays = {name: t.detach().cpu().numpy() for name, t in translation.initializers.items()}
    return FeaturesGraph(card, model, arrays, images, {EMBEDDING: rows}, max_batch)


def _compare(
    session: onnxruntime.InferenceSession, images: Array, expected: Mapping[str, Array], max_batch: int
) -> float:
    """Largest difference at batch 1 and `max_batch` (at least 2), as a share of the output's largest value; raises
    `GraphError` beyond the contract's."""
    worst = 0.0
    for batch in (1, max(max_batch, 2)):
        rows = np.arange(batch)
        rows = (rows + rows // len(images)) % len(images)
        with onnxruntime_errors("the features graph", f"fails at batch {batch}", REPORT, GraphError):
            outputs = session.run(list(expected), {INPUT: images[rows]})
        for (name, values), found in zip(expected.items(), outputs, strict=True):
            if found.shape != (batch, *values.shape[1:]):
                raise GraphError(f"the features graph gives {name} as {list(found.shape)} at batch {batch}", REPORT)
            difference = float(np.abs(found - values[rows]).max() / max(float(np.abs(values).max()), 1e-30))
            if not difference <= MAX_DIFFERENCE:
                raise GraphError(
                    f"the features graph: {name} differs from PyTorch by {difference:.1e} of its largest at batch "
                    f"{batch}, allowed {MAX_DIFFERENCE:.0e}",
                    REPORT,
                )
            worst = max(worst, difference)
    return worst
