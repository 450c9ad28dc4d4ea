"""May a run's engines move to another TensorRT? The run, its images and its recipe are found here."""

from __future__ import annotations

import os
from pathlib import Path

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.bundle.manifest import PACKED_IMAGES, REFERENCE
from edgecnn.data.open import images_sha256
from edgecnn.data.sources.packed import write_packed
from edgecnn.errors import MeasurementError
from edgecnn.pipeline.device import Say, bundled_images
from edgecnn.pipeline.find import find_run
from edgecnn.pipeline.workshop import source_of_tests
from edgecnn.recipe.schema import Recipe
from edgecnn.remote.qualify import Question, qualify_environment
from edgecnn.results.qualification import Qualification
from edgecnn.steps._arguments import require_at_least
from edgecnn.steps._images import open_images
from edgecnn.targets import find_target


def qualify(
    run: str | os.PathLike[str],
    python: str | os.PathLike[str],
    *,
    recipe: str = "",
    threads: int | None = None,
    say: Say = lambda line: None,
) -> Qualification:
    """Compare a run's engines under this interpreter with those under another one, `python`, whose TensorRT is newer.

    Both build the run's graphs anew and see the same pixels; nothing of the run is changed. Raises `MeasurementError`
    for a run of several targets, `BackendError` where the other interpreter is none, or lacks edgecnn or TensorRT, and
    the errors of the steps.
    """
    require_at_least(1, threads=threads)
    loaded, runs = find_run(os.fspath(run), recipe, say)
    if len(runs) != 1:
        raise MeasurementError(
            f"{Path(run)}: several targets were measured there", f"name one: {', '.join(str(r.folder) for r in runs)}"
        )
    folder = runs[0].folder.absolute().parent
    with temporary_folder(folder / "qualify") as scratch:
        images = _same_pixels(loaded, folder, scratch)
        question = Question(loaded, folder, find_target(runs[0].target), images, scratch, threads)
        return qualify_environment(question, os.fspath(python), say)


def _same_pixels(recipe: Recipe, folder: Path, scratch: Path) -> str:
    """The test images, decoded once for both: another environment may decode pictures by another library."""
    source = source_of_tests(recipe, folder, bundled_images(recipe, folder))
    dataset = open_images(read_sidecar(folder / REFERENCE), source, "test")
    if dataset.image is None:  # preprocessed already, or packed
        return source
    write_packed(scratch / PACKED_IMAGES, dataset, "test", images_sha256(source, "test") or "")
    return str(scratch / PACKED_IMAGES)
