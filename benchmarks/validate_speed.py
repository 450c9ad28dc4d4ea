"""What `validate` costs beside a plain loop that reads the same images with PIL and runs the same graph.

    python benchmarks/validate_speed.py [NETWORK...] [--images 500] [--rounds 5] [--busy] [--tree DIR] [--shared DIR]

Whole processes in turn, two threads each, batches of 16: `edgecnn validate` against saved predictions, and a loop as
everybody writes it (open, convert, resize, crop, `/ 255`, `- mean`, `/ std`, `numpy.stack`, ONNX Runtime without
spinning, count what is right). It starts in a fifth of a second, `edgecnn` in two thirds, which the fewer images weigh
the more. Ratios are medians over the rounds; `--busy` has two busy loops beside both. Images are
the JPEGs of imagenet-500 in the shared folder, weights are random: neither changes the cost.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _result import ROOT, Recorder, measure_process, neighbors

NETWORKS = ("squeezenet1_1", "mobilenet_v2")
BATCH, THREADS, BUSY = 16, 2, 2
PLAIN = f"""
import pathlib, sys
import numpy as np, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = {THREADS}, 4
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
mean, std = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
def read(path):
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1)
folders = sorted(p for p in pathlib.Path(sys.argv[2]).iterdir() if p.is_dir())
images = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
right = 0
for k in range(0, len(images), {BATCH}):
    part = images[k : k + {BATCH}]
    logits = session.run(None, {{"input": np.stack([read(path) for path, _ in part])}})[0]
    right += int((logits.argmax(1) == [label for _, label in part]).sum())
print(right / len(images))
"""


def measure_network(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides of one network, `options.rounds` times in turn."""
    images = part_of(options.shared / "data" / "imagenet-500", options.images, folder / "images")
    edgecnn, graph, reference = [sys.executable, "-m", "edgecnn"], folder / "net.onnx", folder / "reference.npz"
    measure_process([*edgecnn, "export", name, "--weights", "none", "-o", graph], tree=options.tree)
    measure_process([*edgecnn, "reference", graph, "--data", images, "-o", reference], tree=options.tree)
    ours = [*edgecnn, "validate", graph, "--reference", reference, "--data", images]
    ours += ["--threads", THREADS, "--batch", BATCH]
    plain = [sys.executable, "-c", PLAIN, graph, images]
    rounds = []
    for _ in range(options.rounds):
        rounds.append((measure_process(ours, tree=options.tree), measure_process(plain)))
    return {
        "cpu_ratio": round(statistics.median(a.cpu_s / b.cpu_s for a, b in rounds), 3),
        "clock_ratio": round(statistics.median(a.clock_s / b.clock_s for a, b in rounds), 3),
        "validate_cpu_s": [round(a.cpu_s, 2) for a, _ in rounds],
        "plain_cpu_s": [round(b.cpu_s, 2) for _, b in rounds],
        "validate_clock_s": [round(a.clock_s, 2) for a, _ in rounds],
        "plain_clock_s": [round(b.clock_s, 2) for _, b in rounds],
        "validate_peak_mb": max(a.peak_mb for a, _ in rounds),
        "plain_peak_mb": max(b.peak_mb for _, b in rounds),
    }


def part_of(whole: Path, count: int, folder: Path) -> Path:
    """Links to `count` images below `whole`, in their class folders; again from the first where there are fewer."""
    paths = sorted(p for p in whole.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"{whole}: no JPEGs; name the folder that has imagenet-500 in its data with --shared")
    for k, path in zip(range(count), itertools.cycle(paths[:: max(1, len(paths) // count)]), strict=False):
        link = folder / path.parent.name / f"{k}-{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def main() -> None:
    """Measure, print and file one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("EDGECNN_SHARED", ROOT.parent / "shared")))
    options = parser.parse_args()
    options.shared, options.tree = options.shared.resolve(), options.tree.resolve()
    for name in options.networks:
        command = f"python benchmarks/validate_speed.py {name} --images {options.images} --rounds {options.rounds}"
        recorder = Recorder(
            "validate_speed",
            command + " --busy" * options.busy,
            tree=options.tree,
            tools=("onnxruntime", "pillow", "numpy"),
        )
        count = BUSY * options.busy
        with tempfile.TemporaryDirectory() as folder, neighbors(count):
            found = measure_network(name, options, Path(folder))
        recorder.add({"network": name, "images": options.images, "busy": options.busy}, found, neighbors=count)


if __name__ == "__main__":
    main()
