"""A graph at an older opset, for parsers that read none of ours."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import version_converter

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import INPUT, MAX_DIFFERENCE, OLD_OPSET
from edgecnn.errors import GraphError
from edgecnn.graph.load import onnx_errors
from edgecnn.graph.onnx_graph import opset_of
from edgecnn.session import Array

OLD_IR_VERSION = 8
BATCHES = (1, 2)
ASIDE = "set.aside"
PAD_INPUTS = 3  # from opset 18 on a fourth names the axes


def lower_opset(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """The float32 graph `model` at opset 17, proven equal in ONNX Runtime; raises `GraphError` where an operator has no
    form there, and where the outputs differ or a tensor has another name."""
    if opset_of(model) <= OLD_OPSET:
        return model
    with onnx_errors(what, f"cannot be converted to opset {OLD_OPSET}", "take TensorRT 10, which reads opset 19"):
        made = _old_pads(version_converter.convert_version(_set_aside_pads(model), OLD_OPSET))
        made.ir_version = OLD_IR_VERSION
        onnx.checker.check_model(made, full_check=True)
    before, after = ({name for node in m.graph.node for name in node.output} for m in (model, made))
    if missing := sorted(before - after):
        raise GraphError(f"{what}: at opset {OLD_OPSET} its tensor {missing[0]!r} has another name", "take TensorRT 10")
    for batch in BATCHES:
        images = _images(model, batch)
        with onnxruntime_errors(what, "does not run it", f"it is the graph at opset {OLD_OPSET}: take TensorRT 10"):
            ours, theirs = (open_session(m).run(None, {INPUT: images}) for m in (model, made))
        pairs = zip(ours, theirs, strict=True)
        differs = max(float(np.abs(one - two).max() / max(np.abs(one).max(), 1e-9)) for one, two in pairs)
        if not differs <= MAX_DIFFERENCE:
            raise GraphError(
                f"{what}: at opset {OLD_OPSET} its outputs differ by {differs:.1e} of the largest", "take TensorRT 10"
            )
    return made


def _set_aside_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the converter, which has no way back for a Pad, leaves those alone that opset 13 has alike."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.opset_import.append(onnx.helper.make_opsetid(ASIDE, 1))
    for node in made.graph.node:
        if node.op_type == "Pad" and not node.domain and len(node.input) <= PAD_INPUTS:
            node.domain = ASIDE
    return made


def _old_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.domain = "" if node.domain == ASIDE else node.domain
    for version in [v for v in model.opset_import if v.domain == ASIDE]:
        model.opset_import.remove(version)
    return model


def _images(model: onnx.ModelProto, batch: int) -> Array:
    """Seeded values from 0 to 255 of the type and shape that a graph takes."""
    tensor = model.graph.input[0].type.tensor_type
    shape = [batch, *(d.dim_value for d in tensor.shape.dim[1:])]
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    return pixels.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
