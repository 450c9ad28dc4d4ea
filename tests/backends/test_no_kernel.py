"""A layer for which TensorRT finds no kernel: which ONNX nodes that is, and the line that leaves them out of INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecnn.artifact.sidecar import read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import BuildOptions, load_backend
from edgecnn.backends.trt.flavor import RTX
from edgecnn.backends.trt.library import load_tensorrt, logger_for
from edgecnn.backends.trt.no_kernel import NO_KERNEL, no_kernel_error
from edgecnn.errors import BackendError
from edgecnn.recipe.schema import BatchSettings
from tests.fakes.fake_tensorrt import injected

pytestmark = pytest.mark.onnx

OPTIONS = BuildOptions(target="l4", batch=BatchSettings(min=1, opt=2, max=4))
Graph = Callable[..., Path]
LINE = "edgecnn quantize X.fp32.onnx --precision int8 ... --exclude "


def refused(trt: Any, source: Path, named: str) -> BackendError:
    with injected(trt, f"no kernel:{named}"), pytest.raises(BackendError) as caught:
        load_backend("trt").engine_from_onnx(source, source.with_suffix(".plan"), OPTIONS)
    assert "cannot build it: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error " in caught.value.message
    assert not source.with_suffix(".plan").exists()
    return caught.value


@pytest.mark.parametrize(
    ("named", "nodes", "excluded"),
    [
        ("/conv/Conv", "the ONNX node /conv/Conv", "/conv/Conv -o model.int8.onnx"),
        ("/conv/Conv + /conv/Relu", "the ONNX nodes /conv/Conv, /conv/Relu", "/conv/Conv -o"),
        (
            "conv.weight/DequantizeLinear + /conv/Conv + PWN(/conv/Relu)",
            "nodes /conv/Conv, /conv/Relu",
            "/conv/Conv -o",
        ),
        (
            "{ForeignNode[/pool/GlobalAveragePool.../fc/Gemm]}",
            "/pool/GlobalAveragePool, /Flatten, /fc/Gemm",
            "/fc/Gemm -o",
        ),
        ("input/QuantizeLinear", "the ONNX node /conv/Conv", "/conv/Conv -o"),
        ("fc.weight/DequantizeLinear", "the ONNX node /fc/Gemm", "/fc/Gemm -o"),
    ],
)
def test_the_nodes_are_named_with_the_line_for_the_host(
    trt: Any, graph: Graph, named: str, nodes: str, excluded: str
) -> None:
    error = refused(trt, graph("int8"), named)
    assert f"Could not find any implementation for node {named}" in error.message
    assert error.message.endswith(nodes)
    assert LINE + excluded in error.hint
    assert 'in a recipe: quantize.exclude = ["/' in error.hint


def test_what_was_left_out_before_stays_out_and_the_float_graph_is_named(one_trt: Any, graph: Graph) -> None:
    source = graph("int8")
    known = read_sidecar(source)
    fields = {**known.fields, "quantize.exclude": ["/stem/*"]}
    parents = {"net's.fp32.onnx": "0" * 64, "net.calib.json": "0" * 64}
    content = source.read_bytes()
    changed = dataclasses.replace(known, fields=fields, parents=parents)
    write_artifact(source, lambda path: path.write_bytes(content) and None, changed)
    hint = refused(one_trt, source, "/fc/Gemm").hint
    line = "edgecnn quantize 'net'\"'\"'s.fp32.onnx' --precision int8 ... --exclude '/stem/*' --exclude /fc/Gemm"
    assert line in hint
    assert 'quantize.exclude = ["/stem/*", "/fc/Gemm"]' in hint


@pytest.mark.parametrize(
    ("precision", "named", "hint"),
    [
        ("int8", "{ForeignNode[input/QuantizeLinear.../fc/Gemm]}", "build the FP16 graph"),
        ("int8", "/conv/Relu", "none of them reads INT8"),
        ("fp16", "/conv/Conv", "none of them reads INT8"),
        ("int8", "Reformatting CopyNode for Input Tensor 0", "none of the graph's nodes"),
        ("int8", "/conv/Convolution", "none of the graph's nodes"),
        ("int8", "/conv/Conv due to insufficient workspace. See verbose log for requested sizes", "--workspace-mb"),
    ],
)
def test_where_leaving_out_does_not_help_something_else_is_advised(
    one_trt: Any, graph: Graph, precision: str, named: str, hint: str
) -> None:
    error = refused(one_trt, graph(precision), named)
    assert hint in error.hint
    assert "--exclude" not in error.hint


@pytest.mark.parametrize(
    ("end", "named"),
    [
        (".)", "/layers.0/Conv + /r.1/Relu"),
        (".", "{ForeignNode[/a/Conv.../b/Gemm]}"),
        ("", "Conv_0"),
        (". In computeCosts at /_src/optimizer/common/tactic/optimizer.cpp:4048)", "/layers.0/Conv"),
        (" due to insufficient workspace. See verbose log for requested sizes.)", "/a/Conv"),
    ],
)
def test_the_layer_is_read_out_of_each_version_s_sentence(end: str, named: str) -> None:
    found = NO_KERNEL.search(f"Error Code 10: Internal Error (Could not find any implementation for node {named}{end}")
    assert found is not None
    assert found[1] == named


@pytest.mark.nvidia
@pytest.mark.usefixtures("tensorrt_rtx")
def test_nvidia_s_own_parser_names_layers_so(graph: Graph) -> None:
    trt = load_tensorrt(RTX)

    source = graph("int8")
    builder = trt.Builder(logger_for(trt))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger_for(trt))
    assert parser.parse_from_file(str(source))
    for named, nodes, excluded in (
        ("/conv/Conv + /conv/Relu", "/conv/Conv, /conv/Relu", "/conv/Conv"),
        (
            "{ForeignNode[/pool/GlobalAveragePool.../fc/Gemm]}",
            "/pool/GlobalAveragePool, /Flatten, /fc/Gemm",
            "/fc/Gemm",
        ),
        ("flat/QuantizeLinear", "/fc/Gemm", "/fc/Gemm"),
    ):
        said = [("ERROR", f"Could not find any implementation for node {named}.")]
        error = no_kernel_error("it", trt, network, source, read_sidecar(source), said)
        assert error is not None
        assert error.message.endswith(nodes)
        assert f"--exclude {excluded} -o" in error.hint
