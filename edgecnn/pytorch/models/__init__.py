"""One file per family, one public function per variant; the facts about each variant stand in `edgecnn/zoo.toml`.

A variant is a function `NAME(classes: int = N) -> nn.Module`, found by listing the files of this folder; a leading
underscore marks a file with shared parts. What each returns keeps these promises:

- it is in train mode, initialized as its paper says (else He), under the caller's torch seed;
- `forward(x)` gives logits [N, classes]; in train mode a network with auxiliary heads gives (logits, auxiliary, ...);
- `head_names`: the classifier layers that another number of classes replaces; `stage_names`: the other submodules that
  hold parameters, in forward order; `aux_names` (only where there are any): the auxiliary branches, used in training
  alone. Head, stages and auxiliary branches together hold every parameter, and no stage shares one with another.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from edgecnn.zoo import find_model

Variant = Callable[..., nn.Module]


@functools.cache
def variants() -> dict[str, Variant]:
    """Every variant of every family by name."""
    found: dict[str, Variant] = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        if not file.name.rpartition(".")[2].startswith("_"):
            module = importlib.import_module(file.name)
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__ and not name.startswith("_"):
                    found[name] = function
    return found


def build_model(name: str, classes: int | None = None) -> nn.Module:
    """The network of a name or alias, freshly initialized, in train mode; `classes` defaults to the zoo's number.

    Raises `ModelError` for an unknown name.
    """
    card = find_model(name)
    return variants()[card.name](card.classes if classes is None else classes)


def build_model_to_fill(name: str, classes: int | None = None) -> nn.Module:
    """The network of `build_model` for weights that replace all of its own: random numbers are not drawn, and what they
    would fill holds anything."""
    with _WithoutDraws():
        return build_model(name, classes)


_DRAWS = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_normal_, init.kaiming_uniform_}


class _WithoutDraws(TorchFunctionMode):
    """Within it, tensors are not filled with random numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWS:
            return func(*args, **kwargs)
        return args[0] if args else kwargs["tensor"]
