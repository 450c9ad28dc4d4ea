"""A graph from elsewhere -> one that keeps edgecnn's contract; whatever is changed is said, and proven to be harmless.

Opset, layout, the classifier's head, names, the batch axis: each step rewrites the graph in place and says what it
did. At the end the rewritten graph must give, at batch 1, 2 and 3, the rows that the original gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnx import TensorProto, checker

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.contract import INPUT, MAX_DIFFERENCE, OPSET, OUTPUT, InputForm
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import GraphError
from edgecnn.graph.importing.batch import BATCHES, make_batch_dynamic
from edgecnn.graph.importing.branches import take_branches
from edgecnn.graph.importing.constants import fold_constant_nodes
from edgecnn.graph.importing.einsum import write_einsums
from edgecnn.graph.importing.floats import (
    compare_lifted,
    fold_weight_casts,
    lift_to_float32,
    require_float32,
    require_no_casts,
)
from edgecnn.graph.importing.head import flatten_output, remove_sigmoid, remove_softmax
from edgecnn.graph.importing.labels import Labels, settle_labels
from edgecnn.graph.importing.layout import Layout, move_channels_first, read_layout
from edgecnn.graph.importing.names import name_nodes, rename_tensor
from edgecnn.graph.importing.opset import (
    convert_opset,
    drop_unread_inputs,
    free_unfixed_axes,
    make_bounds_scalar,
    make_readable,
    name_unread_outputs,
    sort_nodes,
    write_squeeze_axes,
)
from edgecnn.graph.importing.outputs import choose_output
from edgecnn.graph.importing.pixels import Pixels, absorb_pixels
from edgecnn.graph.importing.preprocessing import doubt_colors, find_preprocessing_inside
from edgecnn.graph.importing.proof import require_distinct, run_original
from edgecnn.graph.importing.quantized import Quantized, describe_pairs, take_pairs
from edgecnn.graph.importing.slim import simplify_with_onnxslim
from edgecnn.graph.lint import lint
from edgecnn.graph.load import load_graph, onnx_errors, require_float_classifier
from edgecnn.graph.onnx_graph import copy_model, count_multiply_adds
from edgecnn.graph.simplify import simplify_graph
from edgecnn.results.imported import ImportFacts
from edgecnn.session import Array
from edgecnn.targets import find_target


@dataclass(frozen=True)
class ImportedGraph:
    """The graph that keeps the contract, what is known of it, the preprocessing and labels that go with it, what the
    original takes, and what its Q/DQ pairs are where it came with them."""

    model: onnx.ModelProto
    facts: ImportFacts
    preprocessing: Preprocessing | None
    labels: Labels | None
    takes: InputForm = "normalised"
    quantized: Quantized | None = None


def import_graph(
    source: Path,
    preprocessing: Preprocessing | None = None,
    labels: Labels | None = None,
    *,
    keep_head: bool = False,
    output_name: str = "",
    to_float32: bool = False,
    max_difference: float = MAX_DIFFERENCE,
    slim: bool = False,
) -> ImportedGraph:
    """Normalize the graph `source` to the contract; the facts' `changes` say how.

    Without `preprocessing` and `labels` those of the source's sidecar or metadata are taken; with `keep_head` a Softmax
    or Sigmoid at the end stays. `output_name` is the tensor that holds the classes where the graph has several outputs,
    or decides at its end; `to_float32` lifts a graph in FP16, BF16 or double; `max_difference` from the original is
    allowed, as a share of its largest logit; with `slim` onnxslim simplifies the graph first. Raises `GraphError` for a
    graph that cannot be used, `DataError` when preprocessing or labels contradict it.
    """
    model, preprocessing, labels = _open(source, preprocessing, labels)
    original = _copy_to_run(model)
    changes = simplify_with_onnxslim(model) if slim else []
    reference = _copy_to_run(model) if slim else original  # which has the names of the tensors inside
    changes += [*make_readable(model), *choose_output(model, output_name), *fold_weight_casts(model)]
    for one in (original, reference):
        choose_output(one, output_name)  # which what is dropped may have given inputs to
    pairs = take_pairs(model, source)
    if to_float32:
        half = copy_model(model)
        changes += lift_to_float32(model)
        original = reference = copy_model(model)
    elif not pairs:  # what is FP16 around INT8 stays so
        require_float32(model)
    pixels = absorb_pixels(model)
    changes += fold_constant_nodes(model)
    require_float_classifier(model, pairs=pairs)
    layout, frozen = read_layout(model, preprocessing)
    if pixels is not None:
        preprocessing = pixels.complete(preprocessing, layout.shape)
        changes += pixels.changes
    images, given = _make_probe(layout, pixels, preprocessing)
    if to_float32:
        changes += compare_lifted(half, original, np.resize(given, (frozen or len(given), *given.shape[1:])))
    run = partial(_run_output, given, frozen or 1, str(source))
    changes += take_branches(model, reference, run)
    expected = logits = run_original(original, given, frozen or 1, model.graph.output[0].name, str(source))
    end = None if keep_head else remove_softmax(model) or remove_sigmoid(model, expected[0].size != 1)
    if end is not None:
        logits = run_original(reference, given, frozen or 1, end.logits, str(source))
        end.require_equal(logits, expected)
        changes += end.changes
    require_distinct(logits, str(source))
    changes += _rewrite(model, layout, expected)
    batch = make_batch_dynamic(model, images, logits, frozen, max_difference)
    outputs = int(np.prod(expected.shape[1:]))
    labels, said = settle_labels(labels, original, outputs, source)
    changes += [*said, *doubt_colors(original, preprocessing)]
    with onnx_errors("the normalized graph", "is not valid", "export it again"):
        checker.check_model(model, full_check=True)
    quantized = describe_pairs(model, source) if pairs else None
    facts = ImportFacts(
        input_shape=layout.shape,
        classes=outputs,
        batch=batch.frozen,
        params=_count_parameters(model),
        nodes=len(model.graph.node),
        opset=OPSET,
        max_difference=batch.max_difference,
        changes=(*changes, *batch.changes),
        warnings=find_later_refusals(model) if quantized is None else quantized.warnings,
        int8_share_pct=None if quantized is None else quantized.int8_share_pct,
    )
    takes: InputForm = "normalised" if pixels is None else "uint8-nhwc"
    return ImportedGraph(model, facts, preprocessing, labels, takes, quantized)


def _open(
    source: Path, preprocessing: Preprocessing | None, labels: Labels | None
) -> tuple[onnx.ModelProto, Preprocessing | None, Labels | None]:
    """The graph, with the preprocessing and labels that are given, or else stand in its sidecar or metadata."""
    model = load_graph(source)
    own = verified_sidecar(source).require_classes(source) if sidecar_path(source).exists() else None
    if own is not None and not (contract := own.contract).is_plain:
        raise GraphError(
            f"{source}: takes {contract.input} and gives {contract.output} already, by its sidecar",
            "import the graph that it was made from, or export it with --output logits and without --input",
        )
    if preprocessing is None:
        preprocessing = find_preprocessing_inside(model, own)
    if labels is None and own is not None and own.labels is not None:
        labels = Labels(tuple(own.labels), None if own.wnids is None else tuple(own.wnids))
    return model, preprocessing, labels


def _copy_to_run(model: onnx.ModelProto) -> onnx.ModelProto:
    """The original in a form that ONNX Runtime takes: it refuses two nodes of one name, and ends on some Splits."""
    original = copy_model(model)
    sort_nodes(original.graph)
    drop_unread_inputs(original)
    free_unfixed_axes(original.graph)
    name_nodes(original.graph)
    name_unread_outputs(original.graph)
    return original


def find_later_refusals(model: onnx.ModelProto) -> tuple[str, ...]:
    """What TensorRT will refuse of the graph, which a CPU runs; raises `GraphError` for what no later step takes."""
    simple = simplify_graph(model)
    require_no_casts(simple)
    count_multiply_adds(simple)
    found = [f for f in lint(simple, find_target("gpu")) if f.severity == "error"]
    return tuple(dict.fromkeys(f"TensorRT would refuse this graph: {f.where}: {f.what}; {f.hint}" for f in found))


def _run_output(given: Array, batch: int, where: str, model: onnx.ModelProto) -> Array:
    return run_original(model, given, batch, model.graph.output[0].name, where)


def _make_probe(layout: Layout, pixels: Pixels | None, preprocessing: Preprocessing | None) -> tuple[Array, Array]:
    """Seeded images as the normalized graph takes them, and as the original does."""
    rng, (channels, height, width) = np.random.default_rng(0), layout.shape
    if pixels is None or preprocessing is None:
        noise = rng.standard_normal((max(BATCHES), *layout.shape), np.float32)
        return noise, layout.arrange(noise)
    shots = rng.integers(0, 256, (max(BATCHES), height, width, channels), np.uint8)
    images = np.stack([preprocessing.normalize(shot) for shot in shots])
    given = shots if pixels.channels_last else np.ascontiguousarray(shots.transpose(0, 3, 1, 2))
    return images, cast(Array, given)


def _rewrite(model: onnx.ModelProto, layout: Layout, expected: Array) -> list[str]:
    """Everything but the head's activation and the batch, in an order in which no step undoes another."""
    changes = [*convert_opset(model), *write_einsums(model)]
    graph = model.graph  # a new one when the opset was converted
    del graph.value_info[:]  # of the old shapes
    changes += [*move_channels_first(graph, layout), *flatten_output(graph, expected)]
    changes += rename_tensor(graph, graph.input[0].name, INPUT)
    changes += rename_tensor(graph, graph.output[0].name, OUTPUT)
    changes += [*make_bounds_scalar(graph), *write_squeeze_axes(model)]
    changes += name_nodes(graph)
    return changes


def _count_parameters(model: onnx.ModelProto) -> int:
    """Values of float32 weights, which Paddle keeps in Constant nodes."""
    inside = [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t")]
    weights = [t for t in (*model.graph.initializer, *inside) if t.data_type == TensorProto.FLOAT and t.dims]
    return sum(int(np.prod(tensor.dims)) for tensor in weights)
