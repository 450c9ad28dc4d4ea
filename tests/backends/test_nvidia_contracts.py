"""NVIDIA's real parser and builder over each serving contract, folded zero points, what `auto` makes, and scales that
were made wrong; ranges come from stored tables, no picture is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgecnn.contract import InputForm, OutputForm, ServingContract

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper

    from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of
    from edgecnn.artifact.write import write_artifact
    from edgecnn.data.preprocess import preprocessing_from_json
    from edgecnn.errors import EdgecnnError
    from edgecnn.graph.calibration.file import write_ranges
    from edgecnn.graph.ptq import quantize as ptq
    from edgecnn.graph.serving import fold_contract
    from edgecnn.pytorch.models import build_model
    from edgecnn.recipe.schema import BatchSettings
    from edgecnn.steps.build import build
    from edgecnn.steps.export import export_network
    from edgecnn.steps.quantize import Quantized, quantize
    from edgecnn.zoo import find_model
    from tests.fakes.noise import images
    from tests.fakes.ranges import stored_ranges

pytestmark = [pytest.mark.torch, pytest.mark.nvidia, pytest.mark.usefixtures("tensorrt_rtx")]

SMALL = 64  # pixels
INPUTS: dict[str, InputForm] = {"normalised": "normalised", "raw": "raw-nchw", "uint8": "uint8-nhwc"}
OUTPUTS: dict[str, OutputForm] = {"logits": "logits", "probabilities": "probabilities", "top-k": "top-k"}
CONTRACTS = [
    pytest.param(taken, given, id=f"{t}-{g}")
    for t, taken in INPUTS.items()
    for g, given in OUTPUTS.items()
    if (t, g) != ("normalised", "logits")
]


def exported(name: str, path: Path) -> Path:
    """The graph of a network with seeded weights."""
    card = find_model(name)
    channels, height, _ = card.input_shape
    size = min(height, SMALL)
    torch.manual_seed(0)
    card = dataclasses.replace(card, input_shape=(channels, size, size))
    export_network(build_model(name).eval(), card, path, Sidecar(kind="graph"), max_batch=2)
    return path


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("squeezenet1_1", tmp_path_factory.mktemp("squeezenet") / "model.fp32.onnx")


def served(graph: Path, output: Path, contract: ServingContract) -> Path:
    """The graph with another serving contract, as export folds it."""
    plain = read_sidecar(graph)
    model = onnx.load(graph)
    fold_contract(model, contract, preprocessing_from_json(plain.preprocessing or {}))
    sidecar = dataclasses.replace(plain, facts={**plain.facts, **contract.facts})
    write_artifact(output, lambda path: onnx.save(model, str(path)), sidecar)
    return output


def calibrated(graph: Path, table: str) -> Path:
    """X.calib.json of a graph, from a stored table."""
    path = graph.with_name("model.calib.json")
    write_ranges(stored_ranges(table, sha256_of(graph)), path, Sidecar(kind="ranges"))
    return path


def built(graph: Path | Quantized) -> Path:
    return build(graph, backend="trt-rtx", batch=BatchSettings(max=4))


@pytest.mark.cpu_s(30)
@pytest.mark.parametrize(("taken", "given"), CONTRACTS)
def test_squeezenet_builds_with_each_serving_contract(
    taken: InputForm, given: OutputForm, squeezenet: Path, tmp_path: Path
) -> None:
    """Its INT8 graph has zero points that `auto` has folded into biases: NVIDIA sees none."""
    graph = served(squeezenet, tmp_path / "model.fp32.onnx", ServingContract(taken, given, 1000))
    ranges = calibrated(graph, "squeezenet1_1" if taken == "normalised" else "squeezenet1_1_raw")
    int8 = quantize(graph, precision="int8", method="auto", ranges=ranges)
    assert int8.report is not None
    folded = [row for row in int8.report.tensors if row.offset]
    assert len(folded) > 10
    assert all(row.zero_point == 0 and row.type == "int8" for row in folded)
    plans = [built(graph), built(quantize(graph, precision="fp16", ranges=ranges)), built(int8)]
    for plan, precision in zip(plans, ("fp32", "fp16", "int8"), strict=True):
        sidecar = read_sidecar(plan)
        assert sidecar.precision_requested == precision
        assert (sidecar.contract.input, sidecar.contract.output) == (taken, given)


@pytest.mark.cpu_s(30)
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "around"), [("lenet5", "fp32"), ("lenet5", "fp16"), ("resnet20_cifar", "fp16")])
def test_what_auto_makes_builds(name: str, around: Any, tmp_path: Path) -> None:
    """With all that it tries: headroom, equalization, reconstruction."""
    graph = exported(name, tmp_path / "model.fp32.onnx")
    data = images(16, tuple(find_model(name).input_shape))
    ranges = calibrated(graph, name)
    made = quantize(graph, precision="int8", method="auto", around=around, ranges=ranges, dataset=data)
    assert made.report is not None
    assert any("reconstructed" in row.name for row in made.report.candidates)
    assert read_sidecar(built(made)).precision_requested == "int8"


def first(model: Any, operator: str, reads: str = "") -> Any:
    """The first node of a kind, of those that read weights (`initializer`) or an activation."""
    held = {tensor.name for tensor in model.graph.initializer}
    kinds = {"weights": True, "activation": False}
    return next(
        node
        for node in model.graph.node
        if node.op_type == operator and kinds.get(reads) in (None, node.input[0] in held)
    )


@pytest.mark.parametrize("reads", ["activation", "weights"])
def test_one_scale_of_another_type_is_refused(reads: str, tmp_path: Path) -> None:
    """In an INT8 graph that builds, around FP16: FP32 in place of FP16 in one DequantizeLinear. (In a QuantizeLinear
    TensorRT-RTX takes it; ONNX does not, and so our own rules refuse it.)"""
    graph = exported("lenet5", tmp_path / "model.fp32.onnx")
    made = quantize(graph, precision="int8", method="minmax", ranges=calibrated(graph, "lenet5"))
    model = onnx.load(made)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    dequantize = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and (node.input[0] in held) is (reads == "weights")
    )
    values = numpy_helper.to_array(held[dequantize.input[1]])
    assert values.dtype == np.float16
    model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), "wrong"))
    dequantize.input[1] = "wrong"
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(EdgecnnError, match="same type"):
        built(tmp_path / "wrong.onnx")
    assert not list(tmp_path.glob("wrong*plan*"))


def test_a_quantizer_that_makes_scales_of_the_wrong_type_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all builds of this folder stand on: INT8 around FP16 whose scales stay FP32 gets no plan."""
    real = ptq.to_fp16

    def careless(model: Any, ranges: Any) -> Any:
        made, kept = real(model, ranges)
        scales = {n.input[1] for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
        for tensor in made.graph.initializer:
            if tensor.name in scales:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return made, kept

    monkeypatch.setattr(ptq, "to_fp16", careless)
    monkeypatch.setattr("edgecnn.steps.quantize._require_clean", lambda *arguments: ())  # our own lint refuses it too
    graph = exported("lenet5", tmp_path / "model.fp32.onnx")
    made = quantize(graph, precision="int8", method="minmax", ranges=calibrated(graph, "lenet5"))
    with pytest.raises(EdgecnnError, match="same type"):
        built(made)
