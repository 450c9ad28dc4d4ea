"""What NVIDIA's parser and, where it runs here, builder say to a graph.

Two graphs fail alike where NVIDIA's code gives up at the same place: its error codes alone are too few ("invalid node",
"API usage error"), and its sentences hold the names and sizes of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecnn.backends import Opinion
from edgecnn.backends.trt.build import make_builder, make_network
from edgecnn.backends.trt.flavor import Flavor
from edgecnn.backends.trt.library import (
    Message,
    errors_in,
    load_tensorrt,
    logger_for,
    recording,
    text_of,
    warnings_in,
)
from edgecnn.results.finding import Finding

HINT = "these are NVIDIA's words; `edgecnn inspect` shows what is in the graph"
_WITHOUT_DRIVER = "catchCudaError"  # follows every error where there is no GPU, and says nothing of the graph
_PLACE = re.compile(r"In (\S+) at \S*?([\w.]+:\d+)|\[(\w+\.\w+::\w+::\d+)\] Error Code")  # 11, RTX | 10
_CODE = re.compile(r"Error Code (\d+)")
_NOT_OF_A_NAME = re.compile(r"\.\.\.|[\s+()\[\]{},]")
_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")  # of a fused layer, what it is named by


def opinion_of(flavor: Flavor, graph: Path, build: bool = True) -> Opinion:
    """What the parser and, with `build`, the builder say; raises as `load_tensorrt` does, and `BackendError` where no
    builder can be made, as without a GPU."""
    trt = load_tensorrt(flavor)
    by = f"{flavor.product} {trt.__version__}"
    with recording(trt) as messages:
        builder = make_builder(trt, None, messages)
        network = make_network(trt, builder)
        parser = trt.OnnxParser(network, logger_for(trt))
        if not parser.parse_from_file(str(graph)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            failures = tuple(map(_parser_failure, errors)) or ("parser",)
            return Opinion(f"{by}'s parser", tuple(_refused(errors, messages)), failures)
        if not build:
            return Opinion(f"{by}'s parser", ())
        plan = _plan(trt, builder, network)
        found = [Finding("warning", "graph", text, HINT) for text in warnings_in(messages)]
        failures = ()
        if plan is None:
            said = errors_in(messages) or "it cannot be built, and nothing is said about it"
            found.insert(0, Finding("error", "graph", said, HINT))
            failures = (_builder_failure(network, messages),)
        del parser  # it must outlive the build
    return Opinion(f"{by}'s parser and builder", tuple(found), failures)


def _refused(errors: Sequence[Any], messages: Sequence[Message]) -> Iterator[Finding]:
    for error in errors:
        kind = text_of(error.node_operator)
        operator = f"{kind}: " if kind else ""
        said = [line for line in text_of(error.desc).splitlines() if _WITHOUT_DRIVER not in line]
        yield Finding("error", text_of(error.node_name) or "graph", operator + " ".join(" ".join(said).split()), HINT)
    if not errors:
        yield Finding("error", "graph", errors_in(messages) or "the parser refuses it", HINT)


def _parser_failure(error: Any) -> str:
    place = _place(text_of(error.desc)) or f"{Path(error.file()).name}:{error.line()}"
    return ", ".join(filter(None, ("parser", error.code().name, text_of(error.node_operator), place)))


def _builder_failure(network: Any, messages: Sequence[Message]) -> str:
    """The first error of the builder: code, kind of the layer that it names, and place in NVIDIA's code."""
    said = [text for severity, text in messages if severity in ("ERROR", "INTERNAL_ERROR")]
    said = [text for text in said if _CODE.search(text) and _WITHOUT_DRIVER not in text]
    if not said:
        return "builder"
    words = {word.rstrip(".:") for word in _NOT_OF_A_NAME.split(said[0])}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = [layer.type.name for layer in layers if layer.name in words]
    kind = next((heavy for heavy in _HEAVY if heavy in kinds), kinds[0] if kinds else "")
    code = _CODE.search(said[0])
    return ", ".join(filter(None, ("builder", f"Error Code {code[1]}" if code else "", kind, _place(said[0]))))


def _place(text: str) -> str:
    """Where in NVIDIA's code the first error of a text arose, as it says itself."""
    for found in _PLACE.finditer(text):
        if _WITHOUT_DRIVER not in found[0]:
            return found[3] or f"{found[1]} {found[2]}"
    return ""


def _plan(trt: Any, builder: Any, network: Any) -> Any:
    """The plan for one image; None where it cannot be built."""
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(1 if n < 0 else n for n in tensor.shape)
        profile.set_shape(tensor.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)
