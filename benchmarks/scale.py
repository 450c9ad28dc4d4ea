"""What many files cost: listing, splitting and sampling folders of images, and validating many images.

    python benchmarks/scale.py [list|validate] [--files 20000 200000] [--images 5000 50000] [--predict 1300000]

`list`: empty files in 1 000 class folders, four fifths of them below `train`, are opened as both splits, identified as
a run's sidecars do, and 1 024 of them chosen, in one process. CPU seconds and peak memory are of the whole process, and
of each file by the slope between the two numbers of files, which also predicts a third. `validate`: pictures of 8 x 8
pixels through a graph with one Conv; a process that is killed when at least nine tenths are done, and one that goes on,
which hashes every finished image again; beside one that begins anew. The files are made in a temporary folder and
removed; rows are in benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _result import ROOT, Measured, Recorder, measure_process

CLASSES, CHOSEN, KILLED_AT = 1000, 1024, 0.9
BASE = "from edgecnn.data.calibration_set import undecoded; import edgecnn.data.open"
LOOK = f"""
import sys
from edgecnn.data.calibration_set import undecoded
from edgecnn.data.dataset import spread
from edgecnn.data.open import images_sha256, is_split, listing_each_folder_once, open_dataset
source = sys.argv[1]
with listing_each_folder_once():
    assert is_split(source)
    train, test = (open_dataset(source, undecoded(source), split) for split in ("train", "test"))
    marks = [images_sha256(source, split) for split in ("train", "test")]
    print(len(train) + len(test), len(spread(train, {CHOSEN})))
"""
Found = dict[str, Any]


def measure_listing(files: int, folder: Path) -> Found:
    """One number of files: CPU seconds and peak memory, and those of a process that only imports."""
    root = folder / "images"
    for split, each in (("train", files * 4 // 5 // CLASSES), ("val", files // 5 // CLASSES)):
        for label in range(CLASSES):
            below = root / split / f"n{label:08d}"
            below.mkdir(parents=True)
            for k in range(each):
                os.close(os.open(below / f"n{label:08d}_{k:05d}.JPEG", os.O_CREAT | os.O_WRONLY))
    base = _least([sys.executable, "-c", BASE])
    found = _least([sys.executable, "-c", LOOK, root])
    if found.said.split() != [str(files), str(CHOSEN)]:
        sys.exit(f"{files} files: the process found {found.said}")
    shutil.rmtree(root)
    return {
        "cpu_s": round(found.cpu_s, 2),
        "clock_s": round(found.clock_s, 2),
        "peak_mb": found.peak_mb,
        "base_cpu_s": round(base.cpu_s, 2),
        "base_peak_mb": base.peak_mb,
    }


def _least(command: list[object]) -> Measured:
    """The cheaper of two: the first finds neither bytecode nor the kernel's caches."""
    return min((measure_process(command) for _ in range(2)), key=lambda m: m.cpu_s)


def slope(rows: list[Found], files: int) -> Found:
    """What each file costs between the first and the last of `rows`, and what `files` of them would."""
    first, last = rows[0], rows[-1]
    more = last["count"] - first["count"]
    cpu_s, mb = ((last[k] - first[k]) / more for k in ("cpu_s", "peak_mb"))
    beyond = files - last["count"]
    return {
        "predicted": True,
        "us_per_file": round(cpu_s * 1e6, 1),
        "bytes_per_file": round(mb * 2**20),
        "cpu_s": round(last["cpu_s"] + beyond * cpu_s, 1),
        "peak_mb": round(last["peak_mb"] + beyond * mb),
    }


