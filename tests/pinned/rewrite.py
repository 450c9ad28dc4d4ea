"""Rewrite the golden files and print what changed: `python -m tests.pinned.rewrite [NAME...]`.

A golden file changes only in a commit that says why.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.pinned.contents import contents
from tests.pinned.golden import differences, read_golden, write_golden


def main(names: list[str]) -> int:
    """Rewrite the files named, or all; 2 for a name that is none."""
    with tempfile.TemporaryDirectory() as folder:
        makers = contents(Path(folder))
        if unknown := set(names) - makers.keys():
            print(f"error: no golden file {', '.join(sorted(unknown))}\nhint: {', '.join(makers)}", file=sys.stderr)
            return 2
        for name in names or makers:
            started, old = time.perf_counter(), read_golden(name)
            new = makers[name](old)
            changed = list(differences(old, new))
            write_golden(name, new)
            print(f"{name}: {len(changed)} changes, {time.perf_counter() - started:.1f} s", flush=True)
            for line in changed:
                print(f"  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
