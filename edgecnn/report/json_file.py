"""JSON: the results as they are."""

from __future__ import annotations

import json

from edgecnn.records import to_plain
from edgecnn.results.report import RunReport


def json_report(results: RunReport) -> str:
    """One document; not a number is an error, not a value."""
    return json.dumps(to_plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
