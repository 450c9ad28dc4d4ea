"""The thresholds that stand in the file of ranges are those of all counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.graph.calibration.collect import collect_ranges
from edgecnn.graph.calibration.file import write_ranges
from edgecnn.graph.calibration.thresholds import filled_bins, percentiles, threshold
from tests.fakes.graphs import build
from tests.fakes.noise import NET, images

pytestmark = pytest.mark.onnx


def test_the_file_holds_the_thresholds_of_the_counts(tmp_path: Path) -> None:
    net, path = tmp_path / "net.onnx", tmp_path / "net.calib.json"
    onnx.save(build(NET), net)
    made = collect_ranges(net, images(4))
    write_ranges(made, path, Sidecar(kind="ranges"))
    rows = {row["name"]: row for row in json.loads(path.read_text())["tensors"]}
    for name, statistics in made.tensors.items():
        wanted = {method: threshold(statistics, method) for method in ("minmax", "entropy", "mse")}
        wanted["percentile_99.99"] = percentiles(statistics, (99.99,))[0]
        assert {key: rows[name][key] for key in wanted} == pytest.approx(wanted, rel=1e-5), name
    assert any(s.negative is not None for s in made.tensors.values())
    assert len({row["entropy"] / row["minmax"] for row in rows.values()}) > 1


def test_filled_bins_end_with_the_last_count() -> None:
    assert filled_bins(np.array([0, 3, 0, 1, 0])).tolist() == [0, 3, 0, 1]
    assert filled_bins(np.array([0, 0, 2])).tolist() == [0, 0, 2]
    assert filled_bins(np.array([0, 0])).tolist() == [0]
