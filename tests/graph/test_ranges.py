"""Ranges from one pass: exact where they must be, mergeable, resumable, in constant memory, and refused when wrong."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgecnn.artifact.sidecar import Sidecar, sha256_of
from edgecnn.errors import ArtifactError, DataError, GraphError
from edgecnn.graph.calibration import collect
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.file import read_ranges, write_ranges, write_tensorrt_cache
from edgecnn.graph.calibration.histogram import Ranges, TensorStatistics, bin_edges, empty_statistics
from edgecnn.graph.calibration.observe import Observer
from edgecnn.graph.calibration.thresholds import divergences, interval, percentiles, squared_errors, threshold
from edgecnn.graph.onnx_graph import OnnxGraph
from tests.fakes.graphs import build
from tests.fakes.noise import NET, dataset_of, images

pytestmark = pytest.mark.onnx

JOINED = """
c1 = Conv(input, out=6, k=3)
r1 = Relu(c1)
c2 = Conv(r1, out=6, k=1)
c3 = Conv(r1, out=5, k=3)
r3 = Relu(c3)
j1 = Concat(c2, r1, r3, axis=1)
j2 = Concat(j1, input, axis=1)
g = GlobalAveragePool(j2)
f = Flatten(g)
logits = Gemm(f, out=3)
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(build(NET), path)
    return path


def same(a: TensorStatistics, b: TensorStatistics) -> bool:
    for field in dataclasses.fields(TensorStatistics):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if not (left is right or np.array_equal(left, right)):
            return False
    return True


def statistics_of(values: np.ndarray) -> TensorStatistics:
    made = empty_statistics("t", values.shape[1])
    made.add(values.astype(np.float32))
    return made


def test_extremes_and_percentiles_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).standard_t(3, (64, 5, 40, 40)).astype(np.float32) * [[[[0.02]]]]
    made = statistics_of(values)
    values = values.astype(np.float32)
    np.testing.assert_array_equal(made.channel_low, values.min((0, 2, 3)))
    np.testing.assert_array_equal(made.channel_high, values.max((0, 2, 3)))
    assert made.counted == values.size
    percents = (50, 99.9, 99.99)
    exact = [float(np.percentile(np.abs(values), percent)) for percent in percents]
    assert percentiles(made, percents) == pytest.approx(exact, rel=0.008)


def test_squared_errors_are_those_of_eight_points_in_each_bin() -> None:
    made = statistics_of(np.random.default_rng(0).laplace(0, 1, (2, 4, 32, 32)).astype(np.float32))
    made.positive[0] += 1000  # zeros
    counts, edges = made.magnitudes, np.minimum(bin_edges(), made.largest)
    used = np.flatnonzero(counts)
    points = edges[used, None] + (edges[used + 1] - edges[used])[:, None] * ((np.arange(8) + 0.5) / 8)
    points[0] = 0.0
    thresholds = made.largest * np.array([1.0, 0.61, 0.2, 1e-3])
    for levels in (3, 127):
        steps = thresholds[:, None, None] / levels
        errors = points - steps * np.minimum(np.rint(points / steps), levels)
        expected = (errors**2 * (counts[used, None] / 8)).sum(axis=(1, 2))
        np.testing.assert_allclose(squared_errors(counts, thresholds, levels), expected, rtol=1e-9)


@pytest.mark.parametrize("levels", [127, 255])
def test_mse_threshold_is_as_good_as_the_best_one_tried_on_the_values(levels: int) -> None:
    values = np.abs(np.random.default_rng(0).laplace(0, 1, (8, 4, 32, 32))).astype(np.float32)
    made = statistics_of(values)

    def error(limit: float) -> float:
        step = limit / levels
        return float(np.square(values - np.minimum(np.rint(values / step), levels) * step, dtype=np.float64).sum())

    best = min(error(made.largest * share) for share in np.linspace(0.2, 1, 161))
    assert error(threshold(made, "mse", levels)) <= 1.02 * best
    assert error(made.largest) > 1.04 * best, "or the test shows nothing"
    predicted = squared_errors(made.magnitudes, np.array([made.largest / 2]), levels)[0]
    assert predicted == pytest.approx(error(made.largest / 2), rel=0.05)


