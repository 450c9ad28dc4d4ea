"""How much of a network to train on other images: each way is an ordinary run, on the same images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from edgecnn.artifact.hold import held
from edgecnn.artifact.sidecar import Sidecar, parents_of, tool_versions
from edgecnn.artifact.trial_log import TrialLog
from edgecnn.artifact.write import require_writable, write_json_artifact
from edgecnn.data.dataset import Dataset
from edgecnn.data.open import open_dataset
from edgecnn.data.recipe_input import zoo_preprocessing
from edgecnn.errors import DataError, MeasurementError, RecipeError
from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.threads import spare_threads
from edgecnn.pipeline.preflight import check_recipe
from edgecnn.pipeline.transfer_pairs import answers_for, pair_rows
from edgecnn.pipeline.transfer_rows import Kept, Say, TransferPlan, TransferRun, probe_rows, train_row
from edgecnn.pipeline.workshop import ProgressFor
from edgecnn.recipe.load import load_recipe, parse_override
from edgecnn.recipe.location import require_here
from edgecnn.recipe.schema import Recipe
from edgecnn.records import to_plain
from edgecnn.results.transfer import ALL, HEAD, SCRATCH, TransferRow, TransferTable
from edgecnn.steps import TOOLS
from edgecnn.steps._arguments import FilePath, path_or_none, require_at_least, require_packages
from edgecnn.steps.train import CHECKPOINT
from edgecnn.version import __version__
from edgecnn.zoo import find_model

RECIPE = "transfer-hymenoptera"  # whose settings the rows share where no other is named
FOLDER = Path("runs") / "transfer-table"
FILE = "transfer-table.json"
LAST_STAGES = (2,)
VARIED = ("model.name", "model.weights", "transfer.train", "precisions", "targets")  # what the rows themselves set
FEWEST_IMAGES = 2  # of each class


def transfer_table(
    data: FilePath,
    output: FilePath | None = None,
    *,
    models: Sequence[str],
    weights: Sequence[str] = (),
    last_stages: Sequence[int] = LAST_STAGES,
    recipe: FilePath = RECIPE,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    retrain: bool = False,
    say: Say = lambda line: None,
    progress: ProgressFor = lambda step: None,
) -> TransferTable:
    """Compare ways to use networks of the zoo on the labelled images of `data`, which has a training and a test split.

        import edgecnn as ec
        table = ec.transfer_table("imgs", models=["resnet18"])
        table.answers[0].name, table.answers[0].lost_pp_max

    The rows of each of `models`: a new head on frozen features, the last N stages and the head for each of
    `last_stages`, every layer, and every layer from scratch, as Yosinski et al. (How transferable are features in deep
    neural networks?, 2014) and Kornblith et al. (Do better ImageNet models transfer better?, 2019) compare them; and a
    linear classifier on each stage, as `edgecnn probe` fits them. Each is a run of `recipe` with `overrides`
    ("train.epochs=5") up to `validate`, in a folder of its own in `output` (runs/transfer-table); the probes take its
    preprocessing. `weights` are a start for each model, the published ones where they are left out.

    Of a network that training has left dead no INT8 can be made: its row says why (`failed`), and is no answer. Called
    again after a kill, it goes on with what is complete. Writes transfer-table.json in `output`. Raises
    `DataError` for one class, fewer than two training images of a class or no test split, `RecipeError` for weights
    that nobody has, and for settings that the rows themselves vary, `ModelError` for an unknown network, and the errors
    of a run.
    """
    require_at_least(1, threads=threads)
    for count in last_stages:
        require_at_least(1, last_stages=count)
    folder = path_or_none(output) or FOLDER
    base = _load_base(os.fspath(recipe), overrides, os.fspath(data))
    starts = _starts(models, weights)
    for step in ("train", "export"):
        require_packages(step)
    require_writable(folder, option="--out")
    _require_beside(folder, base.data.source)
    plans = [_plan(base, folder, start, last_stages) for start in starts]
    threads = spare_threads(threads)
    rows: list[TransferRow] = []
    with held(folder), TrialLog(folder / ".transfer-table.jsonl", f"transfer table {__version__}") as log:
        kept = Kept(log)
        # First what is cheap and tells of a folder with other weights, and of settings that do not train.
        heads = [train_row(plan.runs[0], plan.test, threads, retrain, kept, say, progress) for plan in plans]
        for plan, head in zip(plans, heads, strict=True):
            probes = probe_rows(plan, threads, kept, say)
            others = [train_row(run, plan.test, threads, retrain, kept, say, progress) for run in plan.runs[1:]]
            rows += [head, *others, *probes]
        _require_same_images(rows)
        table = _assemble(base, plans, threads, rows)
        write_json_artifact(folder / FILE, to_plain(table), _provenance(base, folder, table))
    return table


def _assemble(base: Recipe, plans: Sequence[TransferPlan], threads: int, rows: Sequence[TransferRow]) -> TransferTable:
    pairs = pair_rows(rows)
    first = plans[0].train
    return TransferTable(
        data=base.data.source,
        recipe=base.name,
        classes=len(first.label_names or ()),
        n_train=len(first),
        n=rows[0].n,
        epochs=base.train.epochs,
        threads=threads,
        rows=tuple(rows),
        pairs=tuple(pairs),
        answers=tuple(answers_for(rows, pairs)),
    )


def _provenance(base: Recipe, folder: Path, table: TransferTable) -> Sidecar:
    return Sidecar(
        kind="transfer-table",
        made_by="edgecnn transfer-table",
        recipe=base.name,
        fields=base.values("train", "quantize"),
        parents=parents_of(folder / FILE, *(folder / row.folder / CHECKPOINT for row in table.rows if row.folder)),
        tools=tool_versions(*TOOLS["train"], *TOOLS["quantize"]),
        device=cpu_device(table.threads),
    )


def _require_same_images(rows: Sequence[TransferRow]) -> None:
    for row in rows:
        if row.images_sha256 != rows[0].images_sha256:
            raise MeasurementError(
                f"{row.name} was measured on other test images than {rows[0].name}",
                "leave the images alone while a table is made, and start again",
            )


def _load_base(recipe: str, overrides: Sequence[str], data: str) -> Recipe:
    """The settings that the rows share; raises `RecipeError` for one of those that they vary."""
    require_here(data, "DATA")
    for override in overrides:
        key, _ = parse_override(override)
        if key in VARIED or key in {own.partition(".")[0] for own in VARIED}:
            raise RecipeError(
                f"--set {override}: the rows of the table set {key}", "--model, --weights and --last-stages vary them"
            )
    base = load_recipe(recipe, overrides, data=data)
    if base.train.epochs == 0:
        raise RecipeError(f"{base.path}: train.epochs is 0: nothing would be trained", "--set train.epochs=10")
    return base


def _require_beside(folder: Path, data: str) -> None:
    """Raises `RecipeError` for a folder inside that of the images, whose runs the next call would take for classes."""
    images = Path(data)
    if images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise RecipeError(f"--out {folder}: it is inside the images ({data})", "choose a folder beside them with --out")


def _starts(models: Sequence[str], weights: Sequence[str]) -> list[tuple[str, str]]:
    """(network, weights) of each; raises `RecipeError` and `ModelError` before anything is looked at."""
    if not models:
        raise RecipeError("no network is named", "--model resnet18; `edgecnn models` lists them")
    if weights and len(weights) != len(models):
        raise RecipeError(
            f"{len(weights)} weights for {len(models)} networks", "--weights once for each --model, in the same order"
        )
    cards = [find_model(name) for name in models]
    names = [card.name for card in cards]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"--model {twice} stands there more than once", "name each network once")
    starts = list(zip(names, weights or ["default"] * len(names), strict=True))
    for card, (name, start) in zip(cards, starts, strict=True):
        if start == "none" or (start == "default" and card.weights is None):
            why = (
                "there are no weights to train a head on" if start == "none" else "nobody publishes weights that fit it"
            )
            raise RecipeError(f"{name}: {why}, and head, last-N and all start from some", "--weights FILE of yours")
    return starts


def _plan(base: Recipe, folder: Path, start: tuple[str, str], last_stages: Sequence[int]) -> TransferPlan:
    """The runs of one network, everything about which was looked at: weights, images, stages."""
    from edgecnn.pytorch.training.transfer import count_classes, count_parameters

    model, weights = start
    card = find_model(model)
    ways = [HEAD, *(f"last-{n}" for n in sorted(set(last_stages))), ALL, SCRATCH]
    recipes = {way: _row_recipe(base, model, weights, way) for way in ways}
    check_recipe(recipes[HEAD])
    preprocessing = zoo_preprocessing(recipes[HEAD])
    train = open_dataset(base.data.source, preprocessing, "train")
    _require_classes(train)
    test = open_dataset(base.data.source, preprocessing, "test", train.label_names or ())
    if weights == "default" and card.weights is not None:
        from edgecnn.pytorch.download import fetch

        fetch(card.weights.url, card.weights.sha256)
    count_classes(weights, card, base.model.ema)
    runs = []
    for way, recipe in recipes.items():
        params, learning = count_parameters(recipe, len(train.label_names or ()))
        runs.append(TransferRun(f"{model} {way}", model, way, recipe, folder / f"{model}-{way}", params, learning))
    return TransferPlan(model, tuple(runs), train, test)


def _row_recipe(base: Recipe, model: str, weights: str, way: str) -> Recipe:
    scratch = way == SCRATCH
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, name=model, weights="none" if scratch else weights),
        transfer=dataclasses.replace(base.transfer, train="" if scratch else way),
        precisions=("fp32", "int8"),
        targets=("cpu",),
    )


def _require_classes(train: Dataset) -> None:
    """Raise `DataError` where the training images are not of two classes or more, each of them there twice or more."""
    names = train.label_names or ()
    if train.labels is None or not names:
        raise DataError(f"{train.name}: has no labels to learn", "name an image folder or a data set with labels")
    if len(names) < 2:
        raise DataError(f"{train.name}: one class only ({names[0]})", "a classifier needs at least two classes")
    for label, name in enumerate(names):
        if (count := int((train.labels == label).sum())) < FEWEST_IMAGES:
            raise DataError(
                f"{train.name}: {count} training image{'s' * (count != 1)} of the class {name!r}, at least "
                f"{FEWEST_IMAGES} are needed",
                "add some, or leave the class out",
            )
