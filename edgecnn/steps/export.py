"""Export a network to ONNX, proven equal to PyTorch."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecnn.artifact.hub import PREFIX, WEIGHTS
from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, tool_versions, verified_sidecar
from edgecnn.artifact.write import check_output, write_artifact
from edgecnn.contract import OLD_OPSET, OPSET, PROVED_BATCH, InputForm, OutputForm, ServingContract
from edgecnn.data.label_file import read_labels
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import ModelError
from edgecnn.recipe.factory import names_factory
from edgecnn.recipe.schema import BatchSettings, ExportSettings, fields_of
from edgecnn.records import to_plain
from edgecnn.results.export import ExportFacts
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_one_of, require_packages
from edgecnn.steps._hub import fetch, network_of_zoo, open_timm, stem_in
from edgecnn.steps._own import OwnSource, labels_of_own, open_own, sidecar_of_own, stem_of
from edgecnn.steps._provenance import derived
from edgecnn.zoo import OWN, ModelCard, check_size, find_model, imagenet_classes

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.graph.importing.labels import Labels
    from edgecnn.pytorch.own import OwnNetwork


def export(
    model: str | nn.Module,
    output: FilePath | None = None,
    *,
    checkpoint: FilePath | None = None,
    weights: str = "default",
    ema: bool = False,
    classes: int | None = None,
    labels: Sequence[str] | FilePath | None = None,
    size: int | None = None,
    max_batch: int = PROVED_BATCH,
    preprocess: FilePath = "",
    trust_code: bool = False,
    takes: InputForm = ExportSettings.input,
    gives: OutputForm = ExportSettings.output,
    opset: int = OPSET,
    features: Sequence[str] = (),
) -> Path:
    """Export a network of the zoo, or one's own, to ONNX, proven equal to PyTorch; returns the graph.

        import edgecnn as ec
        fp32 = ec.export("mobilenet_v2", "m.fp32.onnx")
        mine = ec.export("resnet18", checkpoint="mine.pth", classes=37)

    Weights are the published ones ("default"), random ones ("none"), a path or a URL, or a `checkpoint` of one's own
    as a training script wrote it (with `ema` the averaged copy in it); `labels` are class names, or a file of them.
    What is not given comes from a checkpoint's sidecar, else from the zoo. An own network is a module, or
    FILE.py:FUNCTION, which is run only with `trust_code`; its `preprocess` is a preset or a JSON file. `hf://OWNER/REPO`
    (or `@REVISION` behind it) is one of the Hugging Face Hub, of timm or as `edgecnn push` put it there. By default the
    graph takes float32 images [N, C, size, size] and gives logits [N, classes]; it is proven in ONNX Runtime at N = 1
    and `max_batch`, in a recipe its largest batch. `takes` and `gives` choose another serving contract: pixels as
    "raw-nchw" (float32, 0 to 255) or "uint8-nhwc", "probabilities" or the "top-k" of them. `opset` 17 is for
    TensorRT 8 to build, and not quantized. `features`, by the names that `edgecnn summary` lists of a network of the
    zoo ("C3", "layer2", "pool"), are its outputs in place of logits; the stages of an own one are the parts that it
    has as attributes. Without an `output` it is MODEL.fp32.onnx (or MODEL.features.fp32.onnx) here, or beside the
    checkpoint. Raises `ModelError` for a network that is not known or does not fit its weights, `GraphError` where the
    logits differ.
    """
    require_at_least(1, classes=classes, size=size, max_batch=max_batch)
    require_one_of("takes", takes, InputForm)
    require_one_of("gives", gives, OutputForm)
    if opset not in (OPSET, OLD_OPSET):
        raise ModelError(f"--opset {opset}", f"{OPSET}, or {OLD_OPSET} for TensorRT 8, whose parser reads up to that")
    contract = ServingContract(takes, gives)
    if features:
        _require_no_classes(contract, labels)
    if not isinstance(model, str) or names_factory(model):
        _require_no_zoo_options(size, weights)
        named = OwnSource(model, path_or_none(checkpoint), classes, labels, preprocess, trust_code, ema)
        return _export_own(named, path_or_none(output), max_batch, contract, opset, features)
    if model.startswith(PREFIX):
        if checkpoint is not None or weights != "default" or classes is not None or size is not None or preprocess:
            raise ModelError(f"{model}: brings its weights, classes and preprocessing", "leave the other options out")
        return _export_from_hub(model, path_or_none(output), labels, max_batch, contract, opset, features)
    card, checkpoint = find_model(model), path_or_none(checkpoint)
    if size is not None:
        check_size(card, size, size)
    _require_one_source(checkpoint, weights)
    beside = checkpoint.parent if checkpoint else Path()
    path = path_or_none(output) or beside / f"{card.name}{'.features' * bool(features)}.fp32.onnx"
    if isinstance(labels, (str, os.PathLike)):
        labels = read_labels(Path(labels))[0]
    check_output(path, ".onnx", checkpoint)
    require_packages("export")
    from edgecnn.pytorch.export.exporter import resize_card
    from edgecnn.pytorch.models import build_model, build_model_to_fill
    from edgecnn.pytorch.weights import load_weights

    source = weights if checkpoint is None else str(checkpoint)
    file = Path(source)
    own = verified_sidecar(file) if sidecar_path(file).exists() else Sidecar(kind="graph")
    card = _card_of(card, file, own)
    if size is not None:
        card = resize_card(card, size)
    if own.embeds:
        from edgecnn.steps._export_embedding import export_embedding_checkpoint

        asked = bool(features) or classes is not None or labels is not None
        return export_embedding_checkpoint(card, file, own, path, max_batch, contract, opset, asked=asked)
    wanted = classes or own.facts.get("classes") or card.classes
    names, wnids = _labels_of(card, own, wanted, labels)
    network = (build_model if source == "none" else build_model_to_fill)(card.name, wanted)
    info = load_weights(network, card, source, ema=ema)
    sidecar = Sidecar(
        kind="graph",
        made_by=f"edgecnn export {card.name}",
        parents=parents_of(path, file, known={file: info.weights_sha256 or ""}) if file.is_file() else {},
        preprocessing=preprocessing_from_json(card.preprocessing).to_json(),
        labels=None if features else names,
        wnids=None if features else wnids,
        facts=to_plain(info),
    )
    export_network(network, card, path, sidecar, max_batch=max_batch, contract=contract, features=features, opset=opset)
    return path


def _require_no_classes(contract: ServingContract, labels: Sequence[str] | FilePath | None) -> None:
    if not contract.is_plain or labels is not None:
        raise ModelError(
            "features in place of logits are of normalised images, and have no classes",
            "leave --input, --output and --labels out",
        )


def _require_no_zoo_options(size: int | None, weights: str) -> None:
    if size is not None or weights not in ("default", "none"):
        raise ModelError(
            "--size and --weights are of networks of the zoo", "give --preprocess, and weights as a --checkpoint"
        )


def _require_one_source(checkpoint: Path | None, weights: str) -> None:
    if checkpoint is not None and weights != "default":
        raise ModelError(
            f"--checkpoint {checkpoint} and --weights {weights} are two sources of one network's weights",
            "give one of them",
        )


def _export_own(
    source: OwnSource,
    output: Path | None,
    max_batch: int,
    contract: ServingContract,
    opset: int,
    features: Sequence[str],
) -> Path:
    require_packages("export")
    made, labels = open_own(source)
    folder = source.checkpoint.parent if source.checkpoint else Path()
    path = output or folder / f"{stem_of(made.card.name)}{'.features' * bool(features)}.fp32.onnx"
    return _write_own(made, labels, path, source.given, max_batch, contract, opset, features)


def _write_own(
    made: OwnNetwork,
    labels: Labels | None,
    path: Path,
    given: tuple[Path, ...],
    max_batch: int,
    contract: ServingContract,
    opset: int,
    features: Sequence[str],
) -> Path:
    check_output(path, ".onnx", *given, *made.files)
    sidecar = dataclasses.replace(
        sidecar_of_own(made, path, None if features else labels, kind="graph"),
        made_by=f"edgecnn export {made.card.name}",
        parents=parents_of(path, *made.files, *given),
    )
    export_network(
        made.network,
        made.card,
        path,
        sidecar,
        max_batch=max_batch,
        contract=contract,
        opset=opset,
        features=features,
    )
    return path


def _export_from_hub(
    address: str,
    output: Path | None,
    labels: Sequence[str] | FilePath | None,
    max_batch: int,
    contract: ServingContract,
    opset: int,
    features: Sequence[str],
) -> Path:
    """Export what a repository of the Hub holds: a checkpoint of the zoo with its sidecar, or a network of timm."""
    require_packages("export")
    found = fetch(address)
    path = output or Path(f"{stem_in(found)}{'.features' * bool(features)}.fp32.onnx")
    weights = found.files[WEIGHTS]
    if (name := network_of_zoo(found)) is not None:
        takes, gives = contract.input, contract.output
        return export(
            name,
            path,
            checkpoint=weights,
            labels=labels,
            max_batch=max_batch,
            takes=takes,
            gives=gives,
            opset=opset,
            features=features,
        )
    made, known = open_timm(found)
    named = labels_of_own(OwnSource(made.card.name, labels=labels), made, known)
    return _write_own(made, named, path, (weights,), max_batch, contract, opset, features)


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    batch: BatchSettings,
    threads: int | None = None,
    served: ExportSettings | None = None,
    *,
    trust_code: bool = False,
) -> Sidecar:
    """Export the network that a checkpoint's sidecar names, with what that says of labels and preprocessing."""
    require_packages("export")
    from edgecnn.pytorch.reference import open_reference

    source = read_sidecar(checkpoint)
    served = served or ExportSettings()
    fields = {"batch.max": batch.max, **fields_of("export", served)}
    sidecar = derived(source, output, (checkpoint,), step="export", kind="graph", fields=fields)
    with open_reference(checkpoint, threads, trust_code=trust_code) as reference:
        card = _card_of_checkpoint(source)
        contract = ServingContract(served.input, served.output)
        return export_network(reference.network, card, output, sidecar, max_batch=batch.max, contract=contract)


