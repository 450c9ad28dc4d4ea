"""How light a device stays: the size of the core's installation, and the cost of an import and of a cold `bench`.

    python benchmarks/light.py [--rounds 9]

The wheel is built and installed by pip with its dependencies into an environment of its own, which needs a package
index; its size is that of the files there, bytecode as pip leaves it included. There an empty interpreter,
`import edgecnn` and `edgecnn bench` of a plan run in turn, the best round of each counts. `bench` runs up to where the
engine would be loaded, in the process of its own that an engine of native code has, and ends there: what is left is
the loading and the query, TensorRT's own import apart, for which a module without content stands.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _result import ROOT, Recorder

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact

PLAN = b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100)  # a header
TENSORRT = '__version__ = "10.3.0.26"\nclass Logger:\n    INFO = 1\n    def __init__(self, *unused): pass\n'
REACHED = (
    "\n\ndef open_measured(*_, **__):\n    import os, pathlib\n    pathlib.Path('reached').touch()\n    os._exit(77)\n"
)


def install(folder: Path) -> Path:
    """The interpreter of an environment that has the core alone."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python, (wheel,) = folder / "env" / "bin" / "python", folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", f"--python={python}", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def size_mb(folder: Path) -> float:
    """Of all files below it, links apart."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink()) / 1e6


def cost_ms(command: list[str], folder: Path) -> tuple[float, float]:
    """Processor time, children included, and time by the clock."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder / "stub")}
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return 1000 * (usage.ru_utime + usage.ru_stime), 1000 * (time.monotonic() - started)


def main() -> None:
    """Measure, print and file one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    recorder = Recorder("light", "python benchmarks/light.py", tools=("numpy", "pillow", "pydantic", "typer", "rich"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = str(install(folder))
        recorder.add({"what": "pip install edgecnn"}, {"size_mb": round(size_mb(folder / "env"), 1)})
        (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
        with (packages / "edgecnn" / "steps" / "_startup.py").open("a") as file:
            file.write(REACHED)
        (folder / "stub").mkdir()
        (folder / "stub" / "tensorrt.py").write_text(TENSORRT)
        sidecar = Sidecar(kind="engine", backend="trt")
        write_artifact(folder / "m.plan", lambda path: path.write_bytes(PLAN) and None, sidecar)
        commands = {
            "python -c pass": [python, "-c", "pass"],
            "import edgecnn": [python, "-c", "import edgecnn"],
            "edgecnn bench, up to the loading": [python, "-m", "edgecnn", "bench", "--engine", "m.plan"],
        }
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds + 1):
            for name, command in commands.items():
                costs[name].append(cost_ms(command, folder))
        if not (folder / "reached").exists():
            sys.exit("bench did not come to the loading of its engine")
    best = {name: [min(c[k] for c in found[1:]) for k in range(2)] for name, found in costs.items()}
    empty = best["python -c pass"]
    for name, (cpu_ms, clock_ms) in best.items():
        found = {"cpu_ms": cpu_ms, "clock_ms": clock_ms, "beyond_ms": cpu_ms - empty[0], "ratio": cpu_ms / empty[0]}
        recorder.add({"what": name}, {key: round(value, 2) for key, value in found.items()} | {"rounds": rounds})


if __name__ == "__main__":
    main()
