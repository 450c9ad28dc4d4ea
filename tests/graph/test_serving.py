"""The serving contract: folded before calibration, equal to the plain graph, fed and read by every later step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import onnx
import pytest
from PIL import Image

import edgecnn as ec
from edgecnn import cli
from edgecnn.artifact.sidecar import Sidecar, read_sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.backends import open_engine
from edgecnn.contract import InputForm, OutputForm, ServingContract
from edgecnn.data.preprocess import Preprocessing
from edgecnn.errors import DataError, GraphError, MeasurementError
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.file import read_ranges
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.serving import LARGEST_DIFFERENCE, body_of, fold_contract, fold_normalization, load_body
from edgecnn.inspection.predict import classify
from edgecnn.measure.predict import read_predictions
from edgecnn.steps.calibrate import calibration_images
from tests.fakes.graphs import build
from tests.fakes.tiny import tiny_graph

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

FORMS = [(i, o) for i in get_args(InputForm) for o in get_args(OutputForm)]
EIGHT = Preprocessing(resize=9, crop=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CLASSES = ["ant", "bee", "cat", "dog", "elk"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures in five class folders."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(4)
    for k in range(40):
        folder = root / CLASSES[k % 5]
        folder.mkdir(exist_ok=True)
        tint = rng.integers(0, 256, 3)
        pixels = np.clip(rng.normal(tint, 40, (11, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return root


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The tiny network as a graph from elsewhere that knows its preprocessing and labels."""
    path = tmp_path_factory.mktemp("theirs") / "theirs.onnx"
    sidecar = Sidecar(kind="graph", preprocessing=EIGHT.to_json(), labels=CLASSES)
    write_artifact(path, lambda temporary: onnx.save(telling_network(images), str(temporary)), sidecar)
    return path


def telling_network(images: Path) -> onnx.ModelProto:
    """The tiny network, its logits centered and scaled so that the images are of several classes."""
    model, names = tiny_graph("fp32"), ("fc.weight", "fc.bias")
    logits = session(model).run(None, {"input": pixels_of(images, "normalised")})[0]
    scale = 1 / logits.std(axis=0)
    for tensor in [t for t in model.graph.initializer if t.name in names]:
        values = onnx.numpy_helper.to_array(tensor)
        made = (values - logits.mean(axis=0)) * scale if tensor.name == "fc.bias" else values * scale[:, None]
        tensor.CopyFrom(onnx.numpy_helper.from_array(made.astype(np.float32), tensor.name))
    return model


def pixels_of(images: Path, form: InputForm) -> np.ndarray:
    paths = sorted(images.rglob("*.png"))
    return np.stack([EIGHT.tensor(Image.open(p), form) for p in paths])


@pytest.mark.parametrize(("takes", "gives"), FORMS)
def test_every_form_equals_the_plain_graph(
    theirs: Path, images: Path, tmp_path: Path, takes: InputForm, gives: OutputForm
) -> None:
    plain = ec.import_onnx(theirs, tmp_path / "plain.onnx")
    made = ec.import_onnx(theirs, tmp_path / "made.onnx", takes=takes, gives=gives)
    with open_engine(plain) as a, open_engine(made) as b:
        logits = a.run(pixels_of(images, "normalised")).astype(np.float64)
        found = b.run_all({"input": pixels_of(images, takes)})
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    if gives == "logits":
        assert np.abs(found["logits"] - logits).max() <= LARGEST_DIFFERENCE * np.abs(logits).max()
    elif gives == "probabilities":
        assert np.abs(found["probabilities"] - shares).max() <= LARGEST_DIFFERENCE
    else:
        assert np.array_equal(found["top_classes"], np.argsort(-shares, axis=1))
        assert np.abs(found["top_probabilities"] + np.sort(-shares, axis=1)).max() <= LARGEST_DIFFERENCE
    known = read_sidecar(made)
    assert known.contract == ServingContract(takes, gives, 5)
    assert ("serving_input" in known.facts) == ((takes, gives) != ("normalised", "logits"))


