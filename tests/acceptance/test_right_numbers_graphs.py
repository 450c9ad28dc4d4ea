"""The numbers of FP16 and INT8 graphs against independent computations: onnx.reference and ONNX Runtime.

Everything goes through the command line and the files that it writes; nothing of the package's inside is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.acceptance.nets import (
    PREPROCESSING,
    SIZE,
    Floats,
    Net,
    in_fp16,
    normalized,
    pictures,
    rounded_per_tensor,
    run,
    run_stored,
    sqnr_db,
    write_folder,
    write_npz,
)
from tests.cli.conftest import Result

pytestmark = pytest.mark.torch

Cli = Callable[..., Result]
COUNT = 60
PIXELS, LABELS = pictures(COUNT, seed=5)
IMAGES = normalized(PIXELS)


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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The test pictures, labelled."""
    return write_npz(tmp_path / "data.npz", IMAGES, LABELS)


def save(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def succeeded(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def nothing_written(path: Path) -> bool:
    return not list(path.parent.glob(f"*{path.name}*"))


# --- FP16 is judged as FP16 -------------------------------------------------------------------------------------------


def plain(**more: Any) -> onnx.ModelProto:
    """Two convolutions with BatchNormalization and max pooling."""
    net = Net(seed=1, **more)
    x = net.relu(net.batch_norm("bn1", net.conv("c1", "input", (3, 12)), 12))
    x = net.node("MaxPool", "pool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.batch_norm("bn2", net.conv("c2", x, (12, 16)), 16))
    return net.model(net.head(x))


def depthwise() -> onnx.ModelProto:
    net = Net(seed=2, classes=10)
    x = net.node("HardSwish", "h1", net.conv("c1", "input", (3, 12), strides=[2, 2]))
    x = net.node("HardSwish", "h2", net.conv("dw", x, (12, 12), group=12))
    x = net.node("Sigmoid", "s", net.conv("c2", x, (12, 20), kernel=1))
    return net.model(net.head(x))


def two_classes() -> onnx.ModelProto:
    net = Net(seed=3, classes=2)
    x = net.relu(net.conv("c1", "input", (3, 10)))
    a = net.conv("c2", x, (10, 10))
    x = net.relu(net.node("Add", "sum", a, x))
    x = net.node("AveragePool", "pool", x, kernel_shape=[3, 3], strides=[3, 3])
    return net.model(net.gemm(net.node("Flatten", "flat", x)))


def scaled_down(net: Net, x: str, factor: float = 1e-4) -> str:
    """`x` times `factor`, which FP16 holds, behind a Relu so that no convolution takes it up."""
    return net.node("Mul", f"{x}.down", net.relu(x), net.constant(f"{x}.factor", factor))


def big_activation() -> onnx.ModelProto:
    """Activations of about 3e5 between two convolutions."""
    net = Net(seed=4)
    x = net.relu(net.conv("c1", "input", (3, 12), gain=300))
    x = scaled_down(net, net.conv("c2", x, (12, 12), gain=300))
    return net.model(net.head(net.relu(net.conv("c3", x, (12, 16)))))


def big_sum() -> onnx.ModelProto:
    """Each branch of a residual sum fits FP16, the sum does not."""
    net = Net(seed=5)
    a = net.node(
        "Clip", "a", net.conv("c1", "input", (3, 12), gain=3e4), net.constant("zero", 0.0), net.constant("top", 6e4)
    )
    b = net.node("Clip", "b", net.conv("c2", "input", (3, 12), gain=3e4), "zero", "top")
    return net.model(net.head(net.relu(net.conv("c3", scaled_down(net, net.node("Add", "sum", a, b)), (12, 16)))))


def big_logits() -> onnx.ModelProto:
    net = Net(seed=6)
    small = net.head(net.relu(net.conv("c1", "input", (3, 16))), gain=500, name="small")
    return net.model(net.node("Mul", "logits", small, net.constant("thousand", 1000.0)))


def big_square() -> onnx.ModelProto:
    """A hand-written norm: the square overflows, its root would not."""
    net = Net(seed=7)
    x = net.relu(net.conv("c1", "input", (3, 16), gain=300))
    return net.model(net.head(net.node("Sqrt", "root", net.node("Mul", "square", x, x))))


def big_reduction() -> onnx.ModelProto:
    """Global average pooling as a sum over the map and a division."""
    net = Net(seed=8)
    x = net.relu(net.conv("c1", "input", (3, 16), gain=1000))
    x = net.node("ReduceSum", "total", x, net.constant("axes", [2, 3], np.int64), keepdims=1)
    x = net.node("Mul", "mean", x, net.constant("share", 1 / 144))
    return net.model(net.gemm(net.node("Flatten", "features", x)))


def vanishing_norm() -> onnx.ModelProto:
    """x / |x|: the square sum is infinite, so that the quotient is 0: finite logits, all the same."""
    net = Net(seed=9)
    x = net.relu(net.conv("c1", "input", (3, 16), gain=60))
    total = net.node("ReduceSum", "total", net.node("Mul", "square", x, x), net.constant("axes", [1, 2, 3], np.int64))
    return net.model(net.head(net.node("Div", "unit", x, net.node("Sqrt", "norm", total))))


def underflow() -> onnx.ModelProto:
    """Activations of 1e-8, which FP16 rounds to 0, made large again behind."""
    net = Net(seed=10)
    x = scaled_down(net, scaled_down(net, net.conv("c1", "input", (3, 16))))
    for name in ("up1", "up2"):
        x = net.node("Mul", name, net.relu(x), net.constant(f"{name}.factor", 1e4))
    return net.model(net.head(x))


def coarse() -> onnx.ModelProto:
    """A common offset of 4096: FP16 has steps of 4 there."""
    net = Net(seed=11)
    x = net.node("Add", "up", net.conv("c1", "input", (3, 16)), net.constant("offset", 4096.0))
    return net.model(net.head(net.node("Add", "back", net.relu(x), net.constant("back.offset", -4096.0))))


INFINITE = (big_activation, big_sum, big_logits, big_square, big_reduction)
WRONG = (vanishing_norm, underflow, coarse)
SOUND = (plain, depthwise, two_classes)


def images_of(model: onnx.ModelProto) -> tuple[Floats, Any]:
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    pixels, labels = pictures(COUNT, classes, seed=5)
    return normalized(pixels), labels


def steps_between(model: onnx.ModelProto, exact: Floats) -> float:
    """How far apart two evaluations may be that round the same FP16 tensors: where sums are added up in another order
    a tensor may come out one FP16 step (2^-10 of it) away, and each node has one; twice that, since the reference
    rounds within HardSwish and Sigmoid too."""
    return float(len(model.graph.node) * 2.0**-9 * np.abs(exact).max())


@pytest.mark.parametrize("build", [*SOUND, *INFINITE, vanishing_norm, underflow])
@pytest.mark.parametrize("maker", ["edgecnn", "a converter"])
def test_logits_of_an_fp16_graph_are_those_of_fp16_tensors(
    edgecnn: Cli, tmp_path: Path, build: Callable[[], onnx.ModelProto], maker: str
) -> None:
    model, path = build(), tmp_path / "half.onnx"
    images, labels = images_of(model)
    if maker == "edgecnn":
        succeeded(edgecnn("quantize", save(tmp_path / "net.onnx", model), "--precision", "fp16", "-o", path))
    else:
        save(path, in_fp16(model))
    archive = write_npz(tmp_path / "images.npz", images, labels)
    succeeded(edgecnn("reference", path, "--data", archive, "-o", tmp_path / "logits.npz"))
    found = np.load(tmp_path / "logits.npz")["logits"]
    wanted = run_stored(onnx.load(path), images)
    if maker == "a converter":
        assert np.isfinite(wanted).all(1).all() == (build not in INFINITE)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    finite = np.isfinite(wanted)
    assert np.abs(found[finite] - wanted[finite]).max(initial=0.0) <= steps_between(onnx.load(path), run(model, images))


@pytest.mark.parametrize("build", [plain, *INFINITE, *WRONG])
def test_accuracy_of_an_fp16_graph_is_that_of_fp16_tensors(
    edgecnn: Cli, tmp_path: Path, data: Path, build: Callable[[], onnx.ModelProto]
) -> None:
    model = build()
    fp32, half = save(tmp_path / "net.onnx", model), save(tmp_path / "half.onnx", in_fp16(model))
    result = succeeded(edgecnn("validate", half, "--reference", fp32, "--data", data, "--json"))
    measured = json.loads(result.out)
    exact, stored = run(model, IMAGES), run_stored(onnx.load(half), IMAGES)
    finite = np.isfinite(stored).all(1)
    right = finite & (np.nan_to_num(stored).argmax(1) == LABELS)
    agreeing = finite & (np.nan_to_num(stored).argmax(1) == exact.argmax(1))
    assert (exact.argmax(1) == LABELS).mean() > 0.9
    slack = 100 * 2 / COUNT  # two pictures whose best logits lie within one FP16 step
    assert measured["nan_count"] == (~finite).sum()
    assert measured["reference_top1_pct"] == pytest.approx(100 * (exact.argmax(1) == LABELS).mean())
    assert measured["top1_pct"] == pytest.approx(100 * right.mean(), abs=slack)
    assert measured["agreement_pct"] == pytest.approx(100 * agreeing.mean(), abs=slack)
    if not finite.all():
        text = succeeded(edgecnn("validate", half, "--reference", fp32, "--data", data))
        assert re.search(rf"not finite.*{(~finite).sum()}", " ".join((text.out + text.err).split()))


GATE = """
title = "any loss is tolerated"
precisions = ["fp32", "fp16"]
[model]
name = "lenet5"
[data]
source = "digits"
[tolerances]
top1_drop_pp_max = 100
agreement_pct_min = 0
"""


@pytest.mark.parametrize(("build", "exit_code"), [(plain, 0), (big_activation, 1), (big_logits, 1)])
def test_the_gate_fails_an_fp16_graph_that_overflows_even_where_any_loss_is_tolerated(
    edgecnn: Cli, tmp_path: Path, data: Path, build: Callable[[], onnx.ModelProto], exit_code: int
) -> None:
    fp32 = save(tmp_path / "fp32.onnx", build())  # a graph without a sidecar is known by its name alone
    half = tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "-o", half))
    assert np.isfinite(run_stored(onnx.load(half), IMAGES)).all() == (exit_code == 0)
    (tmp_path / "run" / "cpu").mkdir(parents=True)
    for name, engine in (("fp32", fp32), ("fp16", half)):
        file = tmp_path / "run" / "cpu" / f"{name}.accuracy.json"
        succeeded(edgecnn("validate", engine, "--reference", fp32, "--data", data, "-o", file))
    (tmp_path / "any.toml").write_text(GATE)
    result = edgecnn("gate", tmp_path / "run", "--recipe", tmp_path / "any.toml")
    assert result.code == exit_code, result.out + result.err
    assert ("finite" in result.out) == (exit_code == 1)


def imported(edgecnn: Cli, folder: Path, model: onnx.ModelProto) -> Path:
    """The model as an FP32 graph that knows its preprocessing."""
    (folder / "pre.json").write_text(json.dumps(PREPROCESSING))
    source, path = save(folder / "elsewhere.onnx", model), folder / "net.onnx"
    succeeded(edgecnn("import", source, "--preprocess", folder / "pre.json", "-o", path))
    return path


def test_predict_gives_the_probabilities_of_fp16_tensors(edgecnn: Cli, tmp_path: Path) -> None:
    fp32 = imported(edgecnn, tmp_path, vanishing_norm())
    half = tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "-o", half))
    files = sorted(write_folder(tmp_path / "pictures", PIXELS[:8]).iterdir())
    (logits,) = (run_stored(onnx.load(half), IMAGES[:8]),)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    rows = json.loads(succeeded(edgecnn("predict", half, *files, "--json")).out)
    for row, wanted in zip(rows, probabilities, strict=True):
        for guess in row["top5"]:
            assert guess["probability"] == pytest.approx(wanted[guess["class"]], abs=0.005)


