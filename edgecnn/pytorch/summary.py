"""What a network is made of, layer by layer: shapes, parameters, multiply-adds, activation memory.

The network is traced and run on torch's meta device, which computes shapes alone: the largest takes a second and no
memory. Multiply-adds are those of convolutions and fully connected layers, without biases (the papers' count).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgecnn.errors import ModelError
from edgecnn.pytorch.features import Made, find_features, name_stages
from edgecnn.pytorch.models import build_model
from edgecnn.pytorch.receptive_field import PIXEL, Fields, field_of, widest
from edgecnn.results.summary import FeatureMap, LayerSummary, NetworkSummary
from edgecnn.zoo import OWN, ModelCard, check_size, find_model


class LayerTracer(fx.Tracer):
    """Layers are the modules without children, those of this package too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(True for _ in m.children())


class _Recorder(fx.Interpreter):
    """Runs a traced network and notes what each layer gave, and how much memory was alive at the worst moment."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[LayerSummary] = []
        self.peak_bytes = 0
        self._fields: dict[fx.Node, Fields] = {}
        self._depths: dict[fx.Node, int] = {}
        self.made: dict[fx.Node, Made] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The meta kernel of batch normalization is written in Python, and took half of a deep network's time."""
        if isinstance(self.fetch_attr(str(target)), nn.BatchNorm2d):
            return torch.empty_like(args[0])
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        before = _storages(self.env.values())
        result = super().run_node(n)
        after = before | _storages([result])
        self.peak_bytes = max(self.peak_bytes, sum(after.values()))
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else _kind(n)
        self._fields[n] = self._field(n, layer, result)
        weighted = isinstance(layer, nn.Conv2d | nn.Linear)
        self._depths[n] = weighted + max((self._depths[source] for source in n.all_input_nodes), default=0)
        if isinstance(result, Tensor):
            self.made[n] = Made(_name(n), tuple(result.shape[1:]), self._fields[n])
        if n.op.startswith("call_") and isinstance(result, Tensor):
            made = sum(size for storage, size in after.items() if storage not in before)
            self.layers.append(_facts(_name(n), layer, result, made, self._fields[n]))
        return result

    @property
    def weight_layers(self) -> int:
        """Convolutions and fully connected layers on the longest way so far."""
        return max(self._depths.values())

    def _field(self, n: fx.Node, layer: nn.Module | str, result: Any) -> Fields:
        read = [(self.env[a], self._fields[a]) for a in n.all_input_nodes]
        tensors = [(value, field) for value, field in read if isinstance(value, Tensor)]
        if isinstance(result, Tensor) and tensors:
            return field_of(layer, tensors, result)
        return widest(field for _, field in read) if read else PIXEL


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


def summarize(name: str, classes: int | None = None, size: int | None = None) -> NetworkSummary:
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
    recorder.run(torch.empty(1, *shape, device="meta"))
    seen = {layer.name for layer in recorder.layers}
    auxiliary = [
        LayerSummary(path, type(layer).__name__, (), *_params(layer), 0, 0)
        for path, layer in model.named_modules()
        if path not in seen and next(layer.parameters(recurse=False), None) is not None
    ]
    return NetworkSummary(
        name=card.name,
        classes=number,
        input_shape=shape,
        layers=tuple(recorder.layers),
        auxiliary=tuple(auxiliary),
        stages=tuple(model.stage_names),  # type: ignore[arg-type]
        head=tuple(model.head_names),  # type: ignore[arg-type]
        features=find_features(model, recorder.made, tuple(model.stage_names), tuple(model.head_names)),  # type: ignore[arg-type]
        peak_activation_bytes=recorder.peak_bytes,
        weight_layers=recorder.weight_layers,
    )


def features_of(network: nn.Module, card: ModelCard) -> tuple[FeatureMap, ...]:
    """What `export --features` can give of a network; one that is not of the zoo is traced as it is, and its stages are
    the parts that it is put together of. Raises `ModelError` where it cannot be traced, or has no layer that ends it.
    """
    if card.family != OWN:
        return summarize(card.name, size=card.input_shape[1]).features
    try:
        recorder = _Recorder(fx.GraphModule(network, LayerTracer().trace(network)))
        with torch.no_grad():
            recorder.run(torch.zeros(1, *card.input_shape))
    except Exception as exc:  # of whatever stands in a forward
        said = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise ModelError(
            f"{card.name}: its stages cannot be told: {said}",
            "torch.fx must be able to trace its forward, which may not look at values; without --features it need not",
        ) from exc
    found = find_features(network, recorder.made, *name_stages(network, recorder.made))
    if not found:
        raise ModelError(
            f"{card.name}: has no stages: no convolution or fully connected layer that is a module",
            "keep them as attributes of the network: self.fc = nn.Linear(...)",
        )
    return found


def _facts(name: str, layer: nn.Module | str, output: Tensor, made_bytes: int, fields: Fields) -> LayerSummary:
    shape, field = tuple(output.shape[1:]), tuple(side.size for side in fields)
    if isinstance(layer, str):
        return LayerSummary(name, layer, shape, 0, 0, 0, made_bytes, field)
    macs = 0
    if isinstance(layer, nn.Conv2d):
        macs = output[0].numel() * layer.weight[0].numel()
    elif isinstance(layer, nn.Linear):
        macs = output[0].numel() * layer.in_features
    return LayerSummary(name, type(layer).__name__, shape, *_params(layer), macs, made_bytes, field)


def _params(layer: nn.Module) -> tuple[int, int]:
    """All parameters of one layer, and of these the weights."""
    own = list(layer.parameters(recurse=False))
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.dim() > 1)
