"""NVIDIA's real ONNX parser and builder (TensorRT-RTX), without a GPU: what edgecnn makes, they take."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import safetensors.torch as safetensors_torch
    import torch
    from onnx import TensorProto, helper, numpy_helper

    from edgecnn import cli
    from edgecnn.artifact.sidecar import Sidecar, read_sidecar
    from edgecnn.backends import load_backend, recognizing_backend
    from edgecnn.backends.trt.build import make_builder
    from edgecnn.backends.trt.flavor import RTX
    from edgecnn.backends.trt.library import load_tensorrt, recording
    from edgecnn.backends.trt.plan import describe_plan, read_plan_header
    from edgecnn.errors import BackendError, EdgecnnError, GraphError
    from edgecnn.graph.calibration.collect import collect_from_model
    from edgecnn.graph.fp16 import to_fp16
    from edgecnn.graph.load import load_graph
    from edgecnn.graph.ptq.quantize import quantize_int8
    from edgecnn.graph.simplify import simplify_graph
    from edgecnn.pytorch.models import build_model
    from edgecnn.recipe.schema import BatchSettings
    from edgecnn.steps.build import build
    from edgecnn.steps.export import export_network
    from edgecnn.zoo import find_model
    from tests.fakes.noise import images
    from tests.fakes.tiny import tiny_graph

pytestmark = [pytest.mark.torch, pytest.mark.nvidia, pytest.mark.usefixtures("tensorrt_rtx")]

NETWORKS = (
    "lenet5",
    "resnet20_cifar",
    "squeezenet1_1",
    "mobilenet_v2",
    "alexnet",
    "shufflenet_v2_x1_0",
    "densenet_bc100_12_cifar",
    "se_resnet50",
)
SMALL = 64  # pixels: the builder's time goes by nodes, calibration's by pixels
FIXED_SIZE = ("alexnet",)  # its classifier is a Gemm over a map of one size


def built(graph: Path, output: Path | None = None, **options: Any) -> Path:
    """The plan of a graph, with the largest batch of 4."""
    return build(graph, output, backend="trt-rtx", batch=BatchSettings(max=4), **options)


def exported(name: str, folder: Path) -> Path:
    card = find_model(name)
    channels, height, _ = card.input_shape
    size = height if name in FIXED_SIZE else min(height, SMALL)
    torch.manual_seed(0)
    path = folder / "model.fp32.onnx"
    card = dataclasses.replace(card, input_shape=(channels, size, size))
    export_network(
        narrow(build_model(name)).eval(), card, path, Sidecar(kind="graph", precision_requested="fp32"), max_batch=2
    )
    return path


def narrow(network: torch.nn.Module) -> torch.nn.Module:
    """`network`, but a classifier of 4096 hidden features with 512: the same layers, and a tenth of the bytes."""
    if hasattr(network, "fc7"):
        network.fc6, network.fc7 = torch.nn.Linear(256 * 6 * 6, 512), torch.nn.Linear(512, 512)
        network.fc8 = torch.nn.Linear(512, 1000)
    return network


@pytest.mark.cpu_s(60)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_builds_in_every_precision(name: str, tmp_path: Path) -> None:
    path = exported(name, tmp_path)
    source = load_graph(path)
    model = simplify_graph(source)
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)[1:]
    ranges = collect_from_model(model, "", images(4, shape), batch=4, threads=1)
    graphs = {
        "fp16": to_fp16(source, ranges)[0],
        "int8-fp16": quantize_int8(model, ranges, "tensorrt", around="fp16").model,
        "int8-fp32": quantize_int8(model, ranges, "tensorrt", around="fp32").model,
    }
    plans = {"fp32": built(path)}
    for precision, graph in graphs.items():
        onnx.save(graph, tmp_path / f"{precision}.onnx")
        plans[precision] = built(tmp_path / f"{precision}.onnx")
    asked = {precision: read_sidecar(plan).precision_requested for precision, plan in plans.items()}
    assert asked == {"fp32": "fp32", "fp16": "fp16", "int8-fp16": "int8", "int8-fp32": "int8"}
    sizes = {precision: plan.stat().st_size for precision, plan in plans.items()}
    weights = sum(numpy_helper.to_array(i).nbytes for i in source.graph.initializer)
    saved = sizes["fp32"] - sizes["fp16"]
    assert weights < 4e7 or 0.4 * weights < saved < 0.6 * weights, sizes  # of small ones the kernels weigh more


def test_a_plan_says_what_it_is(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp16", None), tmp_path / "net.onnx")
    plan = built(tmp_path / "net.onnx")
    assert plan.name == "net.rtx.plan"
    renamed = plan.rename(tmp_path / "engine.bin")
    found = recognizing_backend(renamed)
    assert found is not None
    assert found.NAME == "trt-rtx"
    header = read_plan_header(renamed)
    assert (header.flavor.backend, header.tensorrt) == ("trt-rtx", found.tools()["tensorrt_rtx"])
    sidecar = read_sidecar(tmp_path / "net.rtx.plan")
    assert (sidecar.backend, sidecar.provider, sidecar.target, sidecar.precision_obtained) == (
        "trt-rtx",
        "TensorRT-RTX",
        "rtx",
        "",
    )
    assert "timing_cache" not in sidecar.facts
    assert describe_plan(renamed)["kind"] == "TensorRT-RTX plan"


def test_a_build_route_is_dropped_without_a_word_and_so_refused(tmp_path: Path) -> None:
    (tmp_path / "fp16.onnx").write_bytes(tiny_graph("fp16").SerializeToString())
    assert load_backend("trt-rtx").build_knobs() == ()
    with pytest.raises(BackendError, match="no build routes"):
        built(tmp_path / "fp16.onnx", build_route="-conv_lowering=off")
    trt = load_tensorrt(RTX)
    with recording(trt) as messages:
        settings = make_builder(trt, None, messages).create_builder_config()
        settings.build_route = "-conv_lowering=off"
        assert (settings.build_route, settings.all_build_routes) == ("", "")
    assert [text for _, text in messages if "route" in text.lower()] == []


def test_compute_capabilities_are_built_for_or_refused(tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        onnx.save(tiny_graph(precision, None), tmp_path / f"{precision}.onnx")
    plan = built(tmp_path / "fp16.onnx", compute_capabilities=("7.5", "8.6", "8.9", "12.0"))
    assert read_sidecar(plan).facts["compute_capabilities"] == ["7.5", "8.6", "8.9", "12.0"]
    smaller = built(tmp_path / "fp16.onnx", tmp_path / "one.rtx.plan", compute_capabilities=("8.6",))
    assert smaller.read_bytes() != plan.read_bytes()
    with pytest.raises(BackendError, match=r"knows no compute capability 9\.0") as unknown:
        built(tmp_path / "fp16.onnx", compute_capabilities=("9.0",))
    assert "7.5" in unknown.value.hint
    with pytest.raises(EdgecnnError, match="FP32 GEMM is not supported"):
        built(tmp_path / "fp32.onnx", compute_capabilities=("7.5",))
    assert not (tmp_path / "fp32.rtx.plan").exists()


def test_several_profiles_in_one_plan(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp16", None), tmp_path / "net.onnx")
    one = built(tmp_path / "net.onnx", tmp_path / "one.rtx.plan")
    sizes = ((1, 1, 1), (2, 4, 8), (16, 16, 32))
    batch = BatchSettings(1, 1, 32, sizes)
    three = build(tmp_path / "net.onnx", tmp_path / "three.rtx.plan", backend="trt-rtx", batch=batch)
    profiles = read_sidecar(three).facts["profiles"]
    assert [tuple(p[key][0] for key in ("min", "opt", "max")) for p in profiles] == list(sizes)
    assert three.read_bytes() != one.read_bytes()


def test_weak_typing_is_refused(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp32", None), tmp_path / "net.onnx")
    (tmp_path / "X.cache").write_text("TRT-100300-EntropyCalibration2\ninput: 3c010204\nflat: 3c010204\n")
    with pytest.raises(BackendError, match="target rtx is built by TensorRT-RTX"):
        built(tmp_path / "net.onnx", weakly_typed=True, ranges=tmp_path / "X.cache")


def test_options_of_the_other_tensorrt_are_refused(tmp_path: Path) -> None:
    onnx.save(tiny_graph("fp32", None), tmp_path / "net.onnx")
    for options in ({"version_compatible": True}, {"hardware_compatibility": "ampere_plus"}, {"timing_cache": "x"}):
        with pytest.raises(BackendError, match="TensorRT-RTX has no choice of"):
            built(tmp_path / "net.onnx", **options)


def convolution(scale: float = 0.05, zero_point: int = 0, kind: str = "INT8") -> Any:
    """A quantised Conv with one thing to be wrong."""
    dtype = getattr(TensorProto, kind)
    whole = np.uint8 if kind == "UINT8" else np.int8
    pair = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"], name="weights"),
    ]
    nodes = [
        *pair,
        helper.make_node("Conv", ["d", "dw"], ["c"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["logits"], name="flatten"),
    ]
    held = [
        numpy_helper.from_array(np.float32(scale), "s"),
        helper.make_tensor("z", dtype, [], [zero_point]),
        numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "w"),
        numpy_helper.from_array(np.float32(0.1), "ws"),
    ]
    assert whole(zero_point) == zero_point
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    opsets = [helper.make_opsetid("", 19)]
    return helper.make_model(
        helper.make_graph(nodes, "net", [taken], [given], held), opset_imports=opsets, ir_version=9
    )


def test_the_convolution_itself_builds(tmp_path: Path) -> None:
    onnx.save(convolution(), tmp_path / "net.onnx")
    assert built(tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": -0.05}, "scale"),
        ({"zero_point": 3}, "zero point"),
        ({"zero_point": 128, "kind": "UINT8"}, "zero point"),
    ],
    ids=["negative scale", "int8 zero point", "uint8 zero point"],
)
def test_what_nvidia_refuses_ends_in_nvidia_s_words(wrong: dict[str, Any], words: str, tmp_path: Path) -> None:
    onnx.save(convolution(**wrong), tmp_path / "net.onnx")
    with pytest.raises(EdgecnnError, match=f"(?i){words}") as refused:
        built(tmp_path / "net.onnx")
    assert "net.onnx" in refused.value.message
    assert refused.value.hint
    assert not list(tmp_path.glob("*.plan*"))


def test_an_operator_nobody_knows_is_named_with_its_node(tmp_path: Path) -> None:
    model = tiny_graph("fp32", None)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Sharpen", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="Sharpen"):
        built(tmp_path / "net.onnx")


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    content = tiny_graph("fp32", None).SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(EdgecnnError):
        built(tmp_path / "net.onnx")


def test_a_scale_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    """The check that the whole file stands on: where the builder took anything, nothing above would prove a thing."""
    model = convolution()
    for held in model.graph.initializer:
        if held.name == "ws":
            held.CopyFrom(numpy_helper.from_array(np.float16(0.1), "ws"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(EdgecnnError):
        built(tmp_path / "net.onnx")


@pytest.mark.cpu_s(60)
def test_ctrl_c_ends_the_real_builder(tmp_path: Path, tensorrt_rtx: Path, root: Path) -> None:
    path = exported("se_resnet50", tmp_path)  # seconds to build, wherever
    command = [
        sys.executable,
        "-m",
        "edgecnn",
        "build",
        str(path),
        "--backend",
        "trt-rtx",
        "-o",
        str(tmp_path / "x.plan"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tensorrt_rtx), str(root)])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("building:"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("x.plan*"))


def test_check_asks_parser_and_builder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(convolution(), tmp_path / "good.onnx")
    assert cli.main(["check", str(tmp_path / "good.onnx")]) == 0
    assert "parser and builder" in " ".join(capsys.readouterr().out.split())
    onnx.save(convolution(zero_point=3), tmp_path / "bad.onnx")
    assert cli.main(["check", str(tmp_path / "bad.onnx")]) == 2
    said = capsys.readouterr().out
    assert "our rules for TensorRT 10.3" in said
    findings = [" ".join(finding.split()) for finding in re.split(r"\n(?=\S)", said)]
    theirs = next(finding for finding in findings if "TensorRT-RTX" in finding and finding.startswith("error"))
    assert "quantize" in theirs  # the node, by NVIDIA's parser
    assert "zero point" in theirs.lower()


def test_names_that_are_no_text_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(convolution().SerializeToString().replace(b"Conv", b"Co\x8cv"))
    assert cli.main(["check", str(path)]) == 2
    assert "Co\ufffdv" in capsys.readouterr().out


def test_a_recipe_stops_before_what_needs_the_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    safetensors_torch.save_file(build_model("lenet5").state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "mine.toml").write_text(
        "targets = ['rtx']\n[model]\nname = 'lenet5'\nclasses = 10\nweights = 'net.safetensors'\n"
        "[data]\nsource = 'digits'\n[train]\nepochs = 0\n",
        encoding="utf-8",
    )
    assert cli.main(["run", "mine.toml", "--out", "r"]) == 3
    said = capsys.readouterr()
    assert "rtx: not measured: validate, bench of fp16 remain" in said.out + said.err
    assert "edgecnn bundle r --for rtx" in said.err
    assert read_plan_header(tmp_path / "r" / "rtx" / "fp16.rtx.plan").flavor.backend == "trt-rtx"
    assert cli.main(["run", "mine.toml", "--out", "r", "--until", "build"]) == 0, "nothing is left to do"