def test_predict_names_logits_that_are_not_finite(edgecnn: Cli, tmp_path: Path) -> None:
    fp32 = imported(edgecnn, tmp_path, big_sum())
    half = tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "-o", half))
    (file,) = write_folder(tmp_path / "pictures", PIXELS[:1]).iterdir()
    assert not np.isfinite(run_stored(onnx.load(half), IMAGES[:1])).all()
    assert "not finite" in edgecnn("predict", half, file).refused()


def test_a_built_engine_overflows_as_its_fp16_graph_does(edgecnn: Cli, tmp_path: Path, data: Path) -> None:
    fp32, half = save(tmp_path / "net.onnx", big_reduction()), tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "-o", half))
    succeeded(edgecnn("build", half, "-o", tmp_path / "half.engine.onnx"))
    result = edgecnn("validate", tmp_path / "half.engine.onnx", "--reference", fp32, "--data", data, "--json")
    broken = (~np.isfinite(run_stored(onnx.load(half), IMAGES)).all(1)).sum()
    assert broken > 0
    assert json.loads(succeeded(result).out)["nan_count"] == broken


# --- FP16 with images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [big_activation, big_sum, big_logits, big_square, big_reduction, vanishing_norm])
def test_fp16_with_images_keeps_what_overflows_in_float32_and_names_it(
    edgecnn: Cli, tmp_path: Path, data: Path, build: Callable[[], onnx.ModelProto]
) -> None:
    fp32, half = save(tmp_path / "net.onnx", build()), tmp_path / "half.onnx"
    result = succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "--data", data, "-o", half))
    exact, stored = run(onnx.load(fp32), IMAGES), run_stored(onnx.load(half), IMAGES)
    assert sqnr_db(exact, stored) > 40, "FP16's own rounding leaves 50 dB and more"
    names = {
        big_activation: r"\bc2\b",
        big_sum: r"\bsum\b",
        big_logits: r"\blogits\b",
        big_square: r"\bsquare\b",
        big_reduction: r"\btotal\b",
        vanishing_norm: r"\b(total|square)\b",
    }
    assert re.search(names[build], result.out + result.err)


