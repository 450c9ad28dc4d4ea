"""Calibration sets: manifests of training images (id and sha256), with where they come from.

# edgecnn calibration set 1
# source: digits
# split: train
# seed: 0
digits/0003 1f0a...
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecnn.artifact.write import write_bytes
from edgecnn.data.dataset import Dataset, Split, spread
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, nearest
from edgecnn.recipe.load import packaged_folders

HEADER = "# edgecnn calibration set 1"


@dataclass(frozen=True)
class Manifest:
    """A calibration set on paper: which images, and proof that they are the same ones."""

    source: str
    split: Split
    seed: int
    ids: tuple[str, ...]
    sha256s: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Identity of the set."""
        return hashlib.sha256("\n".join(self.sha256s).encode()).hexdigest()


def make_manifest(dataset: Dataset, source: str, split: Split, count: int, seed: int = 0) -> Manifest:
    """`count` images of `dataset`, spread over its classes; raises `DataError` when it has fewer."""
    if len(dataset) < count:
        raise DataError(f"{source}: {len(dataset)} images, {count} were asked for", "ask for fewer images")
    positions = spread(dataset, count, seed)
    return Manifest(
        source=source,
        split=split,
        seed=seed,
        ids=tuple(dataset.ids[p] for p in positions),
        sha256s=tuple(dataset.sha256(p) for p in positions),
    )


def manifest_of(source: str, count: int, seed: int) -> Manifest:
    """`make_manifest` of the training images that `source` names; none of them is decoded. Raises `DataError`."""
    undecoded = None if source.endswith(".npz") else Preprocessing(resize=1, crop=1, mean=(0.0,), std=(1.0,))
    return make_manifest(open_dataset(source, undecoded, "train"), source, "train", count, seed)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, atomically."""
    lines = [HEADER, f"# source: {manifest.source}", f"# split: {manifest.split}", f"# seed: {manifest.seed}"]
    lines += [f"{i} {s}" for i, s in zip(manifest.ids, manifest.sha256s, strict=True)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_manifest(path: Path) -> Manifest:
    """A manifest from its file; raises `DataError` that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # other separators may be in a name
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}", "name a calibration manifest") from exc
    if not lines or lines[0] != HEADER:
        raise DataError(f"{path}: not a calibration manifest", f"its first line must be {HEADER!r}")
    facts = dict(line[2:].split(": ", 1) for line in lines[1:] if line.startswith("# ") and ": " in line)
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        image, separator, digest = line.rpartition(" ")
        if not separator or len(digest) != 64:
            raise DataError(f"{path}:{number}: {line[:60]!r} is not `id sha256`", "make the manifest again")
        rows.append((image, digest))
    if not rows:
        raise DataError(f"{path}: no images", "make the manifest again")
    split, seed = facts.get("split", "train"), facts.get("seed", "0")
    if split not in ("train", "test") or not seed.isdecimal():
        raise DataError(
            f"{path}: split {split!r}, seed {seed!r}: the split must be train or test, the seed a whole number",
            "mend these lines, or make the manifest again",
        )
    return Manifest(
        source=facts.get("source", ""),
        split="test" if split == "test" else "train",
        seed=int(seed),
        ids=tuple(r[0] for r in rows),
        sha256s=tuple(r[1] for r in rows),
    )


def find_manifest(name_or_path: str) -> Path:
    """A manifest by its stem (in `./calibration`, then the packaged ones) or by a path."""
    path = Path(name_or_path)
    if path.suffix == ".txt" or "/" in name_or_path:
        if not path.is_file():
            raise DataError(f"{path}: no such calibration manifest", "check the path")
        return path
    folders = [f for f in (Path("calibration"), *packaged_folders("calibration")) if f.is_dir()]
    known = {p.stem: p for folder in reversed(folders) for p in sorted(folder.glob("*.txt"))}
    if name_or_path not in known:
        raise DataError(f"no calibration set {name_or_path!r}", nearest(name_or_path, known) or "give its path")
    return known[name_or_path]


def is_manifest(data: str) -> bool:
    """Whether `data` names a manifest: `NAME.txt`, or `NAME.txt:ROOT`."""
    return data.endswith(".txt") or ".txt:" in data


def select(manifest: Manifest, dataset: Dataset) -> Dataset:
    """The manifest's images out of `dataset`; raises `DataError` for one that is missing or differs."""
    position = {name: k for k, name in enumerate(dataset.ids)}
    chosen = []
    for name, digest in zip(manifest.ids, manifest.sha256s, strict=True):
        if name not in position:
            raise DataError(f"calibration image {name} is not in {dataset.name}", "use the data set it was made from")
        if dataset.sha256(position[name]) != digest:
            raise DataError(
                f"calibration image {name} in {dataset.name} is not the one in the manifest (other sha256)",
                "restore the image, or make the manifest again",
            )
        chosen.append(position[name])
    return dataset.subset(chosen)


def open_data(
    source: str,
    preprocessing: Preprocessing | None,
    split: Split,
    labels: Sequence[str] = (),
    wnids: Sequence[str] = (),
) -> Dataset:
    """What `--data` names: a manifest (`NAME.txt` or `NAME.txt:ROOT`), or anything that `open_dataset` knows.

    Test images in class folders have no labels where the model's classes are not known: a folder's position says
    nothing about them.
    """
    name, _, root = source.partition(".txt:")
    if is_manifest(source):
        manifest = read_manifest(find_manifest(f"{name}.txt" if root else source))
        found = select(manifest, open_dataset(root or manifest.source, preprocessing, manifest.split, labels, wnids))
    else:
        found = open_dataset(source, preprocessing, split, labels, wnids)
    return replace(found, labels=None) if found.by_position and split == "test" else found
