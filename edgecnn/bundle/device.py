"""What a device needs of a run: graphs, predictions to compare with, test images, the recipe and its baselines."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.artifact.signature import signature_path
from edgecnn.bundle.manifest import (
    BASELINES,
    IMAGE_FILES,
    PACKED_IMAGES,
    RANGES,
    REFERENCE,
    Bundle,
    Images,
    bundle_from_json,
    manifest_text,
    unsafe,
)
from edgecnn.bundle.tar import Opened, bundled_file, write_tar
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import images_sha256
from edgecnn.data.sources.packed import packed, write_packed
from edgecnn.errors import DataError, WriteError
from edgecnn.measure.predict import Predictions, require_same_images
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import variants_of
from edgecnn.targets import Target


def pack_for_device(
    output: Path, recipe: Recipe, target: Target, files: Mapping[str, Opened], images: Images, images_at: str
) -> Bundle:
    """Write the bundle `output` of a recipe for a target: `files` by their path below the run folder, the test images
    at `images_at`. Raises `WriteError`, for a name that cannot be unpacked too."""
    for path in files:
        if problem := unsafe(path):
            raise WriteError(
                f"{output}: {path[:80]!r} cannot be in a bundle: {problem}", "rename it, or pack it: --images packed"
            )
    named = tuple(bundled_file(path, opened) for path, opened in files.items())
    bundle = Bundle(recipe.name, target.name, images, images_at, recipe.data.source, named, recipe.data.test)
    manifest = manifest_text(bundle)
    bundle_from_json(manifest, str(output))
    write_tar(output, manifest, {file.path: (file.size, files[file.path]) for file in named})
    return bundle


def artifacts_for(recipe: Recipe, target: Target, folder: Path) -> dict[str, Opened]:
    """Graphs and reference of a run, each with its sidecar and signature; raises `ArtifactError` for one that is not
    whole."""
    variants = variants_of(recipe, on_cpu=target.kind == "cpu")
    graphs = sorted({variant.graph for variant in variants})
    found = dict[str, Opened]()
    if any(variant.scheme == "implicit" for variant in variants):
        verified_sidecar(folder / RANGES)
        found |= _with_signature(folder / RANGES)
    for name in [*graphs, REFERENCE]:
        verified_sidecar(folder / name)
        found[name] = opened_path(folder / name)
        found |= _with_signature(sidecar_path(folder / name))
    return found


def baselines_for(recipe: Recipe) -> dict[str, Opened]:
    """The baselines that lie beside the recipe."""
    folder = recipe.path.parent / BASELINES / recipe.name
    return {f"{BASELINES}/{recipe.name}/{path.name}": opened_path(path) for path in sorted(folder.glob("*.json"))}


def packed_images(dataset: Dataset, reference: Predictions, source: str, path: Path) -> dict[str, Opened]:
    """The test images of `source`, packed into the file `path`; raises `DataError` where they are not those of the
    reference."""
    write_packed(path, dataset, "test", images_sha256(source, "test") or "")
    assert dataset.preprocessing is not None
    _require_images_of(packed(path, dataset.preprocessing, "test"), reference)
    return {PACKED_IMAGES: opened_path(path)}


def image_files(dataset: Dataset, reference: Predictions) -> dict[str, Opened]:
    """The test images as they are, each at its id; raises `DataError` as `packed_images` does."""
    unread = set(reference.unreadable)
    readable = dataset.subset([k for k, name in enumerate(dataset.ids) if name not in unread])
    _require_images_of(readable, reference)
    return dict(_files(dataset))


def opened_path(path: Path) -> Opened:
    """How a file is opened."""
    return lambda: path.open("rb")


def _with_signature(described: Path) -> dict[str, Opened]:
    """A sidecar, or an artifact that is JSON, with the signature that it may have."""
    return {p.name: opened_path(p) for p in (described, signature_path(described)) if p.is_file()}


def _files(dataset: Dataset) -> Iterator[tuple[str, Opened]]:
    for index, name in enumerate(dataset.ids):
        yield f"{IMAGE_FILES}/test/{name}", partial(_content, dataset, index)


def _content(dataset: Dataset, index: int) -> io.BytesIO:
    return io.BytesIO(dataset.content(index))


def _require_images_of(dataset: Dataset, reference: Predictions) -> None:
    again = "make the reference again: `edgecnn run RECIPE --until reference`"
    if dataset.ids != reference.ids or not reference.sha256s:
        raise DataError(
            f"{dataset.name}: its {len(dataset)} images are not the {len(reference.ids)} of the reference"
            if dataset.ids != reference.ids
            else f"{REFERENCE}: does not say which images it was made on",
            again,
        )
    sha256s = [dataset.sha256(k) for k in range(len(dataset))]
    require_same_images(dataset.ids, sha256s, dict(zip(reference.ids, reference.sha256s, strict=True)))
