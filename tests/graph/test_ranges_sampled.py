"""Large maps are counted on a grid: their extremes stay exact, parts add up, and no NaN hides between its points."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.backends._onnxruntime import open_session
from edgecnn.errors import GraphError
from edgecnn.graph.calibration import watch
from edgecnn.graph.calibration.collect import collect_from_model, find_observed_tensors
from edgecnn.graph.calibration.derive import find_derived
from edgecnn.graph.calibration.file import read_ranges, write_ranges
from edgecnn.graph.calibration.histogram import Ranges, TensorStatistics, empty_statistics, upper_halves
from edgecnn.graph.onnx_graph import OnnxGraph
from edgecnn.graph.simplify import simplify_graph
from tests.fakes.graphs import build
from tests.fakes.noise import dataset_of, images

pytestmark = pytest.mark.onnx

SIZE = 24
NET = """
c1 = Conv(input, out=16, k=3)
r1 = Relu(c1)
c2 = Conv(r1, out=16, k=3)
s2 = Sigmoid(c2)
m2 = Mul(c2, s2)
a = Add(m2, r1)
p = MaxPool(a, kernel_shape=[2, 2], strides=[2, 2])
g = GlobalAveragePool(p)
f = Flatten(g)
logits = Gemm(f, out=3)
"""
JOINED = """
c1 = Conv(input, out=16, k=3)
r1 = Relu(c1)
c2 = Conv(input, out=40, k=1)
j = Concat(r1, c2, axis=1)
c3 = Conv(j, out=4, k=1)
g = GlobalAveragePool(c3)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


@pytest.fixture(autouse=True)
def few_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COUNTED", 7000)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return simplify_graph(build(NET, SIZE))


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, 4, SIZE, SIZE)).astype(np.float32)


def same(a: TensorStatistics, b: TensorStatistics) -> bool:
    for field in dataclasses.fields(TensorStatistics):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if not (left is right or np.array_equal(left, right)):
            return False
    return True


def all_same(a: Ranges, b: Ranges) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(same(a.tensors[n], b.tensors[n]) for n in a.tensors)


def values_of(model: onnx.ModelProto, names: list[str], batch: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(names, open_session(model, names).run(None, {"input": batch}), strict=True))


def test_extremes_are_those_of_all_values_and_counts_those_of_the_grid(model: onnx.ModelProto) -> None:
    batch = noise(11)
    made = collect_from_model(model, "", dataset_of(batch)).tensors
    found = values_of(model, [n for n in made if n != "input"], batch) | {"input": batch}
    steps = {name: s.step for name, s in made.items() if s.step > 1}
    assert steps == {"input": 2, "r1": 4, "c2": 4, "s2": 4, "m2": 4, "a": 4, "p": 2}
    for name, statistics in made.items():
        values, step = found[name], statistics.step
        np.testing.assert_array_equal(statistics.channel_low, values.min((0, *range(2, values.ndim))), name)
        np.testing.assert_array_equal(statistics.channel_high, values.max((0, *range(2, values.ndim))), name)
        expected = empty_statistics(name, values.shape[1])
        expected.add(values[:, :, ::step, ::step] if values.ndim == 4 else values)
        np.testing.assert_array_equal(statistics.magnitudes, expected.magnitudes, name)
        assert (statistics.negative is None) == (expected.negative is None), name
        assert statistics.images == 11


def test_extremes_of_channels_that_are_no_whole_blocks() -> None:
    batch, model = noise(80), simplify_graph(build(NET.replace("out=16", "out=20"), SIZE))
    made = collect_from_model(model, "", dataset_of(batch), batch=4).tensors
    found = values_of(model, [n for n in made if n != "input"], batch) | {"input": batch}
    assert sum(s.step > 1 for s in made.values()) == 7
    for name, statistics in made.items():
        values = found[name]
        np.testing.assert_array_equal(statistics.channel_low, values.min((0, *range(2, values.ndim))), name)
        np.testing.assert_array_equal(statistics.channel_high, values.max((0, *range(2, values.ndim))), name)