def plain_divergence(histogram: np.ndarray, stop: int, groups: int) -> float:
    """As it is defined, bin by bin."""
    reference, part = histogram[:stop].copy(), histogram[:stop]
    reference[-1] += histogram[stop:].sum()
    group, filled = np.arange(stop) * groups // stop, part > 0
    sums, sizes = np.bincount(group, part, groups), np.bincount(group, filled, groups)
    quantized = np.where(filled, (sums / np.maximum(sizes, 1))[group], 0.0)
    if not quantized.any():
        return float("inf")
    p, q = reference / reference.sum(), quantized / quantized.sum()
    both = (p > 0) & (q > 0)
    return float((p[both] * np.log(p[both] / q[both])).sum() + 10 * p[(p > 0) & (q <= 0)].sum())


@pytest.mark.parametrize("kind", ["normal", "sparse", "far out", "one bin", "empty start", "empty"])
@pytest.mark.parametrize("groups", [128, 256])
def test_divergences_are_those_of_the_definition(kind: str, groups: int) -> None:
    rng = np.random.default_rng(0)
    histogram = np.histogram(np.abs(rng.normal(size=100_000)), 2048)[0].astype(float)
    if kind == "sparse":
        histogram[rng.random(2048) < 0.9] = 0
    elif kind == "far out":
        histogram[300:] = 0
        histogram[2047] = 1e-3
    elif kind == "one bin":
        histogram[:] = 0
        histogram[1500] = 1e12
    elif kind == "empty start":
        histogram[:700] = 0
    elif kind == "empty":
        histogram[:] = 0
    histogram[0] = 0
    stops = np.arange(groups, 2049, 16)
    expected = np.array([plain_divergence(histogram, int(stop), groups) for stop in stops])
    found = divergences(histogram, stops, groups)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.isinf(expected).any() == (kind in ("one bin", "empty start", "empty"))


def test_entropy_and_percentile_cut_off_an_outlier_and_minmax_does_not() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, (8, 4, 64, 64))).astype(np.float32)
    values[0, 0, 0, 0] = 50.0
    made = statistics_of(values)
    assert threshold(made, "minmax") == 50.0
    for method in ("entropy", "percentile", "mse"):
        assert 2.0 < threshold(made, method) < 40.0, method


def test_an_interval_holds_zero_and_leans_to_the_side_of_the_values() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, (8, 4, 32, 32)).astype(np.float32)
    for method in ("minmax", "percentile", "mse", "entropy"):
        low, high = interval(statistics_of(values), method)
        assert low < 0 < high, method
        assert high > 1.3 * -low, method
    assert interval(statistics_of(np.abs(values)), "mse")[0] == 0.0


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_the_smallest_value_makes_room_below_zero_where_none_there_was_counted(method: str) -> None:
    values = np.abs(np.random.default_rng(1).normal(size=(1, 1, 40_000))).astype(np.float32)
    statistics = statistics_of(values)
    statistics.widen(np.array([-0.25], np.float32), values.max(axis=2)[0], 0)
    counted = statistics_of(np.append(values, np.full((1, 1, 1), -0.25, np.float32), axis=2))
    assert statistics.negative is None
    assert interval(statistics, method) == interval(counted, method)
    assert interval(statistics, method)[0] <= (-0.05 if method == "mse" else -0.2)


def test_two_processes_see_what_one_sees(net: Path) -> None:
    data = images(13)
    whole = collect_ranges(net, data, batch=4)
    first = collect_ranges(net, data.subset(range(8)), batch=4)
    second = collect_ranges(net, data.subset(range(8, 13)), batch=4)
    second.merge(first)
    assert whole.tensors.keys() == {"input", "r1", "p", "c2", "s", "g", "f", "logits"}
    assert all(same(whole.tensors[n], second.tensors[n]) for n in whole.tensors)
    assert whole.tensors["r1"].counted == 13 * 6 * 64
    assert whole.tensors["r1"].negative is None
    assert whole.tensors["s"].negative is not None


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (2, 3), (5, 8), (13, 2)])
def test_neither_batch_nor_threads_change_what_is_counted(net: Path, batch: int, threads: int) -> None:
    data = images(13)
    plain, other = (
        collect_ranges(net, data, batch=4, threads=1),
        collect_ranges(net, data, batch=batch, threads=threads),
    )
    assert other.data_sha256 == plain.data_sha256
    assert all(same(plain.tensors[n], other.tensors[n]) for n in plain.tensors)


