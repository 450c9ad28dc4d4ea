"""What a network is made of, layer by layer: shapes, parameters, multiply-adds, activation memory.

The network is traced and run on torch's meta device, which computes shapes alone: the largest takes a second and no
memory. Multiply-adds are those of convolutions and fully connected layers, without biases (the papers' count).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgecnn.errors import ModelError
from edgecnn.pytorch.models import build_model
from edgecnn.zoo import check_size, find_model


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
    stages: tuple[str, ...]  # what `train = "last-N"` counts from the end
    head: tuple[str, ...]  # what another number of classes replaces
    peak_activation_bytes: int  # the most that is alive at once, input included, when each output is freed after use

    @property
    def params(self) -> int:
        """Weights, biases, and the scales and shifts of BN."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Parameters of more than one dimension: no biases, no BN."""
        return sum(layer.weights for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """All outputs together; an engine that reuses buffers needs `peak_activation_bytes`."""
        return sum(layer.activation_bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Flat, with units in the names."""
        content: dict[str, Any] = {"name": self.model, "classes": self.classes, "input_shape": list(self.input_shape)}
        content |= {k: getattr(self, k) for k in ("params", "weights", "macs")}
        content |= {"activation_bytes": self.activation_bytes, "peak_activation_bytes": self.peak_activation_bytes}
        content |= {"stages": list(self.stages), "head": list(self.head)}
        for kind in ("layers", "auxiliary"):
            content[kind] = [asdict(layer) for layer in getattr(self, kind)]
        return content


class LayerTracer(fx.Tracer):
    """Layers are the modules without children, those of this package too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


class _Recorder(fx.Interpreter):
    """Runs a traced network and notes what each layer gave, and how much memory was alive at the worst moment."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[LayerFacts] = []
        self.peak_bytes = 0

    def run_node(self, n: fx.Node) -> Any:
        before = _storages(self.env.values())
        result = super().run_node(n)
        after = before | _storages([result])
        self.peak_bytes = max(self.peak_bytes, sum(after.values()))
        if n.op.startswith("call_") and isinstance(result, Tensor):
            made = sum(size for storage, size in after.items() if storage not in before)
            layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
            self.layers.append(_facts(_name(n), layer or _kind(n), result, made))
        return result


def _storages(values: Iterable[Any]) -> dict[int, int]:
    """Bytes of every piece of memory that the values hold, views counted once."""
    held: dict[int, int] = {}
    for value in values:
        if isinstance(value, Tensor):
            held[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
        elif isinstance(value, list | tuple):
            held |= _storages(value)
    return held


def _name(node: fx.Node) -> str:
    """The layer's path; an operation between layers is named within the module that has it."""
    if node.op == "call_module":
        return str(node.target)
    scope = list(node.meta.get("nn_module_stack", {}).values())
    return f"{scope[-1][0]}.{node.name}" if scope and scope[-1][0] else node.name


def _kind(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def summarize(name: str, classes: int | None = None, size: int | None = None) -> Summary:
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
        recorder = _Recorder(fx.GraphModule(model, LayerTracer().trace(model)))
        recorder.run(torch.empty(1, *shape))
    seen = {layer.name for layer in recorder.layers}
    auxiliary = [
        LayerFacts(path, type(layer).__name__, (), *_params(layer), 0, 0)
        for path, layer in model.named_modules()
        if path not in seen and next(layer.parameters(recurse=False), None) is not None
    ]
    return Summary(
        model=card.name,
        classes=number,
        input_shape=shape,
        layers=tuple(recorder.layers),
        auxiliary=tuple(auxiliary),
        stages=tuple(model.stage_names),  # type: ignore[arg-type]
        head=tuple(model.head_names),  # type: ignore[arg-type]
        peak_activation_bytes=recorder.peak_bytes,
    )


def _facts(name: str, layer: nn.Module | str, output: Tensor, made_bytes: int) -> LayerFacts:
    shape = tuple(output.shape[1:])
    if isinstance(layer, str):
        return LayerFacts(name, layer, shape, 0, 0, 0, made_bytes)
    macs = 0
    if isinstance(layer, nn.Conv2d):
        macs = output[0].numel() * layer.weight[0].numel()
    elif isinstance(layer, nn.Linear):
        macs = output[0].numel() * layer.in_features
    return LayerFacts(name, type(layer).__name__, shape, *_params(layer), macs, made_bytes)


def _params(layer: nn.Module) -> tuple[int, int]:
    """All parameters of one layer, and of these the weights."""
    own = list(layer.parameters(recurse=False))
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.dim() > 1)