@pytest.mark.parametrize(("takes", "gives"), [("uint8-nhwc", "top-k"), ("raw-nchw", "probabilities")])
def test_every_step_feeds_and_reads_it(
    theirs: Path, images: Path, tmp_path: Path, takes: InputForm, gives: OutputForm
) -> None:
    data = str(images)
    plain = ec.import_onnx(theirs, tmp_path / "plain.onnx")
    graph = ec.import_onnx(theirs, tmp_path / "m.fp32.onnx", takes=takes, gives=gives)
    expected = ec.reference(plain, tmp_path / "plain.npz", data=data)
    ranges = ec.calibrate(graph, data=data)
    engines = {"fp32": ec.build(graph)}
    engines["fp16"] = ec.build(ec.quantize(graph, tmp_path / "m.fp16.onnx", precision="fp16", ranges=ranges))
    int8 = ec.quantize(graph, tmp_path / "m.int8.onnx", precision="int8", method="mse", ranges=ranges)
    cpu = ec.quantize(graph, tmp_path / "m.cpu.onnx", precision="int8", scheme="ort-cpu", method="mse", ranges=ranges)
    engines |= {"int8": ec.build(int8), "cpu": ec.build(cpu)}
    for name, engine in engines.items():
        found = ec.validate(engine, expected, data=data)
        assert found.output == gives
        assert found.agreement_pct >= (100 if name == "fp32" else 80), name
        assert found.sqnr_db is None
        assert found.n_labelled == 40
    own = ec.reference(graph, tmp_path / "own.npz", data=data)
    assert read_predictions(own).output == gives
    assert ec.validate(plain, own, data=data).agreement_pct == 100
    assert ec.bench(engines["int8"], versus=plain, duration_s=0.02, warmup_ms=0).measurements[0].ratio is not None
    image = next(images.rglob("*.png"))
    (ours,), (wanted,) = (classify(e, [image], None, False) for e in (engines["fp32"], plain))
    assert [label for label, _, _ in ours.top] == [label for label, _, _ in wanted.top]
    assert [p for _, _, p in ours.top] == pytest.approx([p for _, _, p in wanted.top], abs=2e-6)


def test_what_is_calibrated_is_the_form_that_is_served(theirs: Path, images: Path, tmp_path: Path) -> None:
    graph = ec.import_onnx(theirs, tmp_path / "m.fp32.onnx", takes="uint8-nhwc", gives="top-k")
    ranges = read_ranges(ec.calibrate(graph, data=str(images)))
    centered = ranges.tensors["pixels_centered"]
    mean = 255 * np.array(EIGHT.mean)
    assert 0 <= ranges.tensors["input"].low < 40
    assert 200 < ranges.tensors["input"].largest <= 255
    assert -mean.max() <= centered.low < 0
    assert "probabilities" not in ranges.tensors
    int8 = onnx.load(ec.quantize(graph, precision="int8", method="mse", ranges=tmp_path / "m.calib.json").path)
    index = OnnxGraph(int8)
    kinds = [node.op_type for node in int8.graph.node]
    assert kinds[:2] == ["Cast", "Transpose"]
    (quantizer,) = [n for n, _ in index.readers["pixels_centered"] if n.op_type == "QuantizeLinear"]
    scale = float(index.array(quantizer.input[1]))
    assert scale > 0.5, "codes are steps of pixels, not of normalised values"
    assert {o.name: o.type.tensor_type.elem_type for o in int8.graph.output} == {
        "top_probabilities": onnx.TensorProto.FLOAT,
        "top_classes": onnx.TensorProto.INT32,
    }
    softmax = index.producer["probabilities"]
    assert index.producer[softmax.input[0]].op_type == "Cast", "the ends are float32, behind the FP16 body"


def test_images_are_calibrated_alike_from_a_plain_and_a_folded_graph(
    theirs: Path, images: Path, tmp_path: Path
) -> None:
    """The logits' statistics do not depend on the form in which the pictures came."""
    seen = []
    for takes in get_args(InputForm):
        graph = ec.import_onnx(theirs, tmp_path / f"{takes}.onnx", takes=takes)
        found = collect_ranges(graph, calibration_images(graph, str(images))).tensors["logits"]
        seen.append(found.largest)
    assert seen == pytest.approx([seen[0]] * 3, rel=1e-4)


