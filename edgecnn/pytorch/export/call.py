"""One operator call of an exported program, with its arguments by name and by the type that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.fx.node import Argument

from edgecnn.errors import ModelError

if TYPE_CHECKING:
    from edgecnn.pytorch.export.aten_to_onnx import Translation

ADVICE = (
    "write this part of the network with operators of edgecnn/pytorch/export/operators.py, or add the operator there"
)


class Call:
    """A call of an ATen operator and the graph that it is translated to.

    Arguments are named as in the operator's schema, whose defaults count. Each accessor raises `ModelError` for an
    argument of another kind, such as a number that depends on the batch.
    """

    def __init__(self, graph: Translation, node: fx.Node) -> None:
        self.graph, self.node = graph, node
        self._arguments = arguments(node)

    @property
    def name(self) -> str:
        """What the ONNX node will be called."""
        return node_name(self.node)

    def has(self, name: str) -> bool:
        """Whether the operator has this argument, and it is not None."""
        return self._arguments.get(name) is not None

    def get(self, name: str, default: Argument = None) -> Argument:
        """The argument as it stands; `default` where the operator has none of this name."""
        return self._arguments.get(name, default)

    def node_of(self, name: str) -> fx.Node:
        """The node whose tensor is the argument."""
        found = self.get(name)
        return found if isinstance(found, fx.Node) else self._refuse(name, "a tensor")

    def value(self, name: str) -> str:
        """The ONNX name of a tensor argument."""
        return self.graph.value(self.node_of(name))

    def values(self, name: str) -> list[str]:
        """The ONNX names of a list of tensors."""
        found = self.get(name)
        nodes = [v for v in found if isinstance(v, fx.Node)] if isinstance(found, Sequence) else []
        if not isinstance(found, Sequence) or len(nodes) != len(found):
            self._refuse(name, "a list of tensors")
        return [self.graph.value(node) for node in nodes]

    def operand(self, name: str) -> str:
        """The ONNX name of a tensor, or of a number as a constant."""
        return self.graph.scalar(self.number(name)) if isinstance(self.get(name), (int, float)) else self.value(name)

    def array(self, name: str) -> torch.Tensor:
        """The parameter or buffer that is the argument."""
        return self.graph.array(self.node_of(name))

    def integer(self, name: str) -> int:
        """A whole number, or a switch as 0 or 1."""
        found = self.get(name)
        return int(found) if isinstance(found, int) else self._refuse(name, "a whole number")

    def flag(self, name: str) -> bool:
        """A switch."""
        return self.integer(name) != 0

    def number(self, name: str) -> float:
        """A number."""
        found = self.get(name)
        return float(found) if isinstance(found, (int, float)) else self._refuse(name, "a number")

    def integers(self, name: str) -> list[int]:
        """Whole numbers; one alone counts as a list, and None as an empty one."""
        found = self.get(name)
        numbers = [found] if isinstance(found, int) else found or ()
        whole = [int(v) for v in numbers if isinstance(v, int)] if isinstance(numbers, Sequence) else []
        if not isinstance(numbers, Sequence) or len(whole) != len(numbers):
            self._refuse(name, "whole numbers")
        return whole

    def pair(self, name: str) -> list[int]:
        """Two spatial numbers, from one or two; empty where none is given."""
        numbers = self.integers(name)
        return numbers * 2 if len(numbers) == 1 else numbers

    def shape(self, name: str = "") -> list[int | None]:
        """The shape of a tensor argument, or of what the call makes; None for the batch."""
        return shape(self.node_of(name) if name else self.node)

    def is_only_use(self, name: str) -> bool:
        """Whether nothing else reads the argument's tensor."""
        return self.graph.sole_user(self.node_of(name))

    def add(self, operator: str, inputs: list[str], suffix: str = "", outputs: int = 1, **attributes: Any) -> list[str]:
        """Append one ONNX node; returns its output names."""
        return self.graph.add(self.node, operator, inputs, suffix, outputs, **attributes)

    def _refuse(self, name: str, wanted: str) -> Any:
        raise ModelError(f"{self.name}: {self.node.target}: {name} = {self.get(name)!r} is not {wanted}", ADVICE)


def arguments(node: fx.Node) -> Mapping[str, Argument]:
    """The arguments of an ATen call by the names of its schema, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]
    named = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    named |= {a.name: value for a, value in zip(schema.arguments, node.args, strict=False)}
    return named | dict(node.kwargs)


def node_name(node: fx.Node) -> str:
    """`layer1.0.conv1` for the operator of a torch layer, `layer1.0.add` for one in the forward of a block."""
    word = str(node.target).split(".")[1 if str(node.target).startswith("aten.") else 0].rstrip("_")
    path, kind = innermost_module(node)
    path = path.split("@")[0]
    if kind.startswith("torch.nn.modules.") and ".container." not in kind:
        return path or word
    return f"{path}.{word}" if path else word


def innermost_module(node: fx.Node) -> tuple[str, str]:
    """Path and class of the module whose forward called `node`; a second call of one module has the path `path@1`."""
    stack = [v for v in (node.meta.get("nn_module_stack") or {}).values() if "hook" not in v[0]]
    if not stack:
        return "", ""
    path, kind = stack[-1]
    return path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def shape(node: fx.Node) -> list[int | None]:
    """The shape of what `node` makes; None for the batch."""
    return [None if isinstance(n, torch.SymInt) else int(n) for n in node.meta["val"].shape]
