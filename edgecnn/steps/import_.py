"""Import a graph from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecnn.artifact.sidecar import Sidecar, parents_of, read_sidecar, sidecar_path, tool_versions
from edgecnn.artifact.write import check_output, write_artifact
from edgecnn.contract import MAX_DIFFERENCE, InputForm, OutputForm, ServingContract
from edgecnn.errors import GraphError
from edgecnn.recipe.schema import ExportSettings
from edgecnn.records import to_plain
from edgecnn.results.ensemble import ENSEMBLE_FACTS
from edgecnn.steps._arguments import FilePath, named, path_or_none, require_one_of, require_packages

if TYPE_CHECKING:
    from edgecnn.graph.importing.importer import ImportedGraph


def import_onnx(
    source: FilePath,
    output: FilePath | None = None,
    *,
    preprocess: FilePath = "",
    labels: FilePath = "",
    takes: InputForm | None = None,
    gives: OutputForm = ExportSettings.output,
    output_name: str = "",
    to_float32: bool = False,
    max_difference: float = MAX_DIFFERENCE,
    simplify: bool = False,
) -> Path:
    """Bring a graph from elsewhere to edgecnn's contract; returns the graph, whose sidecar names what was changed.

        import edgecnn as ec
        fp32 = ec.import_onnx("theirs.onnx", "ours.fp32.onnx", preprocess="imagenet-224")
        ec.validate(fp32, "theirs.onnx", data="imgs/val").agreement_pct

    `preprocess` is a preset or a JSON file, `labels` is "imagenet" or a file; without them those of the source's
    sidecar or metadata are taken. What comes out takes float32 images [N, C, H, W] and gives logits [N, classes], or
    what `takes` and `gives` say, as in `export`; a source of uint8 pixels keeps taking them, as "uint8-nhwc". Of
    several outputs, or in front of an ArgMax, `output_name` names the tensor that holds the logits. `to_float32` lifts
    a source in FP16, BF16 or double. What comes out may differ from the source by `max_difference` of its largest
    logit. With `simplify` a source that would be refused is simplified by onnxslim and tried again. A source with Q/DQ
    pairs is taken as quantized. Without an `output` the graph lies beside the source as SOURCE.fp32.onnx.
    Raises `GraphError` for a graph that cannot be used, `DataError` for preprocessing or labels that contradict it.
    """
    require_packages("calibrate")  # what any step on a graph needs
    if takes is not None:
        require_one_of("takes", takes, InputForm)
    require_one_of("gives", gives, OutputForm)
    from edgecnn.graph.importing.importer import import_graph
    from edgecnn.graph.importing.labels import read_named_labels
    from edgecnn.graph.importing.preprocessing import read_named_preprocessing
    from edgecnn.graph.load import naming

    source = Path(source)
    path = path_or_none(output) or named(source, "fp32.onnx")
    check_output(path, ".onnx", source)
    known = read_named_preprocessing(os.fspath(preprocess)) if preprocess else None
    names = read_named_labels(os.fspath(labels)) if labels else None
    convert = partial(
        import_graph,
        source,
        known,
        names,
        output_name=output_name,
        to_float32=to_float32,
        max_difference=max_difference,
    )
    with naming(source):
        try:
            made = convert()
        except GraphError as exc:
            if not simplify:
                raise
            made = _simplified(convert, exc)
    served = ExportSettings(takes or made.takes, gives)
    if made.quantized is not None and served.input != "normalised":
        raise GraphError(
            f"{source}: quantized already, for normalised images: --input {served.input} would move its ranges",
            "leave --input out, or import the float32 graph",
        )
    write_imported(made, source, path, served=served)
    return path


def _simplified(convert: Callable[..., ImportedGraph], refused: GraphError) -> ImportedGraph:
    """What becomes of a refused graph that onnxslim simplifies first; raises the refusal where that is no help."""
    try:
        return convert(slim=True)
    except GraphError as exc:
        hint = f"{refused.hint} (simplified by onnxslim it is refused too: {exc.message})"
        raise GraphError(refused.message, hint) from exc


def write_imported(
    made: ImportedGraph,
    source: Path,
    path: Path,
    *others: Path,
    recipe: str = "",
    fields: Mapping[str, Any] | None = None,
    served: ExportSettings | None = None,
) -> Sidecar:
    """Write what was made of the graph `source`, which with `others` is the parent, with the serving contract that
    `served` says."""
    import onnx

    from edgecnn.graph.serving import fold_contract

    served = served or ExportSettings()
    contract = ServingContract(served.input, served.output, made.facts.classes)
    fold_contract(made.model, contract, made.preprocessing)

    told = read_sidecar(source).facts if sidecar_path(source).exists() else {}
    sidecar = Sidecar(
        kind="graph",
        made_by=f"edgecnn import {source.name}",
        precision_requested="fp32" if made.quantized is None else "int8",
        precision_obtained="fp32" if made.quantized is None else made.quantized.precision,
        scheme="" if made.quantized is None else made.quantized.scheme,
        parents=parents_of(path, source, *others),
        recipe=recipe,
        fields=dict(fields or {}),
        preprocessing=None if made.preprocessing is None else made.preprocessing.to_json(),
        labels=None if made.labels is None else list(made.labels.names),
        wnids=None if made.labels is None or made.labels.wnids is None else list(made.labels.wnids),
        tools=tool_versions("onnx", "onnxruntime", "onnxruntime-gpu"),
        facts={**to_plain(made.facts), **contract.facts, **{key: told[key] for key in ENSEMBLE_FACTS if key in told}},
    )
    return write_artifact(path, lambda temporary: onnx.save(made.model, temporary), sidecar)
