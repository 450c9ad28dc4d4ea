"""`edgecnn validate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgecnn.cli.on import ON, run_on
from edgecnn.cli.options import ALLOWED, DATA, JSON, PROVIDER, REQUIRE_SIGNATURE, THREADS, TRUST, TRUST_CODE
from edgecnn.cli.printing import print_json, print_rows, stdout_kept
from edgecnn.cli.progress import Counter
from edgecnn.output import print_text, say
from edgecnn.recipe.schema import OrtProvider

if TYPE_CHECKING:
    from edgecnn.measure.multi_scale import MultiScale
    from edgecnn.measure.ten_crop import TenCrop
    from edgecnn.results.accuracy import Accuracy
    from edgecnn.results.divergence import EngineDivergence
    from edgecnn.results.serving import ServingLoss

EXAMPLES = """
edgecnn validate runs/lenet5-digits/cpu/int8.onnx --reference runs/lenet5-digits/reference.npz --data digits
edgecnn validate runs/lenet5-digits/cpu/int8.onnx --reference runs/lenet5-digits/reference.npz --data digits --stages
edgecnn validate runs/lenet5-digits/cpu/int8.onnx --reference runs/lenet5-digits/reference.npz --data digits --bisect
edgecnn validate int8.onnx --reference reference.npz --data val --geometry letterbox  # needs images
edgecnn validate int8.onnx --reference reference.npz --data val --tta ten-crop --scales 256,288  # needs images
edgecnn validate pool.int8.onnx --reference pool.fp32.onnx --data val  # needs a features graph
edgecnn validate faces.int8.onnx --reference faces.reference.npz --data lfw:DIR  # needs an embedding network
edgecnn validate theirs.onnx --reference reference.npz --data val  # needs a graph of another tool
edgecnn validate int8.plan --reference reference.npz --data val --on jetson  # needs a device in the network
"""


DECISIONS_SHOWN = 20  # classes; --json has all


def validate(
    context: typer.Context,
    engine: Annotated[Path, typer.Argument(help="A .plan, or an .onnx.")],
    reference: Annotated[Path, typer.Option(help="Saved predictions (.npz), a graph, or a checkpoint.")],
    data: Annotated[str, DATA],
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images that run at once.  [default: what the engine serves, up to 64]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="Name the stage, and between graphs the node, where predictions move.")
    ] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Name the first layer of the engine that differs from its graph.")
    ] = False,
    tta: Annotated[
        Literal["ten-crop"] | None, typer.Option(help="Also the competitions' figure, an upper reference.")
    ] = None,
    scales: Annotated[
        str,
        typer.Option(help="Also over several sizes of the short side, pixels: 224,256,288; with --tta ten crops each."),
    ] = "",
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Decide at this probability: one number, or CLASS=NUMBER for each class that has one."),
    ] = None,
    reject: Annotated[bool, typer.Option("--reject", help="Below the threshold nothing is decided.")] = False,
    geometry: Annotated[
        Literal["nvinfer-squash", "letterbox", "cv2-bilinear", "no-antialias"] | None,
        typer.Option(help="Also what the serving side's resize and crop cost, in place of the network's own."),
    ] = None,
    threads: Annotated[int | None, THREADS] = None,
    provider: Annotated[OrtProvider | None, PROVIDER] = None,
    trust: Annotated[bool, TRUST] = False,
    trust_code: Annotated[bool, TRUST_CODE] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write X.accuracy.json, and be resumable.")
    ] = None,
    require_signature: Annotated[bool, REQUIRE_SIGNATURE] = False,
    allowed_signers: Annotated[Path | None, ALLOWED] = None,
    on: Annotated[list[str] | None, ON] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure an engine's accuracy against its reference.

    Both see the same images, and what changes between them is counted image by image.
    """
    if on:
        _validate_on(context, on, reference, data)
    if _gives_features(engine, embedding=True):
        from edgecnn.cli.pairs import validate_pairs

        validate_pairs(engine, reference, output, data, context.params)
        return
    if _gives_features(engine):
        _validate_features(engine, reference, output, data, context.params)
        return
    from edgecnn.diagnose.stages import describe
    from edgecnn.records import to_plain
    from edgecnn.remote.engines import bisect_engine
    from edgecnn.remote.engines import validate as step
    from edgecnn.steps._foreign import is_foreign
    from edgecnn.steps._shared import is_first
    from edgecnn.steps.validate import ValidateSettings, compare_stages
    from edgecnn.steps.validate_views import validate_views

    if is_foreign(engine) and not is_foreign(reference) and is_first():
        say(f"{engine}: has no sidecar: preprocessing and labels are those of {reference}")
    progress, sizes = Counter("validate", "images"), _sizes(scales)
    with stdout_kept():
        found = step(
            engine,
            reference,
            output,
            data=data,
            batch=batch,
            threads=threads,
            provider=provider,
            strict=strict,
            trust=trust,
            trust_code=trust_code,
            threshold=_thresholds(threshold or []),
            reject=reject,
            geometry=geometry,
            progress=progress,
        )
    settings = ValidateSettings(batch, threads, strict, trust, trust_code, provider)
    more_views = partial(validate_views, scales=sizes, ten_crop=bool(tta), settings=settings, progress=progress)
    crops = more_views(engine, reference, data=data) if tta or sizes else None
    hops = compare_stages(engine, reference, data=data, settings=settings, geometry=geometry) if stages else []
    if not is_first():
        return
    with stdout_kept():
        parted = bisect_engine(engine, data=data, threads=threads, provider=provider, trust=trust) if bisect else None
    row = to_plain(found) | (to_plain(crops) if crops else {})
    if as_json:
        more = ({"stages": to_plain(hops)} if stages else {}) | ({"bisect": to_plain(parted)} if parted else {})
        print_json(row | more)
        return
    _print_accuracy(found, row)
    if crops:
        _print_crops(crops)
    if stages:
        print_text(*describe(hops))
    if parted:
        _print_bisection(parted)


