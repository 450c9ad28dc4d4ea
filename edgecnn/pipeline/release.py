"""What passed its gate, packed for the boards: engines, their sidecars, golden images, signed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecnn.artifact.external import external_files
from edgecnn.artifact.run_folder import VERDICT as RUN_VERDICT
from edgecnn.artifact.run_folder import ResultFile, TargetRun
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of, sidecar_path, verified_sidecar
from edgecnn.artifact.signature import REQUIRED, is_required, sign, signature_path
from edgecnn.artifact.temporary import temporary_folder
from edgecnn.artifact.trust import DEFAULT_KEY
from edgecnn.artifact.write import check_output
from edgecnn.backends import load_backend
from edgecnn.bundle.device import opened_path
from edgecnn.bundle.release import (
    ENGINE,
    GOLDEN,
    MANIFEST,
    REFERENCE,
    VERDICT,
    Release,
    ReleasedEngine,
    manifest_text,
    release_from_json,
    release_name,
)
from edgecnn.bundle.tar import Opened, bundled_file, write_tar
from edgecnn.data.open import listing_each_folder_once
from edgecnn.data.sources.packed import write_packed
from edgecnn.errors import ArtifactError, DataError, EdgecnnError, MeasurementError, RecipeError
from edgecnn.measure.golden import golden_positions, sqnr_limit
from edgecnn.measure.predict import Predictions, read_predictions, require_same_images, write_predictions
from edgecnn.pipeline.device import bundled_images
from edgecnn.pipeline.find import find_run
from edgecnn.pipeline.install import self_test
from edgecnn.pipeline.workshop import source_of_tests
from edgecnn.recipe.rules import require_classifier
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.results.accuracy import Accuracy
from edgecnn.results.release import Released, ReleasedRow
from edgecnn.results.report import Measurement
from edgecnn.steps._images import open_images
from edgecnn.steps.report import report_of

Say = Callable[[str], None]
SMALLEST_FIRST = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class _Chosen:
    """An engine that passed, with the predictions that it was compared with."""

    recipe: Recipe
    run: TargetRun
    accuracy: Accuracy
    engine: Path
    sidecar: Sidecar
    reference: Path


@listing_each_folder_once()
def release(
    runs: Sequence[str],
    output: Path,
    *,
    engine: str = "",
    key: Path | None = None,
    signed: bool = True,
    threads: int | None = None,
    say: Say = lambda line: None,
) -> Released:
    """Pack an engine of each target that was judged in `runs` into the tar `output`, for the device it was judged on.

    An `engine` is named as in the report; by default it is that of the smallest precision. With it go its sidecar, the
    verdict, and 20 golden images on which it agrees with its reference, with the reference's logits and the limits that
    the self-test of `install` keeps to. Where the device is this machine, the engine is tested before it is packed.
    Manifest and sidecars are `signed` with the SSH `key`, by default ~/.ssh/id_ed25519.

    Raises `MeasurementError` for a target whose verdict is not PASS, or is not of what is there now, and for an engine
    that fails its self-test; `RecipeError` for an engine that is not to be had, or for two of one device or of other
    classes; `ArtifactError`, `DataError` and `WriteError`.
    """
    check_output(output, ".tar")
    if not signed and is_required():
        raise ArtifactError(f"{output}: not to be signed, where {REQUIRED} demands it", "leave --unsigned out")
    signing = (key or DEFAULT_KEY).expanduser() if signed else None
    chosen = [_chosen(recipe, run, engine) for name in runs for recipe, run in _judged(name, say)]
    _require_one_classifier(chosen)
    with temporary_folder(output) as made:
        files, rows, tested = dict[str, Opened](), list[ReleasedEngine](), list[bool]()
        for one in chosen:
            row, own = _packed(one, made / one.run.device.engine_key)
            rows.append(row)
            files |= {f"{row.device_key}/{name}": opened for name, opened in own.items()}
        if signing:
            files |= _signatures(files, rows, signing)
        for one, row in zip(chosen, rows, strict=True):
            if is_required():
                _sign_golden(files, made / row.device_key)
            tested.append(_tested_here(one, row, made / row.device_key, threads, say))
        named = tuple(bundled_file(path, opened) for path, opened in files.items())
        manifest = manifest_text(Release(engines=tuple(rows), files=named))
        release_from_json(manifest, str(output))
        signature = sign([manifest], signing)[0] if signing else b""
        sizes = {file.path: (file.size, files[file.path]) for file in named}
        write_tar(output, manifest, sizes, MANIFEST, signature)
    return Released(
        output=str(output),
        release=release_name(manifest),
        signed=signed,
        size_mb=output.stat().st_size / 1e6,
        engines=tuple(_row(row, here) for row, here in zip(rows, tested, strict=True)),
    )


def _judged(name: str, say: Say) -> list[tuple[Recipe, TargetRun]]:
    """The targets of a run that were measured; raises `MeasurementError` where one of them did not pass."""
    recipe, runs = find_run(name, say=say)
    require_classifier(recipe, "a release")
    for run in runs:
        verdict = report_of(run, recipe).verdict
        if verdict.verdict != "PASS":
            open_ones = [c for c in verdict.checks if verdict.counts_as(c) != "PASS"]
            why = "; ".join(f"{c.name} {c.tolerance}: {verdict.counts_as(c)}" for c in open_ones[:3])
            raise MeasurementError(
                f"{run.folder}: its verdict is {verdict.verdict}, a release holds what passed: {why or 'no checks'}",
                f"`edgecnn gate {name}` says why; what does not pass is left out of the recipe, or made better",
            )
    return [(recipe, run) for run in runs]


def _chosen(recipe: Recipe, run: TargetRun, name: str) -> _Chosen:
    wanted = _wanted(run, name)
    file = next(f for f in run.accuracies if f.content.name == wanted.name)
    engine, reference = _parents(run, file)
    sidecar = verified_sidecar(engine)
    if not run.device:
        raise MeasurementError(f"{run.folder}: was not timed: for which device it is, is not known", "`edgecnn bench`")
    return _Chosen(recipe, run, file.content.accuracy, engine, sidecar, reference)


def _wanted(run: TargetRun, name: str) -> Measurement:
    """The engine of that name, by default the one of the smallest precision."""
    real = [m for m in run.measurements if m.engine.role == "engine" and m.accuracy and not m.simulated]
    names = ", ".join(m.name for m in real) or "none"
    if name:
        if found := [m for m in real if m.name == name]:
            return found[0]
        simulated = any(m.name == name and m.simulated for m in run.measurements)
        raise RecipeError(
            f"{run.folder}: --engine {name}: {'is only simulated there' if simulated else 'no such engine'}",
            f"its engines are: {names}",
        )
    for precision in SMALLEST_FIRST:
        found = [m for m in real if m.engine.precision_requested == precision]
        if len(found) > 1:
            raise RecipeError(
                f"{run.folder}: has several engines of {precision}: {', '.join(m.name for m in found)}",
                "name the one to release with --engine",
            )
        if found:
            return found[0]
    raise RecipeError(f"{run.folder}: holds no engine that could be released: {names}", "`edgecnn run RECIPE` there")


def _parents(run: TargetRun, file: ResultFile) -> tuple[Path, Path]:
    """The engine that an accuracy is of, and the saved predictions that it was compared with, as they were then."""
    by_kind = dict[str, Path]()
    for name, digest in (file.provenance.parents if file.provenance else {}).items():
        path = run.folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise MeasurementError(
                f"{file.path}: was measured with a {name} that is not there any more", "measure again: `edgecnn run`"
            )
        by_kind[read_sidecar(path).kind] = path
    if missing := [kind for kind in ("engine", "predictions") if kind not in by_kind]:
        raise MeasurementError(
            f"{file.path}: was not made from an engine and saved predictions: {missing[0]} is missing",
            "make it with `edgecnn run`, or with `edgecnn validate ENGINE --reference reference.npz`",
        )
    return by_kind["engine"], by_kind["predictions"]


def _require_one_classifier(chosen: Sequence[_Chosen]) -> None:
    first, seen = chosen[0], dict[str, Path]()
    for one in chosen:
        device_key = one.run.device.engine_key
        if device_key in seen:
            raise RecipeError(
                f"{one.run.folder}: is for the same device as {seen[device_key]}: {device_key}", "name one of them"
            )
        seen[device_key] = one.run.folder
        if (one.sidecar.labels, one.accuracy.classes) != (first.sidecar.labels, first.accuracy.classes):
            raise RecipeError(
                f"{one.run.folder}: tells other classes apart than {first.run.folder}",
                "make a release of each: who serves it takes either for the other",
            )


def _packed(one: _Chosen, folder: Path) -> tuple[ReleasedEngine, dict[str, Opened]]:
    """What the release says of an engine, and its files by their names; the golden ones are made in `folder`."""
    folder.mkdir()
    golden, described = _golden(one, folder)
    name = ENGINE + one.engine.suffix
    files = {
        name: opened_path(one.engine),
        sidecar_path(Path(name)).name: opened_path(sidecar_path(one.engine)),
        GOLDEN: opened_path(folder / GOLDEN),
        REFERENCE: opened_path(folder / REFERENCE),
        sidecar_path(Path(REFERENCE)).name: _opened(described),
        VERDICT: opened_path(one.run.folder / RUN_VERDICT),
    }
    weights = external_files(one.engine) if one.engine.suffix == ".onnx" else {}
    if taken := sorted(files.keys() & weights.keys()):
        raise ArtifactError(f"{one.engine}: its weights lie in {taken[0]!r}, a name of the release", "rename that file")
    files |= {location: opened_path(path) for location, path in weights.items()}
    row = ReleasedEngine(
        recipe=one.recipe.name,
        target=one.run.target,
        device_key=one.run.device.engine_key,
        engine=name,
        name=one.accuracy.name,
        precision=one.sidecar.precision_requested,
        backend=one.sidecar.backend,
        device=one.run.device,
        golden_n=len(golden.ids),
        sqnr_db_min=sqnr_limit(one.accuracy),
    )
    return row, files


def _golden(one: _Chosen, folder: Path) -> tuple[Predictions, bytes]:
    """The reference's predictions on the golden images, which are written to `folder` with them, and their sidecar with
    the moment of the whole's making: the same run gives the same release."""
    reference, known = read_predictions(one.reference), read_sidecar(one.reference)
    changed = {*(image.id for image in one.accuracy.changed), *one.accuracy.unreadable}
    chosen = sorted(reference.ids[k] for k in golden_positions(reference, changed))
    found = reference.without(set(reference.ids) - set(chosen))
    run = one.run.folder.parent
    dataset = open_images(known, source_of_tests(one.recipe, run, bundled_images(one.recipe, run)), "test")
    position = {name: k for k, name in enumerate(dataset.ids)}
    if missing := next((name for name in found.ids if name not in position), None):
        raise DataError(
            f"{dataset.name}: has no image {missing!r}, on which the reference was made",
            f"make it again on these: `edgecnn run {one.recipe.path} --until reference`",
        )
    images = dataset.subset([position[name] for name in found.ids])
    digests = [images.sha256(k) for k in range(len(images))]
    require_same_images(images.ids, digests, dict(zip(found.ids, found.sha256s, strict=False)))
    if write_packed(folder / GOLDEN, images, "test", "") != len(found.ids):
        raise DataError(f"{dataset.name}: a golden image cannot be read", "check the files of the test images")
    told = replace(known, parents={}, made_by="edgecnn release", facts={**known.facts, "golden": True})
    written = write_predictions(folder / REFERENCE, found, told)
    dated = json.dumps(to_plain(replace(written, created=known.created)), indent=1, ensure_ascii=False)
    return found, f"{dated}\n".encode()


