"""What the HTML report of a large run costs: seconds of the whole command, and the size of the page.

    python benchmarks/report_page.py [--images 10000] [--networks 20] [--classes 1000] [--rounds 3]

Predictions, latencies and pictures are made up (tests/fakes/judged_run.py) and then measured, judged and written by the
functions of a real run. The folder is temporary; rows are in benchmarks/results/report_page.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from _result import ROOT, Recorder, measure_process

MAKE = """
import sys; from pathlib import Path; from tests.fakes.judged_run import make_judged_run
make_judged_run(Path(sys.argv[1]), networks=int(sys.argv[2]), images=int(sys.argv[3]), classes=int(sys.argv[4]))
"""


def main() -> None:
    """Make the run, write its page several times, file the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 10_000), ("networks", 20), ("classes", 1000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    sizes = asked.networks, asked.images, asked.classes
    recorder = Recorder("report_page", f"python benchmarks/report_page.py --rounds {asked.rounds}", tools=["pillow"])
    with tempfile.TemporaryDirectory() as scratch:
        measure_process([sys.executable, "-c", MAKE, scratch, *sizes], tree=ROOT)
        page = Path(scratch) / "report.html"
        command = [sys.executable, "-m", "edgecnn", "report", f"{scratch}/run", "-o", page]
        found = [measure_process(command, tree=ROOT) for _ in range(asked.rounds)]
        size = page.stat().st_size
    key = {"images": asked.images, "networks": asked.networks, "classes": asked.classes}
    recorder.add(
        key,
        {
            "cpu_s": round(statistics.median(f.cpu_s for f in found), 2),
            "clock_s": round(statistics.median(f.clock_s for f in found), 2),
            "peak_mb": max(f.peak_mb for f in found),
            "size_mb": round(size / 1e6, 3),
        },
    )


if __name__ == "__main__":
    main()
