"""Make the FP16 or INT8 graph: the precision is fixed here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.artifact.write import check_output, write_artifact
from edgecnn.contract import OLD_OPSET, OPSET
from edgecnn.data.dataset import Dataset
from edgecnn.errors import RecipeError
from edgecnn.machine.cpu import cpu_device
from edgecnn.machine.threads import allowed_threads, limit_threads, spare_threads
from edgecnn.recipe.schema import Around, QuantizeSettings, RangeMethod, fields_of
from edgecnn.records import to_plain
from edgecnn.results.engine import Scheme
from edgecnn.results.quantization import QuantizationReport
from edgecnn.steps import CALIBRATION_IMAGES
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_at_least, require_one_of, require_packages
from edgecnn.steps._images import CORRUPT, DATA_FREE, Progress, without_corrupt, without_images
from edgecnn.steps._provenance import derived, sidecar_of
from edgecnn.steps.calibrate import images_named
from edgecnn.targets import Target, find_target

if TYPE_CHECKING:
    import onnx


Reduced = Literal["fp16", "int8"]
GlobalPool = Literal["float", "int8"]
KEPT = {  # of the report, in the sidecar
    "method",
    "around",
    "int8_share_pct",
    "weighted_nodes",
    "kept_float32",
    "integer_kernels",
    "images_doubted",
}


@dataclasses.dataclass(frozen=True, repr=False)
class Quantized(os.PathLike[str]):
    """The graph that was made: its path, its sidecar, for INT8 what every tensor got, and how TensorRT takes the graph
    otherwise than one would think. It stands for its path wherever a file is asked for."""

    path: Path
    sidecar: Sidecar
    report: QuantizationReport | None
    warnings: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        facts = [self.sidecar.precision_obtained or self.sidecar.precision_requested, self.sidecar.scheme]
        if self.report is not None:
            facts += [f"{self.report.int8_share_pct:.1f} % of multiply-adds in INT8", self.report.method]
        facts += [f"{len(self.warnings)} warnings"] if self.warnings else []
        return f"Quantized({self.path}: {', '.join(filter(None, facts))})"


def quantize(
    graph: FilePath,
    output: FilePath | None = None,
    *,
    precision: Reduced,
    scheme: Literal["tensorrt", "ort-cpu"] = "tensorrt",
    method: RangeMethod = QuantizeSettings.method,
    around: Around = QuantizeSettings.around,
    exclude: Sequence[str] = (),
    global_pool: GlobalPool | None = None,
    ranges: FilePath | None = None,
    data: FilePath = "",
    images: int = CALIBRATION_IMAGES,
    skip_corrupt: bool = False,
    dataset: Dataset | None = None,
    targets: Sequence[Target] | None = None,
    threads: int | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Write the FP16 or INT8 graph of a float32 graph; what is returned stands for its path.

        import edgecnn as ec
        fp16 = ec.quantize("m.fp32.onnx", precision="fp16")
        int8 = ec.quantize("m.fp32.onnx", precision="int8", ranges="m.calib.json", data="imgs/train")

    INT8 takes the `ranges` that `calibrate` wrote, calibration images (`images` of `data` as in `calibrate`, or a
    `dataset`), or both (the method "auto" uses both); FP16 one of them, or none. `scheme` says where Q/DQ pairs stand,
    `around` what is not INT8 ("ort-cpu": always float32), `exclude` which nodes stay out of it: names, patterns
    ("/classifier/*"), and the rules "few-channels", "odd-depthwise" and "gemv" on what TensorRT runs no faster in INT8;
    `global_pool` "int8" lets a global average pool for TensorRT read INT8 where INT8 reads it.
    Input [N, C, H, W] and logits [N, classes] stay float32. Without an `output` the graph lies beside its input:
    X.fp16.onnx, X.int8-tensorrt.onnx. One for TensorRT that one of `targets` (left out: the oldest TensorRT that is
    supported) would refuse is not written. `skip_corrupt` leaves unreadable images out and counts them in the sidecar.
    `explain` adds each tensor's share of the noise in the logits. Raises
    `GraphError` naming the node or tensor, `RecipeError` for INT8 without ranges and images, for a value that is not
    known, and where `exclude` matches nothing or everything.
    """
    graph, ranges = Path(graph), path_or_none(ranges)
    _require_known(precision, scheme, method, around, images, threads)
    output = path_or_none(output) or named(graph, f"{precision}.onnx" if precision == "fp16" else f"int8-{scheme}.onnx")
    check_output(output, ".onnx", graph, ranges)
    source = sidecar_of(graph, verified=True)
    if explain:
        source.require_classes(f"{graph}: --explain asks for the noise in logits")
    if data and dataset is None:
        dataset = images_named(graph, os.fspath(data), images)
    settings = QuantizeSettings(method, around, tuple(exclude) or None, global_pool)
    require_packages("quantize")
    if precision == "fp16" and exclude:
        raise RecipeError("exclude says nothing about an FP16 graph", "leave it out, or make INT8")
    if precision == "int8" and ranges is None and dataset is None:
        raise RecipeError("INT8 needs calibration ranges or images", "give --ranges X.calib.json, --data, or both")
    if precision == "fp16" and ranges is not None and dataset is not None:
        raise RecipeError("FP16 takes its ranges from --ranges or from --data, not from both", "leave one of them out")
    known_targets = ([find_target("gpu")] if targets is None else targets) if scheme == "tensorrt" else []
    simple = _simplified(graph)
    _require_clean(simple, known_targets)  # before any image is run
    excluded = _excluded(simple, settings, scheme)
    corrupt = dict[str, int]()
    if skip_corrupt and dataset is not None:
        dataset, known = without_corrupt(dataset, threads), len(dataset)
        corrupt[CORRUPT] = known - len(dataset)
    with limit_threads(spare_threads(threads)) as threads:
        if precision == "fp16":
            model, made, report = *_fp16(graph, output, ranges, dataset, progress), None
        else:
            model, made, report = _int8(graph, output, settings, scheme, excluded, ranges, dataset, explain, progress)
    made = dataclasses.replace(made, device=cpu_device(threads), facts={**made.facts, **corrupt})
    warnings = (
        _require_clean(model, known_targets) + _idle_rules(exclude, scheme) + _doubts(report) + without_images(made)
    )
    import onnx

    sidecar = write_artifact(output, lambda temporary: onnx.save(model, str(temporary)), made)
    return Quantized(output, sidecar, report, warnings)


