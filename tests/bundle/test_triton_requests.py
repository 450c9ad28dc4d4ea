"""Requests of NVIDIA's own client to a stand-in server that has loaded a bundle for Triton."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.artifact.write import write_artifact
from edgecnn.cli import main
from tests.bundle.conftest import Build

if TYPE_CHECKING:
    import onnx

    from edgecnn.inspection.predict import classify
    from tests.acceptance.nets import PREPROCESSING, SIZE, Net, pictures
    from tests.fakes.triton_server import Engine, Refused, serving

pytestmark = [pytest.mark.torch, pytest.mark.nvidia]

LABELS = ["tench, Tinca", "rose", "owl: barn", "cup", "bee", "Größe"]
NAME, LARGEST = "flowers", 16
RECIPE = f"""
title = "a graph for Triton"
precisions = ["fp32"]
[model]
onnx = "theirs.onnx"
[input]
size = 12
resize = 12
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[data]
source = "images"
[batch]
min = 1
opt = 4
max = {LARGEST}
[tolerances]
top1_drop_pp_max = 1.0
"""
FORMS = {
    "plain": (),
    "int8": ("precisions=['fp32', 'int8']",),
    "pixels": ("export.input=raw-nchw", "export.output=probabilities"),
    "bytes": ("export.input=uint8-nhwc", "export.output=top-k"),
}


@dataclasses.dataclass(frozen=True)
class Bundled:
    """A bundle, its graph in the run, and what `edgecnn predict` says of each picture."""

    folder: Path
    images: list[Path]
    said: list[list[dict[str, Any]]]

    @property
    def config(self) -> Path:
        return self.folder / "repository" / NAME / "config.pbtxt"


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundled]:
    """`bundled(form)`: the bundle of a run whose graph takes and gives what FORMS says."""
    folder = tmp_path_factory.mktemp("run")
    net = Net(seed=3)
    model = net.model(net.head(net.relu(net.conv("c1", "input", (3, 24), strides=[2, 2]))))
    sidecar = Sidecar(kind="graph", preprocessing=PREPROCESSING, labels=LABELS)
    write_artifact(folder / "theirs.onnx", lambda path: onnx.save(model, str(path)), sidecar)
    for k, (pixels, label) in enumerate(zip(*pictures(60, len(LABELS)), strict=True)):
        path = folder / "images" / ("test" if k < 18 else "train") / LABELS[label] / f"{k:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / f"{NAME}.toml").write_text(RECIPE)
    made: dict[str, Bundled] = {}

    def bundle(form: str) -> Bundled:
        if form not in made:
            run, out = folder / form, folder / f"{form}-triton"
            settings = [word for setting in FORMS[form] for word in ("--set", setting)]
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert main(["run", f"{NAME}.toml", "--out", str(run), "--until", "reference", *settings]) == 0
                assert main(["bundle", str(run), "--for", "triton", "-o", str(out)]) == 0
            graph = run / ("model.int8-tensorrt.onnx" if form == "int8" else "model.fp32.onnx")
            images = sorted((folder / "images" / "test").rglob("*.png"))
            made[form] = Bundled(out, images, [row.plain["top5"] for row in classify(graph, images, None, False)])
        return made[form]

    return bundle


Serve = Callable[[Bundled], contextlib.AbstractContextManager[Any]]


@pytest.fixture
def serve(build: Build, tritonclient: Any) -> Serve:
    """`serve(bundle)` builds its plan by its script, starts a server of TensorRT 10.3, and gives the client of it."""

    @contextlib.contextmanager
    def served(bundle: Bundled) -> Iterator[Any]:
        code, asked, said = build(bundle.folder / "build.sh", 100300)
        assert code == 0, said
        engine = Engine(bundle.folder / "model.onnx", asked)
        with serving(bundle.folder / "repository", engine, (10, 3), tritonclient) as address:
            here = [("grpc.enable_http_proxy", 0)]
            with tritonclient.InferenceServerClient(address, channel_args=here) as client:
                yield client

    return served


def prepared(bundle: Bundled) -> Any:
    """The pictures [N, ...] as README.txt says that they are made and taken."""
    text = (bundle.folder / "README.txt").read_text(encoding="utf-8")
    form = re.findall(r"^takes  input \[N, .*\], (\S+), N from 1 to 16$", text, re.MULTILINE)[0]
    made = ast.literal_eval(re.findall(r"^made from the image as (.*)$", text, re.MULTILINE)[0])
    assert made["resize"] == made["crop"] == SIZE  # as the pictures are
    pixels = np.stack([np.asarray(Image.open(path)) for path in bundle.images])
    if form == "uint8-nhwc":
        return pixels
    if form == "normalised":
        pixels = (pixels / 255 - np.array(made["mean"])) / np.array(made["std"])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)


def request(module: Any, values: Any, name: str = "input") -> Any:
    found = module.InferInput(name, list(values.shape), module.np_to_triton_dtype(values.dtype))
    found.set_data_from_numpy(values)
    return found


def answers(client: Any, module: Any, values: Any) -> dict[str, Any]:
    """Every output, [N, ...] as the server's metadata name, type and shape it."""
    found = client.infer(NAME, [request(module, values)])
    outputs = {}
    for told in client.get_model_metadata(NAME).outputs:
        outputs[told.name] = found.as_numpy(told.name)
        assert module.np_to_triton_dtype(outputs[told.name].dtype) == told.datatype
        assert list(outputs[told.name].shape) == [len(values), *told.shape[1:]]
    return outputs


