"""What an embedding loses beside its reference, with intervals that say what they are over; and what the gate says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecnn.artifact.sidecar import Sidecar
from edgecnn.data.pairs import all_pairs
from edgecnn.errors import ArtifactError, MeasurementError
from edgecnn.gate.judge import judge
from edgecnn.measure import verification
from edgecnn.measure.predict import Predictions
from edgecnn.measure.verification import measure_verification, threshold_of
from edgecnn.recipe.schema import Tolerances
from edgecnn.records import record_from_mapping, to_plain
from edgecnn.results.accuracy import AccuracyFile
from edgecnn.results.report import Measurement
from edgecnn.results.verification import ChosenThreshold, Verification
from tests.fakes.measurements import engine

CHOSEN = ChosenThreshold(0.8, 90.0, 100, ("x", "y"), ("z", "w"))


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "REPLICATES", 60)


def embeddings(classes: int, each: int, spread: float, seed: int = 0) -> Predictions:
    """Points on the sphere about a center for each class."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    rows = random.standard_normal((classes, 8))[labels] + spread * random.standard_normal((len(labels), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"c{k}" for k in range(classes))
    return Predictions(tuple(map(str, labels.cumsum())), labels, rows.astype(np.float32), "p", "d", names)


def shaken(reference: Predictions, noise: float) -> Predictions:
    random = np.random.default_rng(7)
    rows = reference.logits + noise * random.standard_normal(reference.logits.shape)
    return replace(reference, logits=(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def measured(classes: int = 4, each: int = 12, spread: float = 0.4, noise: float = 0.0) -> Verification:
    reference = embeddings(classes, each, spread)
    return measure_verification("int8", shaken(reference, noise), reference, all_pairs(reference.labels), CHOSEN)


def only(tolerances: Tolerances, found: Verification) -> Any:
    (check,) = judge(tolerances, [Measurement(name="int8", engine=engine(), verification=found)]).checks
    return check


def test_an_equal_engine_loses_nothing_and_is_no_surer_than_its_images_allow() -> None:
    found = measured()
    assert found.verification_drop_pp == found.decisions_changed_n == 0
    assert found.embedding_cosine_least == pytest.approx(1.0)
    low, high = found.verification_drop_ci_pp
    assert -low == pytest.approx(high)
    assert 5 < high < 10  # of 48 images none of which shows anything
    assert found.roc_auc == found.reference_roc_auc
    assert found.roc_auc_ci[0] < found.roc_auc < found.roc_auc_ci[1]


def test_noise_shows_in_the_drop_the_decisions_and_the_cosine() -> None:
    found = measured(noise=0.3)
    assert found.verification_drop_pp == pytest.approx(found.reference_verification_pct - found.verification_pct)
    assert found.verification_drop_pp > 2
    assert found.decisions_changed_n > 20
    assert found.embedding_cosine_least is not None
    assert found.embedding_cosine_least < (found.embedding_cosine_mean or 0) < 0.9
    assert found.verification_drop_ci_pp[0] > 0


def test_with_fewer_than_twenty_classes_the_interval_is_over_images_and_says_for_which_it_holds() -> None:
    few, many = measured(classes=19, each=3), measured(classes=20, each=3)
    assert (few.resampled, many.resampled) == ("images", "identities")
    [said] = [f for f in few.verification_findings if "hold for these classes alone" in f]
    assert said.startswith("19 unseen classes")
    assert "c0, c1" in said
    assert not [f for f in many.verification_findings if "alone" in f]


def test_over_identities_classes_that_differ_much_leave_more_open() -> None:
    """Half of the classes are told apart well and half of them badly: images drawn again from the same classes do not
    show what other classes would do."""
    reference = embeddings(20, 6, 0.05)
    rows = reference.logits.copy()
    rows[:60] = embeddings(20, 6, 3.0, seed=3).logits[:60]
    reference, pairs = replace(reference, logits=rows), all_pairs(reference.labels)
    widths = []
    for needed in (20, 21):
        verification.IDENTITIES = needed
        found = measure_verification("int8", reference, reference, pairs, CHOSEN)
        widths.append(found.verification_ci_pct[1] - found.verification_ci_pct[0])
    verification.IDENTITIES = 20
    assert widths[0] > 1.5 * widths[1]


def test_a_rate_of_false_accepts_is_told_from_a_hundred_expected_ones_on() -> None:
    found = measured(classes=4, each=12)  # 864 pairs of different classes
    assert found.tar_at_far_1e2_pct is found.tar_at_far_1e2_ci_pct is found.reference_tar_at_far_1e2_pct is None
    assert any(
        "rate of 0.01" in f and "864" in f and "9 false accepts are expected" in f for f in found.verification_findings
    )
    more = measured(classes=3, each=60)  # 10 800
    assert more.tar_at_far_1e2_pct is not None
    assert more.tar_at_far_1e2_ci_pct is not None
    assert more.tar_at_far_1e2_ci_pct[0] <= more.tar_at_far_1e2_pct <= more.tar_at_far_1e2_ci_pct[1]
    assert more.tar_at_far_1e3_pct is None


def test_embeddings_that_are_not_finite_are_wrong_named_and_fail() -> None:
    reference = embeddings(3, 8, 0.2)
    rows = reference.logits.copy()
    rows[5] = np.nan
    pairs = all_pairs(reference.labels)
    found = measure_verification("int8", replace(reference, logits=rows), reference, pairs, CHOSEN)
    assert found.verification_nan_count == 1
    assert found.verification_pct < found.reference_verification_pct
    assert found.roc_auc < found.reference_roc_auc
    [check] = judge(Tolerances(), [Measurement(name="int8", engine=engine(), verification=found)]).checks
    assert (check.verdict, check.tolerance) == ("FAIL", "nan_count_max")
    with pytest.raises(MeasurementError, match="the reference has embeddings that are not finite"):
        measure_verification("int8", reference, replace(reference, logits=rows), pairs, CHOSEN)


def test_the_gate_judges_the_drop_by_its_interval_and_the_cosine_by_its_least() -> None:
    found = measured(noise=0.4)
    low, high = found.verification_drop_ci_pp
    for limit, outcome in ((high, "PASS"), (high - 1e-9, "INCONCLUSIVE"), (low, "INCONCLUSIVE"), (low - 1e-9, "FAIL")):
        check = only(Tolerances(verification_drop_pp_max=limit), found)
        assert check.verdict == outcome
        assert "48 images of 4 classes, and holds for these alone" in check.evidence
    least = found.embedding_cosine_least
    assert least is not None
    assert only(Tolerances(embedding_cosine_min=least), found).verdict == "PASS"
    failed = only(Tolerances(embedding_cosine_min=least + 1e-6), found)
    assert failed.verdict == "FAIL"
    assert f"of {found.embedding_worst_image}" in failed.evidence
    flips = only(Tolerances(decision_flips_pct_max=found.decisions_changed_ci_pct[1]), found)
    assert flips.verdict == "PASS"
    assert f"{found.decisions_changed_n} of 1128 decisions" in flips.evidence


def test_of_a_reference_that_guesses_nothing_is_proved() -> None:
    found = measured(spread=50.0)
    assert found.reference_roc_auc_ci[0] < 0.5
    for tolerances in (Tolerances(verification_drop_pp_max=50.0), Tolerances(embedding_cosine_min=0.5)):
        check = only(replace(tolerances, inconclusive="pass"), found)
        assert (check.verdict, check.mappable) == ("INCONCLUSIVE", False)
        assert "the reference cannot be told from guessing" in check.evidence


def test_a_classifier_owes_no_embedding_and_an_embedding_no_classes() -> None:
    one = Measurement(name="int8", engine=engine(), verification=measured())
    verdict = judge(Tolerances(top1_drop_pp_max=1.0), [one])
    assert [c.verdict for c in verdict.checks] == ["INCONCLUSIVE"]
    assert (
        judge(Tolerances(embedding_cosine_min=0.5), [Measurement(name="a", engine=engine())]).verdict == "INCONCLUSIVE"
    )


def test_its_file_is_read_as_it_was_written() -> None:
    found = AccuracyFile(verification=measured(), engine=engine())
    plain = to_plain(found)
    assert plain["name"] == "int8"
    assert plain["verification_pct"] == found.verification.verification_pct if found.verification else False
    assert record_from_mapping(AccuracyFile, plain, "it", "no") == found


def test_a_threshold_needs_validation_pairs() -> None:
    facts = {"features": {"embedding": [8]}, "verification": to_plain(CHOSEN)}
    assert threshold_of(Path("e.onnx"), Sidecar(kind="graph", facts=facts)) == CHOSEN
    del facts["verification"]
    with pytest.raises(MeasurementError, match="no validation pairs have chosen a threshold"):
        threshold_of(Path("e.onnx"), Sidecar(kind="graph", facts=facts))
    with pytest.raises(ArtifactError, match="no embedding network"):
        threshold_of(Path("e.onnx"), Sidecar(kind="graph"))
