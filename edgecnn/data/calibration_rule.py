"""Calibration sets that are rules: which images to choose, where those that are chosen can only be named on the machine
that has them. A rule is resolved once, to a manifest with hashes beside the run.

    source = "imagenet" # or digits, mnist, cifar10, folder
    split = "train"
    images = 1024
    seed = 0
    balanced = true # as many of each class as of any other; false: at random
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgecnn.data.calibration_set import (
    NO_HASH,
    UNDECODED,
    Manifest,
    find_calibration_set,
    make_manifest,
    position_of,
    read_manifest,
    write_manifest,
)
from edgecnn.data.dataset import Dataset, Split
from edgecnn.data.open import open_dataset
from edgecnn.errors import DataError
from edgecnn.limits import read_file
from edgecnn.recipe.location import kind_of
from edgecnn.recipe.schema import Count, PositiveCount
from edgecnn.records import STRICT, parse_toml, record_and_problems

RESOLVED = "calibration.txt"  # the manifest that a rule became, in the run's folder


@dataclass(frozen=True)
class CalibrationRule:
    """Which images to choose: `images` of a split of a kind of data set."""

    __pydantic_config__ = STRICT

    source: Literal["digits", "mnist", "cifar10", "imagenet", "folder"]
    images: PositiveCount
    split: Split = "train"
    seed: Count = 0
    balanced: bool = True

    def __str__(self) -> str:
        chosen = "balanced" if self.balanced else "at random"
        return f"{self.images} {self.split} images of {self.source}, {chosen}, seed {self.seed}"


def read_rule(path: Path) -> CalibrationRule:
    """A rule from its file; raises `DataError` that lists every problem."""
    hint = "it needs source and images, and may have split, seed and balanced"
    try:
        content = parse_toml(read_file(path).decode())
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: not a calibration rule: {exc}", hint) from exc
    rule, problems = record_and_problems(CalibrationRule, content)
    if rule is None or problems:
        raise DataError(f"{path}: {'; '.join(problems)}", hint)
    return rule


def split_of(name_or_path: str) -> Split:
    """Which images a calibration set holds; raises `DataError` for one that cannot be read."""
    path = find_calibration_set(name_or_path)
    return read_rule(path).split if path.suffix == ".toml" else read_manifest(path).split


def rule_text(name_or_path: str) -> str:
    """What a calibration set is resolved by, as the manifest that it becomes says; "" for one that names its images
    with their hashes."""
    path = find_calibration_set(name_or_path)
    if path.suffix == ".toml":
        return str(read_rule(path))
    manifest = read_manifest(path)
    ids = hashlib.sha256("\n".join(manifest.ids).encode()).hexdigest()
    return "" if manifest.hashed else f"{len(manifest.ids)} images by id, {ids}"


def resolved(name_or_path: str, folder: Path) -> Manifest | None:
    """The manifest of a calibration set: its own, or the one beside the run that it became; None before the first
    use."""
    rule = rule_text(name_or_path)
    if not rule:
        return read_manifest(find_calibration_set(name_or_path))
    beside = folder / RESOLVED
    made = read_manifest(beside) if beside.is_file() else None
    return made if made is not None and made.rule == rule else None


def resolve(name_or_path: str, source: str, folder: Path) -> Path:
    """The file of a calibration set's manifest, which is written into `folder` at the first use.

    Raises `DataError` where `source` is of another kind than the rule's, or has too few images.
    """
    path = find_calibration_set(name_or_path)
    if not rule_text(name_or_path):
        return path
    beside = folder / RESOLVED
    if resolved(name_or_path, folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(beside, choose(path, source))
    return beside


def choose(path: Path, source: str) -> Manifest:
    """The images of `source` that a rule, or a manifest without hashes, names; none of them is decoded."""
    if path.suffix != ".toml":
        named = read_manifest(path)
        dataset = open_dataset(source, UNDECODED, named.split)
        position = position_of(dataset)
        require_listed(path, named, dataset, source)
        digests = tuple(dataset.sha256(position[name]) for name in named.ids)
        pairs = zip(named.ids, named.sha256s, digests, strict=True)
        if other := next((name for name, known, found in pairs if known not in (NO_HASH, found)), None):
            raise DataError(
                f"{path}: its image {other} is another in {source} (other sha256)",
                "restore the image, or choose images anew: `edgecnn calibration-set`",
            )
        return replace(named, source=source, sha256s=digests, rule=rule_text(str(path)))
    rule = read_rule(path)
    require_kind(path, rule, source)
    dataset = open_dataset(source, UNDECODED, rule.split)
    if rule.balanced and dataset.labels is None:
        raise DataError(
            f"{path}: balanced = true, and the images of {source} have no classes",
            "put them into one folder for each class, or take a rule with balanced = false",
        )
    pool: Dataset = dataset if rule.balanced else replace(dataset, labels=None)
    return replace(make_manifest(pool, source, rule.split, rule.images, rule.seed), rule=str(rule))


def require_listed(path: Path, manifest: Manifest, dataset: Dataset, source: str) -> None:
    """Raise `DataError` where an image of the `manifest` is not in `dataset`."""
    known = set(dataset.ids)
    if absent := next((name for name in manifest.ids if name not in known), None):
        raise DataError(
            f"{path}: its image {absent} is not in {source}, which has {len(dataset)}",
            "use the data set that it is for, or a set of your own: `edgecnn calibration-set`",
        )


def require_kind(path: Path, rule: CalibrationRule, source: str) -> None:
    """Raise `DataError` where `source` is of another kind than the rule's."""
    kind = kind_of(source) or ("digits" if source == "digits" else "folder")
    if kind != rule.source:
        fits = "'folder-512'" if kind == "folder" else "one that is"
        raise DataError(
            f"{path}: a rule for {rule.source}, and the images are of {source}",
            f'set data.calibration to {fits}, or write a rule with source = "{kind}"',
        )