def check_probabilities(bundle: Bundled, outputs: dict[str, Any], tolerance: float, apart: int = 0) -> None:
    """What was answered is what `edgecnn predict` says; of at most `apart` images within a hundredth."""
    said = bundle.said[: len(next(iter(outputs.values())))]
    classes = np.array([[top["class"] for top in row] for row in said])
    if "top_classes" in outputs:
        assert np.array_equal(outputs["top_classes"], classes)
        shares = outputs["top_probabilities"]
    else:
        (scores,) = outputs.values()
        raised = np.exp(scores) if "logits" in outputs else scores
        shares = np.take_along_axis(raised / raised.sum(axis=1, keepdims=True), classes, axis=1)
    differences = np.abs(shares - np.array([[top["probability"] for top in row] for row in said])).max(axis=1)
    assert (differences > tolerance).sum() <= apart, differences
    assert differences.max() <= max(tolerance, 1e-2 if apart else 0.0), differences


def check_labels(bundle: Bundled, client: Any, module: Any, output: str) -> None:
    """The classification extension names the classes as `edgecnn predict` does."""
    wanted = module.InferRequestedOutput(output, class_count=3)
    found = client.infer(NAME, [request(module, prepared(bundle)[:LARGEST])], outputs=[wanted]).as_numpy(output)
    named = [[tuple(text.decode().split(":", 2)[1:]) for text in row] for row in found]
    assert named == [[(str(top["class"]), top["label"]) for top in row[:3]] for row in bundle.said[:LARGEST]]


@pytest.mark.parametrize("form", FORMS)
def test_the_client_gets_what_predict_says(
    form: str, bundled: Callable[[str], Bundled], serve: Serve, tritonclient: Any
) -> None:
    bundle = bundled(form)
    # `predict` rounds FP16 as TensorRT does, the server here does not: INT8 codes at an edge may fall to the other side
    images, tolerance, apart = prepared(bundle), *((1e-3, 1) if form == "int8" else (2e-6, 0))
    assert len({row[0]["class"] for row in bundle.said[:LARGEST]}) > 2
    with serve(bundle) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        (told,) = client.get_model_metadata(NAME).inputs
        assert (told.name, list(told.shape)) == ("input", [-1, *images.shape[1:]])
        assert client.get_model_config(NAME).config.max_batch_size == LARGEST
        for n in (1, 5, LARGEST):
            check_probabilities(bundle, answers(client, tritonclient, images[:n]), tolerance, apart)
        with pytest.raises(tritonclient.InferenceServerException, match="batch-size must be <= 16"):
            answers(client, tritonclient, images[: LARGEST + 1])
        if form != "bytes":
            check_labels(bundle, client, tritonclient, "probabilities" if form == "pixels" else "logits")


