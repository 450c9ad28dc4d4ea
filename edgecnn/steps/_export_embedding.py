"""A checkpoint of an embedding network as a graph."""

from __future__ import annotations

from pathlib import Path

from edgecnn.artifact.sidecar import Sidecar, parents_of
from edgecnn.contract import EMBEDDING, ServingContract
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ModelError
from edgecnn.records import to_plain
from edgecnn.steps.export import export_network
from edgecnn.zoo import ModelCard


def export_embedding_checkpoint(
    card: ModelCard,
    file: Path,
    own: Sidecar,
    path: Path,
    max_batch: int,
    contract: ServingContract,
    opset: int,
    *,
    asked: bool,
) -> Path:
    """Export the checkpoint `file` of an embedding network with its threshold; raises `ModelError` where something of a
    classifier is asked for."""
    from edgecnn.pytorch.embedding import EmbeddingNetwork
    from edgecnn.pytorch.models import build_model_to_fill
    from edgecnn.pytorch.weights import load_weights

    if asked or not contract.is_plain:
        raise ModelError(
            f"{file}: an embedding network: it takes normalised images, and has no classes",
            "leave --input, --output, --classes, --labels and --features out",
        )
    network = build_model_to_fill(card.name, own.facts["features"][EMBEDDING][0])
    info = load_weights(network, card, str(file))
    known = {key: value for key, value in own.facts.items() if key in ("features", "verification")}
    sidecar = Sidecar(
        kind="graph",
        made_by=f"edgecnn export {card.name}",
        parents=parents_of(path, file, known={file: info.weights_sha256 or ""}),
        preprocessing=preprocessing_from_json(card.preprocessing).to_json(),
        facts={**to_plain(info), **known},
    )
    export_network(EmbeddingNetwork(network), card, path, sidecar, max_batch=max_batch, opset=opset)
    return path
