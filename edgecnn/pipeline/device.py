"""The way to a device and on it: a run is packed into a bundle here, and unpacked into a run folder there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from edgecnn.artifact.hold import LOCK, held
from edgecnn.artifact.sidecar import file_sha256, read_sidecar, sidecar_path
from edgecnn.artifact.temporary import disk_errors, remove_leftovers, temporary_folder
from edgecnn.artifact.write import check_output, write_bytes
from edgecnn.bundle.device import (
    artifacts_for,
    baselines_for,
    image_files,
    opened_path,
    pack_for_device,
    packed_images,
)
from edgecnn.bundle.manifest import (
    BASELINES,
    IMAGE_FILES,
    MANIFEST,
    PACKED_IMAGES,
    REFERENCE,
    TEST_SET,
    Bundle,
    Images,
    installed_bundle,
    manifest_text,
)
from edgecnn.bundle.tar import Opened, extract_bundle, read_bundle
from edgecnn.data.calibration_set import read_manifest, write_manifest
from edgecnn.data.open import listing_each_folder_once
from edgecnn.errors import ArtifactError, DataError, RecipeError, WriteError
from edgecnn.measure.predict import read_predictions
from edgecnn.pipeline.staleness import stale_tasks
from edgecnn.pipeline.tasks import all_tasks
from edgecnn.pipeline.workshop import HOST, Workshop, source_of_tests, test_set_of
from edgecnn.recipe.rules import require_classifier
from edgecnn.recipe.schema import Recipe
from edgecnn.recipe.variants import recipe_for
from edgecnn.steps._arguments import require_one_of
from edgecnn.steps._images import open_images
from edgecnn.steps.recipe_copy import keep_recipe
from edgecnn.targets import find_target

Say = Callable[[str], None]
SCRATCH = ".unpacking"  # in the run folder, which may be a disk of its own; there after a process that was killed
SPARE = 1.05  # of the bytes that are unpacked, for what file systems keep beside them


def bundled_images(recipe: Recipe, folder: Path) -> Path | None:
    """The test images that a bundle brought into a run folder; None where it brought none, or where the recipe has been
    given other ones."""
    bundle = installed_bundle(folder)
    if bundle is None or not bundle.images_at or recipe.data.source != bundle.source:
        return None
    return folder / bundle.images_at


@listing_each_folder_once()
def bundle(recipe: Recipe, folder: Path, output: Path, *, target: str, images: Images = "packed") -> Bundle:
    """Pack what `target` needs of a run into the tar `output`: graphs, sidecars, recipe, reference and test images.

    `images` are "packed" (uint8 after resize and crop, in one file), "files" as they are, or "none", for a device that
    has them. Raises `RecipeError` for a target that is not the recipe's, `ArtifactError` for a run that is not up to
    date, `DataError` for images that are not those of the reference, `WriteError`.
    """
    require_one_of("images", images, Images)
    require_classifier(recipe, "a bundle")
    if target not in recipe.targets:
        raise RecipeError(
            f"{folder}: the recipe's targets are {', '.join(recipe.targets)}, not {target}",
            f"run it for that one first: edgecnn run {recipe.path} --set 'targets=[\"{target}\"]'",
        )
    if recipe.input.geometry is not None and images == "packed":
        raise RecipeError(
            f"{folder}: input.geometry = {recipe.input.geometry!r} is measured on whole pictures, and packed ones are "
            "resized and cropped",
            "send the pictures: --images files; or leave input.geometry out of what the device judges",
        )
    check_output(output, ".tar")
    device = find_target(target)
    own = recipe_for(recipe, device)
    there = bundled_images(recipe, folder)
    tasks = [t for t in all_tasks(Workshop(own, folder, images=there)) if t.target == HOST]
    for task, reason in stale_tasks(tasks):
        raise ArtifactError(
            f"{task.output}: {reason}", f"bring the run up to date first: `edgecnn run {folder} --until reference`"
        )
    with temporary_folder(output) as made:
        copy = keep_recipe(own, made, alone=True)
        files = {name.name: opened_path(name) for name in (copy, sidecar_path(copy))}
        files |= artifacts_for(own, device, folder) | baselines_for(recipe)
        if chosen := test_set_of(recipe, folder):
            write_manifest(made / TEST_SET, read_manifest(chosen))
            files[TEST_SET] = opened_path(made / TEST_SET)
        found, images_at = _images(recipe, folder, there, images, made)
        return pack_for_device(output, own, device, files | found, images, images_at)


def _images(
    recipe: Recipe, folder: Path, there: Path | None, images: Images, made: Path
) -> tuple[dict[str, Opened], str]:
    """(the files of the test images, where they are to lie); `there` is where a bundle has brought them."""
    if images == "none":
        return {}, ""
    reference = read_predictions(folder / REFERENCE)
    source = source_of_tests(recipe, folder, there)
    dataset = open_images(read_sidecar(folder / REFERENCE), source, "test")
    root = Path(recipe.data.source) if there is None else there
    if dataset.image is None:  # preprocessed already, or packed
        at = PACKED_IMAGES if root == folder / PACKED_IMAGES else f"{IMAGE_FILES}/{root.name}"
        return {at: opened_path(root)}, at
    if images == "packed":
        return packed_images(dataset, reference, source, made / PACKED_IMAGES), PACKED_IMAGES
    if not root.is_dir():
        raise DataError(f"{root}: holds no image files", "pack its images: --images packed")
    return image_files(dataset, reference), IMAGE_FILES


def unpack(archive: Path, out: Path | None, say: Say) -> Path:
    """Unpack a bundle into its run folder, runs/RECIPE or `out`, whole or not at all; returns the folder.

    A folder that the same bundle was unpacked into stays as it is, what was measured in it too; where another bundle
    was, its files are replaced, but for baselines that were recorded here since. Raises `ArtifactError` for a hostile
    or damaged archive before anything is written, `WriteError` for a folder that holds something else.
    """
    found = read_bundle(archive)
    folder = _folder_of(found, out)
    if folder.exists() and not folder.is_dir():
        raise WriteError(f"{folder}: is not a folder", "choose another one with --out")
    remove_leftovers(folder)
    before = installed_bundle(folder) if folder.is_dir() else None
    if before is None and folder.is_dir() and any(p.name not in (LOCK, SCRATCH) for p in folder.iterdir()):
        raise WriteError(
            f"{folder}: holds files that no bundle brought", "choose another folder with --out, or remove it"
        )
    if (
        before == found
        and not (folder / SCRATCH).exists()
        and all(_is_there(folder / f.path, f.sha256) or _recorded_here(folder, f.path, found) for f in found.files)
    ):
        say(f"{folder}: holds {archive.name} already")
        return folder
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    disk = folder if folder.exists() else parent
    needed, free = int(SPARE * sum(file.size for file in found.files)), shutil.disk_usage(disk).free
    if needed > free:
        raise WriteError(
            f"{disk}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free",
            "free some space, or choose another folder with --out",
        )
    with held(folder), disk_errors(folder, needed):
        with _half_unpacked(folder / SCRATCH) as scratch:
            extract_bundle(archive, found, scratch)
        _put_in_place(scratch, folder, found, before, say)
        shutil.rmtree(scratch)
    say(f"{folder}: unpacked {archive.name}, {len(found.files)} files for {found.target}")
    return folder


def require_whole(folder: Path) -> None:
    """Raise `ArtifactError` where unpacking a bundle ended in between: files of two bundles may lie there."""
    if (folder / SCRATCH).exists():
        raise ArtifactError(
            f"{folder}: a bundle was not unpacked whole into it", "unpack it again: `edgecnn run FILE.tar`"
        )


@contextlib.contextmanager
def _half_unpacked(path: Path) -> Iterator[Path]:
    """A folder of this name without what was left in it. Where the block fails it goes, unless it was there before: the
    files beside it are of two bundles then, and it says so."""
    before = path.exists()
    path.mkdir(exist_ok=True)
    _empty(path)
    try:
        yield path
    except BaseException:
        _empty(path)
        if not before:
            path.rmdir()
        raise


def _empty(path: Path) -> None:
    for inner in path.iterdir():
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()


def unpacked(archive: Path, out: Path | None) -> Path:
    """The run folder that a bundle was unpacked into before; raises `RecipeError` where it was not."""
    found = read_bundle(archive)
    folder = _folder_of(found, out)
    if installed_bundle(folder) != found:
        raise RecipeError(f"{archive}: is not unpacked in {folder} so far", "run it without --dry-run")
    return folder


def _folder_of(bundle: Bundle, out: Path | None) -> Path:
    return out if out is not None else Path("runs") / bundle.recipe


def _is_there(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _recorded_here(folder: Path, path: str, before: Bundle | None) -> bool:
    """Whether a file is a baseline that this device has recorded since the bundle `before`: that is nobody else's."""
    brought = {file.path: file.sha256 for file in before.files} if before else {}
    here = folder / path
    return Path(BASELINES) in Path(path).parents and here.is_file() and file_sha256(here) != brought.get(path)


def _put_in_place(scratch: Path, folder: Path, found: Bundle, before: Bundle | None, say: Say) -> None:
    """Move the files into the run folder, but for baselines that were recorded in it. The manifest comes before them: a
    folder that was left in between lacks files that it names, and is unpacked again."""
    known = {f.path for f in (*(before.files if before else ()), *found.files)}
    kept = {name for name in known if _recorded_here(folder, name, before)}
    if kept:
        say(f"{folder}: keeps {', '.join(sorted(kept))}, which was recorded here")
    gone = {f.path for f in before.files} - {f.path for f in found.files} if before else set[str]()
    for name in sorted(gone - kept):
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # folders that something is left in stay
            for parent in Path(name).parents:
                (folder / parent).rmdir()
    write_bytes(folder / MANIFEST, manifest_text(found))
    for file in found.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        if file.path not in kept:
            (scratch / file.path).replace(folder / file.path)
