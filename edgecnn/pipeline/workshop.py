"""What a task of a run is, what the tasks of one run share, and the identity of its images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.stale import TEST_IMAGES
from edgecnn.bundle.manifest import PACKED_IMAGES, TEST_SET, installed_bundle
from edgecnn.data.calibration_rule import resolve, resolved, rule_text
from edgecnn.data.calibration_set import read_manifest
from edgecnn.data.dataset import Dataset, Split
from edgecnn.data.open import images_sha256
from edgecnn.errors import DataError
from edgecnn.recipe.schema import Recipe, fields_of
from edgecnn.results.device import Device
from edgecnn.steps._embeddings import open_unseen
from edgecnn.steps._images import Progress, open_images
from edgecnn.steps.calibrate import calibration_images

ProgressFor = Callable[[str], Progress | None]


HOST = ""  # the target of tasks that belong to none


@dataclass(frozen=True)
class Task:
    """One file and how it comes about: `make` makes it of its `parents`, which are there and fresh.

    `fields` are the recipe values that it depends on, through its parents too: a device judges a graph whose checkpoint
    stayed behind. Tools, device and facts that are given must be those of the file as well.
    """

    step: str
    output: Path
    kind: str
    parents: tuple[Path, ...]
    fields: Mapping[str, Any]
    make: Callable[[], object]
    target: str = HOST
    tools: Mapping[str, str] = field(default_factory=dict)
    device: Device | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def expected(self) -> Sidecar:
        """What the sidecar of `output` would say if it were made now, as far as that decides whether it is stale."""
        return Sidecar(
            kind=self.kind,
            fields=dict(self.fields),
            tools=dict(self.tools),
            device=self.device,
            facts=dict(self.facts),
        )


@dataclass
class Workshop:
    """What the tasks of one run share: its recipe and folder, and the images, opened once. `images` are the test images
    that a bundle brought, in place of the recipe's; `retrain` replaces finished weights."""

    recipe: Recipe
    folder: Path
    threads: int | None = None
    progress: ProgressFor = lambda step: None
    trust_code: bool = False
    images: Path | None = None
    retrain: bool = False
    _opened: dict[str, Dataset] = field(default_factory=dict)

    def test_images(self, source: Path) -> Dataset:
        """The recipe's test images, as the network of the artifact `source` expects them."""
        return self._once("test", lambda: self._open_test_images(source))

    def _open_test_images(self, source: Path) -> Dataset:
        sidecar = read_sidecar(source)
        if sidecar.embeds:
            return open_unseen(source, sidecar, self.test_source)
        return open_images(sidecar, self.test_source, "test")

    @property
    def test_source(self) -> str:
        """Where the test images are on this machine, as what opens them names them."""
        return source_of_tests(self.recipe, self.folder, self.images)

    def calibration_images(self, graph: Path) -> Dataset:
        """The recipe's calibration images, all of them training images."""
        return self._once("calibration", lambda: self._open_calibration_images(graph))

    def _open_calibration_images(self, graph: Path) -> Dataset:
        data = self.recipe.data
        source = data.calibration_source or data.source
        chosen = resolve(data.calibration, source, self.folder) if data.calibration else None
        return calibration_images(graph, source, calibration=str(chosen or ""))

    def _once(self, what: str, opened: Callable[[], Dataset]) -> Dataset:
        if what not in self._opened:
            self._opened[what] = opened()
        return self._opened[what]


def validate_fields(recipe: Recipe) -> Mapping[str, Any]:
    """The values of a recipe by which accuracies are measured."""
    if recipe.train.loss is not None:
        return {}
    geometry = recipe.input.geometry
    return {**fields_of("decision", recipe.decision), **({"input.geometry": geometry} if geometry else {})}


def source_of_tests(recipe: Recipe, folder: Path, images: Path | None) -> str:
    """The recipe's test images, or the `images` that a bundle brought, as what opens them names them."""
    source = recipe.data.source if images is None else str(images)
    chosen = test_set_of(recipe, folder)
    if chosen is None or (images == folder / PACKED_IMAGES and chosen == folder / TEST_SET):  # packed by that manifest
        return source
    return f"{chosen}:{source}"


def test_set_of(recipe: Recipe, folder: Path) -> Path | None:
    """The manifest of the recipe's test images: the one that a bundle brought, if that is it."""
    named, bundle = recipe.data.test, installed_bundle(folder)
    if not named:
        return None
    return folder / TEST_SET if bundle is not None and bundle.test_set == named else Path(named)


def identity_of_tests(shop: Workshop) -> dict[str, str]:
    """What changes with the test images; nothing where they are not here. Raises `DataError` for a manifest that is not
    to be read."""
    if (chosen := test_set_of(shop.recipe, shop.folder)) is not None:
        return {"test_set": read_manifest(chosen).title}
    return image_identity(TEST_IMAGES, shop.test_source, "test")


def image_identity(key: str, source: str, split: Split) -> dict[str, str]:
    """What changes with the images of a split; nothing where they are not here."""
    found = images_sha256(source, split)
    return {} if found is None else {key: found}


def identity_of_calibration(shop: Workshop) -> dict[str, str]:
    """Which images calibrate, or which they are chosen from; nothing where their file stayed behind."""
    name, facts = shop.recipe.data.calibration, dict[str, str]()
    if not name:
        data = shop.recipe.data
        return image_identity("calibration_images_sha256", data.calibration_source or data.source, "train")
    if name:
        with contextlib.suppress(DataError):
            if rule := rule_text(name):
                facts["calibration_rule"] = rule
            if (manifest := resolved(name, shop.folder)) is not None:
                facts["data_sha256"] = manifest.sha256
    return facts