def test_little_is_counted_whole(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COUNTED", 1 << 20)
    made = collect_from_model(model, "", images(3, (4, SIZE, SIZE))).tensors
    assert {s.step for s in made.values()} == {1}
    assert made["a"].counted == 3 * 16 * SIZE * SIZE


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (2, 3), (20, 2)])
def test_neither_batch_nor_threads_change_what_is_counted(model: onnx.ModelProto, batch: int, threads: int) -> None:
    data = images(20, (4, SIZE, SIZE))
    plain = collect_from_model(model, "", data, batch=4, threads=1)
    assert max(s.step for s in plain.tensors.values()) > 1
    assert all_same(plain, collect_from_model(model, "", data, batch=batch, threads=threads))


def test_parts_of_a_set_add_up_to_the_whole_and_others_are_refused(model: onnx.ModelProto) -> None:
    data = images(20, (4, SIZE, SIZE))
    whole = collect_from_model(model, "", data)
    first, second = (collect_from_model(model, "", data.subset(part), of=20) for part in (range(7), range(7, 20)))
    first.merge(second)
    assert all_same(whole, first)
    with pytest.raises(ValueError, match="steps"):
        whole.merge(collect_from_model(model, "", data.subset(range(2))))


def test_an_interrupted_pass_goes_on_where_it_was_saved(model: onnx.ModelProto, tmp_path: Path) -> None:
    data = images(280, (4, SIZE, SIZE))

    def interrupt(done: int, total: int) -> None:
        if done > 270:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_from_model(model, "", data, progress=interrupt, resume=tmp_path / "partial")
    assert (tmp_path / "partial").exists()
    resumed = collect_from_model(model, "", data, resume=tmp_path / "partial")
    assert all_same(collect_from_model(model, "", data), resumed)


def test_a_concatenation_and_its_parts_are_counted_with_one_step() -> None:
    batch = noise(9)
    model = simplify_graph(build(JOINED, SIZE))
    made = collect_from_model(model, "", dataset_of(batch)).tensors
    assert made["r1"].step == made["c2"].step == made["j"].step > 1
    (joined,) = values_of(model, ["j"], batch).values()
    step = made["j"].step
    expected = empty_statistics("j", 56, step)
    expected.add(joined[:, :, ::step, ::step])
    np.testing.assert_array_equal(made["j"].magnitudes, expected.magnitudes)
    np.testing.assert_array_equal(made["j"].channel_low, joined.min((0, 2, 3)))


def test_a_relu_that_is_never_zero_has_its_smallest_value(model: onnx.ModelProto) -> None:
    lifted = onnx.ModelProto()
    lifted.CopyFrom(model)
    (bias,) = [i for i in lifted.graph.initializer if i.name == "c1.bias"]
    values = numpy_helper.to_array(bias).copy()
    values[3] = 40.0
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    batch = noise(80)
    made = collect_from_model(lifted, "", dataset_of(batch)).tensors["r1"]
    (r1,) = values_of(lifted, ["r1"], batch).values()
    assert made.step > 1
    assert made.channel_low[3] > 1
    np.testing.assert_array_equal(made.channel_low, r1.min((0, 2, 3)))


def shuffled(size: int) -> onnx.ModelProto:
    """Two branches, concatenated, their channels shuffled, split again."""
    model = build(
        """
        c1 = Conv(input, out=16, k=3)
        r1 = Relu(c1)
        c2 = Conv(input, out=16, k=1)
        j = Concat(r1, c2, axis=1)
        c3 = Conv(j, out=4, k=1)
        g = GlobalAveragePool(c3)
        f = Flatten(g)
        logits = Gemm(f, out=3)
        """,
        size,
    )
    shapes = {"apart": [0, 2, 16, size, size], "together": [0, 32, size, size]}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{name}.shape"))
    nodes = [
        helper.make_node("Reshape", ["j", "apart.shape"], ["apart"], "apart"),
        helper.make_node("Transpose", ["apart"], ["turned"], "turned", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["turned", "together.shape"], ["together"], "together"),
    ]
    model.graph.node[4].input[0] = "together"
    for k, node in enumerate(nodes):
        model.graph.node.insert(4 + k, node)
    return simplify_graph(model)