def test_the_mean_is_subtracted_before_the_padding() -> None:
    """A convolution pads with zeros: of a normalised image that is its mean, of raw pixels it would be black."""
    model = tiny_graph("fp32")
    fold_normalization(model, EIGHT)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[0] == "Sub"
    assert "Mul" not in kinds
    plain, index = OnnxGraph(tiny_graph("fp32")), OnnxGraph(model)
    ratio = index.array("conv.weight") / plain.array("conv.weight")
    assert ratio[:, :, 0, 0] == pytest.approx(np.tile(1 / (255 * np.array(EIGHT.std)), (4, 1)), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "muls"),
    [
        ("a = Conv(input, out=8, k=3, group=4)\nb = Flatten(a)", 0),
        ("a = Conv(input, out=8, k=3)\nb = Conv(input, out=8, k=3)\nc = Add(a, b)\nd = Flatten(c)", 0),
        ("a = Relu(input)\nb = Flatten(a)", 1),
        ("a = Conv(input, out=4, k=1)\nb = Add(a, input)\nc = Flatten(b)", 1),
    ],
)
def test_readers_of_the_input_of_every_kind(text: str, muls: int) -> None:
    known = Preprocessing(8, 8, (0.1, 0.2, 0.3, 0.4), (0.2, 0.3, 0.4, 0.5), channels=4)
    model = build(text)
    output = model.graph.output[0].name
    before = session(model)
    fold_normalization(model, known)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Mul" for node in model.graph.node) == muls
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 4), np.uint8)
    raw, normal = (np.stack([known.arrange(p, form) for p in pixels]) for form in ("raw-nchw", "normalised"))  # type: ignore[arg-type]
    ours, theirs = session(model).run([output], {"input": raw})[0], before.run([output], {"input": normal})[0]
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def session(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("takes", "gives"), FORMS)
def test_the_ends_come_off_again(takes: InputForm, gives: OutputForm) -> None:
    contract = ServingContract(takes, gives, 5)
    model = tiny_graph("fp32")
    fold_contract(model, contract, EIGHT)
    body = body_of(model, contract)
    onnx.checker.check_model(body, full_check=True)
    assert (body.graph.input[0].name, body.graph.output[0].name) == ("input", "logits")
    assert [d.dim_value for d in body.graph.input[0].type.tensor_type.shape.dim][1:] == [3, 8, 8]
    assert not {n.op_type for n in body.graph.node} & {"Cast", "Transpose", "Softmax", "TopK"}


def test_a_graph_without_the_ends_that_its_sidecar_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    facts = {"classes": 5, **ServingContract("normalised", "top-k").facts}
    write_artifact(path, lambda t: onnx.save(tiny_graph("fp32"), str(t)), Sidecar(kind="graph", facts=facts))
    with pytest.raises(GraphError, match="has not the ends of the serving contract"):
        load_body(path)