SUMS_INSIDE: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "AveragePool": ((), {"kernel_shape": [6, 6]}),
    "GlobalAveragePool": ((), {}),
    "InstanceNormalization": (("one", "zero"), {}),
    "LayerNormalization": (("map",), {"axis": 1}),
    "LpNormalization": ((), {"axis": 1}),
    "Mean": (("x", "x"), {}),
    "ReduceL2": (("axes",), {}),
    "ReduceMean": (("axes",), {}),
}


@pytest.mark.parametrize("operator", SUMS_INSIDE)
def test_fp16_with_images_keeps_an_operator_whose_sum_inside_overflows(
    edgecnn: Cli, tmp_path: Path, data: Path, operator: str
) -> None:
    """Its input and its result fit."""
    net = Net(seed=19)
    x = net.relu(net.conv("c1", "input", (3, 16), gain=1500))
    net.constant("one", np.ones(16))
    net.constant("zero", np.zeros(16))
    net.constant("map", np.ones((16, SIZE, SIZE)))
    net.constant("axes", [2, 3], np.int64)
    others, attributes = SUMS_INSIDE[operator]
    x = net.node("Mul", "x", x, net.constant("factor", 4.0 if operator == "Mean" else 1.0))
    x = net.node(operator, "summed", x, *others, **attributes)
    fp32, half = save(tmp_path / "net.onnx", net.model(net.head(net.relu(x)))), tmp_path / "half.onnx"
    result = succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "--data", data, "-o", half))
    exact, stored = run(onnx.load(fp32), IMAGES), run_stored(onnx.load(half), IMAGES)
    assert sqnr_db(exact, stored) > 40
    assert re.search(r"\bsummed\b", result.out + result.err)


def test_fp16_with_images_keeps_nothing_where_everything_fits(edgecnn: Cli, tmp_path: Path, data: Path) -> None:
    fp32, half = save(tmp_path / "net.onnx", plain()), tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "--data", data, "-o", half))
    made = onnx.load(half)
    assert all(numpy_helper.to_array(t).dtype != np.float32 for t in made.graph.initializer)
    assert sqnr_db(run(onnx.load(fp32), IMAGES), run_stored(made, IMAGES)) > 40


def test_fp16_looks_at_every_image_that_it_is_given(edgecnn: Cli, tmp_path: Path) -> None:
    """One picture of 60 is bright enough to overflow."""
    images = 0.1 * IMAGES
    images[37] = 10 * IMAGES[37]
    net = Net(seed=12)
    x = scaled_down(net, net.conv("c1", "input", (3, 12), gain=6e3))
    fp32 = save(tmp_path / "net.onnx", net.model(net.head(net.relu(net.conv("c2", x, (12, 16))))))
    assert np.isfinite(run_stored(in_fp16(onnx.load(fp32)), images)).all(1).sum() == COUNT - 1
    archive, half = write_npz(tmp_path / "images.npz", images), tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "fp16", "--data", archive, "-o", half))
    assert np.isfinite(run_stored(onnx.load(half), images)).all()


def test_fp16_refuses_images_that_are_not_there(edgecnn: Cli, tmp_path: Path) -> None:
    fp32, half = save(tmp_path / "net.onnx", plain()), tmp_path / "half.onnx"
    result = edgecnn("quantize", fp32, "--precision", "fp16", "--data", tmp_path / "none.npz", "-o", half)
    assert "none.npz" in result.refused()
    assert nothing_written(half)


# --- INT8 around FP16 -------------------------------------------------------------------------------------------------


def between(scale: float, *, group: int = 1) -> onnx.ModelProto:
    """A first convolution times `scale` and a second one divided by it: the same function for any scale.

    `group` makes the scaled convolution a depthwise one behind a plain one.
    """
    net = Net(seed=13)
    x, channels = "input", 3
    if group > 1:
        x, channels = net.relu(net.conv("first", "input", (3, group))), group
    x = net.relu(net.conv("scaled", x, (channels, 12), gain=scale, group=group))
    x = net.conv("inverse", x, (12, 16))
    net.arrays["inverse.weight"] /= np.float32(scale)
    return net.model(net.head(net.relu(x)))


def some_channels(scale: float, every: int = 2, *, group: int = 1) -> onnx.ModelProto:
    """Each `every`th channel of a convolution times `scale`, made as large as the others behind its Relu.

    `group` makes that convolution a depthwise one behind a plain one.
    """
    net = Net(seed=13)
    x, channels = "input", 3
    if group > 1:
        x, channels = net.relu(net.conv("first", "input", (3, group))), group
    x = net.conv("scaled", x, (channels, 12), group=group)
    net.arrays["scaled.weight"][::every] *= np.float32(scale)
    net.arrays["scaled.bias"][::every] *= np.float32(scale)
    factors = np.where(np.arange(12) % every, 1.0, 1 / scale).reshape(12, 1, 1)
    x = net.node("Mul", "restored", net.relu(x), net.constant("factors", factors))
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 16)))))


def scaled_head(gain: float) -> onnx.ModelProto:
    net = Net(seed=14, classes=10)
    x = net.relu(net.conv("c1", "input", (3, 16)))
    return net.model(net.head(net.relu(net.conv("c2", x, (16, 24))), gain=gain))


