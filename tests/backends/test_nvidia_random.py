"""Random classifiers through NVIDIA's real parser (TensorRT-RTX, no GPU): it takes every graph that the lint passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from tests.fakes.random_graphs import random_graph

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

    from tests.fakes.random_flow import is_true_reason, write_or_refuse

pytestmark = [pytest.mark.onnx, pytest.mark.nvidia]

SEEDS, CHUNK = 300, 60
PRECISIONS = ("fp32", "fp16", "tensorrt")


@pytest.fixture
def parse(tensorrt_rtx: Path) -> Any:
    """What the parser says of a graph, nothing where it takes it; one builder serves them all."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)

    def ask(path: Path) -> list[str]:
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if parser.parse(path.read_bytes()):
            return []
        return [parser.get_error(k).desc() for k in range(parser.num_errors)]

    return ask


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_its_parser_takes_what_the_lint_passes(tmp_path: Path, parse: Any, first: int) -> None:
    onnxruntime.set_default_logger_severity(4)
    refused = {}
    for seed in range(first, first + CHUNK):
        graph = random_graph(seed)
        onnx.save(graph.model, tmp_path / "theirs.onnx")
        images = np.random.default_rng(seed).standard_normal((4, *graph.shape), np.float32)
        if said := write_or_refuse(tmp_path, images):
            assert is_true_reason(said), (seed, said)
            continue
        found = {name: parse(tmp_path / f"{name}.onnx") for name in PRECISIONS}
        refused |= {(seed, name): errors for name, errors in found.items() if errors}
    assert refused == {}
