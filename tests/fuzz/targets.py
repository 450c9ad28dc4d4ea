"""The readers that are fed, each with good files to damage; they may raise an `EdgecnnError`, and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar, sha256_of, sidecar_path
from edgecnn.artifact.write import write_artifact
from tests.fuzz.mutate import damaged_bytes, damaged_json, damaged_zip

Mutator = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Target:
    """A reader of the file `name`: `seeds` are good contents, `mutate` damages one, `read` is what is tried."""

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    mutate: Mutator = damaged_bytes


PREPROCESS = {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}


def strangers(folder: Path) -> Mapping[str, Target]:
    """Readers of what others made; `folder` is for the files that are made as seeds."""
    from edgecnn.backends.trt.plan import read_plan_header
    from edgecnn.data.sources.archive import npz
    from edgecnn.data.sources.folder import decode
    from edgecnn.graph.load import load_graph
    from edgecnn.inspection.artifact import describe as inspect
    from tests.fakes.tiny import tiny_graph

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    plan = b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(40)
    graphs = tuple(tiny_graph(precision).SerializeToString() for precision in ("fp32", "int8"))
    return {
        "images": Target(
            "x.png",
            tuple(_picture(pixels, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")),
            decode,
        ),
        "npz": Target("x.npz", (_npz(),), lambda path: _rows(npz(path, None)), damaged_zip),
        "inspect npz": Target("x.npz", (_npz(),), inspect, damaged_zip),
        "plan header": Target("x.plan", (plan, plan[:30]), read_plan_header),
        "onnx": Target("x.onnx", graphs, load_graph),
        "inspect onnx": Target("x.onnx", graphs, inspect),
        "inspect safetensors": Target("x.safetensors", (_safetensors(),), inspect),
        **_releases(folder),
        **_small_sets(),
    }


def _releases(folder: Path) -> Mapping[str, Target]:
    """A release's archive, and its manifest with the hashes that it should have."""
    from edgecnn.bundle.manifest import BundledFile
    from edgecnn.bundle.release import RELEASE, Release, ReleasedEngine, manifest_text, release_from_json
    from edgecnn.bundle.tar import bundled_file, read_archive, write_tar
    from edgecnn.results.device import Device

    device = Device(cpu="c", cpu_id="1")
    names = ("model.onnx", "model.onnx.json", "golden.npz", "reference.npz", "reference.npz.json")
    files = {f"{device.engine_key}/{name}": bytes(700) for name in names}
    row = ReleasedEngine(
        recipe="r", target="cpu", device_key=device.engine_key, engine="model.onnx", name="int8", precision="int8",
        backend="ort", device=device, golden_n=20, sqnr_db_min=9.5,
    )  # fmt: skip
    own: list[BundledFile] = [bundled_file(name, lambda: io.BytesIO(bytes(700))) for name in files]
    manifest = manifest_text(Release(engines=(row,), files=tuple(own)))
    opened = {name: (len(data), lambda: io.BytesIO(bytes(700))) for name, data in files.items()}
    write_tar(folder / "seed.tar", manifest, opened, "release.json", b"signed")  # type: ignore[arg-type]
    archive = (folder / "seed.tar").read_bytes()
    return {
        "release": Target("r.tar", (archive,), lambda path: read_archive(path, RELEASE)),
        "release manifest": Target(
            "release.json", (manifest,), lambda path: release_from_json(path.read_bytes(), "r.tar"), damaged_json
        ),
    }


def strangers_of_torch(folder: Path) -> Mapping[str, Target]:
    """Checkpoints."""
    import torch
    from safetensors.torch import save

    from edgecnn.pytorch.checkpoint_file import read_copies

    state = {"conv.weight": torch.ones(2, 3), "fc.bias": torch.zeros(4)}
    plain = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, plain)
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {
        "pth": Target("x.pth", (plain.getvalue(), old.getvalue()), read_copies, damaged_zip),
        "safetensors": Target("x.safetensors", (save(state),), read_copies),
    }


def slow_strangers(folder: Path) -> Mapping[str, Target]:
    """Whole steps on damaged graphs."""
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.graph.importing.importer import import_graph
    from tests.fakes.tiny import tiny_graph

    preprocessing = preprocessing_from_json(PREPROCESS)
    seeds = (tiny_graph("fp32").SerializeToString(),)
    return {"import": Target("x.onnx", seeds, lambda path: import_graph(path, preprocessing))}


