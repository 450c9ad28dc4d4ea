"""The proof that a rewritten graph computes what the original does: both are run on the same images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgecnn.backends._onnxruntime import onnxruntime_errors, open_session
from edgecnn.contract import INPUT
from edgecnn.errors import BackendError, GraphError
from edgecnn.session import Array

MEND = "mend that node, or export the network again; `onnx.checker` finds more of the kind"


def run_original(original: onnx.ModelProto, images: Array, batch: int, tensor: str, where: str) -> Array:
    """What the original gives in `tensor`, an output or one inside it, for each image, `batch` copies at a time; raises
    `GraphError`."""
    if tensor not in {o.name for o in original.graph.output}:
        original.graph.output.append(onnx.ValueInfoProto(name=tensor))
    with onnxruntime_errors(where, "cannot run it", f"the graph is not valid as it is: {MEND}", GraphError):
        session = open_session(original)
        name = session.get_inputs()[0].name
        rows = [session.run([tensor], {name: np.repeat(image[None], batch, 0)})[0][:1] for image in images]
    return np.concatenate(rows)


def require_distinct(found: Array, where: str) -> None:
    """Raise `GraphError` for outputs that are infinite, or the same for all images."""
    if not np.isfinite(found).all():
        raise GraphError(
            f"{where}: gives outputs that are NaN or infinite",
            "a weight is that already, or a layer overflows: train or export it again",
        )
    if all(np.array_equal(found[0], row) for row in found[1:]):
        raise GraphError(
            f"{where}: gives the same outputs for different images",
            "a layer of it is dead, or saturates on every image: is it the trained one, and does it take such pixels?",
        )


CLOSE = 1e-2  # of max |logit|: what rounding may make of an equal graph; more is another graph


def require_close_or_far(difference: float, allowed: float) -> None:
    """Raise `GraphError`, which offers the choice, for a difference that may be rounding and is more than `allowed`."""
    if allowed < difference <= CLOSE:
        wanted = float(f"{1.1 * difference:.1e}")
        raise GraphError(
            f"the normalized graph differs from the original by {difference:.1e} of the largest logit, allowed are "
            f"{allowed:g}",
            f"other kernels round otherwise: where that is all the same, --max-difference {wanted:g} takes it",
        )


def find_difference(
    model: onnx.ModelProto, images: Array, expected: Array, batches: Sequence[int], allowed: float
) -> tuple[float, str]:
    """Largest difference from the original as a share of its largest output, and why the graph is not equal ("")."""
    worst = 0.0
    flat = expected.reshape(len(expected), -1)
    for batch in batches:
        try:
            with onnxruntime_errors(f"at batch {batch}", "fails"):
                found = open_session(model).run(None, {INPUT: images[:batch]})[0]
        except BackendError as exc:
            return worst, exc.message
        if found.shape != (batch, flat.shape[1]):
            return worst, f"at batch {batch} the output is {list(found.shape)}"
        worst = max(worst, float(np.abs(found - flat[:batch]).max() / max(np.abs(flat).max(), 1e-30)))
        if not worst <= allowed:
            return worst, f"at batch {batch} the logits differ by {worst:.1e} of their maximum"
    return worst, ""
