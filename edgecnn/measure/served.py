"""What an engine of a serving contract gives, as one row of scores for each image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecnn.contract import TOP_CLASSES, TOP_PROBABILITIES, ServingContract
from edgecnn.errors import MeasurementError
from edgecnn.session import Array, Session

NOT_NAMED = -1.0  # the score of a class that is not among the k best: below every probability


def scores_of(outputs: Mapping[str, Array], session: Session, contract: ServingContract) -> Array:
    """Scores [N, classes] from the outputs of one batch: logits or probabilities as they come, those of top-k at the
    classes that are named. A row that names no class of the network is NaN.

    Raises `MeasurementError` for outputs that are not those of the contract.
    """
    if contract.output != "top-k":
        return outputs[session.output.name]
    if {TOP_PROBABILITIES, TOP_CLASSES} != outputs.keys() or not contract.classes:
        raise MeasurementError(
            f"the engine gives {', '.join(outputs)} of {contract.classes or 'unknown'} classes, not "
            f"{TOP_PROBABILITIES} and {TOP_CLASSES}",
            "it is another than its sidecar describes: build it again from the exported graph",
        )
    values, classes = outputs[TOP_PROBABILITIES], outputs[TOP_CLASSES].astype(np.int64)
    scores = np.full((len(values), contract.classes), NOT_NAMED, np.float32)
    known = np.all((classes >= 0) & (classes < contract.classes), axis=1)
    np.put_along_axis(scores, np.where(known.reshape(-1, 1), classes, 0), values, axis=1)
    scores[~known | ~np.isfinite(values).all(axis=1)] = np.nan
    return scores
