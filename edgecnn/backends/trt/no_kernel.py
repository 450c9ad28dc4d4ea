"""A build that ends at "Could not find any implementation for node X": the ONNX nodes behind X, and what helps.

X is a layer of the network, several that TensorRT has fused ("a + b", "PWN(c)"), or a stretch that it compiles as a
whole ("{ForeignNode[a...b]}").
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.backends.trt.library import Message, errors_in
from edgecnn.backends.trt.network import ONNX_NODE
from edgecnn.errors import BackendError

NO_KERNEL = re.compile(r"Could not find any implementation for node (.+?)(?: due to .*|\. In \S+ at .*|\.?\)?)\s*$")
STRETCH = re.compile(r"ForeignNode\[(.+?)\.\.\.(.+)\]")
SHOWN = 8


def no_kernel_error(
    what: str, trt: Any, network: Any, graph: Path, source: Sidecar, messages: Sequence[Message]
) -> BackendError | None:
    """The error for a build that failed so, after `what`; None where TensorRT's messages say something else."""
    told = [found[1] for _, text in messages if (found := NO_KERNEL.search(" ".join(text.split())))]
    if not told:
        return None
    layers = [network.get_layer(k) for k in range(network.num_layers)]
    behind = _through_pairs(trt, layers, _named_layers(layers, told[-1]))
    nodes = _onnx_nodes(behind)
    said = f"{what}: {errors_in(messages)}"
    if not nodes:
        return BackendError(said, "its layer is none of the graph's nodes: another --optimization-level may avoid it")
    said += f"; behind it: {_listed(nodes)}"
    reading = _onnx_nodes(_int8_readers(trt, layers))
    return BackendError(said, _advice(said, [n for n in nodes if n in reading], reading, graph, source))


def _advice(said: str, excluded: Sequence[str], reading: Sequence[str], graph: Path, source: Sidecar) -> str:
    if "insufficient workspace" in said:
        return "give it more memory with --workspace-mb, or a smaller batch"
    if not excluded:
        return "none of them reads INT8: build the graph of another precision, or with another --optimization-level"
    if set(excluded) == set(reading):
        return "all that is INT8 is in it: build the FP16 graph (edgecnn quantize --precision fp16)"
    before = source.fields.get("quantize.exclude")
    every = [*(before if isinstance(before, list) else []), *excluded]
    float_graph = next((name for name in source.parents if name.endswith(".onnx")), "X.fp32.onnx")
    options = " ".join(f"--exclude {shlex.quote(str(name))}" for name in every)
    return (
        f"keep them out of INT8 on the host: edgecnn quantize {shlex.quote(float_graph)} --precision int8 ... "
        f"{options} -o {shlex.quote(graph.name)}; in a recipe: quantize.exclude = {json.dumps(every)}"
    )


def _named_layers(layers: Sequence[Any], named: str) -> list[Any]:
    """The layers whose names stand in `named`, and all between the ends of a stretch."""
    found = [k for k, layer in enumerate(layers) if _names(named, layer.name)]
    for ends in STRETCH.findall(named):
        first, last = ([k for k in found if _names(end, layers[k].name)] for end in ends)
        if first and last:
            found += range(min(first), max(last) + 1)
    return [layers[k] for k in sorted(set(found))]


def _names(text: str, name: str) -> bool:
    """Whether `name` stands in `text` as a whole, and not as a part of a longer name."""
    return bool(name) and bool(re.search(rf"(?<![\w/-])(?<!\w\.){re.escape(name)}(?!\.?[\w/-])", text))


def _through_pairs(trt: Any, layers: Sequence[Any], some: Iterable[Any]) -> list[Any]:
    """`some`, with what reads them in place of layers that quantize or dequantize."""
    left, done = list(some), []
    while left:
        layer = left.pop(0)
        if layer.type not in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE):
            done.append(layer)
            continue
        given = _outputs(layer)
        left += [other for other in layers if given & _inputs(other)]
    return done


def _int8_readers(trt: Any, layers: Sequence[Any]) -> Iterator[Any]:
    """The layers that read what was INT8."""
    given = {name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE for name in _outputs(layer)}
    return (layer for layer in layers if given & _inputs(layer))


def _inputs(layer: Any) -> set[str]:
    taken = (layer.get_input(k) for k in range(layer.num_inputs))
    return {tensor.name for tensor in taken if tensor is not None}


def _outputs(layer: Any) -> set[str]:
    return {layer.get_output(k).name for k in range(layer.num_outputs)}


def _onnx_nodes(layers: Iterable[Any]) -> list[str]:
    """The nodes that `layers` were made of; what the parser put in between is of none."""
    return list(dict.fromkeys(node for layer in layers for node in ONNX_NODE.findall(layer.metadata)))


def _listed(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return f"the ONNX node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:SHOWN])}{more}"
