"""What a model decides: one of several classes, or between two by one column."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgecnn.errors import BackendError
from edgecnn.gate.judge import judge
from edgecnn.gate.rules import RULES
from edgecnn.measure.classification import measure_accuracy
from edgecnn.measure.predict import Predictions
from edgecnn.recipe.schema import Tolerances
from edgecnn.results.engine import EngineInfo
from edgecnn.results.report import Measurement
from edgecnn.session import Array, Session, SessionInfo, TensorSpec


def info(*columns: int | None) -> SessionInfo:
    outputs = tuple(TensorSpec(f"out{k}", (None, n), "float32") for k, n in enumerate(columns))
    return SessionInfo((TensorSpec("image", (None, 3, 2, 2), "float32"),), outputs)


def decided(columns: int) -> Measurement:
    """A perfect engine on 3000 images of two classes, with logits of one column or of more."""
    labels = np.arange(3000) % 2
    logits = np.eye(columns, dtype=np.float32)[labels] if columns > 1 else (labels[:, None] - 0.5).astype(np.float32)
    found = Predictions(tuple(map(str, range(3000))), labels, logits)
    return Measurement(name="e", engine=EngineInfo(), accuracy=measure_accuracy("e", found, found))


@pytest.mark.parametrize(("columns", "task"), [(1, "binary"), (2, "classification"), (10, "classification")])
def test_one_column_is_a_binary_task_in_the_session_and_in_the_accuracy(columns: int, task: str) -> None:
    accuracy = decided(columns).accuracy
    assert accuracy is not None
    assert (info(columns).task, accuracy.task, accuracy.top1_pct) == (task, task, 100)
    assert accuracy.classes == max(2, columns)


def test_the_first_output_says_the_task() -> None:
    assert info(1, 10).task == "binary"
    assert info(None, 1).task == "classification"


def test_a_top_5_tolerance_is_not_kept_by_a_binary_decision() -> None:
    several = [rule.tolerance for rule in RULES.values() if "binary" not in rule.tasks]
    assert several == ["top5_drop_pp_max", "top5_pct_min"]
    assert judge(Tolerances(top1_drop_pp_max=1), [decided(1)]).verdict == "PASS"
    verdict = judge(Tolerances(top5_drop_pp_max=1), [decided(1)])
    (check,) = verdict.checks
    assert (check.verdict, check.evidence) == (
        "INCONCLUSIVE",
        "the top-5 drop says nothing about a binary decision",
    )
    assert judge(Tolerances(top5_drop_pp_max=1), [decided(10)]).verdict == "PASS"


class TwoHeads(Session):
    """Means and maxima of an image's channels."""

    info = info(3, 3)

    def run_all(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.info.require_inputs(inputs)
        batch = inputs["image"]
        return {"out0": batch.mean((2, 3)), "out1": batch.max((2, 3))}


def test_run_is_the_first_output_of_the_first_input() -> None:
    batch = np.random.default_rng(0).random((2, 3, 2, 2), np.float32)
    session = TwoHeads()
    assert isinstance(session, Session)
    assert (session.input.name, session.output.name) == ("image", "out0")
    np.testing.assert_array_equal(session.run(batch), batch.mean((2, 3)))
    with pytest.raises(BackendError, match="inputs named picture; the model takes image"):
        session.run_all({"picture": batch})
