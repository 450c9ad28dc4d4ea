"""SQNR and cosine of features, against numbers computed by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgecnn.data.dataset import Dataset
from edgecnn.errors import MeasurementError
from edgecnn.measure.features import compare_features, run_features
from edgecnn.session import Array, Session, SessionInfo, TensorSpec


class Fake(Session):
    """Gives the image's values, as a map and as their mean, with `error` times them added."""

    def __init__(self, error: float, batch: int | None = None, width: int = 4) -> None:
        self.error, self.batch, self.width = error, batch, width

    @property
    def info(self) -> SessionInfo:
        outputs = (TensorSpec("C1", (None, 1, 2, self.width), "float32"), TensorSpec("pool", (None, 1), "float32"))
        return SessionInfo((TensorSpec("input", (self.batch, 1, 2, 4), "float32"),), outputs)

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        maps = inputs["input"].copy()[:, :, :, : self.width]
        assert self.batch in (None, len(maps))
        maps[:, :, 0] *= 1 + self.error
        return {"C1": maps, "pool": maps.mean((2, 3))}


def images(count: int, broken: int = -1) -> Dataset:
    values = np.random.default_rng(0).standard_normal((count, 1, 2, 4), np.float32)
    if broken >= 0:
        values[broken] = np.nan
    ids = tuple(f"{k}.png" for k in range(count))
    return Dataset("d", ids, None, None, None, lambda i: b"", None, array=lambda i: values[i])


def test_noise_and_angle_are_those_of_the_values() -> None:
    data = images(5)
    found = compare_features("e", Fake(0.1, batch=3), Fake(0.0), data, batch=3)
    exact = np.stack([data.tensor(k) for k in range(5)]).astype(np.float64)
    moved = exact.copy()
    moved[:, :, 0] *= 1.1
    noise = 10 * np.log10(np.square(exact).sum() / np.square(moved - exact).sum())
    flat, other = exact.reshape(5, -1), moved.reshape(5, -1)
    angles = (flat * other).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(other, axis=1)
    row = found.outputs[0]
    assert (row.name, row.shape, row.n, found.n) == ("C1", (1, 2, 4), 5, 5)
    assert row.sqnr_db == pytest.approx(noise, abs=1e-3)
    assert row.cosine_mean == pytest.approx(angles.mean(), abs=1e-6)
    assert row.cosine_min == pytest.approx(angles.min(), abs=1e-6)
    assert row.worst_image == f"{angles.argmin()}.png"


def test_equal_features_have_no_noise_and_broken_ones_are_counted() -> None:
    row = compare_features("e", Fake(0.0), Fake(0.0), images(4, broken=2), batch=2).outputs[0]
    assert (row.n, row.nan_count, row.sqnr_db) == (3, 1, None)
    assert row.cosine_min == pytest.approx(1)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MeasurementError, match="features C1 are"):
        compare_features("e", Fake(0.0, width=3), Fake(0.0), images(2), batch=2)
    with pytest.raises(MeasurementError, match="images of 1x3x4"):
        run_features(Fake(0.0), np.zeros((1, 1, 3, 4), np.float32))