def _sign_golden(files: Mapping[str, Opened], golden: Path) -> None:
    """Put the sidecar of the golden predictions, and its signature, beside them as they are packed."""
    described = sidecar_path(golden / REFERENCE)
    for path in (described, signature_path(described)):
        with files[f"{golden.name}/{path.name}"]() as file:
            path.write_bytes(file.read())


def _tested_here(one: _Chosen, row: ReleasedEngine, golden: Path, threads: int | None, say: Say) -> bool:
    """Whether this machine is the device; the engine then has to pass."""
    try:
        here = load_backend(row.backend).device(threads).engine_key
    except EdgecnnError:
        here = ""
    if here != row.device_key:
        say(f"{one.engine}: not tested here, it is for {row.device_key}")
        return False
    found = self_test(one.engine, golden, row, threads)
    if found.verdict != "PASS":
        raise MeasurementError(
            f"{one.engine}: fails its self-test on {row.golden_n} golden images: {'; '.join(found.failures())}",
            "it is not what was validated, or does not give twice what it gave once: `edgecnn validate` it again",
        )
    return True


def _signatures(files: Mapping[str, Opened], rows: Sequence[ReleasedEngine], key: Path) -> dict[str, Opened]:
    """Of the sidecars of each engine and its golden predictions, beside them."""
    names = [f"{row.device_key}/{sidecar_path(Path(name)).name}" for row in rows for name in (row.engine, REFERENCE)]
    contents = []
    for name in names:
        with files[name]() as file:
            contents.append(file.read())
    signed = zip(names, sign(contents, key), strict=True)
    return {f"{signature_path(Path(name))}": _opened(signature) for name, signature in signed}


def _opened(content: bytes) -> Opened:
    return lambda: io.BytesIO(content)


def _row(row: ReleasedEngine, tested_here: bool) -> ReleasedRow:
    return ReleasedRow(
        recipe=row.recipe,
        target=row.target,
        device_key=row.device_key,
        name=row.name,
        precision=row.precision,
        golden_n=row.golden_n,
        sqnr_db_min=row.sqnr_db_min,
        tested_here=tested_here,
    )
