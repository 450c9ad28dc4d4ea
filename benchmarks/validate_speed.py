"""Does decoding run beside the engine? Images/s of `predict` against decoder and engine alone, in one run.

    python benchmarks/validate_speed.py [--data FOLDER] [--engine E] [--batch 16] [--repeats 5] [--threads N] [-o F]

On a CPU both share the cores, so the bound is 1 / (1/decode + 1/engine); at least 0.9 of it is aimed at. Also the peak
memory after a fifth of the images and after all of them. Without --engine a SqueezeNet 1.1 with random weights is used,
without --data the JPEGs of imagenet-500 in EDGECNN_SHARED (default ../shared).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
from edgecnn.backends import open_engine
from edgecnn.backends.ort import device
from edgecnn.data.dataset import Dataset, batches
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.machine.cpu import available_cores
from edgecnn.measure.predict import predict
from edgecnn.records import to_plain
from edgecnn.session import Session
from edgecnn.zoo import find_model

PART = 96  # images that decoder, engine and both take in turn: the machine's slow phases hit all three


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("EDGECNN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser.add_argument("--data", type=Path, default=shared / "data" / "imagenet-500")
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    workers = options.threads or available_cores()
    with tempfile.TemporaryDirectory() as folder:
        engine = options.engine or _default_engine(Path(folder))
        known = read_sidecar(engine).preprocessing if sidecar_path(engine).exists() else None
        preprocessing = preprocessing_from_json(known or find_model("squeezenet1_1").preprocessing)
        dataset = open_dataset(str(options.data), preprocessing, "test")
        with open_engine(engine, options.threads) as session:
            journal = Path(folder) / "journal"
            peaks = [_peak_mb(session, dataset.subset(range(len(dataset) // 5)), options.batch, workers, journal)]
            peaks.append(_peak_mb(session, dataset, options.batch, workers, journal))
            rows = [_one_round(session, dataset, options.batch, workers) for _ in range(options.repeats)]
    medians = {key: float(np.median([r[key] for r in rows])) for key in rows[0]}
    result = {
        "engine": engine.name,
        "data": str(options.data.name),
        "n": len(dataset),
        "batch": options.batch,
        "device": to_plain(device(options.threads)),
        **{key: round(value, 3) for key, value in medians.items()},
        "share_of_bound_each": [round(r["share_of_bound"], 3) for r in rows],
        "peak_mb_fifth": peaks[0],
        "peak_mb_all": peaks[1],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


def _one_round(session: Session, dataset: Dataset, batch: int, workers: int) -> dict[str, float]:
    """Images/s of the decoder alone, the engine alone, and both: a part of the images each, in turn."""
    first = next(batches(dataset.subset(range(batch)), batch))
    seconds, images = [0.0, 0.0, 0.0], [0, 0, 0]
    for start in range(0, len(dataset), PART):
        part = dataset.subset(range(start, min(start + PART, len(dataset))))
        rounds = -(-len(part) // batch)
        for k, count in ((0, len(part)), (1, rounds * batch), (2, len(part))):
            session.run(first.input)
            started = time.perf_counter()
            if k == 0:
                for _ in batches(part, batch, workers):
                    pass
            elif k == 1:
                for _ in range(rounds):
                    session.run(first.input)
            else:
                predict(session, part, batch=batch, workers=workers)
            seconds[k] += time.perf_counter() - started
            images[k] += count
    decode, alone, both = (n / s for n, s in zip(images, seconds, strict=True))
    bound = 1 / (1 / decode + 1 / alone)
    return {
        "decode_images_per_s": decode,
        "engine_images_per_s": alone,
        "validate_images_per_s": both,
        "bound_images_per_s": bound,
        "share_of_bound": both / bound,
    }


def _peak_mb(session: Session, dataset: Dataset, batch: int, workers: int, journal: Path) -> float:
    predict(session, dataset, batch=batch, workers=workers, journal=journal, identity=str(len(dataset)))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _default_engine(folder: Path) -> Path:
    from edgecnn.steps.export import export

    path = folder / "squeezenet1_1.fp32.onnx"
    export("squeezenet1_1", path, weights="none")
    return path


if __name__ == "__main__":
    main()