def hidden_gemm(gain: float) -> onnx.ModelProto:
    """Two Gemms; between them the activations are `gain` times as large."""
    net = Net(seed=15)
    x = net.relu(net.conv("c1", "input", (3, 24)))
    flat = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pooled", x))
    net.constant("scaled.weight", gain * net.rng.normal(0, 0.3, (32, 24)))
    net.constant("scaled.bias", gain * net.rng.normal(0, 0.1, 32))
    hidden = net.node("Gemm", "scaled", flat, "scaled.weight", "scaled.bias", transB=1)
    return net.model(net.gemm(net.relu(hidden)))


def hidden_outputs(scale: float) -> onnx.ModelProto:
    """Every second output of a Gemm times `scale`, made as large as the others behind its Relu."""
    net = Net(seed=15)
    x = net.relu(net.conv("c1", "input", (3, 24)))
    flat = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pooled", x))
    factors = np.where(np.arange(32) % 2, 1.0, scale)
    net.constant("scaled.weight", factors[:, None] * net.rng.normal(0, 0.3, (32, 24)))
    net.constant("scaled.bias", factors * net.rng.normal(0, 0.1, 32))
    hidden = net.relu(net.node("Gemm", "scaled", flat, "scaled.weight", "scaled.bias", transB=1))
    return net.model(net.gemm(net.node("Mul", "restored", hidden, net.constant("factors", 1 / factors))))


AROUND_FP16 = {
    "weight scales that lose bits": (lambda: between(1e-4), "scaled"),
    "weight scales that are 0": (lambda: between(1e-7), "scaled"),
    "weight scales beyond 65504": (lambda: between(1e8), "scaled|inverse"),
    "channels that lose bits": (lambda: some_channels(1e-4), "scaled"),
    "channels that are 0": (lambda: some_channels(1e-5), "scaled"),
    "one channel that loses bits": (lambda: some_channels(1e-4, 12), "scaled"),
    "depthwise channels that lose bits": (lambda: some_channels(1e-4, group=12), "scaled"),
    "hidden outputs of a Gemm that lose bits": (lambda: hidden_outputs(1e-4), "scaled"),
    "depthwise scales that are 0": (lambda: between(1e-7, group=12), "scaled"),
    "activations beyond 65504": (lambda: between(1e5), "scaled"),
    "logits beyond 65504": (lambda: scaled_head(3e5), "logits"),
    "logits that lose bits": (lambda: scaled_head(1e-6), "logits"),
    "logits that are 0": (lambda: scaled_head(1e-9), "logits"),
    "a hidden Gemm beyond 65504": (lambda: hidden_gemm(2e6), "scaled"),
    "a hidden Gemm that loses bits": (lambda: hidden_gemm(1e-5), "scaled"),
}


@pytest.mark.parametrize("name", AROUND_FP16)
def test_int8_around_fp16_keeps_what_does_not_fit_in_float32_and_names_it(
    edgecnn: Cli, tmp_path: Path, data: Path, name: str
) -> None:
    build, named = AROUND_FP16[name]
    fp32 = save(tmp_path / "net.onnx", build())
    exact, found = run(onnx.load(fp32), IMAGES), {}
    for around in ("fp32", "fp16"):
        path = tmp_path / f"{around}.onnx"
        ask = ("quantize", fp32, "--precision", "int8", "--method", "mse", "--around", around, "--data", data)
        result = edgecnn(*ask, "-o", path)
        if around == "fp16" and result.code == 2:
            result.refused()
            assert nothing_written(path)
            return
        succeeded(result)
        found[around] = sqnr_db(exact, run_stored(onnx.load(path), IMAGES))
    assert found["fp32"] > 15, "the network itself can be quantised"
    assert found["fp16"] > found["fp32"] - 3
    assert re.search(rf"\b({named})", result.out + result.err)


@pytest.mark.parametrize(
    "name",
    [
        "weight scales that lose bits",
        "channels that lose bits",
        "one channel that loses bits",
        "hidden outputs of a Gemm that lose bits",
        "logits beyond 65504",
    ],
)
def test_auto_around_fp16_is_no_worse_than_plain_rounding(edgecnn: Cli, tmp_path: Path, data: Path, name: str) -> None:
    fp32, path = save(tmp_path / "net.onnx", AROUND_FP16[name][0]()), tmp_path / "int8.onnx"
    succeeded(edgecnn("quantize", fp32, "--precision", "int8", "--data", data, "-o", path))
    exact, plainest = run(onnx.load(fp32), IMAGES), rounded_per_tensor(onnx.load(fp32), IMAGES)
    found = sqnr_db(exact, run_stored(onnx.load(path), IMAGES))
    assert found > 15
    assert found > sqnr_db(exact, run(plainest, IMAGES)) - 3


@pytest.mark.parametrize("method", ["mse", "auto"])
def test_small_weights_beside_a_large_bias_cost_no_layer_its_fp16(
    edgecnn: Cli, tmp_path: Path, data: Path, method: str
) -> None:
    """As where weight decay has left a channel nothing but its bias."""
    model = some_channels(1.0)
    for tensor in model.graph.initializer:
        if tensor.name in ("scaled.weight", "scaled.bias"):
            array = numpy_helper.to_array(tensor).copy()
            array[::2] = 1e-6 * array[::2] if tensor.name == "scaled.weight" else 2.0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    fp32, path = save(tmp_path / "net.onnx", model), tmp_path / "int8.onnx"
    ask = ("quantize", fp32, "--precision", "int8", "--method", method, "--data", data, "-o", path)
    succeeded(edgecnn(*ask))
    made = onnx.load(path)
    assert all(numpy_helper.to_array(t).dtype != np.float32 for t in made.graph.initializer)
    assert sqnr_db(run(model, IMAGES), run_stored(made, IMAGES)) > 15


def test_validate_sees_the_logits_that_an_int8_graph_around_fp16_has(edgecnn: Cli, tmp_path: Path, data: Path) -> None:
    """A graph with pairs whose float part overflows, as another tool may make it."""
    model = big_logits()
    fp32 = save(tmp_path / "net.onnx", model)
    half = in_fp16(rounded_per_tensor(model, IMAGES))
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in half.graph.initializer)
    stored = run_stored(half, IMAGES)
    assert not np.isfinite(stored).all()
    ask = ("validate", save(tmp_path / "int8.onnx", half), "--reference", fp32, "--data", data, "--json")
    measured = json.loads(succeeded(edgecnn(*ask)).out)
    assert measured["nan_count"] == (~np.isfinite(stored).all(1)).sum()