def test_what_only_moves_values_has_the_counts_of_its_source() -> None:
    batch, model = noise(9), shuffled(SIZE)
    graph = OnnxGraph(model)
    assert {"apart", "turned", "together"} < find_derived(graph, find_observed_tensors(graph)).keys()
    made = collect_from_model(model, "", dataset_of(batch)).tensors
    for name, values in values_of(model, ["apart", "turned", "together"], batch).items():
        np.testing.assert_array_equal(made[name].magnitudes, made["j"].magnitudes)
        axes = (0, *range(2, values.ndim))
        np.testing.assert_array_equal(made[name].channel_low, values.min(axes), name)
        np.testing.assert_array_equal(made[name].channel_high, values.max(axes), name)


def test_maps_whose_channels_come_last_are_counted_whole() -> None:
    model = build("c = Conv(input, out=16, k=3)\nt = Transpose(c, perm=[0, 2, 3, 1])\nr = Relu(t)\n"
                  "u = Transpose(r, perm=[0, 3, 1, 2])\nd = Conv(u, out=4, k=1)\ng = GlobalAveragePool(d)\n"
                  "f = Flatten(g)\nlogits = Gemm(f, out=3)", SIZE)  # fmt: skip
    made = collect_from_model(onnx.shape_inference.infer_shapes(model), "", images(9, (4, SIZE, SIZE))).tensors
    assert made["c"].step > 1
    assert made["r"].step == 1
    assert made["r"].counted == 9 * 16 * SIZE * SIZE


def with_weight(change: Callable[[np.ndarray], None], channels: int) -> onnx.ModelProto:
    net = NET.replace("m2 = Mul(c2, s2)", "m2 = LeakyRelu(c2)").replace("s2 = Sigmoid(c2)", "")
    model = build(net.replace("out=16", f"out={channels}"), SIZE)
    (weight,) = [i for i in model.graph.initializer if i.name == "c2.weight"]
    values = numpy_helper.to_array(weight).copy()
    change(values)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return simplify_graph(model)


def overflowing(w: np.ndarray) -> None:
    """A sum of infinities of both signs: NaN, from finite weights."""
    w[5, :2, 1, 1] = [3e38, -3e38]


def undefined(w: np.ndarray) -> None:
    w[5, 3, 1, 1] = np.nan


@pytest.mark.parametrize("channels", [16, 20])
@pytest.mark.parametrize("change", [overflowing, undefined])
def test_a_nan_is_named_although_pooling_passes_over_it(change: Callable[[np.ndarray], None], channels: int) -> None:
    batch = noise(20) * np.float32(1e3)
    with pytest.raises(GraphError, match="'c2' is NaN or infinite"):
        collect_from_model(with_weight(change, channels), "", dataset_of(batch))


def test_a_nan_between_the_points_of_the_grid_is_named() -> None:
    """Of a square root: made of finite values, none of them large, at one position of one image."""
    model = build(NET.replace("m2 = Mul(c2, s2)", "m2 = Sqrt(s2)").replace("Sigmoid(c2)", "Add(c2, s0)").replace(
        "c2 = Conv", "s0 = Abs(r1)\nc2 = Conv"), SIZE)  # fmt: skip
    model = simplify_graph(model)
    for name in ("c2.weight", "c2.bias"):
        (held,) = [i for i in model.graph.initializer if i.name == name]
        held.CopyFrom(numpy_helper.from_array(np.zeros(held.dims, np.float32), name))
    (bias,) = [i for i in model.graph.initializer if i.name == "c2.bias"]
    bias.CopyFrom(numpy_helper.from_array(np.full(16, 1e-3, np.float32), "c2.bias"))
    collect_from_model(model, "", dataset_of(noise(20)))
    (weight,) = [i for i in model.graph.initializer if i.name == "c2.weight"]
    values = np.zeros(weight.dims, np.float32)
    values[7, 2, 1, 1] = -50
    weight.CopyFrom(numpy_helper.from_array(values, "c2.weight"))
    batch = noise(20) * np.float32(1e-6)
    batch[13, :, 4, 7] = 30
    with pytest.raises(GraphError, match="'m2' is NaN or infinite"):
        collect_from_model(model, "", dataset_of(batch))


