"""Images as the network that a sidecar describes expects them."""

from __future__ import annotations

from collections.abc import Callable

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.calibration_set import open_data
from edgecnn.data.dataset import Dataset, Split, nfc
from edgecnn.data.preprocess import preprocessing_from_json

Progress = Callable[[int, int], None]


def open_images(sidecar: Sidecar, data: str, split: Split, *, named: bool = True) -> Dataset:
    """What `data` names, preprocessed and labelled as `sidecar` says; images to calibrate with need no labels, and only
    where `named` must their class folders bear the names of the model's classes."""
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    labels, wnids = ([nfc(n) for n in sidecar.labels or ()], sidecar.wnids or ()) if named else ([], ())
    return open_data(data, preprocessing, split, labels, wnids)
