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
