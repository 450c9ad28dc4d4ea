"""Images as the network that a sidecar describes expects them."""

from __future__ import annotations

from collections.abc import Callable

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.calibration_set import open_data
from edgecnn.data.dataset import Dataset, Split, batches, nfc
from edgecnn.data.preprocess import preprocessing_from_json
from edgecnn.errors import DataError
from edgecnn.machine.threads import spare_threads
from edgecnn.output import say
from edgecnn.steps._shared import is_first

Progress = Callable[[int, int], None]
DATA_FREE = "calibrated_without_images"  # in a sidecar: what was calibrated with instead
CORRUPT = "corrupt_calibration_images"  # in a sidecar: how many were left out


def open_images(sidecar: Sidecar, data: str, split: Split, *, named: bool = True) -> Dataset:
    """What `data` names, preprocessed and labelled as `sidecar` says; images to calibrate with need no labels, and only
    where `named` must their class folders bear the names of the model's classes."""
    preprocessing = preprocessing_from_json(sidecar.preprocessing) if sidecar.preprocessing else None
    labels, wnids = ([nfc(n) for n in sidecar.labels or ()], sidecar.wnids or ()) if named else ([], ())
    return open_data(data, preprocessing, split, labels, wnids)


def without_corrupt(dataset: Dataset, threads: int | None = None) -> Dataset:
    """The images that can be read, found by reading each once, so that whatever follows gives what it gives without the
    others; how many these are is said on stderr. Raises `DataError` where none can be read."""
    corrupt = dict[str, str]()

    def leave_out(name: str, error: DataError) -> None:
        corrupt[name] = error.message

    for _ in batches(dataset, 1, spare_threads(threads), leave_out):
        pass
    if len(corrupt) == len(dataset) > 0:
        raise DataError(
            f"{dataset.name}: none of the {len(dataset)} images can be read",
            "without --skip-corrupt the first says why",
        )
    if corrupt and is_first():
        say(f"{len(corrupt)} of {len(dataset)} images left out, the first: {next(iter(corrupt.values()))}")
    return dataset.subset([k for k, name in enumerate(dataset.ids) if name not in corrupt])


def without_images(sidecar: Sidecar) -> tuple[str, ...]:
    """That no image was seen when what `sidecar` describes was calibrated, where that is so."""
    made = sidecar.facts.get(DATA_FREE)
    return (f"calibrated without images ({made}): a last resort, real ones lose less",) if made else ()