def _gives_features(engine: Path, *, embedding: bool = False) -> bool:
    from edgecnn.artifact.sidecar import read_sidecar, sidecar_path

    known = read_sidecar(engine) if sidecar_path(engine).exists() else None
    return known is not None and (known.embeds if embedding else bool(known.features))


def _validate_features(
    engine: Path, reference: Path, output: Path | None, data: str, options: dict[str, object]
) -> None:
    from edgecnn.errors import ArtifactError
    from edgecnn.records import record_from_mapping, to_plain
    from edgecnn.steps.validate import ValidateSettings
    from edgecnn.steps.validate_features import validate_features

    fields = ValidateSettings.__dataclass_fields__
    given = {name: value for name, value in options.items() if name in fields}
    settings = record_from_mapping(ValidateSettings, given, "the options", "see --help")
    classifying = {k: options[k] for k in ("stages", "bisect", "tta", "scales", "reject", "threshold", "geometry")}
    if asked := [f"--{name}" for name, value in classifying.items() if value]:
        raise ArtifactError(
            f"{engine}: a features graph, which decides nothing: {', '.join(asked)}",
            "leave it out: there are no classes",
        )
    with stdout_kept():
        found = validate_features(
            engine, reference, output, data=data, settings=settings, progress=Counter("validate", "images")
        )
    if options["as_json"]:
        print_json(to_plain(found))
        return
    print_rows(to_plain(found)["outputs"], ["name", "shape", "n", "nan_count", "sqnr_db", "cosine_mean", "cosine_min"])
    if found.unreadable:
        print_text(f"{len(found.unreadable)} images cannot be read, the first: {found.unreadable[0]}")


def _validate_on(context: typer.Context, hosts: list[str], reference: Path, data: str) -> None:
    """On other machines, which get the images in one file."""
    from edgecnn.artifact.temporary import scratch_folder
    from edgecnn.remote.command import pack_images

    whole_pictures = ("geometry", "tta", "scales", "stages", "bisect", "trust_code")
    with scratch_folder() as scratch:
        images = pack_images(reference, data, scratch)
        files = ("engine", "reference", "data")
        run_on(context, hosts, files=files, outputs=("output",), refused=whole_pictures, replaced={"data": images})


