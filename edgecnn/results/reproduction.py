"""What is left of a graph that NVIDIA refuses, for a bug report."""

from __future__ import annotations

from dataclasses import dataclass

from edgecnn.records import STRICT


@dataclass(frozen=True)
class Reproduction:
    """The smallest graph that still fails as the one at `path` does, in `folder`, by the words of `by`.

    `failure` is how it fails, `said` NVIDIA's words to the reduced graph. `operators` are those of its nodes, of
    `nodes_before` ones. `minimal`: each was tried to be left out within the time. `values_kept` are the tensors whose
    values the failure needs, all others are random; `names_kept` where it needs the names. `onnxruntime`: what ONNX
    Runtime says to the reduced graph.
    """

    __pydantic_config__ = STRICT

    path: str
    folder: str
    by: str
    failure: str
    said: str
    nodes_before: int
    operators: tuple[str, ...]
    trials: int
    minimal: bool
    values_kept: tuple[str, ...]
    names_kept: bool
    onnxruntime: str

    @property
    def nodes(self) -> int:
        """How many nodes are left."""
        return len(self.operators)

    def __repr__(self) -> str:
        left = f"{self.nodes} of {self.nodes_before} nodes"
        return f"Reproduction({self.path}: {left} in {self.folder}: {self.failure})"
