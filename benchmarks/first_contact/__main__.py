"""First contact with an NVIDIA GPU: every open question of docs/tensorrt.md, asked in at most ten minutes.

    python -m benchmarks.first_contact [--output F.json] [--graphs FOLDER] [--python OTHER] [--recipe RECIPE]
    python -m benchmarks.first_contact --make-graphs FOLDER
    python -m benchmarks.first_contact --table docs/tensorrt.md

TensorRT, TensorRT-RTX, ONNX Runtime's providers: whatever is there is asked, and the rest is marked absent with the
reason. Each question has a process of its own and a time limit, so that a crash or a hang is its answer and not the
end. The exit code is 0 as long as this program itself reached its end, whatever was found.

Networks have seeded weights. A machine without PyTorch (a Jetson) takes the graphs that --make-graphs makes on a host,
and for the question `run` a bundle (`edgecnn bundle`) as --recipe. --python is the interpreter of a second environment,
for `qualify`. --table writes what the files in results/first_contact/ hold into a document.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_contact.answer import Work
from benchmarks.first_contact.contact import ROOT, Contact, answer_one, work_from_json
from benchmarks.first_contact.graphs import make_graphs
from benchmarks.first_contact.table import put_table, read_results, table
from edgecnn.artifact.write import write_bytes
from edgecnn.errors import EdgecnnError
from edgecnn.zoo import find_model

RESULTS = ROOT / "benchmarks" / "results" / "first_contact"
SMALL, LARGE = "resnet20_cifar", "resnet50"
TOTAL_S, SECONDS = 600.0, 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the file to write  [default: results/first_contact/GPU.json]")
    parser.add_argument("--graphs", type=Path, help="a folder that --make-graphs filled")
    parser.add_argument("--make-graphs", type=Path, metavar="FOLDER", help="make the graphs, and ask nothing")
    parser.add_argument("--python", default=sys.executable, help="of a second environment, for the question qualify")
    parser.add_argument("--recipe", default="lenet5-digits", help="for the question run")
    parser.add_argument("--networks", nargs=2, default=(SMALL, LARGE), metavar=("SMALL", "LARGE"))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each latency")
    parser.add_argument("--total", type=float, default=TOTAL_S, help="seconds for everything")
    parser.add_argument("--table", type=Path, help="write the table of all results into a document, and ask nothing")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ask:
        return answer_one(options.ask, work_from_json(sys.stdin.read()))
    if options.table:
        put_table(table(read_results(RESULTS)), options.table)
        return 0
    if not options.graphs:
        try:
            for network in options.networks:
                find_model(network)
        except EdgecnnError as exc:
            parser.error(f"--networks: {exc.message}; {exc.hint}")
    if options.make_graphs:
        for network in options.networks:
            make_graphs(network, options.make_graphs)
        return 0
    folder = options.output.parent if options.output else RESULTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as exc:
        parser.error(f"{folder}: cannot be written to: {exc.strerror}")
    if options.output and options.output.is_dir():
        parser.error(f"--output {options.output}: a folder; name a file")
    if options.graphs and not options.graphs.is_dir():
        parser.error(f"--graphs {options.graphs}: no such folder")

    def keep(document: Mapping[str, Any]) -> None:
        write_bytes(output_of(document, options.output), (json.dumps(document, indent=1) + "\n").encode())

    with tempfile.TemporaryDirectory(prefix="first-contact-") as name:
        found = Contact(_work(Path(name), options), options.total, keep=keep).ask_all()
    print(f"{closing_line(found)}\n{output_of(found, options.output)}")
    return 130 if found["interrupted"] else 0


def _work(folder: Path, options: argparse.Namespace) -> Work:
    return Work(
        folder=folder,
        graphs=options.graphs.resolve() if options.graphs else folder / "graphs",
        small=options.networks[0],
        large=options.networks[1],
        seconds=options.seconds,
        recipe=str(Path(options.recipe).resolve()) if Path(options.recipe).is_file() else options.recipe,
        python=str(Path(options.python).absolute()) if Path(options.python).is_file() else options.python,
    )


def output_of(document: Mapping[str, Any], output: Path | None) -> Path:
    """Where a document is written: under the GPU's name, unless `output` is given."""
    return output or RESULTS / f"{file_name(document['gpu'])}.json"


def file_name(gpu: str) -> str:
    """ "nvidia-geforce-rtx-4090" of a GPU's name; "none" without one."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "none"


def closing_line(found: Mapping[str, Any]) -> str:
    """How many questions ended in which way."""
    states = [row["state"] for row in found["questions"].values()]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return f"{found['gpu'] or 'no GPU'}: {', '.join(counts)}; {found['seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