def test_another_request_than_the_one_that_is_stated_is_refused(
    bundled: Callable[[str], Bundled], serve: Serve, tritonclient: Any
) -> None:
    bundle = bundled("bytes")
    images = prepared(bundle)[:2]
    wrong = {
        "unexpected inference input 'pixels'": request(tritonclient, images, "pixels"),
        "data-type is 'FP32', but model .*expects 'UINT8'": request(tritonclient, images.astype(np.float32)),
        r"Expected \[-1, 12, 12, 3\], got \[2, 3, 12, 12\]": request(tritonclient, images.transpose(0, 3, 1, 2)),
        r"Expected \[-1, 12, 12, 3\], got \[12, 12, 3\]": request(tritonclient, images[0]),
    }
    with serve(bundle) as client:
        for words, given in wrong.items():
            with pytest.raises(tritonclient.InferenceServerException, match=words):
                client.infer(NAME, [given])
        with pytest.raises(tritonclient.InferenceServerException, match="unexpected inference output 'logits'"):
            client.infer(NAME, [request(tritonclient, images)], outputs=[tritonclient.InferRequestedOutput("logits")])
        with pytest.raises(tritonclient.InferenceServerException, match="'other' is not found"):
            client.infer("other", [request(tritonclient, images)])


@pytest.mark.parametrize(
    ("form", "old", "new", "words"),
    [
        ("plain", "dims: [ 3, 12, 12 ]", "dims: [ 12, 12, 3 ]", r"expects shape \[3, 12, 12\] for input 'input'"),
        ("plain", "dims: [ 6 ]", "dims: [ 1000 ]", r"expects shape \[6\] for output 'logits'"),
        ("bytes", "TYPE_UINT8", "TYPE_FP32", "unexpected datatype TYPE_FP32 for input 'input'"),
        ("bytes", "TYPE_INT32", "TYPE_FP32", "unexpected datatype TYPE_FP32 for output 'top_classes'"),
        ("plain", '"input"', '"images"', r"unexpected inputs \['images'\], the model has \['input'\]"),
        ("pixels", '"probabilities"', '"logits"', r"unexpected outputs \['logits'\]"),
        ("plain", "labels.txt", "names.txt", "unable to open label file names.txt"),
        ("plain", "max_batch_size: 16", "max_batch_size: 64", "max-batch 64, the engine supports 16"),
        ("plain", "max_batch_size: 16", "max_batch_size: 2", "preferred size must be <= max batch size"),
        ("plain", "[ 4 ]", "[ 32 ]", "preferred size must be <= max batch size"),
        ("plain", "batch_size: 16 inputs", "batch_size: 17 inputs", "batch-size must be <= 16"),
        ("plain", f'name: "{NAME}"', 'name: "roses"', f"unexpected directory name '{NAME}' for model 'roses'"),
        ("plain", "count: 1", "counts: 1", "failed to read text proto"),
    ],
)
def test_a_wrong_config_is_not_loaded(
    form: str, old: str, new: str, words: str, bundled: Callable[[str], Bundled], serve: Serve, tmp_path: Path
) -> None:
    bundle = dataclasses.replace(bundled(form), folder=tmp_path / "wrong")
    shutil.copytree(bundled(form).folder, bundle.folder)
    text = bundle.config.read_text(encoding="utf-8")
    assert old in text
    bundle.config.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(Refused, match=words), serve(bundle):
        pass


@pytest.mark.parametrize("wrong", [LABELS[::-1], LABELS[:2], ["background", *LABELS]], ids=["turned", "few", "shifted"])
def test_wrong_labels_are_found_by_a_request(
    wrong: list[str], bundled: Callable[[str], Bundled], serve: Serve, tritonclient: Any, tmp_path: Path
) -> None:
    bundle = dataclasses.replace(bundled("plain"), folder=tmp_path / "wrong")
    shutil.copytree(bundled("plain").folder, bundle.folder)
    with serve(bundle) as client:
        check_labels(bundle, client, tritonclient, "logits")
    (bundle.config.parent / "labels.txt").write_text("\n".join(wrong), encoding="utf-8")
    with serve(bundle) as client, pytest.raises(AssertionError):
        check_labels(bundle, client, tritonclient, "logits")