def test_an_infinity_between_the_points_of_the_grid_is_named(model: onnx.ModelProto) -> None:
    batch = noise(20)
    batch[13, :, 4, 7] = 3e38
    with pytest.raises(GraphError, match="is NaN or infinite"):
        collect_from_model(model, "", dataset_of(batch))


def test_large_finite_values_are_no_mistake(model: onnx.ModelProto) -> None:
    made = collect_from_model(model, "", dataset_of(noise(20) * np.float32(1e16)))
    assert made.tensors["r1"].high > watch.LARGEST_VALUE


def test_the_file_says_how_much_was_counted_and_with_which_step(model: onnx.ModelProto, tmp_path: Path) -> None:
    made = collect_from_model(model, "", images(9, (4, SIZE, SIZE)))
    write_ranges(made, tmp_path / "x.calib.json", Sidecar(kind=""))
    rows = {t["name"]: t for t in json.loads((tmp_path / "x.calib.json").read_text())["tensors"]}
    assert (rows["r1"]["step"], rows["r1"]["counted"]) == (3, 9 * 16 * 8 * 8)
    assert (rows["logits"]["step"], rows["logits"]["counted"]) == (1, 9 * 3)
    assert all_same(made, read_ranges(tmp_path / "x.calib.json"))


def test_tensors_of_one_scale_weigh_as_much_as_their_values(model: onnx.ModelProto) -> None:
    made = collect_from_model(model, "", images(9, (4, SIZE, SIZE))).tensors["r1"]
    weighed = made.with_step_one()
    assert weighed.step == 1
    assert weighed.counted == made.counted * made.step**2 == 9 * 16 * SIZE * SIZE


def test_of_small_maps_a_part_is_counted_that_holds_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "COUNTED", 300)
    batch = np.random.default_rng(3).normal(0, 1, (11, 4, 7, 7)).astype(np.float32)
    model = simplify_graph(build(NET, 7))
    made = collect_from_model(model, "", dataset_of(batch)).tensors
    assert {name: s.step for name, s in made.items() if s.step > 1} == dict.fromkeys(
        ["input", "r1", "c2", "s2", "m2", "a"], 2
    )
    (values,) = values_of(model, ["m2"], batch).values()
    expected = empty_statistics("m2", 16, 2)
    expected.count(upper_halves(values.reshape(11, -1)[:, ::4]))
    np.testing.assert_array_equal(made["m2"].magnitudes, expected.magnitudes)
    np.testing.assert_array_equal(made["m2"].channel_low, values.min((0, 2, 3)))
    counted = np.zeros(16 * 49, bool)
    counted[::4] = True
    assert counted.reshape(16, 49).any(axis=0).all()
    assert counted.reshape(16, 49).sum(axis=1).min() >= watch.FEWEST_VALUES


@pytest.mark.parametrize(
    ("height", "width", "steps"),
    [(4, 4, [1]), (6, 6, [1]), (5, 5, [1]), (7, 7, [1, 2]), (14, 14, [1, 2, 3]), (8, 7, [1])],
)
def test_which_steps_leave_enough_of_a_map(height: int, width: int, steps: list[int]) -> None:
    assert [*watch.allowed_steps(height, width)] == steps
