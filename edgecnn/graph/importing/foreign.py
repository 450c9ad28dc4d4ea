"""A graph from elsewhere -> one that keeps edgecnn's contract; whatever is changed is said, and proven to be harmless.

Names, opset, layout, the batch axis, the classifier's end: each step rewrites the graph in place and says what it did.
At the end the rewritten graph must give, at batch 1, 2 and 3, the rows that the original gives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from edgecnn.artifact.sidecar import (
    Sidecar,
    parents_of,
    read_json,
    sidecar_from_json,
    sidecar_path,
    tool_versions,
    verified_sidecar,
)
from edgecnn.artifact.write import write_artifact
from edgecnn.contract import MAX_DIFFERENCE, OPSET
from edgecnn.data.label_file import read_labels
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError, GraphError, nearest
from edgecnn.graph.decision import LOGIT
from edgecnn.graph.importing.normalize import free_reshapes, input_layout, make_readable, rewrite, set_batch
from edgecnn.graph.simplify import load_graph, require_float_classifier, session_options
from edgecnn.records import parse_json
from edgecnn.session import Array, class_probabilities
from edgecnn.zoo import imagenet_classes, presets

BATCHES = (1, 2, 3)
_OF_A_SIDECAR = {"kind", "sha256", "schema"}
_OTHER_FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True)
class Labels:
    """Names of the classes, and their wnids where they are ImageNet's."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] | None = None


def import_graph(
    source: Path, output: Path, preprocessing: Preprocessing | None = None, labels: Labels | None = None
) -> Sidecar:
    """Write the graph `source` as `output`, normalised to the contract; the sidecar's `changes` say how.

    Without `preprocessing` and `labels` those of the source's sidecar or metadata are taken. Raises `GraphError` for
    a graph that cannot be used, `DataError` when preprocessing or labels contradict it.
    """
    if source.resolve() == output.resolve():
        raise GraphError(f"{source}: would overwrite itself", "choose another file with -o")
    model = load_graph(source)
    own = verified_sidecar(source) if sidecar_path(source).exists() else None
    if preprocessing is None:
        preprocessing = _preprocessing_inside(model, own)
    if labels is None and own is not None and own.labels is not None:
        labels = Labels(tuple(own.labels), None if own.wnids is None else tuple(own.wnids))
    original = onnx.ModelProto()
    original.CopyFrom(model)
    changes = make_readable(model)
    require_float_classifier(model)
    _require_float32(model)
    layout, frozen = input_layout(model, preprocessing)
    images = np.random.default_rng(0).standard_normal((max(BATCHES), *layout.shape), np.float32)
    expected = _rows(original, layout.feed(images), frozen or 1, source)
    changes += rewrite(model, layout, expected)
    probabilities = any("Softmax" in change or "Sigmoid" in change for change in changes)
    batch, difference, said = _with_dynamic_batch(model, images, expected, frozen, probabilities)
    outputs = int(np.prod(expected.shape[1:]))
    if labels is not None and len(labels.names) != max(2, outputs):
        wanted = f"{outputs} classes" if outputs > 1 else "the two classes that one logit decides between"
        raise DataError(f"{source}: {len(labels.names)} labels for {wanted}", "give one label for each class")
    sidecar = Sidecar(
        kind="graph",
        made_by=f"edgecnn import {source.name}",
        precision_requested="fp32",
        precision_obtained="fp32",
        parents=parents_of(output, source),
        preprocessing=None if preprocessing is None else preprocessing.to_json(),
        labels=None if labels is None else list(labels.names),
        wnids=None if labels is None or labels.wnids is None else list(labels.wnids),
        tools=tool_versions("onnx", "onnxruntime", "onnxruntime-gpu"),
        facts={
            "input_shape": list(layout.shape),
            "classes": outputs,
            "batch": batch,
            "params": _parameters(model),
            "nodes": len(model.graph.node),
            "opset": OPSET,
            "max_difference": difference,
            "changes": [*changes, *said],
        },
    )
    return write_artifact(output, lambda temporary: _write(model, temporary), sidecar)


def named_preprocessing(text: str) -> Preprocessing:
    """The preprocessing that `--preprocess` names: a preset of the zoo, or a JSON file with its fields (or a sidecar).

    Raises `DataError`, `ArtifactError` for a file that is no JSON object or a damaged sidecar.
    """
    if text in presets():
        return preprocessing_from_json(presets()[text])
    if not text.endswith(".json"):
        hint = nearest(text, presets()) or f"a .json file, or one of {', '.join(presets())}"
        raise DataError(f"no preprocessing {text!r}", hint)
    content = read_json(Path(text))
    if "preprocessing" not in content:
        return preprocessing_from_json(content)
    if content.keys() >= _OF_A_SIDECAR:
        inner: Any = sidecar_from_json(Path(text), content).preprocessing
    elif others := [key for key in content if key != "preprocessing"]:
        raise DataError(
            f"{text}: {', '.join(map(repr, others))} beside 'preprocessing', in what is no sidecar of edgecnn",
            "remove what stands beside it; a key of the preprocessing itself belongs into it",
        )
    else:
        inner = content["preprocessing"]
    if not isinstance(inner, dict):
        raise DataError(
            f"{text}: its preprocessing is {json.dumps(inner)[:40]}", "write an object with resize, crop, mean and std"
        )
    return preprocessing_from_json(inner)


