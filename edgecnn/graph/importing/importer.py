"""A graph from elsewhere -> one that keeps edgecnn's contract; whatever is changed is said, and proven to be harmless.

Opset, layout, the classifier's head, names, the batch axis: each step rewrites the graph in place and says what it
did. At the end the rewritten graph must give, at batch 1, 2 and 3, the rows that the original gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, checker

from edgecnn.artifact.sidecar import sidecar_path, verified_sidecar
from edgecnn.contract import INPUT, OPSET, OUTPUT
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError
from edgecnn.graph.importing.batch import BATCHES, make_batch_dynamic
from edgecnn.graph.importing.head import flatten_output, remove_sigmoid, remove_softmax
from edgecnn.graph.importing.labels import Labels
from edgecnn.graph.importing.layout import Layout, move_channels_first, read_layout
from edgecnn.graph.importing.names import name_nodes, rename_tensor
from edgecnn.graph.importing.opset import convert_opset, make_bounds_scalar, make_readable
from edgecnn.graph.importing.preprocessing import find_preprocessing_inside
from edgecnn.graph.importing.proof import run_original
from edgecnn.graph.load import load_graph, onnx_errors, require_float_classifier
from edgecnn.results.imported import ImportFacts
from edgecnn.session import Array

_OTHER_FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True)
class ImportedGraph:
    """The graph that keeps the contract, what is known of it, and the preprocessing and labels that go with it."""

    model: onnx.ModelProto
    facts: ImportFacts
    preprocessing: Preprocessing | None
    labels: Labels | None


def import_graph(
    source: Path, preprocessing: Preprocessing | None = None, labels: Labels | None = None, *, keep_head: bool = False
) -> ImportedGraph:
    """Normalize the graph `source` to the contract; the facts' `changes` say how.

    Without `preprocessing` and `labels` those of the source's sidecar or metadata are taken; with `keep_head` a Softmax
    or Sigmoid at the end stays. Raises `GraphError` for
    a graph that cannot be used, `DataError` when preprocessing or labels contradict it.
    """
    model = load_graph(source)
    own = verified_sidecar(source) if sidecar_path(source).exists() else None
    if own is not None and not (contract := own.contract).is_plain:
        raise GraphError(
            f"{source}: takes {contract.input} and gives {contract.output} already, by its sidecar",
            "import the graph that it was made from",
        )
    if preprocessing is None:
        preprocessing = find_preprocessing_inside(model, own)
    if labels is None and own is not None and own.labels is not None:
        labels = Labels(tuple(own.labels), None if own.wnids is None else tuple(own.wnids))
    original = onnx.ModelProto()
    original.CopyFrom(model)
    changes = make_readable(model)
    require_float_classifier(model)
    _require_float32(model)
    layout, frozen = read_layout(model, preprocessing)
    images = np.random.default_rng(0).standard_normal((max(BATCHES), *layout.shape), np.float32)
    expected = run_original(original, layout.arrange(images), frozen or 1, str(source))
    ends = [] if keep_head else [*remove_softmax(model), *remove_sigmoid(model, expected)]
    changes += [*ends, *_rewrite(model, layout, expected)]
    batch = make_batch_dynamic(model, images, expected, frozen, probabilities=bool(ends))
    outputs = int(np.prod(expected.shape[1:]))
    if labels is not None and len(labels.names) != max(2, outputs):
        wanted = f"{outputs} classes" if outputs > 1 else "the two classes that one logit decides between"
        raise DataError(f"{source}: {len(labels.names)} labels for {wanted}", "give one label for each class")
    with onnx_errors("the normalized graph", "is not valid", "export it again"):
        checker.check_model(model, full_check=True)
    facts = ImportFacts(
        input_shape=layout.shape,
        classes=outputs,
        batch=batch.frozen,
        params=_count_parameters(model),
        nodes=len(model.graph.node),
        opset=OPSET,
        max_difference=batch.max_difference,
        changes=(*changes, *batch.changes),
    )
    return ImportedGraph(model, facts, preprocessing, labels)


def _rewrite(model: onnx.ModelProto, layout: Layout, expected: Array) -> list[str]:
    """Everything but the head's activation and the batch, in an order in which no step undoes another."""
    changes = convert_opset(model)
    graph = model.graph  # a new one when the opset was converted
    del graph.value_info[:]  # of the old shapes
    changes += [*move_channels_first(graph, layout), *flatten_output(graph, expected)]
    changes += rename_tensor(graph, graph.input[0].name, INPUT)
    changes += rename_tensor(graph, graph.output[0].name, OUTPUT)
    changes += make_bounds_scalar(graph)
    changes += name_nodes(graph)
    return changes


def _require_float32(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in _OTHER_FLOATS:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise GraphError(f"initializer {tensor.name!r} is {kind}", "import the float32 graph it was made from")


def _count_parameters(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(i.dims)) for i in model.graph.initializer if i.data_type == TensorProto.FLOAT and i.dims)
