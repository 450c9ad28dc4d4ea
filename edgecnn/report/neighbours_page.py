"""What lies near an image, as a page with pictures: one file that opens offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.data.calibration_set import UNDECODED, position_of
from edgecnn.data.dataset import Split
from edgecnn.data.open import open_dataset
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import DataError, EdgecnnError
from edgecnn.measure.vectors import TEST, TRAIN, read_vectors
from edgecnn.report.page.document import document
from edgecnn.report.page.elements import Html, element, join, section
from edgecnn.report.thumbnail import thumbnail_uri
from edgecnn.results.neighbours import Neighbours

SHOWN = 36  # entries of each list

Key = tuple[str, str]  # split and id
Uris = Mapping[Key, tuple[str, bool]]


@dataclass(frozen=True)
class Thumbnails:
    """Small copies by split and id, and why some are not there."""

    uris: Uris
    unseen: str = ""


def read_thumbnails(index: Path, found: Neighbours) -> Thumbnails:
    """Of the images that the page of `found` shows: those that are where the `index` says, and still the same."""
    wanted = {(found.split, found.image), *((n.split, n.image) for n in found.nearest)}
    for pair in found.near_duplicates[:SHOWN]:
        wanted |= {(TRAIN, pair.train_image), (TEST, pair.test_image)}
    wanted |= {(row.split, row.image) for row in found.disagreements[:SHOWN]}
    vectors = read_vectors(index)
    known = dict(zip(zip(vectors.splits, vectors.ids, strict=True), vectors.sha256s, strict=True))
    made = read_sidecar(index)
    preprocessing = preprocessing_from_json(made.preprocessing) if made.preprocessing else UNDECODED
    uris = dict[Key, tuple[str, bool]]()
    splits: tuple[Split, Split] = ("train", "test")
    for split in splits:
        names = sorted(name for where, name in wanted if where == split)
        if not names:
            continue
        try:
            dataset = open_dataset(str(made.fields.get("data.source", "")), preprocessing, split)
            position = position_of(dataset)
        except EdgecnnError as exc:
            return Thumbnails({}, f"The images are not shown: {exc.message}.")
        for name in names:
            try:
                if name in position and known.get((split, name)) == dataset.sha256(position[name]):
                    uris[split, name] = thumbnail_uri(dataset, position[name])
            except DataError:
                continue
    left = len(wanted) - len(uris)
    return Thumbnails(uris, f"{left} images are not here, or are others by now: they are not shown." if left else "")


def neighbours_page(found: Neighbours, pictures: Thumbnails | None = None) -> str:
    """The page; names in it are text, whatever they hold."""
    pictures = pictures or Thumbnails({})
    near = "near-duplicates" if found.near_checked else "the same files"
    between = f"{near} between {found.n_train} training and {found.n_test} test images"
    title = f"Nearest to {found.image}"
    return document(
        title,
        element(
            "header",
            element("h1", "Nearest to ", element("bdi", found.image)),
            element(
                "p", f"Among {found.n_train} training images, by the cosine of vectors centered on the training mean."
            ),
        ),
        element("p", pictures.unseen, class_="note") if pictures.unseen else Html(),
        _figures([_figure(pictures.uris, (found.split, found.image), found.label_name, f"asked for ({found.split})")]),
        section(
            "Nearest training images",
            _figures(
                _figure(pictures.uris, (n.split, n.image), n.label_name, f"{k}. cosine {n.cosine:.4f}")
                for k, n in enumerate(found.nearest, 1)
            ),
        ),
        section(
            "Near-duplicates between training and test images",
            _said(len(found.near_duplicates), between),
            _figures(
                join(
                    _figure(pictures.uris, (split, name), "", f"{said} {k}, {split}: cosine {pair.cosine:.4f}")
                    for split, name in ((TRAIN, pair.train_image), (TEST, pair.test_image))
                )
                for k, pair in enumerate(found.near_duplicates[:SHOWN], 1)
                for said in ["same file" if pair.same_file else "pair"]
            ),
        ),
        section(
            "Images whose neighbors disagree with their label",
            _said(len(found.disagreements), "images"),
            _figures(
                _figure(
                    pictures.uris,
                    (row.split, row.image),
                    row.label_name,
                    f"{row.split}; {row.votes} of {row.k} neighbors are ",
                    row.neighbours_label_name,
                )
                for row in found.disagreements[:SHOWN]
            ),
        ),
    )


def _said(count: int, text: str) -> Html:
    more = f", of which {SHOWN} are shown (--json has all)" if count > SHOWN else ""
    return element("p", f"{count} {text}{more}.", class_="note")


def _figures(figures: Iterable[Html]) -> Html:
    inner = join(figures, "\n")
    return element("div", inner, class_="pictures") if inner else Html()


def _figure(uris: Uris, key: Key, label: str, said: str, other: str = "") -> Html:
    uri, pixelated = uris.get(key, ("", False))
    shown = element("img", src=uri, alt="", class_="small" if pixelated else None) if uri else Html()
    lines = [element("p", said, element("b", element("bdi", other)) if other else Html())]
    if label:
        lines.insert(0, element("p", "label: ", element("b", element("bdi", label))))
    return element("figure", shown, element("figcaption", *lines, element("small", element("bdi", key[1]))))