def export_network(
    network: nn.Module,
    card: ModelCard,
    output: Path,
    sidecar: Sidecar,
    *,
    max_batch: int = PROVED_BATCH,
    contract: ServingContract | None = None,
    opset: int = OPSET,
    features: Sequence[str] = (),
) -> Sidecar:
    """Write `network` as the graph `output` with its sidecar; returns the sidecar as written.

    `sidecar` brings what only the caller knows (labels, parents, recipe fields, the source of the weights); what the
    export establishes is added here. `output` is replaced only when the graph is proven equal to the network, and that
    of another serving `contract` to the plain graph; `features` are its outputs where they are named.
    Raises `ModelError` and `GraphError`.
    """
    from edgecnn.graph.serving import fold_file
    from edgecnn.pytorch.export.exporter import UntranslatedError
    from edgecnn.pytorch.export.exporter import export_network as make_graph
    from edgecnn.pytorch.export.features import export_embedding, export_features

    write_graph: Callable[[Path], ExportFacts]
    try:
        if sidecar.embeds:
            write_graph = export_embedding(network, card, max_batch=max_batch).write
        elif features:
            write_graph = export_features(network, card, features, max_batch=max_batch).write
        else:
            write_graph = make_graph(network, card, max_batch=max_batch).write
    except UntranslatedError as exc:
        if card.family != OWN or features:
            raise
        write_graph = functools.partial(_write_by_torch, network, card, max_batch, f"{exc.message}")
    done = dataclasses.replace(
        sidecar,
        kind="graph",
        precision_requested="fp32",
        precision_obtained="fp32",
        preprocessing=sidecar.preprocessing or card.preprocessing,
        tools={**tool_versions(*TOOLS["export"]), **sidecar.tools},
        facts=dict(sidecar.facts),
    )

    def write(temporary: Path) -> None:
        done.facts.update(to_plain(write_graph(temporary)))
        if contract is not None and not contract.is_plain:
            whole = dataclasses.replace(contract, classes=done.facts["classes"])
            fold_file(temporary, whole, preprocessing_from_json(done.preprocessing or {}))
            done.facts.update(whole.facts)
        if opset != OPSET:
            _lower(temporary)
            done.facts["opset"] = opset

    return write_artifact(output, write, done)