def named_labels(text: str) -> Labels:
    """The labels that `--labels` names: `imagenet`, or a file that `read_labels` reads; raises `DataError`."""
    if text == "imagenet":
        names, wnids = imagenet_classes()
        return Labels(names, wnids)
    return Labels(*read_labels(Path(text)))


def _preprocessing_inside(model: onnx.ModelProto, own: Sidecar | None) -> Preprocessing | None:
    """From the source's sidecar, or from a metadata entry `preprocessing` that holds its JSON; raises `DataError` for a
    JSON object that cannot be read."""
    if own is not None and own.preprocessing is not None:
        return preprocessing_from_json(own.preprocessing)
    text = next((p.value for p in model.metadata_props if p.key == "preprocessing"), "")
    if not text.lstrip().startswith("{"):
        return None  # another tool's words
    try:
        content: Any = parse_json(text)
    except ValueError as exc:
        raise DataError(
            f"the graph's metadata entry 'preprocessing' is not valid JSON ({exc})", "correct it, or use --preprocess"
        ) from exc
    return preprocessing_from_json(content)


def _require_float32(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in _OTHER_FLOATS:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise GraphError(f"initialiser {tensor.name!r} is {kind}", "import the float32 graph it was made from")


def _with_dynamic_batch(
    model: onnx.ModelProto, images: Array, expected: Array, frozen: int | None, probabilities: bool
) -> tuple[int | None, float, list[str]]:
    """Make the batch dynamic if the graph can be; (the batch that stays frozen or None, difference, changes)."""
    axis = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    set_batch(model.graph, "batch", expected)
    said = [f"batch {frozen} made dynamic"] if frozen else [f"batch axis {axis!r} named 'batch'"] * (axis != "batch")
    difference, why = _difference(model, images, expected, BATCHES, probabilities)
    if why:
        reshapes = free_reshapes(model.graph, frozen or 1)
        if reshapes:
            difference, why = _difference(model, images, expected, BATCHES, probabilities)
            said.append(f"the batch taken out of {len(reshapes)} Reshape constants ({', '.join(reshapes[:3])})")
    if not why:
        return None, difference, said
    only = frozen or 1
    set_batch(model.graph, only, expected)
    copies = np.resize(images, (only, *images.shape[1:]))
    rows = np.resize(expected, (only, *expected.shape[1:]))
    difference, refused = _difference(model, copies, rows, (only,), probabilities)
    if refused:
        raise GraphError(f"the normalised graph is not equal to the original: {refused}", "export it again")
    return only, difference, [f"the batch stays frozen at {only}: {why}"]


def _difference(
    model: onnx.ModelProto, images: Array, expected: Array, batches: Sequence[int], probabilities: bool
) -> tuple[float, str]:
    """Largest difference from the original as a share of its largest output, and why the graph is not equal ("")."""
    worst = 0.0
    flat = expected.reshape(len(expected), -1)
    for batch in batches:
        try:
            found = _session(model).run(None, {"input": images[:batch]})[0]
        except Exception as exc:  # noqa: BLE001 - onnxruntime's errors have no base class of their own
            return worst, f"at batch {batch} ONNX Runtime fails: {' '.join(str(exc).split())[:200]}"
        if probabilities:
            found = class_probabilities(found, LOGIT)[:, -flat.shape[1] :]
        if found.shape != (batch, flat.shape[1]):
            return worst, f"at batch {batch} the output is {list(found.shape)}"
        worst = max(worst, float(np.abs(found - flat[:batch]).max() / max(np.abs(flat).max(), 1e-30)))
        if not worst <= MAX_DIFFERENCE:
            return worst, f"at batch {batch} the logits differ by {worst:.1e} of their maximum"
    return worst, ""


def _rows(original: onnx.ModelProto, images: Array, batch: int, source: Path) -> Array:
    """What the original gives for each image, `batch` copies at a time."""
    try:
        session = _session(original)
        name = session.get_inputs()[0].name
        rows = [session.run(None, {name: np.repeat(image[None], batch, 0)})[0][:1] for image in images]
    except Exception as exc:
        raise GraphError(
            f"{source}: ONNX Runtime cannot run it: {' '.join(str(exc).split())[:200]}", "check it with onnx.checker"
        ) from exc
    found: Array = np.concatenate(rows)
    if not np.isfinite(found).all() or all(np.array_equal(found[0], row) for row in found[1:]):
        raise GraphError(f"{source}: gives the same or infinite outputs for different images", "export it again")
    return found


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), session_options(), ["CPUExecutionProvider"])


def _parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(i.dims)) for i in model.graph.initializer if i.data_type == TensorProto.FLOAT and i.dims)


def _write(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise GraphError(f"the normalised graph is not valid: {exc}", "export it again") from exc
    onnx.save(model, path)
