"""What the serving side's geometry costs, judged; and rules that need what an engine does not give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecnn.gate import judge as module
from edgecnn.gate.judge import judge
from edgecnn.gate.rules.accuracy import RULES as ACCURACY_RULES
from edgecnn.measure.geometry import measure_serving_loss
from edgecnn.recipe.schema import Tolerances
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.report import Measurement
from edgecnn.results.serving import ServingLoss
from tests.fakes.measurements import accuracy, engine, measured


def served(lost: int, gained: int, n: int = 10_000) -> Measurement:
    drop = 100 * (lost - gained) / n
    loss = ServingLoss(
        serving_geometry="letterbox",
        serving_n=n,
        serving_n_labelled=n,
        serving_top1_pct=90 - drop,
        serving_drop_pp=drop,
        serving_drop_ci_pp=accuracy(n, lost, gained).top1.drop_ci_pp,
        serving_lost=lost,
        serving_gained=gained,
        serving_agreement_pct=99.0,
    )
    return measured(serving=loss)


@pytest.mark.parametrize(
    ("lost", "gained", "verdict"), [(20, 10, "PASS"), (300, 10, "FAIL"), (110, 20, "INCONCLUSIVE")]
)
def test_the_loss_is_judged_by_its_interval(lost: int, gained: int, verdict: str) -> None:
    (check,) = judge(Tolerances(serving_drop_pp_max=1.0), [served(lost, gained)]).checks
    assert (check.verdict, check.tolerance) == (verdict, "serving_drop_pp_max")
    assert check.evidence.startswith("letterbox: drop ")
    assert (check.images_needed is not None) == (verdict == "INCONCLUSIVE")


def test_a_loss_that_was_not_measured_leaves_the_tolerance_open() -> None:
    (check,) = judge(Tolerances(serving_drop_pp_max=1.0), [measured()]).checks
    assert (check.verdict, check.evidence) == ("INCONCLUSIVE", "not measured")


def test_without_labels_there_is_no_loss() -> None:
    found = served(1, 0)
    assert found.accuracy is not None
    assert found.accuracy.serving is not None
    bare = replace(found.accuracy.serving, serving_drop_pp=None, serving_drop_ci_pp=None)
    found = replace(found, accuracy=replace(found.accuracy, serving=bare))
    (check,) = judge(Tolerances(serving_drop_pp_max=1.0), [found]).checks
    assert (check.verdict, check.evidence) == ("INCONCLUSIVE", "the images have no labels")


def test_a_rule_that_needs_logits_is_open_on_a_top_k_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = next(r for r in ACCURACY_RULES if r.tolerance == "agreement_pct_min")
    monkeypatch.setattr(module, "RULES", {"agreement_pct_min": replace(rule, needs_logits=True)})
    tolerances = Tolerances(agreement_pct_min=50.0, inconclusive="pass")
    for output, verdict in (("top-k", "INCONCLUSIVE"), ("probabilities", "PASS"), ("logits", "PASS")):
        found = judge(tolerances, [measured(output=output)])
        assert found.verdict == verdict, output
    (check,) = judge(tolerances, [measured(output="top-k")]).checks
    assert check.evidence == "the engine names its 5 best classes alone: the agreement needs the logits of all"


def test_the_loss_stands_flat_in_the_file_and_comes_back() -> None:
    whole = AccuracyFile(accuracy=served(20, 10).accuracy, engine=engine())  # type: ignore[arg-type]
    plain = to_plain(whole)
    assert plain["serving_geometry"] == "letterbox"
    assert "serving" not in plain
    assert record_from_mapping(AccuracyFile, plain, "x", "y") == whole
    without = AccuracyFile(accuracy=accuracy(), engine=engine())
    assert not [key for key in to_plain(without) if key.startswith("serving")]
    assert record_from_mapping(AccuracyFile, to_plain(without), "x", "y") == without


def test_the_loss_is_paired_with_the_same_engine() -> None:
    import numpy as np

    from edgecnn.measure.predict import Predictions

    labels = np.arange(40) % 4
    own = Predictions(tuple(map(str, range(40))), labels, np.eye(4, dtype=np.float32)[labels], "own", "d")
    logits = own.logits.copy()
    logits[:6] = np.roll(logits[:6], 1, axis=1)
    found = measure_serving_loss("letterbox", replace(own, logits=logits, preprocessing_sha256="other"), own)
    assert (found.serving_lost, found.serving_gained, found.serving_n) == (6, 0, 40)
    assert found.serving_drop_pp == pytest.approx(15)
    assert found.serving_agreement_pct == pytest.approx(85)