def measure_validation(images: int, folder: Path) -> Found:
    """A validation from the beginning, and the rest of one that was killed."""
    root, graph, reference = folder / "images", folder / "net.fp32.onnx", folder / "reference.npz"
    _make_pictures(root, images)
    edgecnn = [sys.executable, "-m", "edgecnn"]
    told = ["--preprocess", folder / "how.json", "--labels", folder / "labels.json", "-o", graph]
    measure_process([*edgecnn, "import", _graph(folder), *told])
    measure_process([*edgecnn, "reference", graph, "--data", root, "-o", reference, "--threads", "1"])
    asked = ["validate", graph, "--reference", reference, "--data", root, "--threads", "1", "-o"]
    whole = measure_process([*edgecnn, *asked, folder / "whole.json"])
    done = _killed([*edgecnn, *asked, folder / "resumed.json"], folder / ".resumed.json.partial", images)
    rest = measure_process([*edgecnn, *asked, folder / "resumed.json"])
    if _result_of(folder / "whole.json") != _result_of(folder / "resumed.json"):
        sys.exit("the resumed validation found something else")
    shutil.rmtree(root)
    return {
        "cpu_s": round(whole.cpu_s, 2),
        "clock_s": round(whole.clock_s, 2),
        "peak_mb": whole.peak_mb,
        "finished_before": done,
        "resumed_cpu_s": round(rest.cpu_s, 2),
        "resumed_peak_mb": rest.peak_mb,
    }


def _result_of(path: Path) -> Found:
    """What was found, but for the name and where it comes from."""
    found: Found = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in ("name", "provenance")}


def _killed(command: list[Any], journal: Path, images: int) -> int:
    """Run until nine tenths of a journal are there, then kill; how many images it holds."""
    process = subprocess.Popen(
        [str(word) for word in command], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and _rows(journal, images) < KILLED_AT * images:
        time.sleep(0.002)
    process.kill()
    if process.wait() != -9:
        sys.exit("it ended before it could be killed")
    return _rows(journal, images)


def _rows(journal: Path, images: int) -> int:
    """Whole records of a journal of logits."""
    if not journal.exists():
        return 0
    with journal.open("rb") as file:
        header = file.readline()
    if not header.endswith(b"\n"):
        return 0
    record = 8 + 64 + 64 + 4 * json.loads(header)["classes"] + 4
    return min(images, (journal.stat().st_size - len(header)) // record)


def _make_pictures(root: Path, images: int) -> None:
    """Bitmaps of 8 x 8 pixels in two class folders, each another one."""
    header = b"BM" + (54 + 192).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += b"".join(n.to_bytes(4, "little") for n in (40, 8, 8)) + b"\1\0\30\0" + bytes(24)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    for k in range(images):
        pixels = (k * 2654435761 % 2**32).to_bytes(4, "little") * 48
        (root / "ab"[k % 2] / f"{k:06d}.bmp").write_bytes(header + pixels)


def _graph(folder: Path) -> Path:
    """Conv, mean and two logits; with its preprocessing and labels beside it. Made by another process, for a child's
    peak memory begins at its parent's."""
    from edgecnn.data.preprocess import Preprocessing

    how = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    (folder / "how.json").write_text(json.dumps(how.to_json()))
    (folder / "labels.json").write_text('["a", "b"]')
    program = """
import sys, numpy, onnx
from onnx import TensorProto, helper, numpy_helper
weights = numpy.random.default_rng(0).normal(0, 1, (2, 3, 3, 3)).astype(numpy.float32)
nodes = [helper.make_node("Conv", ["input", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["p"]),
         helper.make_node("Flatten", ["p"], ["logits"])]
ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("input", ["batch", 3, 8, 8]), ("logits", ["batch", 2]))]
graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), sys.argv[1])
"""
    measure_process([sys.executable, "-c", program, folder / "theirs.onnx"])
    return folder / "theirs.onnx"


def main() -> None:
    """Measure, print and file a row for each number of files or images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("list", "validate", "both"), default="both")
    parser.add_argument("--files", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--predict", type=int, default=1_300_000)
    options = parser.parse_args()
    command = f"python benchmarks/scale.py {options.what}"
    for what, counts, measure in (
        ("list", options.files, measure_listing),
        ("validate", options.images, measure_validation),
    ):
        if options.what not in (what, "both"):
            continue
        recorder, rows = Recorder("scale", command, tools=("onnxruntime",)), list[Found]()
        for count in sorted(counts):
            with tempfile.TemporaryDirectory(prefix="edgecnn-scale-") as made:
                rows.append({"count": count, **measure(count, Path(made))})
            recorder.add({"what": what, "count": count}, rows[-1])
        if what == "list" and len(rows) > 1:
            recorder.add({"what": what, "count": options.predict}, slope(rows, options.predict))


if __name__ == "__main__":
    main()
