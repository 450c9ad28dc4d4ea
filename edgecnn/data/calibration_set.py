"""Calibration sets: manifests of training images (id and sha256), with where they come from.

# edgecnn calibration set 1
# source: digits
# split: train
# seed: 0
digits/0003 1f0a...

An image whose content only its owner can hash has `-` in that place: `calibration_rule.py` fills it in. Test sets are
manifests too, with a name, a version, and a hash of which images are of one class. Where a name begins with `#` or `"`,
or holds what ends a line or acts on a terminal, the first line ends in 2, and such names are JSON strings.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecnn.artifact.write import write_bytes
from edgecnn.data.dataset import Dataset, Split, nfc, spread
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import Preprocessing
from edgecnn.data.sources.folder import how_to_sort
from edgecnn.errors import DataError, nearest
from edgecnn.limits import read_file
from edgecnn.output import inert, inert_json
from edgecnn.records import parse_json

HEADER = "# edgecnn calibration set 1"
TEST_HEADER = "# edgecnn test set 1"
QUOTING = {HEADER: "# edgecnn calibration set 2", TEST_HEADER: "# edgecnn test set 2"}
UNDECODED = Preprocessing(resize=1, crop=1, mean=(0.0,), std=(1.0,))  # for images that are listed and not looked at
NO_HASH = "-"


@dataclass(frozen=True)
class Manifest:
    """A set of images on paper: which ones, and proof that they are the same.

    `rule` is what it was chosen by. A test set has a `name`, a `version`, and `classes_sha256`: which of its images are
    of one class, whatever the class is called.
    """

    source: str
    split: Split
    seed: int
    ids: tuple[str, ...]
    sha256s: tuple[str, ...]
    rule: str = ""
    name: str = ""
    version: str = ""
    classes_sha256: str = ""

    @property
    def hashed(self) -> bool:
        """Whether every image has its hash."""
        return NO_HASH not in self.sha256s

    @property
    def title(self) -> str:
        """A test set's name, version and identity, as results say it."""
        digest = hashlib.sha256(f"{self.sha256} {self.classes_sha256}".encode()).hexdigest()
        return f"{self.name} {self.version} ({digest[:16]})"

    @property
    def sha256(self) -> str:
        """Identity of the set."""
        return hashlib.sha256("\n".join(self.sha256s).encode()).hexdigest()


def make_manifest(dataset: Dataset, source: str, split: Split, count: int, seed: int = 0) -> Manifest:
    """`count` images of `dataset`, spread over its classes; raises `DataError` when it has fewer."""
    if len(dataset) < count:
        raise DataError(
            f"{source}: {len(dataset)} images, {count} were asked for", f"--images {len(dataset)} takes them all"
        )
    positions = spread(dataset, count, seed)
    return Manifest(
        source=source,
        split=split,
        seed=seed,
        ids=tuple(dataset.ids[p] for p in positions),
        sha256s=tuple(dataset.sha256(p) for p in positions),
    )


def undecoded(source: str) -> Preprocessing | None:
    """What `source` is opened with where its images are listed and not looked at; an .npz brings its own."""
    return None if source.endswith(".npz") else UNDECODED


def manifest_of(source: str, count: int, seed: int) -> Manifest:
    """`make_manifest` of the training images that `source` names; none of them is decoded. Raises `DataError`."""
    return make_manifest(open_dataset(source, undecoded(source), "train"), source, "train", count, seed)


def make_test_set(source: str, name: str, version: str, count: int | None = None, seed: int = 0) -> Manifest:
    """The test images that `source` names, or `count` of them spread over the classes, as a test set."""
    if not version.strip() or not version.isprintable():
        raise DataError(f"the version {version!r} of a test set: one line of text is needed", "such as --version 2")
    dataset = open_dataset(source, undecoded(source), "test")
    made = make_manifest(dataset, source, "test", count or len(dataset), seed)
    position = position_of(dataset)
    classes = classes_sha256(dataset.subset([position[name] for name in made.ids]))
    return replace(made, name=name, version=version, classes_sha256=classes)


