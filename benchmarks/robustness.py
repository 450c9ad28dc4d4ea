"""What `make fuzz` and `make faults` have counted, filed for the documents' tables.

    python benchmarks/robustness.py [--tree CHECKOUT] [build/fuzz.json] [build/faults.xml ...]

`--tree` is the checkout that they ran in, by which a row names the commit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.etree import ElementTree

from _result import ROOT, Recorder

PREFIX = "faults of "  # of a property that tests/acceptance/test_nothing_lost.py writes into JUnit's file


class Filing(Recorder):
    """Of rows that were counted before: how busy the machine was then is not known."""

    def _others(self) -> None:
        return None


def main() -> None:
    """File a row for each reader, and for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[ROOT / "build/fuzz.json", ROOT / "build/faults.xml"])
    parser.add_argument("--tree", type=Path, default=ROOT)
    options = parser.parse_args()
    fuzz, faults = (Filing(name, f"make {name}", tree=options.tree) for name in ("fuzz", "faults"))
    for path in options.files:
        if path.suffix == ".xml":
            for name, count in fault_counts(path).items():
                faults.add({"name": name}, {"faults": count})
        else:
            for name, total in json.loads(path.read_text(encoding="utf-8")).items():
                fuzz.add({"name": name}, {**total, "faults": len(total["faults"])})


def fault_counts(path: Path) -> dict[str, int]:
    """How many faults a command came through, by its name; none of one that failed or did not end."""
    counts = dict[str, int]()
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):  # of pytest itself
        if suite.get("failures") != "0" or suite.get("errors") != "0":
            continue
        for entry in suite.iter("property"):
            name = entry.get("name", "")
            if name.startswith(PREFIX):
                counts[name.removeprefix(PREFIX)] = int(entry.get("value", "0"))
    return counts


if __name__ == "__main__":
    main()
