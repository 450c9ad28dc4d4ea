"""The schema of a preprocessing that docs/import.md gives is the one that is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgecnn.data.preprocess import Preprocessing, preprocessing_from_json
from edgecnn.errors import DataError

WHOLE: dict[str, Any] = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture
def schema(root: Path) -> dict[str, Any]:
    text = (root / "docs" / "import.md").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    return found


def test_its_keys_are_those_that_are_read(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == set(Preprocessing.__dataclass_fields__)
    assert set(schema["required"]) == set(WHOLE)
    for key in schema["required"]:
        with pytest.raises(DataError, match=f"no {key}"):
            preprocessing_from_json({k: v for k, v in WHOLE.items() if k != key})


def test_its_values_are_taken_and_its_defaults_are_those(schema: dict[str, Any]) -> None:
    made = preprocessing_from_json(WHOLE)
    for key, told in schema["properties"].items():
        if "default" in told:
            assert getattr(made, key) == told["default"]
        for value in told.get("enum", [True, False] if told.get("type") == "boolean" else []):
            size = value if key == "channels" else 3
            content = {**WHOLE, "mean": [0.5] * size, "std": [0.5] * size, key: value}
            assert getattr(preprocessing_from_json(content), key) == value
    assert preprocessing_from_json({**WHOLE, "crop": [4, 8]}).size == (4, 8)
    for key, value in (("interpolation", "cubic"), ("channels", 4), ("crop", [4, 8, 3]), ("std", [0, 1, 1])):
        with pytest.raises(DataError):
            preprocessing_from_json({**WHOLE, key: value})
