"""What contradicts itself although each value is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable

from edgecnn.errors import RecipeError, nearest
from edgecnn.recipe.schema import ExportSettings, Recipe
from edgecnn.recipe.verification import VerificationSettings
from edgecnn.results.build_routes import problem_of
from edgecnn.targets import Target, targets

VERIFYING = ("verification_drop_pp_max", "embedding_cosine_min")
CLASSIFYING = (
    "top1_drop_pp_max", "top5_drop_pp_max", "agreement_pct_min", "top1_regression_pp_max", "top1_pct_min",
    "top5_pct_min", "class_top1_pct_min", "class_recall_pct_min", "calibration_error_pp_max", "serving_drop_pp_max",
)  # fmt: skip


def require_classifier(recipe: Recipe, what: str) -> None:
    """Raise `RecipeError` where the recipe is of an embedding, of which there is no `what`."""
    if recipe.train.loss is not None:
        raise RecipeError(
            f"{recipe.path}: train.loss = {recipe.train.loss!r}: an embedding network; {what} is of classifiers",
            "of an embedding network there are run, gate and report, and what takes its graphs and engines",
        )


def find_contradictions(recipe: Recipe) -> list[str]:
    """Every one, as a line that names its keys."""
    problems = []
    if not recipe.model.name and not recipe.model.own:
        problems.append("model.name is missing: which network is it? (or model.python, model.timm or model.onnx)")
    if not recipe.data.source:
        problems.append("data.source is missing: a data set name, or an image folder")
    if recipe.data.test and not recipe.data.test.endswith(".txt"):
        problems.append(f"data.test = {recipe.data.test!r}: a path to a test set, NAME.txt, was expected")
    for name, values in (("precisions", recipe.precisions), ("targets", recipe.targets)):
        if twice := sorted({v for v in values if values.count(v) > 1}):
            problems.append(f"{name} = {list(values)}: {twice[0]!r} stands there more than once")
    for name in recipe.targets:
        if name not in (known := targets()):
            close = nearest(name, known) or f"allowed: {', '.join(known)}"
            problems.append(f"targets: there is no device {name!r}; {close}")
    batch = recipe.batch
    problems += batch.find_contradictions()
    if not batch.min <= recipe.bench.batch <= batch.max:
        problems.append(f"bench.batch = {recipe.bench.batch} is not within batch.min {batch.min} .. max {batch.max}")
    elif not any(least <= recipe.bench.batch <= most for least, *_, most in batch.all_profiles):
        problems.append(f"bench.batch = {recipe.bench.batch} is within none of batch.profiles")
    problems += _find_build_contradictions(recipe) + _find_profile_contradictions(recipe)
    problems += _find_network_contradictions(recipe) + _find_decision_contradictions(recipe)
    if recipe.tolerances.serving_drop_pp_max is not None and recipe.input.geometry is None:
        problems.append("tolerances.serving_drop_pp_max needs input.geometry: what does the serving side do?")
    problems += _find_dla_contradictions(recipe) + _find_training_contradictions(recipe)
    return problems + _find_verification_contradictions(recipe)


def _find_dla_contradictions(recipe: Recipe) -> list[str]:
    if recipe.tolerances.dla_gpu_layers_max is None:
        return []
    lacking = [name for name in recipe.targets if name in targets() and not targets()[name].dla_cores]
    problems = [f"tolerances.dla_gpu_layers_max: target {name!r} has no DLA that is known" for name in lacking]
    if set(recipe.precisions) == {"fp32"}:
        problems.append("tolerances.dla_gpu_layers_max: a DLA computes FP16 and INT8, and precisions has neither")
    return problems


def _find_build_contradictions(recipe: Recipe) -> list[str]:
    if not recipe.build.weakly_typed:
        return _find_route_contradictions(recipe)
    problems = [] if "int8" in recipe.precisions else ["build.weakly_typed is of INT8: precisions has no 'int8'"]
    problems += [
        f"build.weakly_typed: only TensorRT 10 has implicit INT8, and target {name!r} is another's"
        for name in _targets_without(recipe, lambda target: target.has_implicit_int8)
    ]
    return problems + _find_route_contradictions(recipe)


def _targets_without(recipe: Recipe, has: Callable[[Target], bool]) -> list[str]:
    """The GPUs without what plans of TensorRT have; a CPU only where nothing beside it has it."""
    known = targets()
    named = [known[name] for name in recipe.targets if name in known]
    some = any(map(has, named))
    return [target.name for target in named if not has(target) and (target.kind == "gpu" or not some)]


def _find_route_contradictions(recipe: Recipe) -> list[str]:
    routes = recipe.build.routes or {}
    problems = [
        f"build.routes.{precision}: precisions has no {precision!r}"
        for precision in routes
        if precision not in recipe.precisions
    ]
    problems += [f"build.routes.{name}: {problem}" for name, route in routes.items() if (problem := problem_of(route))]
    without = _targets_without(recipe, lambda target: target.has_build_routes) if routes else []
    return problems + [
        f"build.routes: only TensorRT 11.1 and later has them, and target {name!r} has not" for name in without
    ]


def _find_profile_contradictions(recipe: Recipe) -> list[str]:
    """On a CPU any batch is served; whoever else has no profiles would build for one range in their place."""
    known = targets()
    others = [known[name] for name in recipe.targets if name in known] if recipe.batch.profiles else []
    return [
        f"batch.profiles: only TensorRT and TensorRT-RTX have profiles, and target {target.name!r} is another's"
        for target in others
        if target.kind == "gpu" and not target.has_profiles
    ]


def _find_decision_contradictions(recipe: Recipe) -> list[str]:
    if recipe.decision.threshold is not None or recipe.train.loss is not None:
        return []
    names = ("decision_flips_pct_max", "class_recall_pct_min")
    judged = [name for name in names if getattr(recipe.tolerances, name) is not None]
    return [f"tolerances.{name} needs a decision.threshold at which it is judged" for name in judged]


def _find_network_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    model, given = recipe.model, recipe.input
    named = [key for key in ("name", "python", "timm") if getattr(model, key)]
    if len(named) > 1:
        problems.append(f"{' and '.join(f'model.{key}' for key in named)} are two networks: keep one")
    if model.python and not re.fullmatch(r".+\.py:[^\W\d]\w*", model.python):
        problems.append(f"model.python = {model.python!r}: must be FILE.py:FUNCTION, such as 'net.py:make'")
    if model.python and model.weights == "default":
        problems.append("model.weights = 'default': nobody publishes weights of model.python; name a file of them")
    if model.onnx and not named and model.weights != "none":
        problems.append(f"model.weights = {model.weights!r}: the graph model.onnx has its weights inside")
    if model.own and recipe.train.epochs:
        problems.append(
            f"train.epochs = {recipe.train.epochs}: only networks of the zoo are trained here; leave it out"
        )
    if model.own and recipe.qat.epochs:
        problems.append(f"qat.epochs = {recipe.qat.epochs}: only networks of the zoo are trained here; leave it out")
    if recipe.qat.epochs and "int8" not in recipe.precisions:
        problems.append(f"qat.epochs = {recipe.qat.epochs} trains INT8 graphs: precisions has no 'int8'")
    if model.labels and not model.own:
        problems.append("model.labels is a setting of model.python, model.timm and model.onnx")
    if given.layout and not (model.python or model.onnx):
        problems.append("input.layout is a setting of model.python and model.onnx")
    if given.crop == "none" and given.resize:
        problems.append("input.resize: with input.crop = 'none' the picture is resized to input.size")
    wanted = {"rgb": 3, "bgr": 3, "gray": 1, None: None}[given.channels]
    for key, values in (("mean", given.mean), ("std", given.std)):
        if values is not None and wanted is not None and len(values) != wanted:
            problems.append(f"input.{key} = {list(values)}: input.channels = {given.channels!r} needs {wanted} of them")
    return problems


def _find_training_contradictions(recipe: Recipe) -> list[str]:
    problems = []
    train, transfer, augment = recipe.train, recipe.transfer, recipe.train.augment
    if transfer.train and not re.fullmatch(r"head|all|last-[1-9]\d*", transfer.train):
        problems.append(f"transfer.train = {transfer.train!r}: must be 'head', 'all' or 'last-N' such as 'last-2'")
    if transfer.train and recipe.model.weights == "none":
        problems.append("transfer.train needs weights to start from: model.weights is 'none'")
    if train.lr_schedule == "step" and not train.milestones:
        problems.append("train.lr_schedule = 'step' needs train.milestones, such as [30, 60]")
    if train.epochs and train.warmup_epochs >= train.epochs:
        problems.append(f"train.warmup_epochs = {train.warmup_epochs} leaves nothing of {train.epochs} epochs")
    if train.lr_schedule == "one-cycle" and train.warmup_epochs:
        problems.append("train.warmup_epochs: the one-cycle schedule warms up by itself")
    if (train.early_stop or train.lr_schedule == "plateau") and train.validation == 0:
        problems.append("train.early_stop and the plateau schedule need train.validation > 0 to judge by")
    if train.nesterov and train.optimizer == "sgd" and train.momentum == 0:
        problems.append("train.nesterov needs train.momentum > 0")
    pairs = (("area", augment.area, 1, "shares of the picture"), ("jitter", augment.jitter, 4096, "pixels"))
    for name, pair, most, unit in pairs:
        if pair and (len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most):
            problems.append(f"train.augment.{name} = {list(pair)}: two {unit}, the smaller first, at most {most}")
    if augment.area and augment.jitter:
        problems.append("train.augment.area and train.augment.jitter exclude each other")
    return problems


def _find_verification_contradictions(recipe: Recipe) -> list[str]:
    """An embedding has no classes to decide, and a classifier no distances."""
    train, own, tolerances = recipe.train, recipe.verification, recipe.tolerances
    asked = {"verification": own != VerificationSettings()}
    asked |= {f"tolerances.{key}": getattr(tolerances, key) is not None for key in VERIFYING}
    if train.loss is None:
        return [f"{key} needs train.loss, 'triplet' or 'contrastive'" for key, given in asked.items() if given]
    where = f"train.loss = {train.loss!r}"
    if not train.epochs:
        return [f"{where} needs train.epochs: the threshold is chosen when training is over"]
    problems = []
    if train.batch % own.images_per_class or train.batch < 2 * own.images_per_class:
        problems.append(
            f"train.batch = {train.batch} is no number of classes, two or more, of "
            f"verification.images_per_class = {own.images_per_class}"
        )
    validation, test = own.validation_classes or (), own.test_classes or ()
    for key, names in (("validation_classes", validation), ("test_classes", test)):
        if twice := sorted({n for n in names if names.count(n) > 1}):
            problems.append(f"verification.{key}: {twice[0]!r} stands there more than once")
    if both := sorted({*validation} & {*test}):
        problems.append(f"verification.test_classes: {both[0]!r} is one of the validation classes too")
    without = {
        "train.label_smoothing": train.label_smoothing,
        "train.mixup": train.mixup,
        "train.cutmix": train.cutmix,
        "qat.epochs": recipe.qat.epochs,
        "decision.threshold": recipe.decision.threshold is not None,
        "data.test": recipe.data.test,
        "input.geometry": recipe.input.geometry,
        "model.classes": recipe.model.classes,
        "export": recipe.export != ExportSettings(),
        "build.weakly_typed": recipe.build.weakly_typed,
    }
    problems += [f"{where}: {key} is a classifier's: leave it out" for key, given in without.items() if given]
    judged = [key for key in CLASSIFYING if getattr(tolerances, key) is not None]
    return problems + [f"{where}: tolerances.{key} is a classifier's: leave it out" for key in judged]