def ours(folder: Path) -> Mapping[str, Target]:
    """Readers of our own JSON, TOML and predictions."""
    from edgecnn.artifact.calibration_cache import read_calibration_cache
    from edgecnn.artifact.run_folder import read_latency, read_report
    from edgecnn.artifact.sidecar import read_sidecar
    from edgecnn.data.calibration_rule import read_rule
    from edgecnn.data.calibration_set import HEADER, QUOTING, read_manifest
    from edgecnn.data.label_file import read_labels
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.data.sources.packed import packed, packed_facts
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.recipe.load import load_recipe
    from edgecnn.records import parse_json
    from edgecnn.steps.calibrate import calibrate
    from edgecnn.steps.gate import read_baseline
    from tests.fakes.tiny import tiny_graph

    (folder / "net.onnx").write_bytes(tiny_graph("fp32").SerializeToString())
    np.savez(folder / "images.npz", input=np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    calibrate(folder / "net.onnx", folder / "net.calib.json", data=str(folder / "images.npz"))
    write_artifact(folder / "a.onnx", lambda path: path.write_bytes(b"x"), Sidecar(kind="graph", labels=["a", "b"]))
    recipe = (
        b'title = "t"\n[model]\nname = "lenet5"\n[data]\nsource = "digits"\n[train]\nepochs = 2\n[batch]\nmax = 8\n'
    )
    cache = b"TRT-100300-EntropyCalibration2\ninput: 3c010a14\nx: 3f800000\n"
    digest = b"0" * 64
    manifest = (
        HEADER.encode()
        + b"\n# source: digits\n# split: train\n# seed: 3\na/1.png "
        + digest
        + b"\nb 2.png "
        + digest
        + b"\n"
    )
    quoting = QUOTING[HEADER].encode() + b'\n# source: "a\\nb"\n"#1/x.png" ' + digest + b"\na.png " + digest + b"\n"
    golden = Path(__file__).parents[1] / "pinned" / "old_run"
    found = {
        "recipe": Target("r.toml", (recipe,), lambda path: load_recipe(str(path))),
        "set": Target("s.txt", (b"train.epochs=3", b'data.source="digits"'), _with_set(folder, recipe)),
        "sidecar": Target(
            "a.onnx.json", (sidecar_path(folder / "a.onnx").read_bytes(),),
            lambda path: read_sidecar(path.with_name("a.onnx")), damaged_json,
        ),
        "ranges": Target("x.calib.json", ((folder / "net.calib.json").read_bytes(),), read_ranges, damaged_json),
        "calibration cache": Target("x.cache", (cache,), read_calibration_cache),
        "manifest": Target("m.txt", (manifest, quoting), read_manifest),
        "calibration journal": _journal(folder),
        "packed images": Target(
            "packed.npz", (_packed(folder),),
            lambda path: (packed_facts(path), packed(path, preprocessing_from_json(PREPROCESS), "test").tensor(0)),
            damaged_zip,
        ),
        "calibration rule": Target("rule.toml", (b'source = "digits"\nimages = 4\nseed = 1\n',), read_rule),
        "labels": Target("l.csv", (b"index,name\n0,a\n1,b\n", b'["a", "b"]', b'{"0": "a"}', b"a\nb\n"), read_labels),
        "preprocess": Target(
            "p.json", (json.dumps(PREPROCESS).encode(),),
            lambda path: preprocessing_from_json(_object(parse_json, path)), damaged_json,
        ),
        "predictions": Target("p.npz", (_predictions(folder),), _predictions_again, damaged_zip),
        "features": Target("F.npz", (_features(folder),), _features_again, damaged_zip),
        **_monitors(folder),
    }  # fmt: skip
    for name, read in (("report", read_report), ("latency", read_latency)):
        if seeds := tuple(path.read_bytes() for path in sorted(golden.rglob(f"{name}.json"))):
            found[name] = Target(f"{name}.json", seeds, read, damaged_json)
    baseline = json.dumps({"device_key": "a", "engines": {}}).encode()
    found["baseline"] = Target("b.json", (baseline,), read_baseline, damaged_json)
    return found


def _object(parse: Callable[[bytes], object], path: Path) -> dict[str, object]:
    from edgecnn.errors import DataError

    try:
        content = parse(path.read_bytes())
    except ValueError as exc:
        raise DataError(str(exc), "") from exc
    if not isinstance(content, dict):
        raise DataError("no object", "")
    return content


def _with_set(folder: Path, recipe: bytes) -> Callable[[Path], object]:
    from edgecnn.recipe.load import load_recipe

    plain = folder / "plain.toml"
    plain.write_bytes(recipe)
    return lambda path: load_recipe(str(plain), [path.read_bytes().decode(errors="replace")])


def _picture(pixels: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def _npz() -> bytes:
    out = io.BytesIO()
    np.savez(out, input=np.zeros((2, 3, 4, 4), np.float32), label=np.array([0, 1]))
    return out.getvalue()


def _rows(dataset: object) -> list[object]:
    return [dataset.tensor(k) for k in range(min(len(dataset), 8))]  # type: ignore[attr-defined, arg-type]


def _safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(24)


def _small_sets() -> Mapping[str, Target]:
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.data.sources.pixels import cifar10, mnist

    gray = preprocessing_from_json({"resize": 8, "crop": 8, "mean": [0.5], "std": [0.5], "channels": 1})
    color = preprocessing_from_json(PREPROCESS)
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4]) + bytes(range(32))
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1])

    def idx(path: Path) -> object:
        path.with_name("t10k-labels-idx1-ubyte").write_bytes(labels)
        return _rows(mnist(path.parent, gray, "test"))

    return {
        "idx": Target("t10k-images-idx3-ubyte", (images,), idx),
        "gzipped idx": Target("t10k-images-idx3-ubyte.gz", (gzip.compress(images, mtime=0),), idx),
        "cifar": Target("test_batch.bin", (bytes(3073 * 2),), lambda path: _rows(cifar10(path.parent, color, "test"))),
        "cifar names": Target("batches.meta.txt", (b"cat\ndog\n",), lambda path: _with_batch(path, color)),
    }