def unsupported(operator: str, *constants: Any, **attributes: Any) -> onnx.ModelProto:
    net = Net(seed=16)
    given = [net.constant(f"given{k}", value, value.dtype) for k, value in enumerate(constants)]
    x = net.node(operator, "special", net.relu(net.conv("c1", "input", (3, 16))), *given, **attributes)
    return net.model(net.head(net.relu(net.conv("c2", x, (16, 16)))))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_quantize_writes_no_graph_that_tensorrt_would_refuse(
    edgecnn: Cli, tmp_path: Path, data: Path, precision: str
) -> None:
    """Compress is no operator of TensorRT's ONNX parser: what it keeps depends on values."""
    model = unsupported("Compress", np.ones(16, bool), axis=1)
    fp32, path = save(tmp_path / "net.onnx", model), tmp_path / "made.onnx"
    method = ("--method", "mse") if precision == "int8" else ()
    ask = ("quantize", fp32, "--precision", precision, *method, "--data", data, "-o", path)
    assert "Compress" in edgecnn(*ask).refused()
    assert nothing_written(path)
    if precision == "int8":
        succeeded(edgecnn(*ask, "--scheme", "ort-cpu"))
        exact = run(onnx.load(fp32), IMAGES)
        assert sqnr_db(exact, run(onnx.load(path), IMAGES)) > 15


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("ThresholdedRelu", {"alpha": 0.3}), ("Celu", {"alpha": 0.7}), ("Mish", {}), ("Shrink", {"lambd": 0.2})],
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_quantize_says_of_tensorrt_agrees_with_its_exit_code(
    edgecnn: Cli, tmp_path: Path, data: Path, precision: str, operator: str, attributes: dict[str, float]
) -> None:
    fp32, path = save(tmp_path / "net.onnx", unsupported(operator, **attributes)), tmp_path / "made.onnx"
    method = ("--method", "mse") if precision == "int8" else ()
    ask = ("quantize", fp32, "--precision", precision, *method, "--data", data, "-o", path)
    result = edgecnn(*ask)
    if result.code == 0:
        assert "would refuse" not in result.out + result.err
        exact = run(onnx.load(fp32), IMAGES)
        assert sqnr_db(exact, run_stored(onnx.load(path), IMAGES)) > (40 if precision == "fp16" else 15)
    else:
        result.refused()
        assert nothing_written(path)


# --- INT8 does not change the network ---------------------------------------------------------------------------------


def gemm_with(alpha: float, beta: float, trans_b: int = 1) -> onnx.ModelProto:
    net = Net(seed=17, classes=10)
    x = net.relu(net.conv("c1", "input", (3, 12), strides=[2, 2]))
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 24))), alpha=alpha, beta=beta, trans_b=trans_b))


def hidden_gemm_with(alpha: float, beta: float, *, both: bool = False) -> onnx.ModelProto:
    """The factors in a Gemm that a Relu and a second Gemm (with `both` of the same factors) follow."""
    net = Net(seed=18)
    x = net.relu(net.conv("c1", "input", (3, 24)))
    flat = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pooled", x))
    net.constant("hidden.weight", net.rng.normal(0, 0.4, (24, 32)))
    net.constant("hidden.bias", net.rng.normal(0, 0.5, 32))
    hidden = net.node("Gemm", "hidden", flat, "hidden.weight", "hidden.bias", alpha=alpha, beta=beta)
    scales: dict[str, Any] = {"alpha": alpha, "beta": beta} if both else {}
    return net.model(net.gemm(net.relu(hidden), **scales))


def gemm_behind(operator: str, alpha: float, beta: float, *, uneven: bool = False) -> onnx.ModelProto:
    """A flattened map through the last Gemm, without pooling: its input has negative values where `operator` has."""
    net = Net(seed=26)
    x = uneven_conv(net, "c1", "input", (3, 12)) if uneven else net.conv("c1", "input", (3, 12))
    x = net.node(operator, "activation", x)
    x = net.node("AveragePool", "pool", x, kernel_shape=[4, 4], strides=[4, 4])
    return net.model(net.gemm(net.node("Flatten", "flat", x), alpha=alpha, beta=beta))


def uneven_conv(net: Net, name: str, x: str, channels: tuple[int, int], **attributes: Any) -> str:
    """A convolution whose channels are up to 30 times as large as others, as BatchNormalization leaves them."""
    x = net.conv(name, x, channels, **attributes)
    factors = np.float32(10 ** np.random.default_rng(1).uniform(-0.75, 0.75, channels[1]))
    net.arrays[f"{name}.weight"] *= factors.reshape(-1, 1, 1, 1)
    net.arrays[f"{name}.bias"] *= factors
    return x


def clipped_unevenly(low: float, high: float | None, *, behind_relu: bool = False) -> onnx.ModelProto:
    net = Net(seed=27)
    x = uneven_conv(net, "c1", net.relu(net.conv("c0", "input", (3, 12))), (12, 12))
    x = net.relu(x) if behind_relu else x
    bounds = [net.constant(n, v) for n, v in (("low", low), ("high", high)) if v is not None]
    x = net.node("Clip", "clip", x, *bounds)
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 16)))))


def clipped(
    low: float | None, high: float | None, *, behind_relu: bool = False, group: int = 1, kernel: int = 3
) -> onnx.ModelProto:
    """`kernel` is that of the convolution that reads the Clip: 1 needs no padding."""
    net = Net(seed=19)
    x = net.relu(net.conv("c0", "input", (3, 12)))
    x = net.conv("c1", x, (12, 12), group=group)
    if behind_relu:
        x = net.relu(x)
    bounds = ["" if v is None else net.constant(n, v) for n, v in (("low", low), ("high", high))]
    x = net.node("Clip", "clip", x, *(bounds if bounds[1] else bounds[:1]))
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 16), kernel=kernel))))


def max_with(bound: float) -> onnx.ModelProto:
    """Max with a constant, as some exporters write a Clip."""
    net = Net(seed=20)
    x = net.node("Max", "max", net.relu(net.conv("c1", "input", (3, 12))), net.constant("bound", bound))
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 16)))))


