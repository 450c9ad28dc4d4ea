"""The gradient norms of trainings, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgecnn.artifact.run_folder import GRADIENTS, read_gradients
from edgecnn.errors import MeasurementError
from edgecnn.output import table_lines, wrap
from edgecnn.results.gradients import GradientNorms

SHOWN = 4  # epochs of a table


def require_gradients(folder: Path) -> GradientNorms:
    """Those of a run; raises `MeasurementError` where its training recorded none."""
    if not folder.is_dir():
        raise MeasurementError(f"{folder}: no such run", "name a run folder, or the recipe of one in runs/")
    found = read_gradients(folder)
    if found is None:
        raise MeasurementError(
            f"{folder}: no {GRADIENTS} in it",
            "train with `--set train.gradient_norms=true` (anew: --retrain), or name another run",
        )
    return found


def chosen_epochs(found: GradientNorms, most: int) -> list[int]:
    """Positions of at most `most` epochs, the first and the last among them, at equal distances."""
    last = len(found.epochs) - 1
    return sorted({round(k * last / max(most - 1, 1)) for k in range(most)})


def gradients_text(runs: Sequence[GradientNorms]) -> Iterator[str]:
    """A table for each run, its layers from first to last."""
    yield from wrap("norm of the loss's gradient by each layer's weights, mean over the steps of an epoch")
    for found in runs:
        shown = chosen_epochs(found, SHOWN)
        yield ""
        yield from wrap(f"{found.recipe} ({found.model})")
        header = ["layer", *(f"epoch {found.epochs[k]}" for k in shown)]
        rows = [[layer, *(f"{found.norms[k][at]:.3g}" for k in shown)] for at, layer in enumerate(found.layers)]
        yield from table_lines(header, rows)
        last = found.norms[-1]
        yield from wrap(
            f"epoch {found.epochs[-1]}: smallest {min(last):.3g} ({found.layers[last.index(min(last))]}), "
            f"largest {max(last):.3g} ({found.layers[last.index(max(last))]})"
        )