def _with_batch(path: Path, preprocessing: object) -> object:
    from edgecnn.data.sources.pixels import cifar10

    path.with_name("test_batch.bin").write_bytes(bytes(3073))
    return cifar10(path.parent, preprocessing, "test")  # type: ignore[arg-type]


def _predictions(folder: Path) -> bytes:
    from edgecnn.measure.predict import Predictions, write_predictions

    made = Predictions(
        ids=("a", "b"), labels=np.array([0, 1]), logits=np.ones((2, 3), np.float32), preprocessing_sha256="",
        dataset="d",
        label_names=("x", "y", "z"), unreadable=(), threshold=0.0, output="logits", sha256s=("0" * 64, "1" * 64),
    )  # fmt: skip
    write_predictions(folder / "p.npz", made, Sidecar(kind="predictions"))
    return (folder / "p.npz").read_bytes()


def _features(folder: Path) -> bytes:
    from edgecnn.measure.vectors import Vectors, write_vectors

    made = Vectors(
        ids=("a/0", "a/1", "b/0", "a/0"), splits=("train",) * 3 + ("test",), labels=np.array([0, 0, 1, -1]),
        label_names=("a", "b"), sha256s=tuple(f"{k}" * 64 for k in range(4)),
        vectors=np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32), unreadable=("b/1",),
    )  # fmt: skip
    write_vectors(folder / "F.npz", made, Sidecar(kind="features"))
    return (folder / "F.npz").read_bytes()


def _features_again(path: Path) -> object:
    """As `_predictions_again`; what is read is looked up in, and shown."""
    import dataclasses

    from edgecnn.inspection.neighbours import neighbours
    from edgecnn.measure.vectors import read_vectors
    from edgecnn.records import to_plain
    from edgecnn.report.neighbours_page import neighbours_page

    sidecar = dataclasses.replace(Sidecar(kind="features"), sha256=sha256_of(path))
    sidecar_path(path).write_text(json.dumps(to_plain(sidecar)))
    found = read_vectors(path)
    return neighbours_page(neighbours(path, f"{found.splits[0]}:{found.ids[0]}", 1))


