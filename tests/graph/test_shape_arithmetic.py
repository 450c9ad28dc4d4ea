"""Sizes that a graph computes are written in where they are one value for all batches, and left where they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgecnn.graph.shape_arithmetic import fold_shape_arithmetic
from tests.fakes.foreign import CHANNELS, SIDE, N, classifier, integers, shuffle_unit

if TYPE_CHECKING:  # imported before the first test of this file
    import onnxruntime

pytestmark = pytest.mark.onnx


def run(model: onnx.ModelProto, batch: int) -> np.ndarray:
    images = np.random.default_rng(batch).standard_normal((batch, 3, SIDE, SIDE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": images})[0]


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made, fold_shape_arithmetic(made)


def same_at(model: onnx.ModelProto, made: onnx.ModelProto, *batches: int) -> None:
    for batch in batches:
        assert np.array_equal(run(model, batch), run(made, batch))


def test_a_shuffle_keeps_nothing_of_its_arithmetic() -> None:
    model = shuffle_unit()
    made, count = folded(model)
    assert count >= 6
    assert not {"Shape", "Gather", "Div"} & {n.op_type for n in made.graph.node}
    held = {i.name: numpy_helper.to_array(i).tolist() for i in made.graph.initializer}
    assert [held[n.input[1]] for n in made.graph.node if n.op_type == "Reshape"] == [
        [-1, 2, 4, SIDE, SIDE],
        [-1, CHANNELS, SIDE, SIDE],
    ]
    same_at(model, made, 1, 2, 5)


def test_a_value_that_follows_the_batch_stays_computed() -> None:
    middle = [
        N("Shape", ["c"], ["s"]),
        N("Gather", ["s", "zero"], ["count"], axis=0),
        N("Cast", ["count"], ["number"], to=TensorProto.FLOAT),
        N("Mul", ["c", "number"], ["m"]),
    ]
    model = classifier(middle, zero=integers(0))
    made, count = folded(model)
    assert count == 0
    assert made == model
    assert not np.allclose(run(made, 1)[:1], run(made, 4)[:1])


def test_what_depends_on_the_image_is_no_shape() -> None:
    """How many values are above zero, counted by NonZero and Shape: another in each image."""
    middle = [
        N("Relu", ["c"], ["a"]),
        N("NonZero", ["a"], ["where"]),
        N("Shape", ["where"], ["s"]),
        N("Gather", ["s", "one"], ["count"], axis=0),
        N("Cast", ["count"], ["number"], to=TensorProto.FLOAT),
        N("Mul", ["c", "number"], ["m"]),
    ]
    model = classifier(middle, one=integers(1))
    made, _ = folded(model)
    same_at(model, made, 1, 2, 3)


def test_sizes_and_values_of_one_reshape_are_not_confused() -> None:
    """A Reshape inside the arithmetic, of a table of positions, by sizes that are computed too."""
    middle = [
        N("Shape", ["c"], ["s"]),
        N("Slice", ["s", "two", "four"], ["hw"]),
        N("ReduceProd", ["hw"], ["area"], keepdims=1),
        N("Range", ["origin", "end", "step"], ["line"]),
        N("Gather", ["s", "two"], ["rows"], axis=0),
        N("Concat", ["rows", "minus"], ["grid"], axis=0),
        N("Squeeze", ["area"], ["end"]),
        N("Reshape", ["line", "grid"], ["table"]),
        N("Cast", ["table"], ["positions"], to=TensorProto.FLOAT),
        N("Add", ["c", "positions"], ["m"]),
    ]
    order = [0, 1, 2, 6, 3, 4, 5, 7, 8, 9]
    constants: dict[str, Any] = {"origin": np.int64(0), "step": np.int64(1), "two": integers(2), "four": integers(4)}
    model = classifier([middle[k] for k in order], minus=integers(-1), **constants)
    made, count = folded(model)
    assert count > 0
    assert [n.op_type for n in made.graph.node if n.op_type not in ("Conv", "Relu", "Gemm")] == [
        "Add",
        "GlobalAveragePool",
        "Flatten",
    ]
    same_at(model, made, 1, 3)


def test_a_frozen_batch_is_a_size_as_any_other() -> None:
    middle = [N("Shape", ["c"], ["s"]), N("Reshape", ["c", "s"], ["m"])]
    made, count = folded(classifier(middle, given=(4, 3, SIDE, SIDE)))
    assert count == 1
    assert numpy_helper.to_array(made.graph.initializer[-1]).tolist() == [4, CHANNELS, SIDE, SIDE]


def test_open_sizes_are_left_as_they_are() -> None:
    model = classifier([N("Shape", ["c"], ["s"]), N("Reshape", ["c", "s"], ["m"])], given=("n", 3, "h", "w"))
    made, count = folded(model)
    assert count == 0
    assert made == model
