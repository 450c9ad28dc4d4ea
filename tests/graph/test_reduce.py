"""The smallest part of a graph that still fails: what is left, and what of its owner is in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.errors import GraphError
from edgecnn.graph.reduce import operators_of, reduce_nodes, replace_names, replace_values
from tests.fakes.graphs import build
from tests.fakes.tiny import tiny_graph

pytestmark = pytest.mark.onnx

NET = """
c1 = Conv(input, out=6, k=3)
r1 = Relu(c1)
p = MaxPool(r1, kernel_shape=[2, 2], strides=[2, 2])
c2 = Conv(p, out=6, k=3)
t = Tanh(c2)
s = Add(t, p)
g = GlobalAveragePool(s)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


class Asked:
    """A predicate that counts, and insists that every graph that it is asked about is one."""

    def __init__(self, fails: Callable[[onnx.ModelProto], bool]) -> None:
        self.count, self._fails = 0, fails

    def __call__(self, model: onnx.ModelProto) -> bool:
        self.count += 1
        onnx.checker.check_model(model, full_check=True)
        return self._fails(model)


def holds(*operators: str) -> Callable[[onnx.ModelProto], bool]:
    return lambda model: set(operators) <= {node.op_type for node in model.graph.node}


def follows(first: str, second: str) -> Callable[[onnx.ModelProto], bool]:
    """Whether `second` reads what depends on `first`."""

    def depends(model: onnx.ModelProto) -> bool:
        reached = set[str]()
        for node in model.graph.node:
            if node.op_type == second and reached & set(node.input):
                return True
            if node.op_type == first or reached & set(node.input):
                reached |= set(node.output)
        return False

    return depends


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("near", ["", "t/Tanh", "no such node"])
def test_one_node_is_left_with_its_own_input_and_output(near: str) -> None:
    small = reduce_nodes(build(NET), Asked(holds("Tanh")), near)
    assert operators_of(small.graph.node) == ("Tanh",)
    assert [v.name for v in small.graph.input] == ["c2"]
    assert [d.dim_value for d in small.graph.input[0].type.tensor_type.shape.dim][1:] == [6, 4, 4]
    assert [v.name for v in small.graph.output] == ["t"]
    assert not small.graph.initializer


def test_the_node_that_the_failure_names_is_looked_at_first() -> None:
    asked = Asked(holds("Tanh"))
    reduce_nodes(build(NET), asked, "t/Tanh")
    assert asked.count == 2  # the whole, and it


@pytest.mark.parametrize("pair", [("MaxPool", "Gemm"), ("Conv", "Flatten"), ("Relu", "Add")])
def test_nodes_that_fail_together_stay_and_each_is_needed(pair: tuple[str, str]) -> None:
    fails = holds(*pair)
    small = reduce_nodes(build(NET), Asked(fails))
    assert sorted(operators_of(small.graph.node)) == sorted(pair)


def test_what_stands_between_two_nodes_is_passed_by_where_it_changes_no_shape() -> None:
    small = reduce_nodes(build(NET), Asked(follows("MaxPool", "GlobalAveragePool")))
    assert operators_of(small.graph.node) == ("MaxPool", "GlobalAveragePool")
    assert small.graph.node[1].input[0] == small.graph.node[0].output[0]


def test_few_graphs_are_asked_about_in_a_long_chain() -> None:
    lines = [f"a{k} = Relu(a{k - 1})" for k in range(1, 256)]
    model = build("\n".join(["a0 = Tanh(input)", *lines, "b = Sigmoid(a255)", *(f"b{k} = Relu(b)" for k in range(3))]))
    asked = Asked(holds("Sigmoid"))
    assert operators_of(reduce_nodes(model, asked).graph.node) == ("Sigmoid",)
    assert asked.count <= 20


def test_a_failure_that_a_new_file_does_not_have_is_not_reduced() -> None:
    with pytest.raises(GraphError, match="is gone"):
        reduce_nodes(build(NET), lambda model: False)


def test_weights_become_seeded_noise_of_the_same_shapes_and_types() -> None:
    model = tiny_graph("int8")
    made, kept = replace_values(model, Asked(holds("Conv")), seed=7)
    again, _ = replace_values(model, holds("Conv"), seed=7)
    assert kept == ()
    assert made.SerializeToString() == again.SerializeToString()
    before, after = initializers(model), initializers(made)
    assert {n: (a.shape, a.dtype) for n, a in before.items()} == {n: (a.shape, a.dtype) for n, a in after.items()}
    for name, values in before.items():
        if values.size > 1:
            assert not np.intersect1d(values, after[name]).size, name
    scales = [values for name, values in after.items() if "scale" in name]
    assert scales
    assert all(0.01 <= scale <= 0.1 for scale in scales)
    assert all(not values.any() for name, values in after.items() if "zero" in name)


def test_a_value_that_the_failure_needs_is_kept_and_named_and_no_other() -> None:
    model = tiny_graph("int8")
    name = "flat.zero"
    next(t for t in model.graph.initializer if t.name == name).CopyFrom(numpy_helper.from_array(np.int8(7), name))
    made, kept = replace_values(model, lambda m: bool(initializers(m)[name] == 7))
    assert kept == ("flat.zero []",)
    before, after = initializers(model), initializers(made)
    assert [n for n in before if before[n].size > 1 and np.array_equal(before[n], after[n])] == []


