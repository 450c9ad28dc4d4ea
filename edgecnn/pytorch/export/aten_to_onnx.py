"""From a `torch.export` program to the nodes of an ONNX graph; `operators.py` has a small function for each operator.

The program is taken before decomposition, so that an operator is what the network's author wrote (`hardswish`, not
five multiplications), and its module's path names the node. The batch is the only symbolic size, and shapes are known
otherwise: a Reshape gets its target as a constant, and no arithmetic on shapes is ever emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind

from edgecnn.contract import INPUT, OUTPUT
from edgecnn.errors import ModelError
from edgecnn.pytorch.export.call import ADVICE, Call, innermost_module, node_name

_SAME = {"aten.dropout", "aten.dropout_", "aten.contiguous", "aten.detach", "aten.alias", "aten.clone"}


Translate = Callable[[Call], str]  # appends nodes, returns the name of the result


class Translation:
    """The ONNX nodes and initializers of one exported program.

    `initializers` refers to the module's own tensors wherever they are used unchanged.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        module: nn.Module,
        operators: Mapping[str, Translate],
        outputs: Sequence[str] = (OUTPUT,),
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, torch.Tensor] = {}
        self.input: fx.Node | None = None
        self._program, self._module, self._operators = program, module, operators
        self._values: dict[fx.Node, str] = {}  # by the node that owns the memory: in-place operators rebind it
        self._owners: dict[fx.Node, fx.Node] = {}
        self._names: set[str] = {INPUT, *outputs}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._fused: dict[str, str] = {}
        self._bind_placeholders()
        for node in program.graph.nodes:
            if node.op == "call_function" and not self._is_size(node):
                self._translate(node)
        self._name_outputs(next(n for n in program.graph.nodes if n.op == "output"), outputs)
        self._drop_unused(outputs)

    def value(self, node: fx.Node) -> str:
        """The ONNX name of what `node` holds now; a parameter becomes an initializer when it is first used."""
        owner = self._owner(node)
        if owner not in self._values:
            raise ModelError(f"{node.name}: {node.op} {node.target} is not a tensor that can be exported", ADVICE)
        return self._values[owner]

    def array(self, node: fx.Node) -> torch.Tensor:
        """The parameter or buffer behind `node`."""
        return self.initializers[self.value(node)]

    def add(
        self, node: fx.Node, operator: str, inputs: list[str], suffix: str = "", outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Append one ONNX node named after the module that `node` belongs to; returns its output names."""
        # A layer is where its weights are, even if the forward of a module around it calls the operator.
        layer = inputs[1].removesuffix(".weight") if operator in ("Conv", "Gemm") else node_name(node)
        name = self._unique(layer + suffix)
        names = [name] if outputs == 1 else [f"{name}.{k}" for k in range(outputs)]
        made = onnx.helper.make_node(operator, inputs, names, name=name, **attributes)
        self.nodes.append(made)
        self._producers |= dict.fromkeys(names, made)
        return names

    def producer(self, value: str) -> onnx.NodeProto | None:
        """The node that makes `value`."""
        return self._producers.get(value)

    def constant(self, name: str, values: Any, dtype: torch.dtype = torch.int64) -> str:
        """An initializer of our own making; the same values under the same name are shared."""
        self.initializers[name] = torch.as_tensor(values, dtype=dtype)
        return name

    def scalar(self, value: float) -> str:
        """A float32 scalar, shared by all that use its value."""
        return self.constant(f"constant.{value!r}", value, torch.float32)

    def sole_user(self, node: fx.Node) -> bool:
        """Whether what `node` made is used exactly once."""
        return len(node.users) == 1

    def _bind_placeholders(self) -> None:
        placeholders = {n.name: n for n in self._program.graph.nodes if n.op == "placeholder"}
        tensors = {**dict(self._program.state_dict), **dict(self._program.constants)}
        for spec in self._program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                self.input, self._values[node] = node, INPUT
            elif spec.target is not None and isinstance(tensors.get(spec.target), torch.Tensor):
                self._values[node] = spec.target
                self.initializers[spec.target] = tensors[spec.target]
                self._names.add(spec.target)

    def _owner(self, node: Any) -> fx.Node:
        assert isinstance(node, fx.Node)
        return self._owners.get(node, node)

    def _is_size(self, node: fx.Node) -> bool:
        return isinstance(node.meta.get("val"), (int, torch.SymInt))

    def _translate(self, node: fx.Node) -> None:
        operator = str(node.target).rsplit(".", 1)[0] if str(node.target).startswith("aten.") else str(node.target)
        if (layer := self._fused_layer(node)) is not None:
            self._values[node] = layer
            return
        if operator in _SAME:
            self._owners[node] = self._owner(node.args[0])
            return
        if "getitem" in operator:
            source, index = node.args
            self._values[node] = f"{self.value(source)}.{index}"  # type: ignore[arg-type]
            return
        function = self._operators.get(operator.rstrip("_"))
        if function is None:
            where = node_name(node)
            raise ModelError(f"{where}: the operator {node.target} has no translation to ONNX", ADVICE)
        made = function(Call(self, node))
        if operator.endswith("_"):
            self._owners[node] = self._owner(node.args[0])
            self._values[self._owners[node]] = made
        else:
            self._values[node] = made

    def _fused_layer(self, node: fx.Node) -> str | None:
        """The result of a LocalResponseNorm: PyTorch traces ten operators where ONNX has one."""
        path, kind = innermost_module(node)
        if not kind.endswith(".LocalResponseNorm"):
            return None
        if path not in self._fused:
            layer = self._module.get_submodule(path.split("@")[0])
            assert isinstance(layer, nn.LocalResponseNorm)
            inputs = [self.value(node.args[0])]  # type: ignore[arg-type]
            (self._fused[path],) = self.add(
                node, "LRN", inputs, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.k
            )
        return self._fused[path]

    def _unique(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def _name_outputs(self, output: fx.Node, names: Sequence[str]) -> None:
        (results,) = output.args
        tensors = [r for r in results if isinstance(r, fx.Node)] if isinstance(results, (tuple, list)) else []
        if len(tensors) != len(names) or len(tensors) != len(results):  # type: ignore[arg-type]
            count = len(results) if isinstance(results, (tuple, list)) else 0
            wanted = "one tensor of logits" if len(names) == 1 else f"{len(names)} tensors"
            raise ModelError(f"the network returns {count} values in eval mode, not {wanted}", ADVICE)
        new = dict[str, str]()
        for tensor, name in zip(tensors, names, strict=True):
            if (other := new.setdefault(self.value(tensor), name)) != name:
                raise ModelError(f"{other} and {name} are the same tensor", "name it once")
        for node in self.nodes:
            for tensors_of_node in (node.input, node.output):
                for k, name in enumerate(tensors_of_node):
                    tensors_of_node[k] = new.get(name, name)

    def _drop_unused(self, outputs: Sequence[str]) -> None:
        needed, kept = set(outputs), list[onnx.NodeProto]()
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        used = dict.fromkeys(name for node in self.nodes for name in node.input)
        self.initializers = {name: self.initializers[name] for name in used if name in self.initializers}