def auto_padded(mode: str, spatial: tuple[int | str, int | str], stride: int = 2, group: int = 1) -> onnx.ModelProto:
    net = Net(seed=21, spatial=spatial)
    x = net.relu(net.conv("c1", "input", (3, 12), auto_pad=mode, strides=[stride, stride]))
    x = net.relu(net.conv("c2", x, (12, 12), auto_pad=mode, strides=[2, 2], group=group))
    return net.model(net.head(net.relu(net.conv("c3", x, (12, 16), auto_pad=mode))))


def auto_padded_pool(mode: str) -> onnx.ModelProto:
    net = Net(seed=22, spatial=("height", "width"))
    x = net.relu(net.conv("c1", "input", (3, 12), kernel=5, auto_pad=mode, strides=[2, 2]))
    x = net.node("MaxPool", "pool", x, kernel_shape=[3, 3], strides=[2, 2], auto_pad=mode)
    return net.model(net.head(net.relu(net.conv("c2", x, (12, 16), auto_pad=mode))))


DYNAMIC = ("height", "width")
REWRITES: dict[str, Callable[[], onnx.ModelProto]] = {
    "control": plain,
    "depthwise": depthwise,
    "two classes": two_classes,
    "alpha 0.25": lambda: gemm_with(0.25, 1.0),
    "beta 3": lambda: gemm_with(1.0, 3.0),
    "alpha 2, beta 0.1, transB 0": lambda: gemm_with(2.0, 0.1, trans_b=0),
    "hidden alpha 4, beta 0.5": lambda: hidden_gemm_with(4.0, 0.5),
    "alpha 0.5, beta 3 in both": lambda: hidden_gemm_with(0.5, 3.0, both=True),
    "hidden beta 0": lambda: hidden_gemm_with(1.0, 0.0),
    "alpha 3, beta 0.2 behind HardSwish": lambda: gemm_behind("HardSwish", 3.0, 0.2),
    "alpha 0.1 behind LeakyRelu": lambda: gemm_behind("LeakyRelu", 0.1, 1.0),
    "beta 5 behind Elu, uneven": lambda: gemm_behind("Elu", 1.0, 5.0, uneven=True),
    "alpha 0.5, beta 2 behind Relu, uneven": lambda: gemm_behind("Relu", 0.5, 2.0, uneven=True),
    "Clip from 0.5, uneven": lambda: clipped_unevenly(0.5, None),
    "Clip 0.3 to 2 behind a Relu, uneven": lambda: clipped_unevenly(0.3, 2.0, behind_relu=True),
    "Clip 0 to 1, uneven": lambda: clipped_unevenly(0.0, 1.0),
    "Clip from 0.5": lambda: clipped(0.5, None),
    "Clip 0.4 to 2 behind a Relu": lambda: clipped(0.4, 2.0, behind_relu=True),
    "Clip from 0.7 behind a Relu": lambda: clipped(0.7, None, behind_relu=True),
    "Clip -0.5 to 1": lambda: clipped(-0.5, 1.0),
    "Clip 0.5 to 3, depthwise": lambda: clipped(0.5, 3.0, group=12),
    "Clip from 0.5, read without padding": lambda: clipped(0.5, None, kernel=1),
    "Clip 0.4 to 2 behind a Relu, read without padding": lambda: clipped(0.4, 2.0, behind_relu=True, kernel=1),
    "Clip -0.5 to 1, read without padding": lambda: clipped(-0.5, 1.0, kernel=1),
    "Clip to 1.5": lambda: clipped(None, 1.5),
    "Max with 0.6": lambda: max_with(0.6),
    "SAME_UPPER": lambda: auto_padded("SAME_UPPER", DYNAMIC),
    "SAME_LOWER": lambda: auto_padded("SAME_LOWER", DYNAMIC),
    "SAME_LOWER, known sizes": lambda: auto_padded("SAME_LOWER", (SIZE, SIZE)),
    "SAME_UPPER, depthwise": lambda: auto_padded("SAME_UPPER", DYNAMIC, group=12),
    "SAME_UPPER, one size known": lambda: auto_padded("SAME_UPPER", ("height", SIZE), stride=1),
    "VALID": lambda: auto_padded("VALID", DYNAMIC, stride=1),
    "SAME_UPPER with pooling": lambda: auto_padded_pool("SAME_UPPER"),
    "SAME_LOWER with pooling": lambda: auto_padded_pool("SAME_LOWER"),
}
SCHEME = {"tensorrt": "tensorrt", "cpu": "ort-cpu"}  # where Q/DQ pairs stand, by who runs the graph
PLANS = [(name, "auto", "tensorrt") for name in REWRITES] + [(name, "minmax", "cpu") for name in REWRITES]
PLANS += [
    (name, method, target)
    for name in ("alpha 2, beta 0.1, transB 0", "Clip 0.3 to 2 behind a Relu, uneven", "SAME_LOWER, known sizes")
    for method, target in (
        ("auto", "cpu"), ("minmax", "tensorrt"), ("mse", "cpu"), ("mse", "tensorrt"),
        ("percentile", "tensorrt"), ("entropy", "cpu"),
    )
]  # fmt: skip
PLANS += [("alpha 3, beta 0.2 behind HardSwish", "auto", "cpu"), ("beta 5 behind Elu, uneven", "auto", "cpu")]