def test_a_graph_with_many_tensors_runs_fewer_images_at_a_time(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes, begin = collect_ranges(net, images(23)), [], Observer.begin_batch

    def watching(observer: Observer, images: int) -> None:
        sizes.append(images)
        begin(observer, images)

    monkeypatch.setattr(Observer, "begin_batch", watching)
    monkeypatch.setattr(collect, "WATCHED_BYTES", 20_000)
    made = collect_ranges(net, images(23))
    per_image = 4 * (4 * 64 + 6 * (64 + 16 + 16 + 16 + 1 + 1) + 3)
    assert max(sizes) == 20_000 // per_image < 23
    assert sum(sizes) == 23
    for name, statistics in whole.tensors.items():
        assert (made.tensors[name].magnitudes == statistics.magnitudes).all(), name
    collect_ranges(net, images(23), batch=23)
    assert sizes[-1] == 23, "what was asked for is what is run"


def test_a_concatenation_is_no_output_and_yet_has_its_own_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "joined.onnx"
    onnx.save(build(JOINED), path)
    watched: list[set[str]] = []
    choosing = collect.choose_steps

    def spy(graph: OnnxGraph, names: list[str], *rest: Any) -> dict[str, int]:
        watched.append(set(names))
        return choosing(graph, names, *rest)

    monkeypatch.setattr(collect, "choose_steps", spy)
    derived = collect_ranges(path, images(9))
    monkeypatch.setattr(collect, "find_derived", lambda graph, names: {})
    observed = collect_ranges(path, images(9))
    assert watched[1] - watched[0] == {"j1", "j2", "f"}
    assert derived.tensors.keys() == observed.tensors.keys()
    assert all(same(derived.tensors[n], observed.tensors[n]) for n in observed.tensors)
    assert derived.tensors["j2"].channel_low.shape == (6 + 6 + 5 + 4,)


def test_every_value_is_counted_in_its_bin() -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 1, (3, 5, 150, 151)) * 2.0 ** rng.integers(-40, 20, (3, 5, 150, 151))).astype(np.float32)
    values[:, :3][rng.random((3, 3, 150, 151)) < 0.5] = 0.0
    values[0, 0, 0, :3] = [-0.0, 1e-40, -1e-40]
    made = statistics_of(values)
    assert made.negative is not None
    for counts, side in ((made.positive, values >= 0), (made.negative, values < 0)):
        bins = np.searchsorted(bin_edges(), np.abs(values[side].astype(np.float64)), "right") - 1
        np.testing.assert_array_equal(counts, np.bincount(bins, minlength=len(counts)))


def test_negative_zero_is_a_zero_whatever_it_is_counted_with() -> None:
    made = statistics_of(np.array([[[[-0.0, 0.0, 1.0]]]]))
    assert (made.counted, int(made.positive[0]), made.negative) == (3, 2, None)
    made = statistics_of(np.array([[[[-0.0, -2.0, 1.0]]]]))
    assert made.negative is not None
    assert (made.counted, int(made.positive[0]), int(made.negative.sum())) == (3, 1, 1)


def test_an_interrupted_pass_goes_on_where_it_was_saved(net: Path, tmp_path: Path) -> None:
    data, partial, seen = images(700), tmp_path / "partial", []

    def interrupt(done: int, total: int) -> None:
        if done > 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_ranges(net, data, batch=50, progress=interrupt, resume=partial)
    resumed = collect_ranges(net, data, batch=50, progress=lambda done, total: seen.append(done), resume=partial)
    assert seen[0] > 500, "it began again at the first image"
    whole = collect_ranges(net, data, batch=50)
    assert resumed.data_sha256 == whole.data_sha256
    assert all(same(whole.tensors[n], resumed.tensors[n]) for n in whole.tensors)
    assert not partial.exists()


