"""What a network is made of, layer by layer: shapes, parameters, multiply-adds, activation memory.

The network is traced and run on torch's meta device, which computes shapes alone: the largest takes a second and no
memory. Multiply-adds are those of convolutions and fully connected layers, without biases (the papers' count).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgecnn.errors import ModelError
from edgecnn.pytorch.models import build_model
from edgecnn.zoo import check_size, find_model

VIEWS = {"flatten", "getitem", "chunk", "view", "reshape", "permute", "transpose"}  # share their input's memory


@dataclass(frozen=True)
class LayerFacts:
    """One layer for one image. `output_shape` is without the batch; `weights` are `params` without biases and
    BN parameters; `activation_bytes` is the float32 output, 0 where it shares its input's memory."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    params: int
    weights: int
    macs: int
    activation_bytes: int


@dataclass(frozen=True)
class Summary:
    """A network for one image of `input_shape`."""

    model: str
    classes: int
    input_shape: tuple[int, int, int]
    layers: tuple[LayerFacts, ...]
    auxiliary: tuple[LayerFacts, ...]  # layers that only training runs; in no total

    @property
    def params(self) -> int:
        """Weights, biases, and the scales and shifts of BN."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """All outputs together; an engine that reuses buffers needs less."""
        return sum(layer.activation_bytes for layer in self.layers)


class _Tracer(fx.Tracer):
    """Layers are the modules without children, those of this package too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


class _Recorder(fx.Interpreter):
    """Runs a traced network and notes what each layer gave."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[LayerFacts] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            self.layers.append(_facts(str(n.target), layer, result))
        elif n.op in ("call_function", "call_method") and isinstance(result, Tensor):
            kind = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))
            scope = list(n.meta.get("nn_module_stack", {}).values())
            name = f"{scope[-1][0]}.{n.name}" if scope and scope[-1][0] else n.name
            size = 0 if kind in VIEWS else _bytes(result)
            self.layers.append(LayerFacts(name, kind, tuple(result.shape[1:]), 0, 0, 0, size))
        return result


def summarise(name: str, classes: int | None = None, size: int | None = None) -> Summary:
    """The layers of a zoo network in the order in which they run, at `size` x `size` pixels (default: its own).

    Raises `ModelError` for an unknown network, and for a resolution that it cannot take.
    """
    card = find_model(name)
    channels, height, width = card.input_shape
    shape = (channels, size or height, size or width)
    number = card.classes if classes is None else classes
    if number < 1:
        raise ModelError(f"{card.name} with {number} classes", "a classifier needs at least one")
    check_size(card, *shape[1:])
    with torch.device("meta"):
        model = build_model(name, number).eval()
        recorder = _Recorder(fx.GraphModule(model, _Tracer().trace(model)))
        recorder.run(torch.empty(1, *shape))
    seen = {layer.name for layer in recorder.layers}
    auxiliary = [
        LayerFacts(path, type(layer).__name__, (), *_params(layer), 0, 0)
        for path, layer in model.named_modules()
        if path not in seen and next(layer.parameters(recurse=False), None) is not None
    ]
    return Summary(card.name, number, shape, tuple(recorder.layers), tuple(auxiliary))


def _facts(name: str, layer: nn.Module, output: Tensor) -> LayerFacts:
    macs = 0
    if isinstance(layer, nn.Conv2d):
        macs = output[0].numel() * layer.weight[0].numel()
    elif isinstance(layer, nn.Linear):
        macs = output[0].numel() * layer.in_features
    size = 0 if isinstance(layer, nn.Dropout | nn.Identity | nn.Flatten) else _bytes(output)
    return LayerFacts(name, type(layer).__name__, tuple(output.shape[1:]), *_params(layer), macs, size)


def _params(layer: nn.Module) -> tuple[int, int]:
    """All parameters of one layer, and of these the weights."""
    own = list(layer.parameters(recurse=False))
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.dim() > 1)


def _bytes(output: Tensor) -> int:
    return output[0].numel() * 4