def test_values_in_constant_nodes_are_weights_too_and_shapes_are_not() -> None:
    model = build("a = Relu(input)\nb = Relu(a)")
    secret = np.full((1, 4, 1, 1), 1.2345, np.float32)
    del model.graph.node[1]
    model.graph.node.extend(
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(secret, "mine")),
            helper.make_node("Constant", [], ["e"], value_floats=[1.2345]),
            helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([0, -1], np.int64))),
            helper.make_node("Mul", ["a", "k"], ["ak"]),
            helper.make_node("Mul", ["ak", "e"], ["ake"]),
            helper.make_node("Reshape", ["ake", "shape"], ["b"]),
        ]
    )
    fails = holds("Reshape", "Mul")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    small, kept = replace_values(reduce_nodes(model, lambda m: len(m.graph.node) > 6 and fails(m)), fails)
    assert kept == ()
    content = small.SerializeToString()
    assert np.float32(1.2345).tobytes() not in content
    assert b"mine" not in content
    shape = next(n for n in small.graph.node if n.output[0] == "shape")
    assert numpy_helper.to_array(shape.attribute[0].t).tolist() == [0, -1]


def test_names_and_what_exporters_write_beside_the_graph_go() -> None:
    model = build(NET)
    model.producer_name, model.domain, model.doc_string, model.graph.name = "acme", "acme.com", "acme", "acme-net"
    model.metadata_props.add(key="acme", value="acme")
    for node in model.graph.node:
        node.name, node.doc_string = f"acme/{node.name}", "File acme.py, line 1"
        node.metadata_props.add(key="stack", value="acme.py")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "acme_batch"
    fails = holds("Conv", "Gemm")
    small, anonymous = replace_names(reduce_nodes(model, Asked(fails)), Asked(fails))
    assert anonymous
    assert b"acme" not in small.SerializeToString()
    assert [n.name for n in small.graph.node] == ["Conv0", "Gemm1"]


def acme_constant(name: str, value: float) -> onnx.NodeProto:
    """Stored as a sparse tensor, which ordinary ones are not replaced with."""
    values = numpy_helper.from_array(np.array([value], np.float32), "acme_values")
    indices = numpy_helper.from_array(np.array([2], np.int64), "acme_indices")
    return helper.make_node("Constant", [], [name], sparse_value=helper.make_sparse_tensor(values, indices, [4, 1, 1]))


def acme_function() -> onnx.FunctionProto:
    value = numpy_helper.from_array(np.full((4, 1, 1), 1.2345, np.float32), "acme_tensor")
    nodes = [
        helper.make_node("Constant", [], ["acme_k"], "acme_constant", value=value),
        helper.make_node("Constant", [], ["acme_e"], value_float=1.2345),
        helper.make_node("Mul", ["acme_x", "acme_k"], ["acme_xk"], "acme_node"),
        helper.make_node("Mul", ["acme_xk", "acme_e"], ["acme_y"], doc_string="acme"),
    ]
    made = helper.make_function("local", "Scale", ["acme_x"], ["acme_y"], nodes, [helper.make_opsetid("", 19)])
    made.value_info.append(helper.make_tensor_value_info("acme_xk", onnx.TensorProto.FLOAT, ["acme_n", 4, 8, 8]))
    return made


def acme_branch(factor: float) -> onnx.GraphProto:
    nodes = [acme_constant("acme_c", factor), helper.make_node("Mul", ["a", "acme_c"], ["acme_z"], "acme_mul")]
    output = helper.make_tensor_value_info("acme_z", onnx.TensorProto.FLOAT, ["acme_batch", 4, 8, 8])
    made = helper.make_graph(nodes, "acme_graph", [], [output])
    made.value_info.append(helper.make_tensor_value_info("acme_c", onnx.TensorProto.FLOAT, [4, 1, 1]))
    return made


def test_names_and_values_within_functions_and_inner_graphs_go_too() -> None:
    model = build("a = Relu(input)\nb = Relu(a)")
    branches = {"then_branch": acme_branch(1.2345), "else_branch": acme_branch(1.2345)}
    model.graph.node[1].CopyFrom(helper.make_node("If", ["acme_if"], ["acme_b"], "acme", **branches))
    model.graph.node.append(helper.make_node("Scale", ["acme_b"], ["b"], "acme_scale", domain="local"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "acme_if"))
    model.functions.append(acme_function())
    model.opset_import.append(helper.make_opsetid("local", 1))
    fails = Asked(holds("If", "Scale"))
    small, anonymous = replace_names(reduce_nodes(model, fails), fails)
    small, kept = replace_values(small, fails)
    content = small.SerializeToString()
    assert (anonymous, kept) == (True, ())
    assert b"acme" not in content
    assert np.float32(1.2345).tobytes() not in content


def test_names_that_the_failure_needs_are_kept_and_said() -> None:
    model = build(NET)
    small, anonymous = replace_names(model, lambda m: any(n.name == "c1/Conv" for n in m.graph.node))
    assert not anonymous
    assert small is model


def test_a_graph_within_a_node_keeps_what_it_reads_from_outside() -> None:
    """`If` reads `a` in its branches alone."""
    branches = [
        helper.make_graph([helper.make_node(op, ["a"], [f"{op}_out"])], op, [], [onnx.ValueInfoProto(name=f"{op}_out")])
        for op in ("Relu", "Tanh")
    ]
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Sigmoid", ["input"], ["a"]),
        helper.make_node("If", ["flag"], ["b"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Neg", ["b"], ["c"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [value("input", onnx.TensorProto.FLOAT, [1, 4]), value("flag", onnx.TensorProto.BOOL, [])],
        [value("c", onnx.TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
    small, anonymous = replace_names(reduce_nodes(model, holds("If")), holds("If"))
    assert anonymous
    assert operators_of(small.graph.node) == ("If",)
    outer = [v.name for v in small.graph.input]
    inner = {n for a in small.graph.node[0].attribute for node in a.g.node for n in node.input}
    assert outer == ["input0", "input1"]
    assert inner <= set(outer)