def _lower(path: Path) -> None:
    """Write the graph in `path` again at the opset that TensorRT 8 reads."""
    import onnx

    from edgecnn.graph.load import load_graph
    from edgecnn.graph.opset import lower_opset

    onnx.save(lower_opset(load_graph(path), "the graph"), path)


def _write_by_torch(network: nn.Module, card: ModelCard, max_batch: int, reason: str, path: Path) -> ExportFacts:
    """Write the graph that torch.onnx makes of `network` to `path`, normalized to the contract and held to the parity
    of our own export; raises `ModelError` and `GraphError`."""
    import onnx

    from edgecnn.backends._onnxruntime import open_session
    from edgecnn.graph.importing.importer import import_graph
    from edgecnn.pytorch.export.exporter import PROBES, compare_logits, compute_logits, make_probe_images
    from edgecnn.pytorch.export.torch_onnx import export_by_torch

    export_by_torch(network, card, path, reason)
    made = import_graph(path, preprocessing_from_json(card.preprocessing), keep_head=True)
    onnx.save(made.model, path)
    images = make_probe_images(card.input_shape, PROBES)
    logits = compute_logits(network, card, images)
    return ExportFacts(
        model=card.name,
        input_shape=card.input_shape,
        classes=logits.shape[1],
        params=sum(p.numel() for p in network.parameters()),
        nodes=made.facts.nodes,
        opset=made.facts.opset,
        max_difference=compare_logits(open_session(made.model), images, logits, max_batch),
        changes=(f"exported by torch.onnx: {reason}", *made.facts.changes),
    )


