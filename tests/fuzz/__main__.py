"""`make fuzz`: every reader with as many damaged files as docs/reliability.md says; goes on where it was stopped.

    python -m tests.fuzz [--output build/fuzz.json] [--only NAME ...] [--scale 1.0]

200 000 executions of a reader of what comes from strangers where one takes under 1 ms, otherwise those of ten minutes;
20 000 of a reader of our own files. One process, with a limit of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from edgecnn.artifact.write import write_bytes
from tests.fuzz.campaign import Total, run
from tests.fuzz.targets import ours, slow_strangers, strangers, strangers_of_torch

STRANGERS, OURS, SECONDS = 200_000, 20_000, 600.0
MEMORY, PIECE = 16 << 30, 2_000


def main() -> int:
    """Run, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/fuzz.json"))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--scale", type=float, default=1.0, help="of the executions and seconds")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    totals = _earlier(options.output)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups = [
            (make(folder), most)
            for make, most in (
                (strangers, STRANGERS),
                (strangers_of_torch, STRANGERS),
                (slow_strangers, STRANGERS),
                (ours, OURS),
            )
        ]
        for targets, most in groups:
            for key, target in targets.items():
                if options.only and key not in options.only:
                    continue
                total, wanted = totals.setdefault(key, Total()), int(most * options.scale)
                place = folder / key.replace(" ", "-")
                place.mkdir(exist_ok=True)
                while total.executions < wanted and total.cpu_s < SECONDS * options.scale and len(total.faults) < 5:
                    end = time.monotonic() + 60
                    run(
                        key,
                        target,
                        total,
                        min(wanted, total.executions + PIECE),
                        lambda end=end: time.monotonic() > end,
                        place,
                    )
                    write_bytes(
                        options.output,
                        (json.dumps({k: asdict(t) for k, t in totals.items()}, indent=1) + "\n").encode(),
                    )
                print(
                    f"{key}: {total.executions} executions, {total.taken} taken, {total.refused} refused, "
                    f"{len(total.faults)} faults, "
                    f"slowest {total.slowest_s:.2f} s, {total.cpu_s:.0f} s of CPU",
                    flush=True,
                )
                for fault in total.faults:
                    print(f"  {fault}", flush=True)
    return 1 if any(total.faults for total in totals.values()) else 0


def _earlier(path: Path) -> dict[str, Total]:
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: Total(**row) for name, row in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
