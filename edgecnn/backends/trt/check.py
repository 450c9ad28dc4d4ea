"""What NVIDIA's parser and, where it runs here, builder say to a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecnn.backends.trt.build import make_builder, make_network
from edgecnn.backends.trt.flavor import Flavor
from edgecnn.backends.trt.library import Message, errors_in, load_tensorrt, logger_for, recording, warnings_in
from edgecnn.results.finding import Finding

HINT = "these are NVIDIA's words; `edgecnn inspect` shows what is in the graph"


def findings_of(flavor: Flavor, graph: Path) -> tuple[str, list[Finding]]:
    """Who was asked ("TensorRT-RTX 1.7.1's parser and builder"), and what it says; raises as `load_tensorrt` does,
    and `BackendError` where no builder can be made, as without a GPU."""
    trt = load_tensorrt(flavor)
    by = f"{flavor.product} {trt.__version__}"
    with recording(trt) as messages:
        builder = make_builder(trt, None, messages)
        network = make_network(trt, builder)
        parser = trt.OnnxParser(network, logger_for(trt))
        if not parser.parse_from_file(str(graph)):
            return f"{by}'s parser", list(_refused(parser, messages))
        plan = _plan(trt, builder, network)
        found = [Finding("warning", "graph", text, HINT) for text in warnings_in(messages)]
        if plan is None:
            said = errors_in(messages) or "it cannot be built, and nothing is said about it"
            found.insert(0, Finding("error", "graph", said, HINT))
        del parser  # it must outlive the build
    return f"{by}'s parser and builder", found


def _refused(parser: Any, messages: Sequence[Message]) -> Iterator[Finding]:
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        operator = f"{error.node_operator()}: " if error.node_operator() else ""
        yield Finding("error", error.node_name() or "graph", operator + " ".join(str(error.desc()).split()), HINT)
    if not parser.num_errors:
        yield Finding("error", "graph", errors_in(messages) or "the parser refuses it", HINT)


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
