"""Calibration caches of old as ranges: the scales to the bit, in the graph too."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecnn.artifact.calibration_cache import read_calibration_cache
from edgecnn.artifact.sidecar import Sidecar, read_sidecar, sha256_of
from edgecnn.errors import ArtifactError, RecipeError
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.file import read_ranges, write_ranges, write_tensorrt_cache
from edgecnn.graph.calibration.thresholds import METHODS, threshold
from edgecnn.steps.import_ranges import import_ranges
from edgecnn.steps.quantize import quantize
from tests.fakes.graphs import build
from tests.fakes.noise import NET, images

pytestmark = pytest.mark.onnx


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.fp32.onnx"
    onnx.save(build(NET), path)
    return path


@pytest.fixture
def cache(net: Path, tmp_path: Path) -> Path:
    """Seeded scales of every mantissa, under the names that calibration gives."""
    names = collect_ranges(net, images(3)).tensors
    drawn = np.exp(np.random.default_rng(0).normal(-4, 1, len(names)))
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in zip(names, drawn, strict=True)]
    path = tmp_path / "CalibrationTable"
    path.write_text("\n".join(["TRT-8602-EntropyCalibration2", *lines, "of_a_plugin: 3c010a14", ""]))
    return path


def test_the_round_trip_is_exact(net: Path, cache: Path, tmp_path: Path) -> None:
    path = import_ranges(cache, net)
    assert path == tmp_path / "net.calib.json"
    ranges = read_ranges(path, sha256_of(net))
    before = read_calibration_cache(cache).scales
    for method in METHODS:
        again = tmp_path / f"{method}.cache"
        write_tensorrt_cache(ranges, again, 8602, method)
        assert read_calibration_cache(again).scales == {n: before[n] for n in ranges.tensors}
    assert set(before) - set(ranges.tensors) == {"of_a_plugin"}
    made = read_sidecar(path)
    assert set(made.parents) == {net.name, cache.name}
    assert made.facts["calibration_cache"] == cache.name


def test_the_graph_has_the_scales_of_the_cache(net: Path, cache: Path) -> None:
    ranges = import_ranges(cache, net)
    made = quantize(net, precision="int8", ranges=ranges, method="minmax", around="fp32")
    scales = {float(numpy_helper.to_array(t)) for t in onnx.load(made.path).graph.initializer if not t.dims}
    known = read_calibration_cache(cache).scales
    assert made.report is not None
    for row in made.report.tensors:
        if row.readers and row.scale_group == row.name:
            assert row.scale == known[row.name]
            assert known[row.name] in scales
    half = quantize(net, precision="int8", ranges=ranges, method="minmax")
    assert half.report is not None
    assert any("clipped" in text for text in half.report.left_out)


def test_what_a_cache_cannot_tell_is_refused(net: Path, cache: Path) -> None:
    ranges = import_ranges(cache, net)
    with pytest.raises(RecipeError, match="nothing to choose a method by"):
        quantize(net, precision="int8", ranges=ranges)
    with pytest.raises(RecipeError, match="say nothing about FP16"):
        quantize(net, precision="fp16", ranges=ranges)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("input: ", "image: "), "'input' (read by"),
        (lambda text: "TRT-8602-EntropyCalibration2\nx: 3c010a14\n", "of another graph: it has 'x'"),
        (lambda text: text.replace("input: ", "input: z"), "line 2"),
    ],
)
def test_a_cache_that_does_not_fit_writes_nothing(
    net: Path, cache: Path, tmp_path: Path, change: Callable[[str], str], says: str
) -> None:
    cache.write_text(change(cache.read_text()))
    with pytest.raises(ArtifactError) as refused:
        import_ranges(cache, net)
    assert says in refused.value.message
    assert not (tmp_path / "net.calib.json").exists()


def test_a_scale_that_is_no_number_is_a_damaged_file(net: Path, cache: Path) -> None:
    path = import_ranges(cache, net)
    text = path.read_text()
    first = struct.unpack(">f", bytes.fromhex(cache.read_text().splitlines()[1].split()[-1]))[0]
    assert f'"scale": {first!r}' in text
    path.write_text(text.replace(f'"scale": {first!r}', '"scale": "many"'))
    with pytest.raises(ArtifactError, match="not calibration ranges"):
        read_ranges(path)


def test_measured_ranges_are_what_they_were(net: Path, tmp_path: Path) -> None:
    made = collect_ranges(net, images(5))
    write_ranges(made, tmp_path / "x.calib.json", Sidecar(kind=""))
    read = read_ranges(tmp_path / "x.calib.json")
    assert not read.imported
    assert '"scale"' not in (tmp_path / "x.calib.json").read_text()
    assert threshold(read.tensors["input"], "minmax") == made.tensors["input"].largest