def classes_sha256(dataset: Dataset) -> str:
    """Which images are of one class: the labels, counted in the order in which they first occur; "" without labels."""
    if dataset.labels is None:
        return ""
    order: dict[int, int] = {}
    numbers = [order.setdefault(int(label), len(order)) for label in dataset.labels]
    return hashlib.sha256(" ".join(map(str, numbers)).encode()).hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, atomically."""
    header = TEST_HEADER if manifest.name else HEADER
    facts = {"source": manifest.source, "split": manifest.split, "seed": str(manifest.seed)}
    more = ("rule", "name", "version", "classes_sha256")
    facts |= {fact: value for fact in more if (value := getattr(manifest, fact))}
    quote: Callable[[str], str] = str
    if any(_quoted(text) != text for text in (*facts.values(), *manifest.ids)):
        header, quote = QUOTING[header], _quoted
    lines = [header, *(f"# {fact}: {quote(value)}" for fact, value in facts.items())]
    lines += [f"{quote(i)} {s}" for i, s in zip(manifest.ids, manifest.sha256s, strict=True)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _quoted(text: str) -> str:
    return inert_json(text) if text.startswith(("#", '"')) or inert(text) != text else text


def _unquoted(text: str, where: str) -> str:
    """The opposite; raises `DataError` that begins with `where`."""
    if not text.startswith('"'):
        return text
    try:
        found = parse_json(text)
    except ValueError as exc:
        raise DataError(f"{where}: {text[:60]!r} is not a quoted name ({exc})", "make the manifest again") from exc
    return str(found)


def read_manifest(path: Path) -> Manifest:
    """A manifest from its file; raises `DataError` that names the line."""
    try:
        lines = read_file(path).decode().removesuffix("\n").split("\n")  # other separators may be in a name
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path}: cannot be read: {exc}", "name a calibration manifest") from exc
    header = next((plain for plain, quoting in QUOTING.items() if lines[0] in (plain, quoting)), "")
    unquoted = (lambda text, where: text) if lines[0] == header else _unquoted
    if not header:
        raise DataError(
            f"{path}: not a manifest: its first line is neither {HEADER!r} nor {TEST_HEADER!r}", how_to_sort(path)
        )
    facts = {
        fact: unquoted(value, f"{path}: {fact}")
        for fact, value in (line[2:].split(": ", 1) for line in lines[1:] if line.startswith("# ") and ": " in line)
    }
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not line.strip():
            continue
        image, separator, digest = line.rpartition(" ")
        if not separator or (len(digest) != 64 and digest != NO_HASH):
            raise DataError(f"{path}:{number}: {line[:60]!r} is not `id sha256`", "make the manifest again")
        rows.append((nfc(unquoted(image, f"{path}:{number}")), digest))
    if not rows:
        raise DataError(f"{path}: no images", "make the manifest again")
    if twice := next((image for image, count in Counter(image for image, _ in rows).items() if count > 1), None):
        raise DataError(f"{path}: the image {twice} stands there more than once", "name each image once")
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
        rule=facts.get("rule", ""),
        name=facts.get("name", path.stem) if header == TEST_HEADER else "",
        version=facts.get("version", ""),
        classes_sha256=facts.get("classes_sha256", ""),
    )


def find_manifest(name_or_path: str) -> Path:
    """A manifest by its stem (in `./calibration`, then the packaged ones) or by a path; raises `DataError` for a rule,
    which is none yet."""
    path = find_calibration_set(name_or_path)
    if path.suffix == ".toml":
        raise DataError(
            f"{path}: a rule, and no manifest yet",
            f"write down the images that it chooses: edgecnn calibration-set {path}:DATA -o mine.txt",
        )
    return path


def find_calibration_set(name_or_path: str) -> Path:
    """A manifest or a rule by its stem (`./calibration` before the packaged ones) or by a path; raises `DataError`."""
    path = Path(name_or_path)
    if path.suffix in (".txt", ".toml") or "/" in name_or_path:
        if not path.is_file():
            raise DataError(f"{path}: no such manifest or rule", "check the path")
        return path
    from edgecnn.recipe.load import packaged_folders  # slow: it reads every field that a recipe can have

    folders = [f for f in (Path("calibration"), *packaged_folders("calibration")) if f.is_dir()]
    known = {p.stem: p for f in reversed(folders) for p in sorted([*f.glob("*.txt"), *f.glob("*.toml")])}
    if name_or_path not in known:
        raise DataError(f"no calibration set {name_or_path!r}", nearest(name_or_path, known) or "give its path")
    found = known[name_or_path]
    if found.with_suffix(".txt").exists() and found.with_suffix(".toml").exists():
        raise DataError(f"{found.parent}: {found.stem}.txt and {found.stem}.toml bear one name", "rename one of them")
    return found


def is_manifest(data: str) -> bool:
    """Whether `data` names a manifest: `NAME.txt`, or `NAME.txt:ROOT`."""
    return data.endswith(".txt") or ".txt:" in data


def select(manifest: Manifest, dataset: Dataset) -> Dataset:
    """The manifest's images out of `dataset`; raises `DataError` for one that is missing or differs, and for a test set
    whose images are of other classes than they were."""
    if not manifest.hashed:
        raise DataError(
            "the manifest names its images without their sha256, which only who has them can tell",
            "fill it in: edgecnn calibration-set MANIFEST.txt:DATA -o mine.txt",
        )
    what, position, chosen = manifest.name or "calibration", position_of(dataset), []
    for name, digest in zip(manifest.ids, manifest.sha256s, strict=True):
        if name not in position:
            raise DataError(f"{what} image {name} is not in {dataset.name}", "use the data set it was made from")
        if dataset.sha256(position[name]) != digest:
            raise DataError(
                f"{what} image {name} in {dataset.name} is not the one in the manifest (other sha256)",
                "restore the image, or make the manifest again",
            )
        chosen.append(position[name])
    found = dataset.subset(chosen)
    now = classes_sha256(found)
    if manifest.classes_sha256 and now and now != manifest.classes_sha256:
        raise DataError(
            f"{manifest.title}: images of one class there are not of one class in {dataset.name}",
            "restore the labels, or write the test set again under another version",
        )
    return found


def position_of(dataset: Dataset) -> dict[str, int]:
    """Where each image stands, by its id."""
    return {name: k for k, name in enumerate(dataset.ids)}


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