def test_what_another_run_left_is_not_taken(net: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"

    def interrupt(done: int, total: int) -> None:
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect_ranges(net, images(400), batch=50, progress=interrupt, resume=partial)
    other = dataclasses.replace(images(400, seed=2), ids=tuple(f"other/{i}" for i in range(400)))
    resumed = collect_ranges(net, other, batch=50, resume=partial)
    assert same(resumed.tensors["s"], collect_ranges(net, other, batch=50).tensors["s"])


def test_ranges_come_back_from_their_file_and_know_their_graph(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.calib.json"
    made = collect_ranges(net, images(9))
    write_ranges(made, path, Sidecar(kind=""))
    read = read_ranges(path, sha256_of(net))
    assert all(same(made.tensors[n], read.tensors[n]) for n in made.tensors)
    with pytest.raises(ArtifactError, match="not of this one"):
        read_ranges(path, "0" * 64)
    path.write_text(path.read_text().replace('"images": 9', '"images": "many"'))
    with pytest.raises(ArtifactError, match="not calibration ranges"):
        read_ranges(path)


@pytest.mark.parametrize("key", ["positive", "channel_min"])
def test_counts_that_unpack_to_much_more_are_refused(net: Path, tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.calib.json"
    write_ranges(collect_ranges(net, images(4)), path, Sidecar(kind="ranges"))
    content = json.loads(path.read_text())
    content["tensors"][0][key] = base64.b64encode(zlib.compress(bytes(50_000_000))).decode()
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="not calibration ranges .* more than"):
        read_ranges(path)


def test_tensorrt_cache_is_header_and_big_endian_scales(net: Path, tmp_path: Path) -> None:
    made = collect_ranges(net, images(9))
    write_tensorrt_cache(made, tmp_path / "cache", 8602, "minmax")
    lines = (tmp_path / "cache").read_text().splitlines()
    assert lines[0] == "TRT-8602-EntropyCalibration2"
    table = dict(line.split(": ") for line in lines[1:])
    scale = np.frombuffer(bytes.fromhex(table["r1"]), ">f4")[0]
    assert scale == pytest.approx(made.tensors["r1"].largest / 127)


def changed(net: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(net)
    change(model)
    onnx.save(model, net)
    return net


def poisoned(model: onnx.ModelProto) -> None:
    weight = next(i for i in model.graph.initializer if i.name == "c2.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3] = np.inf
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def external(model: onnx.ModelProto) -> None:
    weight = next(i for i in model.graph.initializer if i.name == "c2.weight")
    onnx.external_data_helper.set_external_data(weight, "gone.bin")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL


def custom(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Blur", ["input"], ["blurred"], "blur", domain="com.acme"))


def integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8


def huge(model: onnx.ModelProto) -> None:
    external(model)
    (weight,) = [i for i in model.graph.initializer if i.name == "c2.weight"]
    weight.dims[:] = [1 << 16, 1 << 15]


def quantised(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "QuantizeLinear"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (poisoned, "'c2'|'s'"),
        (external, "c2.weight.*gone.bin"),
        (custom, "'blur'.*com.acme.Blur"),
        (integers, "'input' is uint8"),
        (quantised, "'r1/Relu'.*already quantized"),
    ],
)
def test_graphs_that_cannot_be_calibrated_are_refused(
    net: Path, change: Callable[[onnx.ModelProto], None], says: str
) -> None:
    with pytest.raises((GraphError, ArtifactError), match=says):
        collect_ranges(changed(net, change), images(4))


def test_a_graph_over_two_gigabytes_is_refused_before_it_is_read(net: Path) -> None:
    changed(net, huge)
    (net.parent / "gone.bin").touch()
    with pytest.raises(GraphError, match="8.6 GB"):
        collect_ranges(net, images(4))


def test_images_that_do_not_fit_are_refused(net: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        collect_ranges(net, images(4).subset([]))
    with pytest.raises(DataError, match="4x9x8.*4x8x8"):
        collect_ranges(net, images(4, (4, 9, 8)))
    with pytest.raises(GraphError, match="'input' is NaN"):
        collect_ranges(net, dataset_of(np.full((4, 4, 8, 8), np.nan, np.float32)))
    with pytest.raises(DataError, match="same value"):
        collect_ranges(net, dataset_of(np.zeros((4, 4, 8, 8), np.float32)))


def test_ranges_of_different_graphs_do_not_merge(net: Path) -> None:
    made = collect_ranges(net, images(4))
    with pytest.raises(ValueError, match="another graph"):
        made.merge(Ranges("other", "", "", 1, {}))