def _require_known(precision: str, scheme: str, method: str, around: str, images: int, threads: int | None) -> None:
    require_one_of("precision", precision, Reduced)
    require_one_of("scheme", scheme, Literal["tensorrt", "ort-cpu"])
    require_one_of("method", method, RangeMethod)
    require_one_of("around", around, Around)
    require_at_least(1, images=images, threads=threads)


def _fp16(
    graph: Path, output: Path, ranges: Path | None, dataset: Dataset | None, progress: Progress | None
) -> tuple[onnx.ModelProto, Sidecar]:
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.fp16 import to_fp16
    from edgecnn.graph.serving import add_ends, contract_of, gives_features, load_body

    known = None if ranges is None else read_ranges(ranges, sha256_of(graph))
    if known is not None and known.imported:
        raise RecipeError(
            f"{ranges}: scales of a calibration cache say nothing about FP16", "leave --ranges out, or calibrate"
        )
    if known is None and dataset is not None:
        known = collect_ranges(graph, dataset, threads=allowed_threads(), progress=progress)
    model, kept = to_fp16(load_body(graph), known, features=gives_features(graph))
    add_ends(model, contract_of(graph))
    checked = "weights only: no calibration ranges were given" if known is None else "weights and activations"
    facts = {"kept_float32": list(kept), "range_check": checked}
    parents = (graph,) if ranges is None else (graph, ranges)
    sidecar = derived(_source(graph, ranges), output, parents, step="quantize", kind="graph", facts=facts)
    obtained = "mixed" if kept else "fp16"
    return model, dataclasses.replace(sidecar, precision_requested="fp16", precision_obtained=obtained)


