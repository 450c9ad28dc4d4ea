"""Commands on graphs and their calibration sets: calibrate, calibration-set, quantize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgecnn.cli.printing import print_json, print_rows, say

if TYPE_CHECKING:
    from edgecnn.data.dataset import Dataset

CALIBRATION_IMAGES = 512


def add_to(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command()(calibrate)
    app.command()(calibration_set)
    app.command()(quantize)


def calibrate(
    graph: Annotated[Path, typer.Argument(help="A float32 graph, X.onnx.")],
    data: Annotated[str, typer.Option(help="Images: a manifest, a data set, a folder, or an .npz.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The ranges, X.calib.json.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Use at most this many.")] = CALIBRATION_IMAGES,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in one run; else by their size.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")] = None,
    trt_cache: Annotated[Path | None, typer.Option(help="Also write a calibration cache for TensorRT <= 10.")] = None,
    trt_cache_version: Annotated[int, typer.Option(help="The TensorRT version in its header.")] = 100300,
    check: Annotated[bool, typer.Option("--check", help="Examine the images instead; 1 if test images leak.")] = False,
    test: Annotated[str, typer.Option(help="Test images, for --check.  [default: the test split of --data]")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Collect the ranges of every activation in one pass; interrupted, it goes on where it stopped."""
    from edgecnn.artifact.sidecar import Sidecar, parents_of
    from edgecnn.artifact.write import check_output
    from edgecnn.errors import RecipeError
    from edgecnn.graph.calibration.file import write_ranges, write_tensorrt_cache
    from edgecnn.pipeline.sharing import collect_shared, is_first

    dataset = _calibration_images(graph, data, images, named=check)
    if check:
        return _check_calibration(graph, dataset, test or _own_source(data), as_json)
    if output is None:
        raise RecipeError("calibrate: -o is missing", "name the ranges, for example -o X.calib.json; or give --check")
    check_output(output, ".json", graph)
    ranges = collect_shared(
        graph,
        dataset,
        batch=batch,
        threads=threads,
        progress=_progress("calibrate"),
        resume=output.with_name(f".{output.name}.partial"),
    )
    if not is_first():
        return 0
    write_ranges(
        ranges,
        output,
        Sidecar(kind="ranges", made_by="edgecnn calibrate", parents=parents_of(output, graph), fields={"data": data}),
    )
    if trt_cache is not None:
        write_tensorrt_cache(ranges, trt_cache, trt_cache_version)
    rows = [
        {"name": s.name, "min": s.low, "max": s.high, "channels": len(s.channel_low), "values": s.count}
        for s in ranges.tensors.values()
    ]
    if as_json:
        print_json({"path": str(output), "n": ranges.images, "data_sha256": ranges.data_sha256, "tensors": rows})
    else:
        print_rows(rows, ["name", "min", "max", "channels", "values"])
        say(f"{output}: {len(rows)} tensors over {ranges.images} images")
    return 0


def _check_calibration(graph: Path, dataset: Dataset, test: str, as_json: bool) -> int:
    from edgecnn.measure.calibration_check import check_calibration

    found = check_calibration(dataset, _images_of(graph, test, "test"), graph, progress=_progress("ranges"))
    if as_json:
        print_json(found.to_json())
    else:
        print_rows([found.to_json()], ["n", "test_n", "repeated", "classes_covered", "classes", "suggested_n"])
        columns = ["range_spread_pct_median", "noise_excess_pct_median", "noise_excess_pct_worst", "worst_tensor"]
        print_rows([found.to_json()], columns)
        for problem in found.problems or ("nothing to complain of",):
            print(problem)
        if not found.near_duplicates_checked:
            print("near-duplicates were not looked for: these pictures are too small or too alike to tell")
    return 1 if found.duplicates or found.near_duplicates else 0