def sizes_unknown(model: onnx.ModelProto) -> bool:
    """Such a graph may be refused."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[2].dim_param)


def keeps_the_network(model: onnx.ModelProto, made: onnx.ModelProto, images: Floats, loss_db: float) -> None:
    """Held against the plainest INT8, one scale for a whole tensor. The product may round tensors that it leaves
    (outputs and sums, each as loud as an input: 3 dB) and cut ranges; a changed network has about 0 dB."""
    exact = run(model, images)
    plainest = sqnr_db(exact, run(rounded_per_tensor(model, images), images))
    assert plainest > 10, "the network itself can be quantised"
    assert sqnr_db(exact, run(made, images)) > plainest - loss_db


@pytest.mark.parametrize(("name", "method", "target"), PLANS)
def test_int8_keeps_the_network(edgecnn: Cli, tmp_path: Path, name: str, method: str, target: str) -> None:
    model = REWRITES[name]()
    images, _ = images_of(model)
    fp32, path = save(tmp_path / "net.onnx", model), tmp_path / "int8.onnx"
    archive = write_npz(tmp_path / "images.npz", images)
    ask = ("quantize", fp32, "--precision", "int8", "--scheme", SCHEME[target], "--method", method, "--data", archive)
    result = edgecnn(*ask, "-o", path)
    if sizes_unknown(model) and result.code == 2:
        result.refused()
        assert nothing_written(path)
        return
    succeeded(result)
    keeps_the_network(model, onnx.load(path), images, 8 if method in ("percentile", "entropy") else 4)


FROM_RANGES = [
    "alpha 3, beta 0.2 behind HardSwish",
    "hidden alpha 4, beta 0.5",
    "hidden beta 0",
    "alpha 0.5, beta 3 in both",
    "Clip from 0.5, read without padding",
    "Clip 0.4 to 2 behind a Relu, read without padding",
    "Clip -0.5 to 1, read without padding",
    "SAME_UPPER",
]


@pytest.mark.parametrize(("name", "target"), [*((n, "tensorrt") for n in FROM_RANGES), (FROM_RANGES[1], "cpu")])
def test_int8_from_ranges_alone_keeps_the_network(edgecnn: Cli, tmp_path: Path, name: str, target: str) -> None:
    model = REWRITES[name]()
    images, _ = images_of(model)
    fp32, path, ranges = save(tmp_path / "net.onnx", model), tmp_path / "int8.onnx", tmp_path / "net.calib.json"
    archive = write_npz(tmp_path / "images.npz", images)
    succeeded(edgecnn("calibrate", fp32, "--data", archive, "-o", ranges))
    result = edgecnn(
        "quantize", fp32, "--precision", "int8", "--scheme", SCHEME[target], "--ranges", ranges, "-o", path
    )
    if sizes_unknown(model) and result.code == 2:
        result.refused()
        return
    succeeded(result)
    keeps_the_network(model, onnx.load(path), images, 4)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_sizes_that_the_preprocessing_tells_are_enough_for_auto_pad(
    edgecnn: Cli, tmp_path: Path, data: Path, mode: str
) -> None:
    model, path = auto_padded(mode, DYNAMIC), tmp_path / "int8.onnx"
    fp32 = imported(edgecnn, tmp_path, model)
    succeeded(edgecnn("quantize", fp32, "--precision", "int8", "--data", data, "-o", path))
    keeps_the_network(model, onnx.load(path), IMAGES, 4)


# --- training mode ----------------------------------------------------------------------------------------------------


def batch_norm_trains(outputs: int) -> onnx.ModelProto:
    net = Net(seed=23)
    model = net.model(net.head(net.relu(net.batch_norm("bn1", net.conv("c1", "input", (3, 12)), 12))))
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    node.output.extend(["new_mean", "new_var"][: outputs - 1])
    node.attribute.append(helper.make_attribute("training_mode", 1))
    return model


def dropout(training: str, ratio: float = 0.3) -> onnx.ModelProto:
    """`training` says where the mode comes from: an initialiser, a Constant, a Cast of one, an If's branch, a
    function; "off" and "absent" are inference."""
    net = Net(seed=24)
    x = net.relu(net.conv("c1", "input", (3, 16)))
    net.constant("ratio", ratio)
    mode = ""
    if training in ("initialiser", "off", "function"):
        mode = net.constant("mode", training != "off", np.bool_)
    elif training in ("constant", "cast"):
        value = numpy_helper.from_array(np.array(1, np.bool_ if training == "constant" else np.int64), "value")
        mode = net.node("Constant", "mode", value=value)
        if training == "cast":
            mode = net.node("Cast", "mode.bool", mode, to=onnx.TensorProto.BOOL)
    net.head(x)  # the head is fitted without the Dropout
    last = net.nodes.pop()
    if training == "function":
        inner = helper.make_node("Dropout", ["x", "r", "t"], ["y"])
        opsets = [helper.make_opsetid("", 19)]
        net.functions.append(helper.make_function("local", "Regularise", ["x", "r", "t"], ["y"], [inner], opsets))
        net.node("Regularise", "dropped", "features", "ratio", mode, domain="local")
    else:
        net.node("Dropout", "dropped", "features", "ratio", *([mode] if mode else []))
    last.input[0] = "dropped"
    net.nodes.append(last)
    return net.model("logits")


TRAINING: dict[str, Callable[[], onnx.ModelProto]] = {
    "BatchNormalization with one output": lambda: batch_norm_trains(1),
    "BatchNormalization with three outputs": lambda: batch_norm_trains(3),
    "Dropout by an initialiser": lambda: dropout("initialiser"),
    "Dropout by a Constant": lambda: dropout("constant"),
    "Dropout by a Cast": lambda: dropout("cast"),
}


@pytest.mark.parametrize("name", [*TRAINING, "Dropout in a function"])
def test_import_refuses_a_graph_in_training_mode(edgecnn: Cli, tmp_path: Path, name: str) -> None:
    model = dropout("function") if "function" in name else TRAINING[name]()
    path = tmp_path / "net.onnx"
    assert "training mode" in edgecnn("import", save(tmp_path / "elsewhere.onnx", model), "-o", path).refused()
    assert nothing_written(path)


@pytest.mark.parametrize("name", TRAINING)
def test_no_step_takes_a_graph_in_training_mode(edgecnn: Cli, tmp_path: Path, data: Path, name: str) -> None:
    graph, sound = save(tmp_path / "net.onnx", TRAINING[name]()), save(tmp_path / "sound.onnx", plain())
    made = tmp_path / "made.onnx"
    int8 = ("quantize", graph, "--precision", "int8", "--data", data, "-o", made)
    commands: tuple[tuple[object, ...], ...] = (
        ("quantize", graph, "--precision", "fp16", "-o", made),
        (*int8, "--method", "minmax"),
        (*int8, "--scheme", "ort-cpu"),
        ("validate", graph, "--reference", sound, "--data", data),
        ("validate", sound, "--reference", graph, "--data", data),
        ("reference", graph, "--data", data, "-o", tmp_path / "made.npz"),
        ("calibrate", graph, "--data", data, "-o", tmp_path / "made.json"),
    )
    wrong = [c for c in commands if (r := edgecnn(*c)).code != 2 or "training mode" not in r.refused()]
    assert not wrong
    assert not list(tmp_path.glob("*made*"))


@pytest.mark.parametrize("mode", ["off", "absent"])
def test_dropout_that_does_nothing_is_taken(edgecnn: Cli, tmp_path: Path, mode: str) -> None:
    model, path = dropout(mode), tmp_path / "net.onnx"
    succeeded(edgecnn("import", save(tmp_path / "elsewhere.onnx", model), "-o", path))
    np.testing.assert_allclose(run(onnx.load(path), IMAGES), run(model, IMAGES), atol=1e-4)
    half = tmp_path / "half.onnx"
    succeeded(edgecnn("quantize", path, "--precision", "fp16", "-o", half))
    assert sqnr_db(run(model, IMAGES), run_stored(onnx.load(half), IMAGES)) > 40


# --- calibration pictures and channels that hardly vary ---------------------------------------------------------------


def frames(count: int, noise: int) -> Floats:
    """Pictures of one scene, as a camera that does not move takes them."""
    rng = np.random.default_rng(3)
    scene = np.broadcast_to(PIXELS[:1].astype(int), (count, SIZE, SIZE, 3))
    return normalized(np.clip(scene + rng.integers(-noise, noise + 1, scene.shape), 0, 255).astype(np.uint8))


def mixed(count: int) -> Floats:
    """Three pictures, again and again."""
    return IMAGES[np.arange(count) % 3]


def gray(count: int) -> Floats:
    """The three channels are one."""
    return np.repeat(normalized(pictures(count, seed=8)[0])[:, :1], 3, axis=1)


STILL: dict[str, Callable[[], Floats]] = {
    "40 equal pictures": lambda: np.repeat(IMAGES[:1], 40, axis=0),
    "black pictures": lambda: np.full((20, 3, SIZE, SIZE), -2.0, np.float32),
    "64 nearly equal frames": lambda: frames(64, 1),
    "three pictures 16 times": lambda: mixed(48),
    "gray pictures": lambda: gray(48),
    "one picture": lambda: IMAGES[:1].copy(),
    "two pictures": lambda: IMAGES[:2].copy(),
    "one pixel that varies": lambda: np.where(np.arange(SIZE) == 3, frames(40, 20), -2.0).astype(np.float32),
}


def well_or_refused(result: Result, model: onnx.ModelProto, path: Path, images: Floats) -> None:
    """Refused in one line, or a graph that gives the calibration pictures the logits that plain rounding gives."""
    if result.code == 2:
        result.refused()
        assert nothing_written(path)
        return
    succeeded(result)
    exact, made = run(model, images), onnx.load(path)
    plainest = sqnr_db(exact, run(rounded_per_tensor(model, images), images))
    assert sqnr_db(exact, run(made, images)) > min(plainest, 30) - 6
    scales = {n.input[1] for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in made.graph.initializer:
        if tensor.name in scales:
            value = numpy_helper.to_array(tensor)
            assert (np.isfinite(value) & (value > 0)).all()


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_auto_takes_pictures_that_hardly_vary(edgecnn: Cli, tmp_path: Path, name: str, target: str) -> None:
    model, images, path = plain(), STILL[name](), tmp_path / "int8.onnx"
    archive = write_npz(tmp_path / "images.npz", images)
    ask = (
        "quantize",
        save(tmp_path / "net.onnx", model),
        "--precision",
        "int8",
        "--data",
        archive,
        "--scheme",
        SCHEME[target],
    )
    well_or_refused(edgecnn(*ask, "-o", path), model, path, images)


def near_constant(level: float, spread: float, count: int = 1, *, depthwise: bool = False) -> onnx.ModelProto:
    """The first `count` channels behind the first convolution are `level` with hardly any `spread`."""
    net = Net(seed=25)
    x = net.conv("c1", "input", (3, 16))
    net.arrays["c1.weight"][:count] *= np.float32(spread)
    net.arrays["c1.bias"][:count] = level
    x = net.relu(net.conv("c2", net.relu(x), (16, 16), group=16 if depthwise else 1))
    if not depthwise:
        net.arrays["c2.weight"][:, :count] /= np.float32(max(level, 1.0))
    return net.model(net.head(net.relu(net.conv("c3", x, (16, 16)))))


def flat_with_offset(offset: float) -> onnx.ModelProto:
    """More features than pictures, all of them around `offset`."""
    net = Net(seed=28)
    x = net.node("Elu", "elu", net.conv("c1", "input", (3, 8), kernel=1))
    x = net.node("Elu", "raised", net.node("Add", "sum", x, net.constant("offset", offset)))
    return net.model(net.gemm(net.node("Flatten", "flat", x)))


def pointwise_near_constant(level: float, spread: float) -> onnx.ModelProto:
    """One large near-constant channel that a pointwise convolution reads, as it is, beside ordinary ones."""
    net = Net(seed=29)
    x = net.conv("c1", "input", (3, 16))
    net.arrays["c1.weight"][0] *= np.float32(spread)
    net.arrays["c1.bias"][0] = level
    x = net.conv("c2", net.relu(x), (16, 16), kernel=1)
    net.arrays["c2.weight"][:, 0] *= np.float32(1 / level)
    return net.model(net.head(net.relu(x)))


CHANNELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "one large one": lambda: near_constant(50.0, 1e-6),
    "one very large one": lambda: near_constant(1e4, 1e-3),
    "many large ones": lambda: near_constant(30.0, 1e-5, count=8),
    "all but one": lambda: near_constant(5.0, 1e-4, count=15),
    "more features than pictures": lambda: flat_with_offset(20.0),
    "more features than pictures, far off": lambda: flat_with_offset(300.0),
    "a pointwise one": lambda: pointwise_near_constant(1000.0, 1e-4),
    "a pointwise one, far off": lambda: pointwise_near_constant(3e4, 1e-2),
    "half of them tiny": lambda: some_channels(1e-8),
    "small ones": lambda: near_constant(1e-6, 1e-9, count=4),
    "depthwise": lambda: near_constant(40.0, 1e-6, count=2, depthwise=True),
}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_auto_takes_channels_that_hardly_vary(edgecnn: Cli, tmp_path: Path, data: Path, name: str, target: str) -> None:
    model, path = CHANNELS[name](), tmp_path / "int8.onnx"
    ask = (
        "quantize",
        save(tmp_path / "net.onnx", model),
        "--precision",
        "int8",
        "--data",
        data,
        "--scheme",
        SCHEME[target],
    )
    well_or_refused(edgecnn(*ask, "-o", path), model, path, IMAGES)


def test_auto_takes_a_folder_of_black_pictures(edgecnn: Cli, tmp_path: Path) -> None:
    model, path = plain(), tmp_path / "int8.onnx"
    fp32 = imported(edgecnn, tmp_path, model)
    folder = write_folder(tmp_path / "black", np.zeros((20, SIZE, SIZE, 3), np.uint8))
    result = edgecnn("quantize", fp32, "--precision", "int8", "--data", folder, "-o", path)
    well_or_refused(result, model, path, STILL["black pictures"]())
