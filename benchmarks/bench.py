"""Every benchmark that holds edgecnn against something else, one after the other, and the documents' tables from them.

    python benchmarks/bench.py [--short] [--busy] [--only NAME ...] [--nncf PYTHON] [--modelopt PYTHON] [--list]

Each writes its rows into `results/`. `--short` measures one small network of each, once: within a quarter of an hour
on two cores; its rows stand beside those of the whole, which has more images, more rounds or larger networks. `--busy`
also measures beside two busy loops. NNCF and ModelOpt are measured where this Python has them, or the one that is
named, of an environment of their own.
One that fails or lacks something is said at the end, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from _result import ROOT

WHOLE = {
    "validate_speed": "squeezenet1_1 mobilenet_v2",
    "export_speed": "mobilenet_v2 resnet50 vgg16",
    "quantize_cost": "mobilenet_v2 squeezenet1_1 resnet18 --images 256",
    "auto_cost": "",
    "ranges_cost": "cost",
    "sensitivity_cost": "",
    "search_proof": "",
    "train_speed": "",
    "busy_neighbors": "",
}
SHORT = {
    "validate_speed": "squeezenet1_1 --images 200 --rounds 2",
    "export_speed": "squeezenet1_1 --rounds 1",
    "quantize_cost": "squeezenet1_1 --images 32",
    "auto_cost": "squeezenet1_1 --images 32 --rounds 1",
    "ranges_cost": "cost squeezenet1_1 --images 32 --rounds 1",
    "sensitivity_cost": "resnet20_cifar",
    "search_proof": "--max-drop 0.5 --seconds 3",
    "train_speed": "--rounds 1 --cifar-images 640 --jpeg-images 32 --jpeg-batch 16",
    "busy_neighbors": "--rounds 1",
}
CAN_BE_BUSY = ("validate_speed", "export_speed", "quantize_cost", "auto_cost", "ranges_cost", "sensitivity_cost")


def commands(short: bool, busy: bool, only: list[str] | None) -> list[list[str]]:
    """The words of each benchmark's command line, in order."""
    chosen = SHORT if short else WHOLE
    made = []
    for name, words in chosen.items():
        if only is None or name in only:
            made.append(["python", f"benchmarks/{name}.py", *words.split()])
            made += [[*made[-1], "--busy"]] if busy and name in CAN_BE_BUSY else []
    return made


def main() -> None:
    """Run them, then `tables.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--only", choices=WHOLE, action="append")
    parser.add_argument("--nncf")
    parser.add_argument("--modelopt")
    parser.add_argument("--list", action="store_true", help="print the commands alone")
    options = parser.parse_args()
    peers = [f"--{name}={python}" for name in ("nncf", "modelopt") if (python := getattr(options, name))]
    failed = []
    for words in commands(options.short, options.busy, options.only):
        words += peers if words[1] == "benchmarks/quantize_cost.py" else []
        print(" ".join(words), flush=True)
        if options.list:
            continue
        started = time.monotonic()
        ended = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=False)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        failed += [" ".join(words)] if ended.returncode else []
    if not options.list:
        subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py"], check=True)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