def calibration_set(
    data: Annotated[str, typer.Argument(help="Whose training images: a data set, a folder, or an .npz.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest, calibration/NAME.txt.")],
    images: Annotated[int, typer.Option(min=1, help="How many, spread over the classes.")] = CALIBRATION_IMAGES,
    seed: Annotated[int, typer.Option(min=0, help="Which.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Write down which images to calibrate with, and their sha256: a recipe names it as data.calibration."""
    from edgecnn.artifact.write import check_output
    from edgecnn.data.calibration_set import manifest_of, write_manifest

    check_output(output, ".txt")
    manifest = manifest_of(data, images, seed)
    write_manifest(output, manifest)
    if as_json:
        print_json({"path": str(output), "n": len(manifest.ids), "sha256": manifest.sha256, "source": data})
    else:
        say(f"{output}: {len(manifest.ids)} images of {data}")


def _own_source(data: str) -> str:
    """The data set that `data` takes its images from."""
    from edgecnn.data.calibration_set import find_manifest, read_manifest

    name, _, root = data.partition(".txt:")
    if root or not data.endswith(".txt"):
        return root or data
    return read_manifest(find_manifest(name)).source


def quantize(
    graph: Annotated[Path, typer.Argument(help="A float32 graph, X.onnx.")],
    precision: Annotated[str, typer.Option(help="fp16 or int8.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The graph to write.")],
    target: Annotated[str, typer.Option("--for", help="tensorrt or cpu.")] = "tensorrt",
    around: Annotated[str, typer.Option(help="What is not INT8: fp16 or fp32.")] = "",
    ranges: Annotated[Path | None, typer.Option(help="X.calib.json, of this graph.")] = None,
    data: Annotated[str, typer.Option(help="Calibration images (as in calibrate).")] = "",
    images: Annotated[int, typer.Option(min=1, help="Use at most this many.")] = CALIBRATION_IMAGES,
    method: Annotated[str, typer.Option(help="minmax, percentile, entropy, mse or auto.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="What every tensor got.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make the FP16 or INT8 graph. INT8 takes ranges, images, or both (`auto` uses both); FP16 one of them, or none."""
    from edgecnn.artifact.write import check_output
    from edgecnn.errors import RecipeError
    from edgecnn.recipe.schema import QuantizeSettings

    defaults = QuantizeSettings()
    asked_method, asked_around = method, around
    method, around = method or defaults.method, around or ("fp32" if target == "cpu" else defaults.around)
    _one_of("--precision", precision, ("fp16", "int8"))
    _one_of("--for", target, ("tensorrt", "cpu"))
    _one_of("--around", around, ("fp16", "fp32"))
    _one_of("--method", method, ("minmax", "percentile", "entropy", "mse", "auto"))
    check_output(output, ".onnx", graph, ranges)
    if target == "cpu" and around == "fp16":
        raise RecipeError("--around fp16: the integer kernels of a CPU take float32", "leave it out, or --for tensorrt")
    if precision == "fp16":
        _only_int8(method=asked_method, around=asked_around, explain=explain)
    if target == "tensorrt":
        _require_that_tensorrt_takes(graph)  # before any image is run
    if precision == "fp16":
        result = _quantize_fp16(graph, output, target, ranges, data, images)
    else:
        result = _quantize_int8(graph, output, target, around, ranges, data, images, method, explain)
    if as_json:
        print_json(result)
        return
    if explain and result.get("rows"):
        columns = list(result["rows"][0])
        print_rows(result["rows"], columns)
    if result.get("steps"):
        print_rows(result["steps"], list(dict.fromkeys(k for s in result["steps"] for k in s)))
    print_rows([result], [k for k in result if not isinstance(result[k], list) and k != "sha256"])
    for name in result["kept_float32"]:
        say(f"kept in FP32: {name}")
    for line in result.get("left_out", []):
        say(f"left out: {line}")
    for line in result["warnings"]:
        say(f"warning: {line}")


def _quantize_int8(
    graph: Path,
    out: Path,
    target: str,
    around: str,
    ranges: Path | None,
    data: str,
    images: int,
    method: str,
    explain: bool,
) -> dict[str, Any]:
    from edgecnn.artifact.sidecar import sha256_of
    from edgecnn.errors import RecipeError
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.ptq.quantize import quantize_int8, write_int8
    from edgecnn.graph.simplify import load_graph

    if ranges is None and not data:
        raise RecipeError("INT8 needs calibration ranges or images", "give --ranges X.calib.json, --data, or both")
    dataset = _calibration_images(graph, data, images) if data else None
    if ranges is not None:
        known = read_ranges(ranges, sha256_of(graph))
    else:
        assert dataset is not None
        known = collect_ranges(graph, dataset, progress=_progress("calibrate"))
    made, report = quantize_int8(
        load_graph(graph), known, "cpu" if target == "cpu" else "tensorrt", method=method, around=_around(around),
        data=dataset, progress=_progress("quantize"), explain=explain,
    )  # fmt: skip
    warnings = [] if target == "cpu" else _taken_by_tensorrt(made)
    fields = {"for": target, "method": method, "around": around, "data": data}
    parents = (graph, ranges) if ranges is not None else (graph,)
    sidecar = write_int8(out, made, report, _inherited(graph, fields), *parents)
    size_mb = round(out.stat().st_size / 1e6, 3)
    return {"path": str(out), "size_mb": size_mb, **_obtained(sidecar), **report.to_json(), "warnings": warnings}


def _only_int8(*, method: str, around: str, explain: bool) -> None:
    from edgecnn.errors import RecipeError

    for option, given in (("--method", method), ("--around", around), ("--explain", explain)):
        if given:
            raise RecipeError(f"{option} says nothing about an FP16 graph", "leave it out, or give --precision int8")


def _quantize_fp16(graph: Path, out: Path, target: str, ranges: Path | None, data: str, images: int) -> dict[str, Any]:
    """Without ranges and images, only the weights decide what stays FP32."""
    from edgecnn.artifact.sidecar import sha256_of
    from edgecnn.errors import RecipeError
    from edgecnn.graph.calibration.collect import collect_ranges
    from edgecnn.graph.calibration.file import read_ranges
    from edgecnn.graph.fp16 import to_fp16, write_fp16
    from edgecnn.graph.simplify import load_graph

    if ranges is not None and data:
        raise RecipeError("FP16 takes its ranges from --ranges or from --data, not from both", "leave one of them out")
    known = None
    if ranges is not None:
        known = read_ranges(ranges, sha256_of(graph))
    elif data:
        dataset = _calibration_images(graph, data, images)
        known = collect_ranges(graph, dataset, progress=_progress("calibrate"))
    made, kept = to_fp16(load_graph(graph), known)
    warnings = [] if target == "cpu" else _taken_by_tensorrt(made)
    parents = (graph,) if ranges is None else (graph, ranges)
    inherited = _inherited(graph, {"data": data} if data else {})
    sidecar = write_fp16(out, made, kept, inherited, *parents, from_ranges=known is not None)
    size_mb = round(out.stat().st_size / 1e6, 3)
    return {"path": str(out), "size_mb": size_mb, **_obtained(sidecar), **sidecar.facts, "warnings": warnings}


def _require_that_tensorrt_takes(graph: Path) -> None:
    from edgecnn.graph.simplify import load_graph, prepared

    _taken_by_tensorrt(prepared(load_graph(graph)))


def _taken_by_tensorrt(model: Any) -> list[str]:
    """How the oldest supported TensorRT takes the graph otherwise than one would think; raises when it refuses it."""
    from edgecnn.graph.lint import require_clean
    from edgecnn.targets import find_target

    return [f"{f.where}: {f.what}; {f.hint}" for f in require_clean(model, find_target("gpu"))]


def _obtained(sidecar: Any) -> dict[str, Any]:
    return {
        "precision_requested": sidecar.precision_requested,
        "precision_obtained": sidecar.precision_obtained,
        "sha256": sidecar.sha256,
    }


def _around(value: str) -> Any:
    return value


def _inherited(graph: Path, fields: dict[str, Any]) -> Any:
    """The sidecar to write: what the float graph's says about images and labels, if it has one."""
    from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sidecar_path

    old = read_sidecar(graph) if sidecar_path(graph).exists() else Sidecar(kind="graph")
    return Sidecar(
        kind="graph",
        made_by="edgecnn quantize",
        recipe=old.recipe,
        fields=fields,
        preprocessing=old.preprocessing,
        labels=old.labels,
        wnids=old.wnids,
    )


def _calibration_images(graph: Path, data: str, images: int, *, named: bool = False) -> Dataset:
    """At most `images` of what `data` names, stratified, preprocessed as the graph's sidecar says.

    Ranges need no labels: only where `named` must class folders bear the names of the model's classes.
    """
    from edgecnn.data.dataset import spread

    whole = _images_of(graph, data, "train", named=named)
    return whole.subset(spread(whole, images))


def _images_of(graph: Path, data: str, split: Literal["train", "test"], *, named: bool = True) -> Dataset:
    from edgecnn.artifact.sidecar import read_sidecar, sidecar_path
    from edgecnn.data.calibration_set import open_data
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.errors import ArtifactError

    if not graph.is_file():
        raise ArtifactError(f"{graph}: no such file", "name a float32 graph: GRAPH.onnx, then --data IMAGES")
    sidecar = read_sidecar(graph) if sidecar_path(graph).exists() else None
    known = sidecar.preprocessing if sidecar is not None else None
    labels, wnids = (sidecar.labels or (), sidecar.wnids or ()) if named and sidecar is not None else ((), ())
    return open_data(data, preprocessing_from_json(known) if known else None, split, labels, wnids)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    from edgecnn.errors import RecipeError, nearest

    if value not in allowed:
        raise RecipeError(
            f"{option} {value}: not one of {', '.join(allowed)}", nearest(value, allowed) or f"give {allowed[0]}"
        )


def _progress(what: str) -> Any:
    """A line on stderr that counts; only on a terminal."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show
