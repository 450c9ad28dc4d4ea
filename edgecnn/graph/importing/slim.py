"""A graph simplified by onnxslim, where that is installed, before it is looked at."""

from __future__ import annotations

import importlib
import warnings

import onnx

from edgecnn.backends._onnxruntime import one_line
from edgecnn.errors import GraphError, MissingPackageError
from edgecnn.graph.onnx_graph import copy_model


def simplify_with_onnxslim(model: onnx.ModelProto) -> list[str]:
    """Replace `model`, in place, by what onnxslim makes of it; raises `MissingPackageError` where it is not installed,
    `GraphError` where it fails."""
    try:
        onnxslim = importlib.import_module("onnxslim")
    except ModuleNotFoundError as exc:
        raise MissingPackageError("onnxslim", "--simplify", "simplify") from exc
    before = len(model.graph.node)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = onnxslim.slim(copy_model(model))
    except Exception as exc:
        raise GraphError(f"onnxslim fails on it: {one_line(exc)}", "import it without --simplify") from exc
    model.CopyFrom(made)
    return [f"simplified by onnxslim {onnxslim.__version__}: {before} -> {len(model.graph.node)} nodes"]