def test_one_logit_becomes_a_probability_decided_at_a_half(images: Path, tmp_path: Path) -> None:
    model = build(
        "a = Conv(input, out=4, k=3)\nb = GlobalAveragePool(a)\nc = Flatten(b)\nlogits = Gemm(c, out=1)", channels=3
    )
    path, two = tmp_path / "one.onnx", tmp_path / "two"
    for k, png in enumerate(sorted(images.rglob("*.png"))[:20]):
        (two / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        (two / f"c{k % 2}" / png.name).write_bytes(png.read_bytes())
    sidecar = Sidecar(kind="graph", preprocessing=EIGHT.to_json(), labels=["c0", "c1"])
    write_artifact(path, lambda t: onnx.save(model, str(t)), sidecar)
    plain = ec.import_onnx(path, tmp_path / "plain.onnx")
    made = ec.import_onnx(path, tmp_path / "made.onnx", takes="raw-nchw", gives="probabilities")
    found = ec.validate(made, ec.reference(plain, tmp_path / "r.npz", data=str(two)), data=str(two))
    assert (found.agreement_pct, found.task, found.output) == (100, "binary", "probabilities")
    with pytest.raises(DataError, match="top-k output of one logit"):
        ec.import_onnx(path, tmp_path / "k.onnx", gives="top-k")


def test_what_cannot_be_is_refused_in_one_line(
    theirs: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.onnx"
    onnx.save(tiny_graph("fp32"), str(bare))
    folded = ec.import_onnx(theirs, tmp_path / "folded.onnx", takes="raw-nchw", gives="top-k")
    reference = ec.reference(folded, tmp_path / "f.npz", data=str(images))
    arrays = tmp_path / "x.npz"
    np.savez(arrays, input=np.zeros((4, 3, 8, 8), np.float32))
    given = ["--reference", str(reference), "--data", str(images)]
    for arguments, said in (
        (["import", str(bare), "--input", "raw-nchw", "-o", str(tmp_path / "x.onnx")], "--preprocess"),
        (["import", str(folded), "-o", str(tmp_path / "x.onnx")], "takes raw-nchw and gives top-k already"),
        (["import", str(theirs), "--output", str(tmp_path / "x.onnx")], "is not one of 'logits'"),
        (["validate", str(folded), *given, "--stages"], "stages are compared by their logits"),
        (["validate", str(folded), *given, "--tta", "ten-crop"], "ten crops are averaged over all"),
        (["calibrate", str(folded), "--data", str(arrays), "-o", str(tmp_path / "x.json")], "normalised already"),
        (["validate", str(folded), *given, "--geometry", "squash"], "is not one of 'nvinfer-squash'"),
    ):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error, arguments
        assert "hint:" in error
    assert not (tmp_path / "x.onnx").exists()


def test_geometry_is_a_stage_of_its_own(
    theirs: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ec.import_onnx(theirs, tmp_path / "g.onnx", takes="uint8-nhwc", gives="top-k")
    expected, output = ec.reference(graph, tmp_path / "g.npz", data=str(images)), tmp_path / "g.accuracy.json"
    plain = ec.validate(graph, expected, data=str(images))
    found = ec.validate(graph, expected, output, data=str(images), geometry="letterbox")
    assert found.serving is not None
    assert plain.serving is None
    assert (found.top1_pct, found.agreement_pct) == (plain.top1_pct, 100)
    assert found.serving.serving_agreement_pct < 100
    assert found.serving.serving_drop_pp == pytest.approx(found.top1_pct - found.serving.serving_top1_pct)  # type: ignore[operator]
    written = json.loads(output.read_text())
    assert written["serving_geometry"] == "letterbox"
    assert written["provenance"]["fields"]["input.geometry"] == "letterbox"
    assert [p.name for p in tmp_path.glob(".*")] == []
    given = ["validate", str(graph), "--reference", str(expected), "--data", str(images)]
    assert cli.main([*given, "--geometry", "letterbox"]) == 0
    assert "served as letterbox: top-1 " in capsys.readouterr().out


def test_a_class_that_does_not_exist_is_not_finite(tmp_path: Path) -> None:
    from edgecnn.measure.served import NOT_NAMED, scores_of
    from edgecnn.session import class_probabilities

    contract = ServingContract("normalised", "top-k", 4)
    outputs = {
        "top_probabilities": np.array([[0.7, 0.2], [0.6, 0.3], [np.nan, 0.1]], np.float32),
        "top_classes": np.array([[3, 0], [9, 1], [0, 1]], np.int32),
    }
    scores = scores_of(outputs, None, contract)  # type: ignore[arg-type]
    assert scores[0].tolist() == pytest.approx([0.2, NOT_NAMED, NOT_NAMED, 0.7])
    assert np.isnan(scores[1:]).all()
    assert class_probabilities(scores[:1], 0.0, "top-k")[0].tolist() == pytest.approx([0.2, 0, 0, 0.7])
    with pytest.raises(MeasurementError, match="not top_probabilities and top_classes"):
        scores_of({"logits": scores}, None, contract)  # type: ignore[arg-type]