def _card_of_checkpoint(source: Sidecar) -> ModelCard:
    """The card of the network that a checkpoint's sidecar names, with the preprocessing that stands there."""
    name, preprocessing = source.facts["model"], preprocessing_from_json(source.preprocessing or {})
    if "origin" not in source.facts:
        return _card_of(find_model(name), Path(name), source)
    from edgecnn.pytorch.own import own_card

    return own_card(name, preprocessing, source.facts["classes"])


def _card_of(card: ModelCard, file: Path, own: Sidecar) -> ModelCard:
    """`card` with the preprocessing that a checkpoint was trained with; raises `ModelError` for another network's."""
    if (trained := own.facts.get("model", card.name)) != card.name:
        raise ModelError(f"{file}: a checkpoint of {trained}, not of {card.name}", f"edgecnn export {trained}")
    if own.preprocessing is None:
        return card
    shape = preprocessing_from_json(own.preprocessing).input_shape
    return dataclasses.replace(card, input_shape=shape, preprocessing=own.preprocessing)


def _labels_of(
    card: ModelCard, own: Sidecar, classes: int, labels: Sequence[str] | None
) -> tuple[list[str] | None, list[str] | None]:
    """The names and wnids of the classes; raises `ModelError` where their number is another."""
    wnids = own.wnids if labels is None else None
    names = own.labels if labels is None else list(labels)
    if names is None and (classes, card.classes) == (1000, 1000):
        names, wnids = (list(kind) for kind in imagenet_classes())
    if names is not None and len(names) != max(2, classes):  # one logit decides between two classes
        raise ModelError(
            f"{card.name}: {len(names)} labels for {max(2, classes)} classes", "give one label for each class"
        )
    return names, wnids