def _print_accuracy(found: Accuracy, row: dict[str, object]) -> None:
    print_rows([row], ["name", "n", "top1_pct", "reference_top1_pct", "top5_pct", "agreement_pct", "sqnr_db"])
    _print_drop(found)
    if not found.n_labelled:
        print_text("no labels: agreement alone is measured (class folders need a model whose labels are known)")
    if found.calibration_error_pp is not None:
        print_text(f"confidence is {found.calibration_error_pp:.2f} pp from the reference's")
    if found.decision_flips_n is not None:
        _print_decisions(found)
    for finding in found.findings:
        print_text(finding)
    if served := found.serving:
        print_text(_served(served))


def _print_drop(found: Accuracy) -> None:
    if found.top1_drop_pp is not None and found.top1_drop_ci_pp is not None:
        low, high = found.top1_drop_ci_pp
        print_text(f"top-1 drop {found.top1_drop_pp:.2f} pp, 95 % interval [{low:.2f}, {high:.2f}]")
        print_text(f"{found.top1_lost} lost, {found.top1_gained} gained, McNemar p = {found.mcnemar_p:.3g}")


def _print_crops(crops: TenCrop | MultiScale) -> None:
    found = {key.removeprefix("ten_crop_").removeprefix("multi_scale_"): v for key, v in vars(crops).items()}
    what = "ten-crop"
    if sizes := found.get("sizes_px"):
        what = f"{'ten-crop' if found['crops'] > 1 else 'center crop'} at {', '.join(map(str, sizes))} pixels"
    top5 = "" if found["top5_pct"] is None else f", top-5 {found['top5_pct']:.2f} %"
    print_text(f"{what}, not what an engine does: top-1 {found['top1_pct']:.2f} %{top5} (n = {found['n']})")
    if broken := found["nan_count"]:
        print_text(f"{what}: logits that are not finite (NaN or infinite) on {broken} of {found['n']} images")


def _sizes(text: str) -> tuple[int, ...]:
    from edgecnn.errors import RecipeError

    try:
        return tuple(int(size) for size in text.split(",")) if text else ()
    except ValueError:
        raise RecipeError(f"--scales {text}: not whole numbers of pixels", "for example --scales 224,256,288") from None


def _print_bisection(found: EngineDivergence) -> None:
    from edgecnn.diagnose.engine_bisect import describe_divergence
    from edgecnn.records import to_plain

    rows = [to_plain(seen) for seen in found.seen if seen.build]
    if rows:
        print_rows(rows, ["build", "tensor", "sqnr_db", "explained_db", "differs"])
    print_text(*describe_divergence(found))


def _print_decisions(found: Accuracy) -> None:
    from edgecnn.records import to_plain

    rejected = found.decision_rejected_pct, found.reference_decision_rejected_pct
    print_text(f"at the threshold: {found.decision_flips_n} of {found.n} decisions are not the reference's")
    print_text("rejected: {:.2f} %, by the reference {:.2f} %".format(*rejected))
    columns = ["label_name", "n", "recall_pct", "reference_recall_pct", "precision_pct", "reference_precision_pct"]
    print_rows(to_plain(found.decision_classes[:DECISIONS_SHOWN]), columns)


def _thresholds(texts: list[str]) -> float | dict[str, float] | None:
    from edgecnn.errors import RecipeError

    if not texts:
        return None
    pairs = [text.rpartition("=") for text in texts]
    named = {name: number for name, separator, number in pairs if separator}
    if len(named) != len(texts) and len(texts) != 1:
        raise RecipeError(
            f"--threshold {' --threshold '.join(texts)}: one number, or each class once with its own",
            "for example --threshold crack=0.3 --threshold dent=0.5",
        )
    try:
        return {name: float(number) for name, number in named.items()} or float(texts[0])
    except ValueError:
        raise RecipeError(
            f"--threshold {texts[0]}: not a number from 0 to 1", "for example --threshold 0.8, or --threshold crack=0.3"
        ) from None


def _served(found: ServingLoss) -> str:
    agreement = f"agreement with its own {found.serving_agreement_pct:.2f} % (n = {found.serving_n})"
    if found.serving_drop_pp is None or found.serving_drop_ci_pp is None:
        return f"served as {found.serving_geometry}: {agreement}; no labels, so no loss"
    low, high = found.serving_drop_ci_pp
    return (
        f"served as {found.serving_geometry}: top-1 {found.serving_top1_pct:.2f} %, drop {found.serving_drop_pp:.2f} "
        f"pp to the same engine, 95 % interval [{low:.2f}, {high:.2f}], {agreement}"
    )