def _packed(folder: Path) -> bytes:
    from edgecnn.data.open import open_dataset
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.data.sources.packed import write_packed

    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "a.png")
    dataset = open_dataset(str(folder / "pictures"), preprocessing_from_json(PREPROCESS), "test")
    write_packed(folder / "packed.npz", dataset, "test", "")
    return (folder / "packed.npz").read_bytes()


def _monitors(folder: Path) -> Mapping[str, Target]:
    """Rows for a monitor; its log as it lies there, and each of its lines as if its checksum were right."""
    from edgecnn.artifact.checked_lines import CheckedLines
    from edgecnn.errors import DataError, EdgecnnError
    from edgecnn.inspection.drift import drift
    from edgecnn.inspection.monitor import monitor
    from edgecnn.inspection.monitor.log import START
    from edgecnn.records import parse_json

    network = {"engine": "m.plan", "columns": 2, "labels": ["a", "b"]}
    row = {"logits": [0.5, None], "time": 1.7e9, "image": "a.png", "noise": 2.0, "sharpness": 0.1}
    rows = "\n".join(
        map(json.dumps, (network, row, {**row, "logits": [1, 2], "time": "2026-11-27T10:00:00Z"}))
    ).encode()
    (folder / "rows").write_bytes(rows)
    monitor(str(folder / "rows"), folder / "log.jsonl", prometheus=folder / "log.prom")
    log = (folder / "log.jsonl").read_bytes()
    with CheckedLines(folder / "log.jsonl", START) as known:
        lines = list(known.lines())

    def counted(path: Path) -> object:
        """What is taken makes a log that is read again."""
        out = path.with_name("of-rows.jsonl")
        for old in (out, out.with_suffix(".prom")):
            old.unlink(missing_ok=True)
        try:
            return monitor(str(path), out, prometheus=out.with_suffix(".prom"))
        finally:
            if out.exists():
                try:
                    drift(out, out)
                except EdgecnnError as exc:
                    raise AssertionError("a log that was written is not read") from exc

    def checked(path: Path) -> object:
        content = list(_object(parse_json, path).values())
        if not all(isinstance(line, dict) for line in content):
            raise DataError("no lines", "")
        made = path.with_name("checked.jsonl")
        made.unlink(missing_ok=True)
        with CheckedLines(made, START) as log:
            log.append(*content)  # type: ignore[arg-type]
        return drift(made, made)

    return {
        "monitored rows": Target("rows", (rows,), counted, damaged_bytes),
        "monitored row": Target(
            "rows", (json.dumps(row).encode(), json.dumps(network).encode()), counted, damaged_json
        ),
        "monitor's log": Target("m.jsonl", (log,), lambda path: drift(path, path)),
        "monitor's lines": Target("m.json", (json.dumps(dict(enumerate(lines))).encode(),), checked, damaged_json),
    }


def _journal(folder: Path) -> Target:
    """What a calibration goes on from: one block, as if its checksum were right."""
    from edgecnn.data.sources.archive import npz
    from edgecnn.errors import DataError
    from edgecnn.graph.calibration.collect import _read_resumed, _saved, collect_ranges

    dataset = npz(folder / "images.npz", None)
    tensors = dict(collect_ranges(folder / "net.onnx", dataset, threads=1).tensors)
    contents = [dataset.content_sha256(k) for k in range(len(dataset))]

    def resumed(path: Path) -> object:
        journal = SimpleNamespace(blocks=lambda: [path.read_bytes()], keep=lambda count: None)
        found = _read_resumed(journal, dataset, dict.fromkeys(tensors, 1))  # type: ignore[arg-type]
        if not found[0]:
            raise DataError("it begins anew", "")
        return found

    return Target("j", (_saved(contents, tensors),), resumed, damaged_zip)


def _predictions_again(path: Path) -> object:
    """With a sidecar that fits: a hash of other bytes would be all that is refused."""
    import dataclasses

    from edgecnn.measure.predict import read_predictions
    from edgecnn.records import to_plain

    sidecar = dataclasses.replace(Sidecar(kind="predictions"), sha256=sha256_of(path))
    sidecar_path(path).write_text(json.dumps(to_plain(sidecar)))
    return read_predictions(path)
