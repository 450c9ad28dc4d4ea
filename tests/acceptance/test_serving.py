"""Engines that take pixels and give decisions, from import to end to end, against the plain network run by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from tests.acceptance.nets import PREPROCESSING, SIZE, Bytes, Floats, Net, pictures, run
from tests.cli.conftest import Result

pytestmark = pytest.mark.onnx

Cli = Callable[..., Result]
CLASSES = 6
PIXELS, LABELS = pictures(24, CLASSES, seed=5)
OTHER_COLORS = {"bgr": True, "mean": [0.45, 0.5, 0.55], "std": [0.26, 0.25, 0.24]}


@pytest.fixture
def edgecnn(capfd: pytest.CaptureFixture[str]) -> Cli:
    """`edgecnn("models", "--json")` -> Result, in this process."""
    from edgecnn.cli import main as run_cli

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run_cli([str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def network(
    pads: tuple[int, ...] = (1, 1, 1, 1), again: str = "", spatial: tuple[int, int] = (SIZE, SIZE), **first: Any
) -> onnx.ModelProto:
    """A convolution of the input with `pads`, and where `again` says so a second reader of the input beside it."""
    net, channels = Net(seed=3, classes=CLASSES, spatial=spatial), 12
    x = net.conv("c1", "input", (3, channels), strides=[2, 2], **first)
    (old,) = [a for a in net.nodes[-1].attribute if a.name == "pads"]
    net.nodes[-1].attribute.remove(old)
    net.nodes[-1].attribute.append(helper.make_attribute("pads", list(pads)))
    x = net.relu(x)
    if again == "pool":
        pooled = net.node("AveragePool", "mean_of_input", "input", kernel_shape=[2, 2], strides=[2, 2])
        x, channels = net.node("Concat", "both", x, pooled, axis=1), channels + 3
    if again == "conv":
        other = net.relu(net.conv("c1b", "input", (3, 6), group=3, kernel=1, strides=[2, 2]))
        x, channels = net.node("Concat", "both", x, other, axis=1), channels + 6
    return net.model(net.head(net.relu(net.conv("c2", x, (channels, 16)))))


NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grouped": ({"group": 3}, {}),
    "asymmetric pads": ({"pads": (1, 0, 2, 1)}, OTHER_COLORS),
    "input read twice": ({"again": "pool"}, {}),
    "two first layers, another order of colors": ({"again": "conv"}, OTHER_COLORS),
}


def write_classes(folder: Path, pixels: Bytes, labels: Any) -> Path:
    """PNG files in one folder for each class, half for training and half to test with."""
    for k, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = folder / ("train" if k < len(pixels) // 2 else "val") / f"c{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{k:03d}.png")
    return folder


def as_the_network_takes(pixels: Bytes, known: dict[str, Any]) -> Floats:
    ordered = pixels[..., ::-1] if known.get("bgr") else pixels
    scaled = (ordered.astype(np.float64) / 255 - known["mean"]) / known["std"]
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)


def served(path: Path, batch: Any) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": np.ascontiguousarray(batch)}), strict=True))


def succeeded(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_pixels_in_and_decisions_out_by_every_step(edgecnn: Cli, tmp_path: Path, name: str) -> None:
    layers, more = NETWORKS[name]
    model = network(**layers)
    known = {**PREPROCESSING, **more}
    pixels = PIXELS[..., ::-1] if more else PIXELS  # the classes' patterns in the colors that the network knows
    (tmp_path / "pre.json").write_text(json.dumps(known))
    (tmp_path / "labels.txt").write_text("\n".join(f"c{k}" for k in range(CLASSES)))
    onnx.save(model, tmp_path / "net.onnx")
    data = write_classes(tmp_path / "data", pixels, LABELS)
    how = ("import", tmp_path / "net.onnx", "--preprocess", tmp_path / "pre.json", "--labels", tmp_path / "labels.txt")
    succeeded(edgecnn(*how, "-o", tmp_path / "plain.onnx"))
    succeeded(edgecnn("reference", tmp_path / "plain.onnx", "--data", data, "-o", tmp_path / "ref.npz"))
    logits = run(model, as_the_network_takes(pixels, known)).astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    expected = odds / odds.sum(1, keepdims=True)

    succeeded(edgecnn(*how, "--input", "raw-nchw", "--output", "probabilities", "-o", tmp_path / "raw.onnx"))
    ordered = PIXELS  # what the network takes first is red, in either
    found = served(tmp_path / "raw.onnx", ordered.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.abs(found["probabilities"] - expected).max() < 1e-5

    top = tmp_path / "top.fp32.onnx"
    succeeded(edgecnn(*how, "--input", "uint8-nhwc", "--output", "top-k", "-o", top))
    found = served(top, ordered)
    assert np.abs(found["top_probabilities"] - -np.sort(-expected, 1)[:, :5]).max() < 1e-5
    assert (found["top_classes"][:, 0] == expected.argmax(1)).all()

    succeeded(edgecnn("calibrate", top, "--data", data, "-o", tmp_path / "top.calib.json"))
    for scheme, method in (("tensorrt", "mse"), ("ort-cpu", "auto")):
        int8, engine = tmp_path / f"{scheme}.onnx", tmp_path / f"{scheme}.built.onnx"
        images = ("--data", data) if method == "auto" else ()
        ranges = ("--scheme", scheme, "--method", method, "--ranges", tmp_path / "top.calib.json", *images)
        succeeded(edgecnn("quantize", top, "--precision", "int8", *ranges, "-o", int8))
        succeeded(edgecnn("build", int8, "--target", "cpu", "-o", engine))
        said = edgecnn("validate", engine, "--reference", tmp_path / "ref.npz", "--data", data, "--json")
        judged = json.loads(succeeded(said).out)
        assert judged["reference_top1_pct"] == 100 * float((expected.argmax(1) == LABELS)[12:].mean())
        assert judged["agreement_pct"] > 90
        assert judged["output"] == "top-k"
        assert judged.get("sqnr_db") is None
    picture = next((data / "val" / "c3").iterdir())
    (one,) = json.loads(succeeded(edgecnn("predict", engine, picture, "--json")).out)
    assert one["top5"][0]["class"] == expected[int(picture.stem)].argmax()
    quick = ("--duration", 0.02, "--warmup", 0, "--json")
    succeeded(edgecnn("bench", "--engine", engine, *quick))
    whole = json.loads(succeeded(edgecnn("bench", "--engine", engine, "--end-to-end", "--data", data, *quick)).out)
    assert [s["name"] for s in whole["stages"]] == ["decode", "resize", "normalize", "compute", "other"]


def test_one_logit_of_a_rectangle(edgecnn: Cli, tmp_path: Path) -> None:
    net = Net(seed=3, classes=1, spatial=(8, 16))
    pooled = net.node("GlobalAveragePool", "pooled", net.relu(net.conv("c1", "input", (3, 12), strides=[2, 2])))
    net.constant("w", np.random.default_rng(0).normal(0, 5, (1, 12)))
    x = net.node("Gemm", "logits", net.node("Flatten", "flat", pooled), net.constant("w", net.arrays["w"]), transB=1)
    onnx.save(net.model(x), tmp_path / "net.onnx")
    known = {**PREPROCESSING, "resize": 8, "crop": [8, 16]}
    (tmp_path / "pre.json").write_text(json.dumps(known))
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 16, 3), np.uint8)
    data = write_classes(tmp_path / "data", pixels, np.arange(8) % 2)
    how = ("import", tmp_path / "net.onnx", "--preprocess", tmp_path / "pre.json", "--input", "uint8-nhwc")
    assert "one logit" in edgecnn(*how, "--output", "top-k", "-o", tmp_path / "k.onnx").refused()
    assert not (tmp_path / "k.onnx").exists()
    engine = tmp_path / "p.onnx"
    succeeded(edgecnn(*how, "--output", "probabilities", "-o", engine))
    logits = run(net.model(x), as_the_network_takes(pixels, known)).astype(np.float64)
    assert np.abs(served(engine, pixels)["probabilities"] - 1 / (1 + np.exp(-logits))).max() < 1e-5
    succeeded(edgecnn(*how[:-2], "-o", tmp_path / "plain.onnx"))
    asked = ("--reference", tmp_path / "plain.onnx", "--data", data, "--threshold", 0.5, "--json")
    judged = json.loads(succeeded(edgecnn("validate", engine, *asked)).out)
    assert judged["agreement_pct"] == 100


def test_what_a_served_graph_refuses_says_what_to_do(edgecnn: Cli, tmp_path: Path) -> None:
    onnx.save(network(group=3), tmp_path / "net.onnx")
    (tmp_path / "pre.json").write_text(json.dumps(PREPROCESSING))
    pixels = ("--input", "uint8-nhwc", "--output", "top-k")
    top = tmp_path / "top.onnx"
    assert "--preprocess" in edgecnn("import", tmp_path / "net.onnx", *pixels, "-o", top).refused()
    assert not top.exists()
    succeeded(edgecnn("import", tmp_path / "net.onnx", *pixels, "--preprocess", tmp_path / "pre.json", "-o", top))
    assert "already" in edgecnn("import", top, "-o", tmp_path / "again.onnx").refused()
    normalized = tmp_path / "n.npz"
    np.savez(normalized, input=as_the_network_takes(PIXELS, PREPROCESSING), label=LABELS)
    for step in (
        ("calibrate", top, "--data", normalized, "-o", tmp_path / "c.calib.json"),
        ("reference", top, "--data", normalized, "-o", tmp_path / "r.npz"),
        ("bench", "--engine", top, "--end-to-end", "--data", normalized),
    ):
        assert "normalised already" in edgecnn(*step).refused()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n.npz", "net.onnx", "pre.json", "top.onnx", "top.onnx.json"]
