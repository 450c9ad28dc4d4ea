"""JSON: the results as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_report(results: Mapping[str, Any]) -> str:
    """One document; not a number is an error, not a value."""
    return json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
