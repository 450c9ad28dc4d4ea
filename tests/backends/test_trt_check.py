"""How two graphs are known to fail alike: by the place in NVIDIA's code, not by names and sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgecnn.backends.trt import check

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/"
    "checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)
TYPES = (
    "Error Code 4: API Usage Error ({}: `input` and `kernel` must be of same type. In validateTypes at /_src/a/{}:88)"
)
NO_KERNEL = (
    "[optimizer.cpp::computeCosts::3628] Error Code 10: Internal Error (Could not find any implementation for node {}.)"
)


def network(**kinds: str) -> Any:
    """A network of layers by name and kind."""
    layers = [SimpleNamespace(name=name, type=SimpleNamespace(name=kind)) for name, kind in kinds.items()]
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda index: layers[index])


def parser_error(text: str, operator: str = "Conv", line: int = 489) -> Any:
    return SimpleNamespace(
        code=lambda: SimpleNamespace(name="INVALID_NODE"),
        desc=lambda: text,
        node_operator=lambda: operator,
        file=lambda: "/_src/parsers/onnx/ModelImporter.cpp",
        line=lambda: line,
    )


def of_builder(text: str, **kinds: str) -> str:
    return check._builder_failure(network(**kinds), [("WARNING", "slow"), ("ERROR", NO_DRIVER), ("ERROR", text)])


def test_the_parser_s_failure_is_the_place_that_its_text_names_else_its_own() -> None:
    said = [check._parser_failure(parser_error(f"{NO_DRIVER}\n{TYPES.format(n, 'conv.cpp')}")) for n in ("a", "b/c")]
    assert said == ["parser, INVALID_NODE, Conv, validateTypes conv.cpp:88"] * 2
    other = check._parser_failure(parser_error(TYPES.format("a", "matmul.cpp")))
    assert other != said[0]
    plain = check._parser_failure(parser_error("Assertion failed: x > 0", "QuantizeLinear", 1889))
    assert plain == "parser, INVALID_NODE, QuantizeLinear, ModelImporter.cpp:1889"


@pytest.mark.parametrize("named", ["conv1", "w + conv1 + PWN(relu1)", "relu1 + conv1"])
def test_the_builder_s_failure_is_known_by_the_heaviest_layer_of_those_that_it_names(named: str) -> None:
    kinds = {"conv1": "CONVOLUTION", "relu1": "ACTIVATION", "fc": "MATRIX_MULTIPLY"}
    found = of_builder(NO_KERNEL.format(named), **kinds)
    assert found == "builder, Error Code 10, CONVOLUTION, optimizer.cpp::computeCosts::3628"
    assert of_builder(NO_KERNEL.format("fc"), **kinds) != found
    assert of_builder(NO_KERNEL.format("{ForeignNode[relu1...conv1]}"), **kinds) == found


def test_what_has_no_code_and_no_place_is_a_failure_all_the_same() -> None:
    assert of_builder("something is wrong") == "builder"
    assert of_builder("Error Code 9: it") == "builder, Error Code 9"
