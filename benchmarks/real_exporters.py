"""Write a real classifier as ONNX, as its own tool writes it: seeded weights, batch normalization settled on noise.

    python benchmarks/real_exporters.py ORIGIN NAME EXPORTER OUT.onnx

It runs in the Python that has ORIGIN's packages: torchvision and timm (exporters dynamo and torchscript), onnx (the
light models in its package, whose weights are one constant each), keras (tf2onnx) and paddle (paddle2onnx). The batch
is dynamic where the exporter manages it, else 1.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Export one."""
    export(*sys.argv[1:5])


def export(origin: str, name: str, exporter: str, out: str) -> None:
    """Write `out`."""
    EXPORTERS[origin](name, exporter, Path(out))


@functools.cache
def load_torch() -> None:
    """Load what both exporters of torch load at their first graph."""
    import timm  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    module, image = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), torch.zeros(2, 3, 8, 8)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for dynamo in (False, True):
            torch.onnx.export(module.eval(), (image,), f"{folder}/first.onnx", verbose=False, dynamo=dynamo)


def from_torch(origin: str, name: str, exporter: str, out: Path) -> None:
    """`torch.onnx.export` as its documentation shows it, by either exporter."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    if origin == "timm":
        import timm

        module = timm.create_model(name, pretrained=False)
        shape = timm.data.resolve_data_config({}, model=module)["input_size"]
    else:
        import torchvision

        quiet = {"init_weights": True, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
        module = torchvision.models.get_model(name, weights=None, **quiet)
        side = 299 if name == "inception_v3" else 224
        shape = (3, side, side)
    settle(module, torch.randn(4, *shape))
    image = torch.randn(2, *shape)
    dynamic: dict[str, Any] = (
        {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
        if exporter == "dynamo"
        else {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    )
    try:
        torch.onnx.export(module, (image,), str(out), verbose=False, **dynamic)
    except Exception as exc:  # noqa: BLE001 - whatever it is: users then export one image
        print(f"no dynamic batch: {exc!r}"[:300], file=sys.stderr)
        torch.onnx.export(module, (image[:1],), str(out), verbose=False, dynamo=exporter == "dynamo")


def settle(module: Any, images: Any) -> None:
    """Batch normalization's statistics from `images`, and scales of 0.5: random layers neither fade nor grow."""
    import torch

    norms = [
        m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    module.eval()
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            if norm.affine:
                norm.weight.fill_(0.5)
                norm.bias.normal_(0.1, 0.1)
            norm.momentum = None
            norm.training = True
        if norms:
            module(images)
    module.eval()


def from_onnx(name: str, exporter: str, out: Path) -> None:
    """A light model of ONNX's package: its ConstantOfShape nodes become seeded weights, its statistics are settled."""
    import onnx
    from onnx import helper, numpy_helper

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    made = {n.output[0]: tuple(shapes[n.input[0]]) for n in graph.node if n.op_type == "ConstantOfShape"}
    norms = [n for n in graph.node if n.op_type == "BatchNormalization"]
    positive = {n.input[k] for n in norms for k in (1, 4)}
    kept = [n for n in graph.node if n.op_type != "ConstantOfShape"]
    weights = {
        key: (
            0.5 + rng.random(shape)
            if key in positive
            else rng.normal(0, (2 / max(1, np.prod(shape[1:]))) ** 0.5, shape)
        )
        if len(shape) > 1 or key in positive
        else rng.normal(0, 0.1, shape)
        for key, shape in made.items()
    }
    unread = {n.input[0] for n in graph.node if n.op_type == "ConstantOfShape"}
    held = [i for i in graph.initializer if i.name not in unread]
    held += [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    inputs = [i for i in graph.input if i.name not in unread]
    inputs += [helper.make_tensor_value_info(k, 1, v.shape) for k, v in weights.items()]
    for field, values in ((graph.node, kept), (graph.initializer, held), (graph.input, inputs)):
        del field[:]
        field.extend(values)
    settle_statistics(model, norms, weights)
    onnx.save(model, out)


def settle_statistics(model: Any, norms: Any, weights: dict[str, np.ndarray]) -> None:
    """Mean and variance of every BatchNormalization of an IR 3 graph, front to back: they are inputs of it."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.ir_version = 8  # before 4, initializers cannot be fed
    probe.graph.output.extend(onnx.ValueInfoProto(name=n.input[0]) for n in norms)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    image = next(i for i in session.get_inputs())
    feeds = {image.name: np.random.default_rng(1).standard_normal([d or 1 for d in image.shape], np.float32)}
    for norm in norms:
        found = session.run([norm.input[0]], feeds)[0]
        feeds[norm.input[3]] = found.mean((0, 2, 3))
        feeds[norm.input[4]] = found.var((0, 2, 3)) + np.float32(1e-3)
    for tensor in model.graph.initializer:
        if tensor.name in feeds:
            tensor.CopyFrom(numpy_helper.from_array(feeds[tensor.name], tensor.name))


def from_keras(name: str, exporter: str, out: Path) -> None:
    """A Keras application through tf2onnx, with its Softmax; batch normalization settled as of torch's, on values from
    0 to 255: some of them divide by 255 themselves."""
    import keras
    import tensorflow as tf
    import tf2onnx

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None)
    sizes = [size or 224 for size in model.input_shape[1:]]
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics are those of the last batch
    model(np.random.default_rng(0).uniform(0, 255, (4, *sizes)).astype(np.float32), training=True)
    given = tf.TensorSpec((None, *sizes), tf.float32, name="input")
    call = tf.function(lambda x: model(x, training=False), input_signature=[given])
    tf2onnx.convert.from_function(call, input_signature=[given], opset=17, output_path=str(out))


def from_paddle(name: str, exporter: str, out: Path) -> None:
    """A network of paddle.vision through paddle2onnx."""
    import paddle

    paddle.seed(0)
    model = getattr(paddle.vision.models, name)()
    model.eval()
    side, channels = {"LeNet": 28, "inception_v3": 299}.get(name, 224), 1 if name == "LeNet" else 3
    given = paddle.static.InputSpec([-1, channels, side, side], "float32", "x")
    paddle.onnx.export(model, str(out.with_suffix("")), input_spec=[given], opset_version=13)


EXPORTERS = {
    "torchvision": lambda *words: from_torch("torchvision", *words),
    "timm": lambda *words: from_torch("timm", *words),
    "onnx": from_onnx,
    "keras": from_keras,
    "paddle": from_paddle,
}

if __name__ == "__main__":
    main()
