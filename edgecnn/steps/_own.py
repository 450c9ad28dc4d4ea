"""What belongs to a network that is not of the zoo: its checkpoint, its graph, and the names of its classes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, tool_versions, verified_sidecar
from edgecnn.data.dataset import Split
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing, doubt_of, preprocessing_from_json
from edgecnn.data.recipe_input import apply_input, input_fields
from edgecnn.errors import ArtifactError, DataError, GraphError, ModelError, RecipeError
from edgecnn.graph.importing.labels import Labels, read_named_labels
from edgecnn.recipe.factory import check_factory, require_trust
from edgecnn.recipe.schema import ModelSettings, Recipe, fields_of
from edgecnn.records import to_plain
from edgecnn.steps._arguments import FilePath, require_packages
from edgecnn.steps.import_ import write_imported
from edgecnn.zoo import imagenet_classes

if TYPE_CHECKING:
    from torch import nn

    from edgecnn.pytorch.own import OwnNetwork


def take_own_weights(recipe: Recipe, output: Path, *, trust_code: bool = False) -> Sidecar:
    """Write the weights of `recipe.model.python` or `.timm` as the checkpoint `output`; raises as `load_own` does, and
    `RecipeError` for another number of labels than the network has classes."""
    from edgecnn.pytorch.checkpoint import checkpoint_fields, write_checkpoint
    from edgecnn.pytorch.own import load_own

    made = load_own(
        recipe.model,
        lambda own: apply_input(recipe.input, own, recipe.path),
        layout=recipe.input.layout,
        trust_code=trust_code,
    )
    start = Path(recipe.model.weights)
    given = (start,) if start.is_file() else ()
    own = verified_sidecar(start) if given and sidecar_path(start).exists() else None
    labels, note = labels_of(recipe, made.card.classes, made.preprocessing, own)
    info = dataclasses.replace(made.weights, weights_notes=(*made.weights.weights_notes, *note))
    sidecar = dataclasses.replace(
        sidecar_of_own(dataclasses.replace(made, weights=info), output, labels),
        recipe=recipe.name,
        fields=checkpoint_fields(recipe),
        parents=parents_of(output, *made.files, *given),
    )
    weights = {name: tensor.clone() for name, tensor in made.module.state_dict().items()}  # tied ones share memory
    return write_checkpoint(output, weights, sidecar)


def sidecar_of_own(made: OwnNetwork, output: Path, labels: Labels | None, kind: str = "checkpoint") -> Sidecar:
    """The sidecar of what is made of an own network."""
    return Sidecar(
        kind=kind,
        made_by="train",
        precision_requested="fp32",
        precision_obtained="fp32",
        parents=parents_of(output, *made.files),
        preprocessing=made.preprocessing.to_json(),
        labels=None if labels is None else list(labels.names),
        wnids=None if labels is None or labels.wnids is None else list(labels.wnids),
        tools=tool_versions("torch", "torchvision", "safetensors", *(["timm"] * (made.facts["origin"] == "timm"))),
        facts={**made.facts, **to_plain(made.weights)},
    )


@dataclass(frozen=True)
class OwnSource:
    """A module, or FILE.py:FUNCTION that returns one, with the weights of `checkpoint`; `preprocess` is a preset or a
    JSON file, `labels` are names or a file of them."""

    model: str | nn.Module
    checkpoint: Path | None = None
    classes: int | None = None
    labels: Sequence[str] | FilePath | None = None
    preprocess: FilePath = ""
    trust_code: bool = False
    ema: bool = False

    @property
    def given(self) -> tuple[Path, ...]:
        """The files that it names."""
        return () if self.checkpoint is None else (self.checkpoint,)


def open_own(source: OwnSource) -> tuple[OwnNetwork, Labels | None]:
    """The network and the names of its classes; what is not said comes from the checkpoint's sidecar.

    Raises `ModelError` where the preprocessing is not known, for another number of labels than of classes, and as
    `load_own` does.
    """
    model, checkpoint, classes, preprocess = source.model, source.checkpoint, source.classes, source.preprocess
    from edgecnn.graph.importing.preprocessing import read_named_preprocessing
    from edgecnn.pytorch.own import load_own, own_module

    known = checkpoint is not None and sidecar_path(checkpoint).exists()
    own = verified_sidecar(checkpoint) if known and checkpoint is not None else Sidecar(kind="graph")
    name = model if isinstance(model, str) else type(model).__name__
    if not preprocess and own.preprocessing is None:
        raise ModelError(
            f"{name}: how its images are preprocessed is not known",
            "give --preprocess (in Python: preprocess=): a preset such as imagenet-224, or a JSON file",
        )
    preprocessing = (
        read_named_preprocessing(os.fspath(preprocess))
        if preprocess
        else preprocessing_from_json(own.preprocessing or {})
    )
    if isinstance(model, str):
        settings = ModelSettings(python=model, classes=classes, weights=str(checkpoint or "none"), ema=source.ema)
        made = load_own(settings, lambda _: preprocessing, trust_code=source.trust_code)
        return made, labels_of_own(source, made, _labels_in(own))
    if checkpoint is not None:
        raise ModelError(
            f"{name}: a module that is given brings its weights", "load them before: module.load_state_dict(...)"
        )
    made = own_module(model, preprocessing)
    if classes not in (None, made.card.classes):
        raise ModelError(f"{name}: gives {made.card.classes} classes, not {classes}", "leave classes out")
    return made, labels_of_own(source, made, _labels_in(own))


def _labels_in(own: Sidecar) -> Labels | None:
    return Labels(tuple(own.labels), None if own.wnids is None else tuple(own.wnids)) if own.labels else None


def labels_of_own(source: OwnSource, made: OwnNetwork, known: Labels | None) -> Labels | None:
    """The names of the classes that `source` gives, else those `known` of its weights, else ImageNet's for 1 000;
    raises `ModelError` for another number of them."""
    labels, classes = source.labels, made.card.classes
    if labels is not None:
        found = (
            read_named_labels(os.fspath(labels)) if isinstance(labels, (str, os.PathLike)) else Labels(tuple(labels))
        )
    elif known is not None:
        found = known
    elif classes == 1000:
        found = read_named_labels("imagenet")
    else:
        return None
    if len(found.names) != max(2, classes):
        raise ModelError(
            f"{made.card.name}: {len(found.names)} labels for {max(2, classes)} classes",
            "give one label for each class",
        )
    return found


def stem_of(name: str) -> str:
    """What the files of a network are called: net of net.py:make."""
    return Path(name.rpartition(".py:")[0] or name).name


def import_own(recipe: Recipe, output: Path, checkpoint: Path | None = None) -> Sidecar:
    """Bring the graph `recipe.model.onnx` into the flow with the recipe's `[input]` and labels, or with those of the
    `checkpoint` that is its reference in PyTorch.

    Raises `GraphError` for a graph that cannot be used, `RecipeError` for settings that contradict it.
    """
    require_packages("calibrate")  # what any step on a graph needs
    from edgecnn.graph.importing.importer import import_graph
    from edgecnn.graph.load import naming

    source, reference = Path(str(recipe.model.onnx)), None if checkpoint is None else read_sidecar(checkpoint)
    own = verified_sidecar(source) if sidecar_path(source).exists() else None
    known = own if reference is None else reference
    with naming(source):
        made = import_graph(source, preprocessing := _graph_preprocessing(recipe, source, known))
    classes = made.facts.classes
    if recipe.model.classes not in (None, classes):
        raise RecipeError(
            f"{recipe.path}: {source} gives {classes} classes, model.classes is {recipe.model.classes}", "leave it out"
        )
    if reference is not None and classes != reference.facts["classes"]:
        raise RecipeError(
            f"{recipe.path}: {source} gives {classes} classes, {reference.facts['model']} {reference.facts['classes']}",
            "the reference must be the network that the graph was exported from",
        )
    fields = {} if reference is None else reference.fields
    fields = {**fields, **import_fields(recipe)}
    labels, note = labels_of(recipe, classes, preprocessing, known)
    doubt = doubt_of(preprocessing)
    note = note if doubt is None else (*note, doubt)
    facts = dataclasses.replace(made.facts, changes=(*made.facts.changes, *note))
    made = dataclasses.replace(made, labels=labels, facts=facts)
    others = () if checkpoint is None else (checkpoint,)
    return write_imported(made, source, output, *others, recipe=recipe.name, fields=fields, served=recipe.export)


def import_fields(recipe: Recipe) -> dict[str, Any]:
    """The settings that the import of `recipe.model.onnx` reads."""
    return {**recipe.values("model"), **input_fields(recipe), **fields_of("export", recipe.export)}


def _graph_preprocessing(recipe: Recipe, source: Path, known: Sidecar | None) -> Preprocessing:
    """What the recipe's `[input]` says; where it is silent, the sidecar or the graph's metadata, and for the size the
    graph. Raises `RecipeError` for one that contradicts the graph."""
    from edgecnn.graph.importing.layout import read_layout
    from edgecnn.graph.importing.opset import make_readable
    from edgecnn.graph.importing.preprocessing import find_preprocessing_inside
    from edgecnn.graph.load import load_graph, require_float_classifier

    model, given = load_graph(source), recipe.input
    make_readable(model)
    require_float_classifier(model)
    base = find_preprocessing_inside(model, known)
    try:
        if given.size is None and base is None:
            given = dataclasses.replace(given, size=read_layout(model, None)[0].shape[1:])
        made = apply_input(given, base, recipe.path)
        layout = "nhwc" if read_layout(model, made)[0].channels_last else "nchw"
    except GraphError as exc:
        raise RecipeError(f"{recipe.path}: {source}: {exc.message}", "say what it takes in input.size") from exc
    except DataError as exc:
        raise RecipeError(
            f"{recipe.path}: [input] contradicts {source}: {exc.message}",
            "write input.size and input.channels as the graph has them, or leave input.size out",
        ) from exc
    if given.layout not in (None, layout):
        raise RecipeError(
            f"{recipe.path}: input.layout = {given.layout!r}, the input of {source} is {layout}", "leave it out"
        )
    return made


def labels_of(
    recipe: Recipe, classes: int, preprocessing: Preprocessing, own: Sidecar | None
) -> tuple[Labels | None, tuple[str, ...]]:
    """The names of the classes, and what is to be said of them: those of `model.labels`, of the weights' or graph's
    sidecar, of ImageNet for 1 000, of the data set; None where nothing names them. Raises `RecipeError` where their
    number is another."""
    wanted = max(2, classes)  # one logit decides between two classes
    found, where = _named(recipe, classes, preprocessing, own)
    if found is not None and len(found.names) != wanted:
        raise RecipeError(
            f"{recipe.path}: {len(found.names)} classes in {where}, {wanted} in the network {recipe.model.own}",
            "name the data set that the network was trained on, or its classes in model.labels",
        )
    if found is None or where != recipe.data.source:
        return found, ()
    return found, (f"its classes are taken to be those of {where}, in that order; model.labels names others",)


def _named(
    recipe: Recipe, classes: int, preprocessing: Preprocessing, own: Sidecar | None
) -> tuple[Labels | None, str]:
    if recipe.model.labels:
        return read_named_labels(recipe.model.labels), recipe.model.labels
    if own is not None and own.labels:
        return Labels(tuple(own.labels), None if own.wnids is None else tuple(own.wnids)), "the sidecar of its file"
    if classes == 1000:
        return read_named_labels("imagenet"), "ImageNet"
    source = recipe.data.source
    split: Split = "train" if (Path(source) / "train").is_dir() else "test"  # a test folder may lack classes
    names = open_dataset(source, preprocessing, split).label_names or ()
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        words = dict(zip(*reversed(imagenet_classes()), strict=True))
        return Labels(tuple(words.get(name, name) for name in names), tuple(names)), source
    return (Labels(tuple(names)) if names else None), source


def check_own(recipe: Recipe, *, trust_code: bool = True) -> Preprocessing | None:
    """What can be told of a recipe's own network without running or reading it; returns its preprocessing where the
    recipe says it. Raises the errors that a run would end with."""
    model, given = recipe.model, recipe.input
    if model.python:
        check_factory(model.python)
        require_trust(f"{recipe.path}: model.python = {model.python!r}", trust_code)
    if model.onnx and not Path(model.onnx).is_file():
        raise ArtifactError(
            f"{recipe.path}: model.onnx = {model.onnx!r}: no such file", f"it counts from {Path.cwd()}; check the path"
        )
    if model.timm and model.weights == "none":
        raise RecipeError(
            f"{recipe.path}: model.weights is 'none': {model.timm} would stay random",
            "set model.weights to 'default' or a path",
        )
    if model.python or (model.onnx and given.size and given.mean and given.std):
        return apply_input(given, None, recipe.path)
    return None