def _int8(
    graph: Path,
    output: Path,
    settings: QuantizeSettings,
    scheme: Scheme,
    excluded: Collection[str],
    ranges: Path | None,
    dataset: Dataset | None,
    explain: bool,
    progress: Progress | None,
) -> tuple[onnx.ModelProto, Sidecar, QuantizationReport]:
    from edgecnn.diagnose.sensitivity import explain_noise, layer_noise
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.graph.serving import add_ends, contract_of, gives_features, load_body

    if ranges is not None:
        known = read_ranges(ranges, sha256_of(graph))
        if known.imported and settings.method != "minmax":
            raise RecipeError(
                f"{ranges}: of a calibration cache: one scale for each tensor, and nothing to choose a method by",
                "take the scales as they are: --method minmax; or calibrate",
            )
    else:
        assert dataset is not None
        known = collect_ranges(graph, dataset, threads=allowed_threads(), progress=progress)
    made = quantize_int8(
        load_body(graph),
        known,
        scheme,
        method=settings.method,
        around=settings.around,
        excluded=excluded,
        pools=settings.global_pool == "int8",
        data=dataset,
        features=gives_features(graph),
        progress=progress,
    )
    report = made.report
    if explain and dataset is not None:
        report = explain_noise(report, made.candidate, made.placement, dataset, progress)
    facts = {key: value for key, value in to_plain(report).items() if key in KEPT and value is not None}
    facts |= {"excluded": list(report.excluded)} if report.excluded else {}
    if report.weights_logit_noise_pct is not None:
        facts["layer_noise"] = to_plain(layer_noise(report, made.placement))
        facts["weights_logit_noise_pct"] = report.weights_logit_noise_pct
    whole = report.integer_kernels is None or report.integer_kernels == report.weighted_nodes
    parents = (graph,) if ranges is None else (graph, ranges)
    sidecar = derived(
        _source(graph, ranges),
        output,
        parents,
        step="quantize",
        kind="graph",
        fields=fields_of("quantize", settings),
        facts=facts,
    )
    return (
        add_ends(made.model, contract_of(graph)),
        dataclasses.replace(
            sidecar,
            scheme=scheme,
            precision_requested="int8",
            precision_obtained="int8" if whole and report.int8_share_pct > 0 else "mixed",
        ),
        report,
    )


def _doubts(report: QuantizationReport | None) -> tuple[str, ...]:
    """What speaks against the images, and what became of it."""
    if report is None or report.images_doubted is None:
        return ()
    done = "auto took the ranges of mse instead" if report.method == "auto" else "the ranges are theirs"
    return (f"{report.images_doubted}; {done}: calibrate with images like those that the network will see",)


def _source(graph: Path, ranges: Path | None) -> Sidecar:
    """The graph's sidecar, with the values that its ranges were made with."""
    own = sidecar_of(graph)
    if ranges is None:
        return own
    known = sidecar_of(ranges)
    made = {key: value for key, value in known.facts.items() if key == DATA_FREE}
    return dataclasses.replace(own, fields={**own.fields, **known.fields}, facts={**own.facts, **made})


def _excluded(model: onnx.ModelProto, settings: QuantizeSettings, scheme: Scheme) -> frozenset[str]:
    from edgecnn.graph.qdq.exclude import find_excluded

    return find_excluded(model, settings.exclude or (), scheme)


def _idle_rules(exclude: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    from edgecnn.graph.qdq.exclude import RULES

    idle = [name for name in exclude if name in RULES and scheme == "ort-cpu"]
    return tuple(
        f"exclude {name!r} speaks of TensorRT's kernels and keeps nothing out for ONNX Runtime" for name in idle
    )


def _simplified(graph: Path) -> onnx.ModelProto:
    """Raises `RecipeError` for a graph that was exported for TensorRT 8, whose dialect has no FP16 scales."""
    if sidecar_of(graph).facts.get("opset") == OLD_OPSET:
        raise RecipeError(
            f"{graph}: was exported at opset {OLD_OPSET}, as the float32 graph that TensorRT 8 builds",
            f"export it without --opset: INT8 and FP16 graphs are made at opset {OPSET}",
        )
    from edgecnn.graph.load import naming
    from edgecnn.graph.serving import gives_features, load_body
    from edgecnn.graph.simplify import simplify_graph

    with naming(graph):
        return simplify_graph(load_body(graph), features=gives_features(graph))


def _require_clean(model: onnx.ModelProto, targets: Sequence[Target]) -> tuple[str, ...]:
    """What a device would refuse is said here, before anybody copies the graph there; returns what it would take
    otherwise than one would think."""
    from edgecnn.graph.lint import require_clean

    found = [f for target in targets if target.kind == "gpu" for f in require_clean(model, target)]
    return tuple(dict.fromkeys(f"{f.where}: {f.what}; {f.hint}" for f in found))
