"""Every Einsum in other operators, against numpy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecnn.errors import GraphError
from edgecnn.graph.importing.einsum import write_einsums

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx

SIZES = dict(zip("bchwdkij", (2, 3, 4, 5, 6, 7, 3, 4), strict=True))


def graph(equation: str) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The Einsum alone; the axis b is open, as a batch is."""
    terms = [
        term.replace("...", "hw" if "b" in term else "bh")
        for term in equation.replace(" ", "").split("->")[0].split(",")
    ]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal([SIZES[c] for c in term]).astype(np.float32) for term in terms]
    inputs = [
        helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, ["b" if c == "b" else SIZES[c] for c in term])
        for k, term in enumerate(terms)
    ]
    node = helper.make_node("Einsum", [i.name for i in inputs], ["y"], "sum", equation=equation)
    made = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), arrays


@pytest.mark.parametrize(
    "equation",
    [
        "bchw,cd->bdhw", "bchw,dc->bdhw", "cd,bchw->bdhw", "bchw,bdhw->bcd", "bchw,bchk->bcwk", "bhwc,kc->bhwk",
        "bc,kc->bk", "bij,bjk->bik", "bij,bkj", "bchw,bc->bchw", "bchw,bchw->bchw", "bchw,hwk->bck", "bhc,bhd->bhcd",
        "bchw->bc", "bchw->bhwc", "bc,bd->bcd", "bchw,dk->bcd", "bchw , cd -> bdhw", "bchw,bhw->bc", "bcij,ijk->bkc",
        "bchw,cd,dk->bkhw", "bi,kij,bj->bk", "cd,bchw,dk,k->bkhw", "b,c,bc->", "bc...,cd->bd...", "...wi,...ij->...wj",
        "...hw", "c...,...->...c", "i,j,k->ijk",
    ],
)  # fmt: skip
def test_computes_what_numpy_does(equation: str) -> None:
    model, arrays = graph(equation)
    assert len(write_einsums(model)) == 1
    assert "Einsum" not in {n.op_type for n in model.graph.node}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, {f"x{k}": array for k, array in enumerate(arrays)})[0]
    assert found == pytest.approx(np.einsum(equation.replace(" ", ""), *arrays), abs=1e-5)


@pytest.mark.parametrize("equation", ["bcc->bc", "bc,cdd,dk->bk"])
def test_another_is_refused_by_its_name(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    node = helper.make_node("Einsum", [f"x{k}" for k in range(len(terms))], ["y"], "sum", equation=equation)
    inputs = [helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, None) for k in range(len(terms))]
    made = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(GraphError, match="'sum': the Einsum"):
        write_einsums(model)
