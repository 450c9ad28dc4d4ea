"""Which preprocessing belongs to a foreign graph: what the user names, or what its file or sidecar says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from edgecnn.artifact.sidecar import Sidecar, read_json, sidecar_from_json
from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError, nearest
from edgecnn.records import parse_json
from edgecnn.zoo import presets

_LARGEST = {  # between which a picture's largest value must lie, also less a mean
    "NominalRange_0_255": (64.0, 256.0), "NominalRange_16_235": (64.0, 256.0), "Normalized_0_1": (0.4, 4.0),
    "Normalized_1_1": (0.4, 4.0),
}  # fmt: skip
_OF_A_SIDECAR = {"kind", "sha256", "schema"}


def read_named_preprocessing(text: str) -> Preprocessing:
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


def find_preprocessing_inside(model: onnx.ModelProto, own: Sidecar | None) -> Preprocessing | None:
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


def doubt_colors(model: onnx.ModelProto, preprocessing: Preprocessing | None) -> list[str]:
    """Where the metadata that ONNX defines for images (MetadataProps.md) says other pixels than `preprocessing` makes:
    another order of the channels, or another range."""
    told = {p.key: p.value for p in model.metadata_props}
    order, span = told.get("Image.BitmapPixelFormat", ""), told.get("Image.NominalPixelRange", "")
    if preprocessing is None:
        return [f"metadata: images are {' '.join(filter(None, (order, span)))}"] if order or span else []
    doubts = []
    if (
        preprocessing.channels == 3
        and order.startswith(("Bgr", "Rgb"))
        and preprocessing.bgr != order.startswith("Bgr")
    ):
        wanted = str(order.startswith("Bgr")).lower()
        doubts.append(f'warning: the metadata says {order}, the preprocessing does not: write "bgr": {wanted}')
    largest = max((1 - mean) / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True))
    if span in _LARGEST and not _LARGEST[span][0] <= largest <= _LARGEST[span][1]:
        doubts.append(f"warning: the metadata says {span}, and the preprocessing makes values up to {largest:.3g}")
    return doubts
