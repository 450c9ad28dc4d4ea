"""Where an engine parts from the graph that it was built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgecnn.records import STRICT

Cause = Literal["none", "layer", "fusion-or-tactic"]
Method = Literal["none", "debug-tensors", "extra-outputs"]


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor of an engine, or of a build of it, against the same tensor of the graph: SQNR = 10 log10(sum g^2 /
    sum (e - g)^2) over all its values on the images, None where a value is not finite, and `explained_db`, the least
    that rounding elsewhere can be the cause of. `differs` is that it is below."""

    __pydantic_config__ = STRICT

    build: int
    tensor: str
    sqnr_db: float | None
    explained_db: float
    differs: bool


@dataclass(frozen=True, kw_only=True)
class EngineDivergence:
    """The first layer of an engine whose result is not its graph's, on `n` images; `cause` is

    - `none`: the engine's output is the graph's within its noise, and nothing is looked for;
    - `layer`: `tensor`, made by the ONNX node `node`, differs beyond its noise, and nothing before it that was seen
      does. `nodes` are those that can have made the difference: several where the engine computes them as one;
    - `fusion-or-tactic`: the engine differs, and a build of it in which tensors are looked at does not: how layers were
      fused, or with which kernels, is the suspect. `tensor` is the one that was looked at, "" where it was all that are
      left.

    `builds` were made, and in `seen` stands what each told; the engine's own output is that of build 0. `unknown_n`
    tensors were told by names that are none of the graph's. The SQNR is that of the tensor named, or of the output.
    """

    __pydantic_config__ = STRICT

    engine: str
    graph: str
    backend: str
    n: int
    cause: Cause
    method: Method
    builds: int
    node: str
    operator: str
    nodes: tuple[str, ...]
    tensor: str
    sqnr_db: float | None
    explained_db: float
    output_sqnr_db: float | None
    output_explained_db: float
    unknown_n: int
    seen: tuple[TensorDifference, ...]
